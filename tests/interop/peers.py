"""Other people's address-book programs, as scripts/peers installs them."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

MANY = int(os.environ.get("IPLS_TEST_CARDS", "1000"))
"""Cards of a large address book; scripts/cards has more of them."""
SCRIPT = Path(__file__).parents[2] / "scripts/peers"


@cache
def peers() -> Path:
    """The folder of their programs, installed if need be."""
    return Path(subprocess.run([SCRIPT], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


GODAV = Path(__file__).parents[2] / "scripts/godav"


class GoDav:
    """A client over go-webdav, which asks for what changed since its token (sync-collection)."""

    def __init__(self, url: str, name: str, password: str) -> None:
        program = subprocess.run([GODAV], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        self._command = [program, url, name, password]

    def sync(self, token: str = "") -> dict[str, Any]:
        """Names by path (`names`), the paths of what was `removed`, and the next `token`."""
        found: dict[str, Any] = self._run(f"sync={token}")
        return found

    def put(self, name: str, file: Path) -> None:
        """Put a card of a file under this name."""
        self._run(f"put={name}={file}")

    def _run(self, argument: str) -> Any:
        ended = subprocess.run([*self._command, argument], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)


class VdirSyncer:
    """vdirsyncer between two places; `storages`: the settings of each, as its configuration has them."""

    def __init__(self, home: Path, *storages: dict[str, str]) -> None:
        home.mkdir()
        one, two = ("\n".join(f"{key} = {json.dumps(value)}" for key, value in each.items()) for each in storages)
        (home / "config").write_text(
            f'[general]\nstatus_path = "{home}/status"\n[pair p]\na = "one"\nb = "two"\ncollections = null\n'
            f'conflict_resolution = "b wins"\n[storage one]\n{one}\n[storage two]\n{two}\n'
        )
        self._command = [peers() / "vdirsyncer", "-v", "WARNING", "-c", home / "config"]
        self._run("discover")

    def sync(self) -> None:
        self._run("sync")

    def _run(self, command: str) -> None:
        ended = subprocess.run([*self._command, command], input="y\n", capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr


class Khard:
    """khard on a folder."""

    def __init__(self, home: Path, folder: Path) -> None:
        home.mkdir()
        self._yaml, self._config = home / "edited.yaml", home / "khard.conf"
        self._config.write_text(
            f"[addressbooks]\n[[book]]\npath = {folder}\n[general]\neditor = /bin/true\nmerge_editor = /bin/true\n"
        )

    def run(self, *words: str) -> str:
        command = [peers() / "khard", "-c", self._config, *words]
        ended = subprocess.run(command, input="yes\n", capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text in what khard shows of a contact for editing."""
        shown = self.run("show", "--format", "yaml", name)
        assert old in shown
        self._yaml.write_text(shown.replace(old, new))
        self.run("edit", "--format", "yaml", "-i", str(self._yaml), name)
