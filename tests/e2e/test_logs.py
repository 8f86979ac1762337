"""No name or number of a contact, no account number and no key in any log, at DEBUG, after the whole journey."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.client.line.kept import KEYS
from ipls.client.profile import Account, Profile
from tests.e2e.running import Deployment

NUMBER = "+4915799887766"
NAME = "Zebedäus Quirk-Ørsted"
PHONE = "+1 907 555 0188"
CARD = f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:{NAME}\r\nTEL:{PHONE}\r\nEND:VCARD\r\n".encode()


def forms(secret: bytes) -> Iterator[bytes]:
    """The ways in which bytes come to stand in a text."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    yield json.dumps(secret.decode("latin-1"))[1:-1].encode()
    for skip in range(3):
        # Base64 of a text that has the secret in it, at each of the three alignments; cut to what no neighbour changes.
        encoded = base64.b64encode(bytes(skip) + secret)
        yield encoded[4 if skip else 0 : len(encoded) // 4 * 4 - 4]


def found(secrets: dict[str, bytes], texts: dict[str, bytes]) -> list[tuple[str, str]]:
    return [
        (name, where)
        for name, secret in secrets.items()
        for where, text in texts.items()
        if any(form in text for form in forms(secret))
    ]


def logs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "logs").iterdir()}


@pytest.fixture
async def secrets(deployment: Deployment) -> dict[str, bytes]:
    """Everything secret of a journey that has just been made."""
    folder = deployment.folder
    secrets = {"name": NAME.encode(), "first name": "Zebedäus".encode(), "escaped": json.dumps(NAME)[1:-1].encode()}
    secrets |= {"phone": PHONE.encode(), "phone digits": b"9075550188", "account": NUMBER[1:].encode()}
    async with deployment.device("logs-old") as phone:
        await deployment.register(phone, NUMBER)
        phone.address_book.import_cards(CARD)
        await phone.store()
    async with deployment.device("logs-new") as phone:
        await deployment.register(phone, NUMBER)
        await phone.restore()
    for name in ("logs-old", "logs-new"):
        profile = Profile(folder / "profiles" / name)
        secrets |= {f"{name} key {row.generation}": row.secret for row in profile.rows.all(KEYS)}
        account = profile.get(Account)
        assert account is not None
        secrets[f"{name} identity"] = account.seed
        profile.close()
    secrets |= {path.name: bytes.fromhex(path.read_text()) for path in (folder / "keys").glob("*.key")}
    secrets["token.pin"] = (folder / "keys/token.pin").read_text().strip().encode()
    return secrets


async def test_no_log_holds_a_secret(deployment: Deployment, secrets: dict[str, bytes]) -> None:
    texts = logs(deployment.folder)
    assert {"directory.log", "witness.log", "vault.log", "contacts.log", "registration.log", "log.log"} <= set(texts)
    assert any(b'"debug"' in text or b"DEBUG" in text for text in texts.values()), "the logs are not at DEBUG"
    assert found(secrets, texts) == []


async def test_every_line_is_json_those_of_libraries_too(deployment: Deployment) -> None:
    lines = logs(deployment.folder)["witness.log"].splitlines()
    assert any(b"Started server process" in line for line in lines)
    for line in lines:
        assert {"event", "level", "timestamp"} <= json.loads(line).keys()


@pytest.mark.parametrize("secret", [NAME.encode(), PHONE.encode(), NUMBER.encode(), bytes(range(200, 232))])
def test_the_search_finds_what_is_there(secret: bytes) -> None:
    for form in forms(secret):
        assert found({"it": secret}, {"log": b"before " + form + b" after"})
    for skip in range(3):
        assert found({"it": secret}, {"log": base64.b64encode(b"x" * skip + secret + b"yz")})
