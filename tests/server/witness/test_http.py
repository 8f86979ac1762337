"""The auditor's interface, held against its OpenAPI description."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipls.akd import EMPTY_ROOT
from ipls.auditlog.cosignatures import count_cosignatures
from ipls.crypto.keys import public_key
from ipls.http.client import HttpUnavailable
from ipls.server.witness.http import auditor_app, readable_at
from ipls.server.witness.service import WitnessService
from ipls.store.log import object_name
from ipls.store.witness import ProposedEpoch, WitnessStore, init_witness_state
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot
from tests.http.test_client import ok, server
from tests.server.chains import Chain
from tests.server.witnesses import make_service, open_store
from tests.trust.roots import HOUR, NAMESPACE, NOW, WITNESSES, cosign, make_root, witness

DESCRIPTION = json.loads((Path(__file__).parents[3] / "docs/protocol/auditor.openapi.json").read_text())
ROOT = make_root(start_root=EMPTY_ROOT)
NS = f"/namespaces/{NAMESPACE}"


def conforms(value: Any, schema: dict[str, Any]) -> None:
    """The part of JSON Schema that the description uses; an unknown word is an error."""
    if "$ref" in schema:
        conforms(value, pointed(schema["$ref"]))
        return
    known = {"type", "description", "required", "properties", "additionalProperties", "items"}
    assert schema.keys() <= known | {"enum", "pattern", "minimum", "maximum"}
    kinds = {"object": dict, "array": list, "string": str, "integer": int}
    assert type(value) is kinds[schema["type"]]
    assert value in schema.get("enum", [value])
    if schema["type"] == "string":
        assert re.search(schema.get("pattern", ""), value)
    if schema["type"] == "integer":
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if schema["type"] == "array":
        for item in value:
            conforms(item, schema["items"])
    if schema["type"] == "object":
        assert set(schema["required"]) == value.keys() == schema["properties"].keys()
        assert list(value) == list(schema["properties"])
        for name, part in value.items():
            conforms(part, schema["properties"][name])


def pointed(reference: str) -> Any:
    found = DESCRIPTION
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


@dataclass
class World:
    http: httpx.AsyncClient
    store: WitnessStore
    service: WitnessService
    chain: Chain = field(default_factory=Chain)
    log: set[str] = field(default_factory=set)
    log_up: bool = True
    now: int = NOW

    def readable(self, name: str) -> bool:
        if not self.log_up:
            raise HttpUnavailable("the log does not answer")
        return name in self.log

    def sign(self, *, published: bool = True) -> None:
        """One more epoch."""
        made = self.chain.step()
        step = ProposedEpoch(1, made.epoch, made.old_root, made.new_root)

        def by_witness(at_ms: int) -> bytes:
            return cosign(WITNESSES[0], NAMESPACE, step.epoch, step.new_root, at_ms).SerializeToString()

        self.store.sign(step, self.now, by_witness)
        if published:
            self.log.add(object_name(made.epoch, made.old_root, made.new_root))

    async def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON), as described."""
        answer = await self.http.get(path)
        template = re.sub(r"(?<=audits/).*", "{epoch}", path.replace(NAMESPACE, "{namespace}"))
        described = DESCRIPTION["paths"][template]["get"]["responses"][str(answer.status_code)]
        described = pointed(described["$ref"]) if "$ref" in described else described
        if "content" not in described:
            return answer.status_code, None
        conforms(answer.json(), described["content"][answer.headers["content-type"]]["schema"])
        return answer.status_code, answer.json()


def make_world(folder: Path, root: TrustRoot = ROOT) -> World:
    init_witness_state(folder / "w.db", root)
    store = open_store(folder / "w.db", NAMESPACE)
    service = make_service(root, "w1", WITNESSES[0], store, lambda: world.now, folder / "evidence")
    app = auditor_app(root, root.witnesses[0], store, lambda name: world.readable(name), lambda: world.now)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://auditor")
    world = World(http, store, service)
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = make_world(tmp_path)
    world.service.sign_start()
    async with world.http:
        yield world
    world.store.close()


def test_a_log_that_fails_says_nothing_of_what_it_has() -> None:
    with server([ok(b""), b"HTTP/1.1 404 No\r\n\r\n"], [b"HTTP/1.1 500 Oh\r\n\r\n"] * 2) as (url, _):
        readable = readable_at(url)
        assert (readable("1/a/b"), readable("2/a/b")) == (True, False)
        with pytest.raises(HttpUnavailable):
            readable("3/a/b")


async def test_the_keys_are_the_trust_roots_and_told_apart_by_their_last_byte(tmp_path: Path) -> None:
    key = public_key(WITNESSES[0]).hex()
    old = witness("w1", WITNESSES[1], start=NOW - 9 * HOUR, end=NOW - HOUR).keys
    w1 = witness("w1", WITNESSES[0])
    world = make_world(tmp_path, make_root(start_root=EMPTY_ROOT, witnesses=(type(w1)("w1", w1.url, old + w1.keys),)))
    _, info = await world.get("/info")
    assert key in [each["public_key"] for each in info["keys"]]
    assert len({each["public_key"][-2:] for each in info["keys"]}) == len(info["keys"])
    assert info["logs"] == [NAMESPACE]


async def test_every_signature_is_served_from_the_start_on(world: World) -> None:
    start = ProposedEpoch(1, 0, EMPTY_ROOT, EMPTY_ROOT)
    world.store.sign(
        start, NOW, lambda at_ms: cosign(WITNESSES[0], NAMESPACE, 0, EMPTY_ROOT, at_ms).SerializeToString()
    )
    for _ in range(3):
        world.sign()
    roots = [EMPTY_ROOT]
    for epoch in range(4):
        status, audit = await world.get(f"{NS}/audits/{epoch}")
        assert (status, audit["epoch"]) == (200, epoch)
        roots.append(bytes.fromhex(audit["digest"]))
        head = Head(epoch, roots[-1])
        assert count_cosignatures(ROOT, head, {"w1": json.dumps(audit).encode()}, NOW) == {"w1": NOW}
    assert roots[1] == EMPTY_ROOT
    assert roots[4] == world.chain.root
    _, last = await world.get(f"{NS}/last-verified-epoch")
    assert (last["epoch"], last["start_hash"], last["end_hash"]) == (3, roots[3].hex(), roots[4].hex())


async def test_signatures_survive_a_restart_and_the_start_is_signed_once(world: World, tmp_path: Path) -> None:
    _, before = await world.get(f"{NS}/audits/0")
    world.sign()
    world.now += HOUR
    world.service.sign_start()
    again = make_world(tmp_path)
    assert (await again.get(f"{NS}/audits/0"))[1] == before


async def test_an_old_state_whose_start_was_never_signed_gets_its_signature(tmp_path: Path) -> None:
    """With the time of the newest signature: the present would make an old head fresh."""
    world = make_world(tmp_path)
    world.sign()
    assert (await world.get(f"{NS}/audits/0"))[0] == 404
    world.now += HOUR
    world.service.sign_start()
    _, audit = await world.get(f"{NS}/audits/0")
    assert (audit["timestamp"], audit["digest"]) == (NOW, EMPTY_ROOT.hex())


async def test_an_epoch_is_shown_once_the_log_has_it(world: World) -> None:
    world.sign()
    world.sign(published=False)
    assert (await world.get(f"{NS}/audits/2"))[0] == 404
    assert (await world.get(f"{NS}/last-verified-epoch"))[1]["epoch"] == 1
    signed = world.store.signed(2)
    assert signed is not None
    world.log.add(signed.name)
    assert (await world.get(f"{NS}/audits/2"))[0] == 200
    assert (await world.get(f"{NS}/last-verified-epoch"))[1]["epoch"] == 2


async def test_while_the_log_is_away_only_what_was_seen_in_it_is_shown(world: World) -> None:
    world.sign()
    assert (await world.get(f"{NS}/audits/1"))[0] == 200
    world.sign()
    world.log_up = False
    assert (await world.get(f"{NS}/audits/1"))[0] == 200
    assert (await world.get(f"{NS}/audits/2"))[0] == 503
    assert (await world.get(f"{NS}/last-verified-epoch"))[0] == 503


async def test_the_namespace_says_where_the_log_is_and_where_the_auditor_began(world: World) -> None:
    assert (await world.get(NS))[1]["status"] == "Initialization"
    world.sign()
    _, one = await world.get(NS)
    assert (one["status"], one["log_directory"], one["root"]) == ("Online", ROOT.log_url, f"0/{EMPTY_ROOT.hex()}")
    assert (await world.get("/namespaces"))[1] == {"namespaces": [one]}
    world.now = 2 * NOW
    assert (await world.get(NS))[1]["status"] == "Disabled"


@pytest.mark.parametrize("epoch", ["1", "2", "-1", "x", "01", "00", "1.0", "٣", "9" * 18, "9" * 40, "0x0", "%20"])
async def test_what_is_not_there_is_404(world: World, epoch: str) -> None:
    assert (await world.get(f"{NS}/audits/{epoch}"))[0] == 404
    assert (await world.get(f"{NS}/last-verified-epoch"))[0] == 404
    for path in ("/", "/namespaces/other", "/namespaces/other/audits/0", f"{NS}/audits", f"{NS}/reports", "/info/x"):
        assert (await world.http.get(path)).status_code == 404


async def test_it_is_read_only(world: World) -> None:
    for method in ("POST", "PUT", "DELETE"):
        for path in ("/info", NS, f"{NS}/audits/0"):
            assert (await world.http.request(method, path)).status_code == 405
