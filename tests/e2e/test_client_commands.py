"""`ipls client` against a running deployment: the journey as a person types it, with two phones."""

import json
from pathlib import Path
from typing import Any

from tests.client.deployment import book
from tests.e2e.running import Deployment, ipls

NUMBER = "+4930777000001"


def test_a_number_goes_from_one_phone_to_another(deployment: Deployment, tmp_path: Path) -> None:
    endpoints = ("--endpoints", deployment.folder / "endpoints.json")
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")
    cards = book(20)
    file = tmp_path / "book.vcf"
    file.write_bytes(cards)

    def client(phone: str, *arguments: object, status: int = 0) -> dict[str, Any]:
        """What the command prints; on a refusal, its reason."""
        ended = ipls("client", *arguments, "--profile", phone, "--home", tmp_path, "--json")
        assert ended.returncode == status, ended.stderr
        if status:
            return {"reason": ended.stderr.rpartition("[")[2].removesuffix("]\n")}
        return json.loads(ended.stdout.splitlines()[-1])

    registered = client("old", "register", NUMBER, *endpoints, *outbox)
    assert registered["version"] == 1
    assert client("old", "contacts", "import", file)["added"] == 20
    assert client("old", "store")["contacts"] == 20

    assert client("new", "register", NUMBER, *endpoints, *outbox)["version"] == 2
    restored = client("new", "restore")
    assert (restored["contacts"], restored["rotated"]) == (20, True)
    out = tmp_path / "out.vcf"
    assert ipls("client", "contacts", "export", out, "--profile", "new", "--home", tmp_path).returncode == 0
    assert sorted(out.read_bytes().split(b"END:VCARD\r\n")) == sorted(cards.split(b"END:VCARD\r\n"))
    found = client("new", "contacts", "find", "Person 7")
    assert (found["name"], found["stored"]) == ("Person 7", True)

    # The first phone is told that the number is another's now and gets nothing more; a new key takes it back.
    for command in ("monitor", "store", "restore"):
        assert client("old", command, status=1) == {"reason": "IDENTITY_SUPERSEDED"}
    assert client("old", "status")["foreign"] == [2]
    assert client("old", "register", NUMBER, *outbox)["version"] == 3
    seen = ipls("client", "monitor", "--profile", "old", "--home", tmp_path, "--json")
    assert seen.returncode == 1
    assert [json.loads(line)["origin"] for line in seen.stdout.splitlines()] == ["own", "foreign", "own"]
