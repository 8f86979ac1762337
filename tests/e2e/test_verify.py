"""Files that a person saves from a running deployment, checked by somebody else who has the trust root alone."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.running import Deployment, ipls

NUMBER = "+4930777000009"


def test_what_the_device_saves_holds_offline(deployment: Deployment, tmp_path: Path) -> None:
    def client(*arguments: object) -> None:
        ended = ipls("client", *arguments, "--profile", "phone", "--home", tmp_path)
        assert ended.returncode == 0, ended.stderr

    def verify(kind: str, file: Path, *options: object) -> dict[str, Any]:
        ended = ipls("verify", kind, file, "--trust", tmp_path / "trust.toml", "--json", *options)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    trust = Path(shutil.copy(deployment.folder / "trust.toml", tmp_path))
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")
    client("register", NUMBER, "--endpoints", deployment.folder / "endpoints.json", *outbox)
    client("history", "--save", tmp_path / "history.proof")
    client("lookup", NUMBER, "--save", tmp_path / "lookup.proof")
    history, lookup = verify("history", tmp_path / "history.proof"), verify("lookup", tmp_path / "lookup.proof")
    assert history["label"] == lookup["label"] == NUMBER
    assert history["versions"] == lookup["versions"]
    assert verify("bundle", deployment.folder / "bundle.pb")["number"] == 1
    epoch = history["versions"][0]["epoch"]
    (found,) = (deployment.folder / "data/log" / str(epoch)).glob("*/*")
    assert verify("append-only", found)["epoch"] == epoch
    assert (tmp_path / "history.proof").stat().st_mode & 0o077 == 0

    bent = bytearray((tmp_path / "history.proof").read_bytes())
    bent[-1] ^= 1
    (tmp_path / "bent.proof").write_bytes(bent)
    refused = ipls("verify", "history", tmp_path / "bent.proof", "--trust", trust)
    assert (refused.returncode, refused.stdout) == (1, "")
