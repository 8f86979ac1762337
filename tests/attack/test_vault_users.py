"""Who has come to run code in the vault's front, and with that its user, looks for the token's PIN and keys: in the
core's processes, in its files, through its socket."""

import asyncio
import errno
import grp
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

import pytest

from ipls.admin import users
from ipls.config import load
from ipls.rpc.health import until_serving
from tests.client.deployment import book
from tests.e2e.running import Deployment, command_line, processes
from tests.hsm.rig import Rig, children, ended, running_core
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


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd="/")


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
        config = load(self.folder / "ipls.toml")
        await until_serving(config.vault.listen, config.vault.tls.ca)
        async with self.deployment.device(number) as phone:
            await self.deployment.register(phone, number)
            phone.address_book.import_cards(book(1))
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
    assert server.stdout is not None
    assert server.stderr is not None
    try:
        said = list(takewhile(lambda line: line != "registration serves\n", server.stderr))
        assert server.stdout.readline()  # endpoints.json is there
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
    vault = data / "vault"
    for file in (parted.folder / "keys/token.pin", vault / "vault.db", vault / "vault.db.lock", data / "directory.db"):
        assert refused(front, READ, file)
        assert refused(front, WRITE, file)
    assert refused(front, LIST, parted.folder / "token")
    for planted in (vault / "vault.db-journal", parted.folder / "token/planted", parted.folder / "planted"):
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


@pytest.mark.parametrize("uid", ["core", "front"])
def test_neither_plants_anything_beside_what_root_opens(parted: Parted, uid: str) -> None:
    """A journal of SQLite's that lies beside a database is played into it."""
    data, user = parted.folder / "data", getattr(parted.table, uid)
    for planted in ("directory.db-journal", "directory.db-wal", "contacts.db-wal", "registration.outbox", "new"):
        assert refused(user, WRITE, data / planted)
    assert refused(user, LIST, data)
    assert refused(user, WRITE, parted.folder / "keys/planted")


async def test_root_gives_away_nothing_that_the_core_has_put_a_name_on(parted: Parted, tmp_path: Path) -> None:
    """Who has taken over the core waits for the next start, at which root hands out what lies in the core's folders."""
    core, own = parted.table.core, parted.folder / "data/vault"
    victim = parted.folder / "keys/vrf.key"  # of root's, in a file system where the core could link to it
    before = victim.stat()
    planted = [own / "vault.db-planted", parted.folder / "token/objects/planted"]
    for link in planted:
        run(*as_user(core, "ln", "-s", str(victim), str(link)))
    hard = own / "vault.db-hard"
    run(*AS_ROOT, "ln", victim, hard)  # where the system does not forbid it to the core
    run(*as_user(core, "mkdir", "-p", str(own.joinpath(*"d" * 400))))
    try:
        kill(parted.pid("serve vault-core"))
        await parted.stores("+4930700021")
        after = victim.stat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    finally:
        run(*AS_ROOT, "rm", "-rf", *planted, hard, own / "d")


async def test_a_core_that_hangs_does_not_outlive_its_front(parted: Parted) -> None:
    core = parted.pid("ipls.hsm.core")
    hung = [core, *children(core)]
    ends = [ended(pid) for pid in hung]
    run(*AS_ROOT, "kill", "-STOP", *hung)
    kill(parted.deployment.pid("vault"))
    await asyncio.gather(*ends)
    await parted.stores("+4930700022")


async def test_a_core_that_hangs_does_not_outlive_its_listener(parted: Parted) -> None:
    core = parted.pid("ipls.hsm.core")
    end = ended(core)
    run(*AS_ROOT, "kill", "-STOP", core)
    kill(parted.pid("serve vault-core"))
    await end
    await parted.stores("+4930700024")


async def test_what_root_renews_under_a_tight_umask_the_services_still_read(parted: Parted) -> None:
    """The chain of trust roots is a file that was not there before."""
    write = "import sys; from pathlib import Path; from ipls.store.files import PUBLIC, replace\n"
    write += "for f in map(Path, sys.argv[1:]): replace(f, f.read_bytes() if f.exists() else b'', mode=PUBLIC)"
    names = ("trust.chain", "bundle.pb", "tls/ca.pem", "tls/vault.pem")
    files, config = [parted.folder / name for name in names], parted.folder / "ipls.toml"
    run(*AS_ROOT, "sh", "-c", 'umask 077; exec "$@"', "sh", *python(), "-c", write, *files)
    run(*AS_ROOT, "chmod", "600", config)
    kill(parted.deployment.pid("vault"))
    kill(parted.pid("serve vault-core"))
    await parted.stores("+4930700023")
    for user in parted.table.core, parted.table.front:
        assert not any(refused(user, READ, file) for file in files)
    assert not refused(parted.table.core, READ, config)
    assert refused(parted.table.front, READ, config)  # a Redis's password may stand in it
    run(*AS_ROOT, "chmod", "644", config)  # as it was, for the tests that follow


@pytest.mark.parametrize("victim", ["front", "serve vault-core", "ipls.hsm.core"])
async def test_each_comes_back_after_its_death(parted: Parted, victim: str) -> None:
    pid = parted.deployment.pid("vault") if victim == "front" else parted.pid(victim)
    kill(pid)
    await parted.stores(f"+493070001{len(victim)}")


def kill(pid: int) -> None:
    run(*AS_ROOT, "kill", "-9", pid)


RECOVER = """
import sys
from pathlib import Path
from ipls.admin.users import hand_out
from ipls.admin.vault import recover_in_place
from ipls.config import load_service
file = Path(sys.argv[1])
config = load_service(file)
hand_out(config, file)
recover_in_place(config.vault, config.vault.database)
"""


def test_what_root_makes_of_a_damaged_database_is_the_cores(folder: Path) -> None:
    """As `ipls fsck --repair` does: the core that is tried again all the while starts on it."""
    config = folder / "ipls/ipls.toml"
    run(*AS_ROOT, *python(), "-m", "ipls.cli.main", "init", folder / "ipls", "--port", "0")
    run(*AS_ROOT, "sh", "-c", 'umask 077; exec "$@"', "sh", *python(), "-c", RECOVER, config)
    parted = load(config).vault.parted
    assert parted is not None
    made = {file.name: file.stat().st_uid for file in config.parent.glob("data/vault/vault.db*")}
    assert made == dict.fromkeys(("vault.db", "vault.db.damaged", "vault.db.lock"), parted.core)


def test_in_a_folder_with_others_files_the_core_is_refused_and_told_where_to(folder: Path) -> None:
    """As the first deployments with two users had it."""
    ipls = [*AS_ROOT, *python(), "-m", "ipls.cli.main"]
    config = folder / "ipls/ipls.toml"
    run(*ipls, "init", folder / "ipls", "--port", "0")
    text = config.read_text().replace("data/vault/", "data/")
    subprocess.run([*AS_ROOT, "tee", config], check=True, input=text.encode(), capture_output=True)
    for part in ("vault-core", "vault"):
        command = [*ipls, "serve", part, "--config", config]
        done = subprocess.run(command, capture_output=True, check=False, text=True, cwd="/")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "move its database to a folder of its own" in done.stderr
    mode = (folder / "ipls/data").stat().st_mode
    assert not mode & 0o022


def test_a_new_deployments_users_are_of_no_group_either(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A process has the group of its user's number: it would share what that group has."""
    monkeypatch.setattr(users, "_why_not", lambda _: "")
    monkeypatch.setattr(users, "_UIDS", range(FRONT + 99, FRONT + 103, 2))
    taken = grp.struct_group(("taken", "x", FRONT + 100, []))
    monkeypatch.setattr("grp.getgrall", lambda: [taken])
    made = users.new_users(folder)
    assert made is not None
    assert (made.core, made.front) == (FRONT + 101, FRONT + 102)


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


def test_status_says_that_a_core_hangs_behind_a_front_that_serves(parted: Parted) -> None:
    core, front = parted.pid("ipls.hsm.core"), parted.deployment.pid("vault")
    run(*AS_ROOT, "kill", "-STOP", core)
    try:
        said = status(parted.folder, *AS_ROOT)
    finally:
        run(*AS_ROOT, "kill", "-CONT", core)
    assert "behind its front: it takes connections, and does not answer" in said
    assert f"do: kill -9 {front}, its front, with which it ends" in said


def test_status_says_to_another_user_what_it_may_not_read_and_who_may(parted: Parted) -> None:
    said = status(parted.folder, *as_user(STRANGER))
    assert f"this user may not read {parted.folder / 'logs/directory.log'}" in said
    assert f"do: as user 0: ipls status --config {parted.folder / 'ipls.toml'}" in said
    assert "wrong" not in said


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
