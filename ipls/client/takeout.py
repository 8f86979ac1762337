"""All that is held of an account on this device, in one ZIP for its owner. Nobody is asked: what vault and directory
have is as it was shown last.

    contacts.vcf     the cards, as an export has them
    contacts.json    of each contact what its record says besides: placement, times, conflicts, compared keys
    account.json     number, identity and its versions, the line and its devices, other accounts' keys as proved last
    history.proof    the directory's proof of the versions: `ipls verify history`
    trust-root-N     the versions of the trust root that it holds by
    uses.json        who used the keys in the vault
    settings.json    what a person set on this device, and what can be taken back there
    keys.json        the secret keys, where they are asked for: who has them is the account

Tested by tests/client/test_takeout.py.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from ipls.client.address_book import AddressBook
from ipls.client.addressbook.dav.access import CLIENTS
from ipls.client.addressbook.shadows import SIDES
from ipls.client.events import AccessEntry
from ipls.client.line.kept import KEYS
from ipls.client.profile import Account, ApproverKey, Discovery, Profile, ProvedHistory, Synced
from ipls.crypto.keys import public_key


class Takeout(NamedTuple):
    """The ZIP; and of how many contacts, of which some, `unreadable`, are damaged here and not in it."""

    data: bytes
    contacts: int
    unreadable: int


def take_out(
    profile: Profile, namespace: str, book: AddressBook, uses: Iterable[AccessEntry], *, keys: bool
) -> Takeout:
    """`keys`: the secret ones too. Raises ProfileError NOT_REGISTERED, PROFILE_DAMAGED."""
    account, approver, proved = profile.account, profile.get(ApproverKey), profile.get(ProvedHistory)
    contacts = profile.contacts()
    files = {
        "contacts.vcf": book.export(),
        "contacts.json": _json(
            [{"id": c.id, "sent": c.sent} | _without_card(asdict(c.envelope)) for c in contacts],
        ),
        "account.json": _json(_account(profile, namespace)),
        "uses.json": _json([asdict(use) for use in uses]),
        "settings.json": _json(_settings(profile, approver)),
    }
    if proved:
        files["history.proof"] = proved.proof
    files |= {f"trust-root-{n}": data for n, data in enumerate(profile.trust_roots(), 1)}
    if keys:
        files["keys.json"] = _json(
            {
                "identity": account.seed,
                "contact keys": {row.generation: row.secret for row in profile.line.rows.all(KEYS)},
                "approver": approver and approver.seed,
            }
        )
    return Takeout(_zipped(files), len(contacts), len(profile.line.unreadable()))


def _account(profile: Profile, namespace: str) -> dict[str, Any]:
    account, line, other, synced = (
        profile.account,
        profile.line.state,
        profile.aside().get(Account),
        profile.get(Synced),
    )
    return {
        "namespace": namespace,
        "number": account.label,
        "other number": other and other.label,
        "identity": {"version": account.version, "epoch": account.epoch, "public_key": public_key(account.seed)},
        "versions": [version._asdict() for version in profile.versions()],
        "synced_ms": synced and synced.time_ms,
        "line": line
        and {
            "line": line.line,
            "commit": line.n,
            "generation": line.generation,
            "lines before": line.left and line.left.lines,
        },
        "devices": [device._asdict() for device in line.devices] if line else [],
        "contacts' keys": [
            identity._asdict() | {"compared": profile.verified(identity.label)}
            for identity in profile.contact_identities()
        ],
    }


def _settings(profile: Profile, approver: ApproverKey | None) -> dict[str, Any]:
    discovery = profile.get(Discovery)
    return {
        "who is on the service is found out": bool(discovery and discovery.on),
        "this device approves with": approver and public_key(approver.seed),
        "address books": [row.id for row in profile.rows.readable(SIDES)],
        "programs with a password": [row.name for row in profile.rows.readable(CLIENTS)],
        "can be taken back": [{"ms": step.ms, "what": step.what} for step in profile.steps()],
        "two people": sorted(profile.apart()),
    }


def _without_card(fields: dict[str, Any]) -> dict[str, Any]:
    del fields["card"]
    return fields


def _json(value: Any) -> bytes:
    return json.dumps(_plain(value), ensure_ascii=False, indent=1).encode() + b"\n"


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in hex, named fields by their names."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _zipped(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return data.getvalue()
