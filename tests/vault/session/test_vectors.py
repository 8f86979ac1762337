"""Every derivation of docs/protocol/vault-session.md and vault-state.md, against values made by the formulas alone."""

import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ipls.proto.vault.v1.vault_pb2 import HistoryEntry, VaultRequest
from ipls.trust.root import TrustRoot, Witness, WitnessKey
from ipls.vault.history import Seen
from ipls.vault.session import transcript
from ipls.vault.state import journal
from ipls.vault.state.journal import NO_RECORD, Highest, JournalEntry, State
from ipls.vault.state.trie import EMPTY_ROOT, Trie, digest_of
from tests.trust.roots import make_root

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/vault_session.json").read_text())
_AS_TEXT = ("namespace", "label", "operation")


def read(value: Any, name: str = "") -> Any:
    """Bytes in the place of hex."""
    match value:
        case dict():
            return {name: read(item, name) for name, item in value.items()}
        case list():
            return [read(item) for item in value]
        case str() if name not in _AS_TEXT:
            return bytes.fromhex(value)
        case _:
            return value


INPUTS: dict[str, Any] = read(VECTORS["inputs"])


def session(i: SimpleNamespace) -> Iterator[tuple[str, bytes]]:
    h2 = transcript.key_exchange_hash(i.m1, i.m2, i.sig2)
    tag3 = transcript.hmac_sha256(i.c2v_mac, transcript.client_confirm_digest(h2, i.m3))
    h3 = transcript.session_hash(h2, i.m3, tag3)
    yield "HSM key id", transcript.hsm_key_id(i.hsm_point)
    yield "what sig2 signs", transcript.server_digest(i.m1, i.m2)
    yield "h2", h2
    for name in transcript.SESSION_KEYS:
        yield f"input of {name}", transcript.session_key_input(name, h2)
    yield "what the identity signs", transcript.client_statement(i.m1, i.m2, i.sig2, i.label, i.identity_key)
    yield "tag3", tag3
    yield "h3", h3
    confirmation = transcript.confirm_digest(h3, i.identity_version, i.epoch)
    yield "confirmation", transcript.hmac_sha256(i.v2c_mac, confirmation)
    bodies = transcript.Bodies.derive(i.kem_secret, h2, h3)
    yield from requests(i, bodies, h3)
    yield (
        "input of record",
        transcript.record_digest(i.root_id, journal.account_key(i.label), i.generation, i.store_id),
    )
    approved = transcript.approval_statement(i.namespace, i.label, i.identity_version, i.identity_key, i.approver)
    yield "what an approver signs", approved


def requests(i: SimpleNamespace, bodies: transcript.Bodies, h3: bytes) -> Iterator[tuple[str, bytes]]:
    request = bodies.seal(bodies.c2v, i.seq, VaultRequest.FromString(i.request))
    answer = bodies.v2c.encrypt(bytes(4) + i.seq.to_bytes(8, "big"), i.answer, h3)
    yield "request body", request
    yield "request tag", transcript.hmac_sha256(i.c2v_mac, transcript.request_digest(h3, i.seq, request))
    yield "answer body", answer
    yield "answer tag", transcript.hmac_sha256(i.v2c_mac, transcript.answer_digest(h3, i.seq, request, answer))


def histories(i: SimpleNamespace) -> Iterator[tuple[str, bytes]]:
    seen = Seen()
    for fields in i.history:
        seen = seen.extended(HistoryEntry(**fields))
        yield f"history head {seen.length}", seen.chain_head


def policy(i: SimpleNamespace) -> TrustRoot:
    rules = dict(i.policy)
    witnesses = tuple(
        Witness(f"w{number}", "https://w.example", tuple(WitnessKey(*key) for key in each["keys"]))
        for number, each in enumerate(rules.pop("witnesses"))
    )
    development = bool(rules.pop("development"))
    return make_root(namespace=i.namespace, witnesses=witnesses, development=development, **rules)


def state(i: SimpleNamespace) -> Iterator[tuple[str, bytes]]:
    s, key = SimpleNamespace(**i.state), journal.account_key(i.label)

    def mac(digest: bytes) -> bytes:
        return hmac.digest(s.log_key, digest, "sha256")

    trie = Trie(EMPTY_ROOT, lambda prefixes: {})
    trie.put(key, digest_of(key, s.record))
    trie.put(s.another_key, digest_of(s.another_key, s.another_record))
    yield "account key", key
    yield "record leaf", digest_of(key, s.record)
    yield "records root of both", trie.root
    for kind, *name in (("head", i.epoch), ("bundle",), ("owner",), ("releases",), ("evidence", 0)):
        yield f"record key of {kind}", journal.other_key(kind, *name)
    first = journal.first_state(s.shard, s.genesis_nonce)
    yield "genesis", first.chain_head
    highest = Highest(**s.highest)
    entry = JournalEntry(1, first.chain_head, key, NO_RECORD, trie.root, highest, s.record, b"")
    yield "entry", entry.encode()
    yield "entry hash", entry.hash
    yield "entry HMAC", mac(journal.entry_digest(s.shard, entry.encode()))
    anchored = State(s.shard, 1, entry.hash, trie.root, highest).encode()
    yield "anchor", anchored + mac(journal.anchor_digest(anchored))
    handoff = anchored + s.next_hsm_key_id + s.bundle_number.to_bytes(8, "big")
    yield "hand-off", handoff + mac(journal.handoff_digest(handoff))


def test_every_value_is_what_the_code_makes() -> None:
    i = SimpleNamespace(**INPUTS)
    ours = dict((*session(i), *histories(i), ("policy digest", policy(i).policy_digest), *state(i)))
    body_keys = {"c2v body key", "v2c body key"}  # in no hand of ours; the sealed bodies are under them
    assert {name: value.hex() for name, value in ours.items()} == {
        name: value for name, value in VECTORS["derived"].items() if name not in body_keys
    }
