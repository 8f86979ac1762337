"""Who has come to run code in the vault's front, and with that its user, looks for the token's PIN and keys: in the
core's processes, in its files, through its socket."""

import errno
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

import pytest

from ipls.config import load
from tests.client.deployment import book
from tests.e2e.running import Deployment, command_line, processes
from tests.hsm.rig import Rig, children, running_core
from tests.users import AS_ROOT, FRONT, STRANGER, as_user, give, open_folder, python

READ = """
import sys
try:
    open(sys.argv[1], "rb").read(1)
except OSError as error:
    sys.exit(error.errno)
"""
ATTACH = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.ptrace(16, int(sys.argv[1]), 0, 0) and ctypes.get_errno())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def refused(uid: int, code: str, argument: object) -> bool:
    """Whether the system keeps this user from it."""
    done = subprocess.run(as_user(uid, *python(), "-c", code, str(argument)), capture_output=True, check=False)
    assert done.stderr == b""
    return done.returncode in (errno.EPERM, errno.EACCES)


def shows_itself(uid: int) -> bool:
    """Whether a process that does nothing about it can be looked into by another of its user."""
    look = as_user(uid, "sh", "-c", "head -c 1 /proc/$$/environ && true")
    return subprocess.run(look, capture_output=True, check=False).returncode == 0


async def test_the_cores_processes_show_nothing_to_their_own_user(folder: Path) -> None:
    rig = Rig(folder)
    give(folder, FRONT)
    program, *arguments = as_user(FRONT, *python(), "-m", "ipls.hsm.core", str(rig.config_path))
    assert shows_itself(FRONT)
    async with running_core(rig, *arguments, program=program) as core:
        pids = [core.process.pid, *children(core.process.pid)]
        assert len(pids) == 3  # a worker, the anchor service
        for pid in pids:
            for name in ("mem", "environ", "maps", "auxv"):
                assert refused(FRONT, READ, f"/proc/{pid}/{name}")
            assert refused(FRONT, ATTACH, pid)
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
            assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.settimeout(60)
print(connection.recv(1000), flush=True)
"""
LIST = "import os, sys\ntry:\n os.listdir(sys.argv[1])\nexcept OSError as error:\n sys.exit(error.errno)"
WRITE = READ.replace('"rb"', '"ab"').replace("read(1)", "close()")


class Parted:
    """A deployment of root's whose vault has two users."""

    def __init__(self, folder: Path) -> None:
        self.deployment = Deployment(folder)
        self.folder = folder
        table = load(folder / "ipls.toml").vault.parted
        assert table is not None
        self.table = table

    def pid(self, module: str) -> int:
        """Of the one process of the core's user that runs this."""
        (found,) = (pid for pid in processes() if module in command_line(pid) and self.uid(pid) == self.table.core)
        return found

    @staticmethod
    def uid(pid: int) -> int:
        with suppress(OSError):
            return Path(f"/proc/{pid}").stat().st_uid or int(
                re.findall(r"Uid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[0]
            )
        return -1

    def connects(self, uid: int) -> str:
        """What somebody of this user is told by the core."""
        command = as_user(uid, *python(), "-c", CONNECT, str(self.table.socket))
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    async def stores(self, number: str) -> None:
        async with self.deployment.device(number) as phone:
            await self.deployment.register(phone, number)
            phone.import_cards(book(1))
            await phone.store()


@contextmanager
def serving(folder: Path, *run: str) -> Iterator[str]:
    """`ipls init` and `ipls serve all`, run so; what it said at its start."""
    ipls = [*run, *python(), "-m", "ipls.cli.main"]
    subprocess.run([*ipls, "init", str(folder), "--port", "0"], check=True, capture_output=True, cwd="/")
    config = folder / "ipls.toml"
    fast = config.read_text().replace("[directory]\n", "[directory]\nepoch_max_age_s = 0.05\n")
    subprocess.run([*run, "tee", config], check=True, input=fast.encode(), capture_output=True)
    command = [*ipls, "serve", "all", "--config", str(config), "--stop-at-eof"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    server = subprocess.Popen(command, cwd="/", text=True, **pipes)
    assert server.stderr is not None
    try:
        said = list(takewhile(lambda line: line != "registration serves\n", server.stderr))
        yield "".join(said)
    finally:
        server.communicate()  # its input ends


def status(folder: Path, *run: str) -> str:
    command = [*run, *python(), "-m", "ipls.cli.main", "status", "--config", str(folder / "ipls.toml")]
    return subprocess.run(command, capture_output=True, check=False, text=True, cwd="/").stdout


@pytest.fixture(scope="module")
def parted() -> Iterator[Parted]:
    with open_folder() as home, serving(home / "ipls", *AS_ROOT) as said:
        assert "front's user" not in said
        yield Parted(home / "ipls")


async def test_the_fronts_user_gets_at_nothing_of_the_cores(parted: Parted) -> None:
    await parted.stores("+4930700001")
    front, core = parted.table.front, parted.table.core
    assert parted.uid(parted.deployment.pid("vault")) == front
    data = parted.folder / "data"
    for file in (parted.folder / "keys/token.pin", data / "vault.db", data / "vault.db.lock", data / "directory.db"):
        assert refused(front, READ, file)
        assert refused(front, WRITE, file)
    assert refused(front, LIST, parted.folder / "token")
    for planted in (data / "directory.db-journal", parted.folder / "token/planted", parted.folder / "planted"):
        assert refused(front, WRITE, planted)
    for module in ("serve vault-core", "ipls.hsm.core", "ipls.hsm.worker", "ipls.hsm.anchor_service"):
        pid = parted.pid(module)
        for name in ("mem", "environ", "maps", "fd/0"):
            assert refused(front, READ, f"/proc/{pid}/{name}")
            assert refused(core, READ, f"/proc/{pid}/{name}")
        assert refused(front, ATTACH, pid)
        assert refused(
            front, "import os, sys\ntry:\n os.kill(int(sys.argv[1]), 9)\nexcept OSError as e:\n sys.exit(e.errno)", pid
        )
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{core}\t{core}\t{core}\t{core}" in status
        assert f"Gid:\t{core}\t{core}\t{core}\t{core}" in status
        assert re.search(r"Groups:\s*\n", status)
        assert "NoNewPrivs:\t1" in status


async def test_only_the_fronts_user_is_served_and_a_second_front_takes_nothing_from_the_first(parted: Parted) -> None:
    core = parted.pid("ipls.hsm.core")
    for stranger in (STRANGER, parted.table.core):
        assert parted.connects(stranger) == "b''\n"
    assert "VAULT_CORE_LOST" in parted.connects(parted.table.front)
    assert parted.pid("ipls.hsm.core") == core
    await parted.stores("+4930700002")


@pytest.mark.parametrize("victim", ["front", "serve vault-core", "ipls.hsm.core"])
async def test_each_comes_back_after_its_death(parted: Parted, victim: str) -> None:
    pid = parted.deployment.pid("vault") if victim == "front" else parted.pid(victim)
    kill(pid)
    await parted.stores(f"+493070001{len(victim)}")


def kill(pid: int) -> None:
    subprocess.run([*AS_ROOT, "kill", "-9", str(pid)], check=True)


def test_a_key_that_root_renews_stays_the_fronts(parted: Parted) -> None:
    write = (
        "import sys; from pathlib import Path; from ipls.store.files import replace; replace(Path(sys.argv[1]), b'')"
    )
    spare = parted.folder / "tls/spare.key"
    subprocess.run([*AS_ROOT, "install", "-o", str(parted.table.front), "-m", "600", "/dev/null", spare], check=True)
    subprocess.run([*AS_ROOT, *python(), "-c", write, spare], check=True)
    assert spare.stat().st_uid == parted.table.front


def test_status_says_who_runs_the_core(parted: Parted) -> None:
    line = f"runs as user {parted.table.core}, apart from its front, user {parted.table.front}"
    assert line in status(parted.folder, *AS_ROOT)


def test_without_root_core_and_front_are_one_user_which_is_said(folder: Path) -> None:
    give(folder, STRANGER)
    with serving(folder / "ipls", *as_user(STRANGER)) as said:
        assert "the vault's core runs as its front's user: [vault] has no table `parted`" in said
        assert "runs as its front's user: who takes over the front has the token's PIN" in status(
            folder / "ipls", *as_user(STRANGER)
        )
    config = folder / "ipls/ipls.toml"
    users = 'bundle = "bundle.pb"\nparted = { socket = "data/core.socket", core = 60706, front = 60707 }'
    subprocess.run(
        as_user(STRANGER, "tee", str(config)),
        check=True, capture_output=True, input=config.read_text().replace('bundle = "bundle.pb"', users).encode(),
    )  # fmt: skip
    core = [*python(), "-m", "ipls.cli.main", "serve", "vault-core", "--config", str(config)]
    done = subprocess.run(as_user(STRANGER, *core), capture_output=True, check=False, text=True, cwd="/")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
