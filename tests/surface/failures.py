"""What goes wrong on the command line, and how it ends: the exit status, and the reason where there is one.

A deployment that is not running, one that runs, and nothing: each failure has its own files and needs no other.
"""

import fcntl
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.surface.running import done, init, ipls, reason
from tests.surface.story import VECTORS, book

HERE = Path(__file__).parent


def provoke(home: Path) -> dict[str, dict[str, object]]:
    """Status and reason of each failure, by its name."""
    folder = home / "ipls"
    init(folder)
    with ExitStack() as stack:
        cases = dict(_cases(home, folder, stack))
        ends = {name: ipls(*arguments) for name, arguments in cases.items()}
    return {name: {"status": ended.returncode, "reason": reason(ended.stderr)} for name, ended in ends.items()}


Case = tuple[str, Sequence[object]]


def _cases(home: Path, folder: Path, stack: ExitStack) -> Iterator[Case]:
    """The name and the command line of each."""
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    yield from _usage(home, folder)
    yield from _configuration(home, folder, taken)
    yield from _client(home, folder, stack)
    yield from _files(home, folder)
    yield from _ceremonies(home, folder)
    yield from _databases(home, folder)


def _usage(home: Path, folder: Path) -> Iterator[Case]:
    config, trust = ("--config", folder / "ipls.toml"), ("--trust", folder / "trust.toml")
    yield "no such command", ("nonsense",)
    yield "a required option is left out", ("serve", "directory")
    yield "a number is out of its range", ("init", home / "new", "--witnesses", 17)
    yield "a name for what is no witness", ("serve", "log", *config, "--name", "witness")
    yield "a profile's name with a slash", ("client", "status", "--profile", "a/b")
    yield "an audit from before the start", ("audit", *trust, "--from", 0)
    yield "a witness that the trust root lacks", ("keys", "trust", "next", home / "n", *config, "--remove", "nobody")
    yield "a key that is none", ("keys", "trust", "next", home / "n", *config, "--new-key", "witness=00")
    yield "not confirmed", ("client", "vault", "delete", "--home", home)
    yield "recovery from nothing", ("vault", "recover", home / "absent", *config)


def _configuration(home: Path, folder: Path, taken: int) -> Iterator[Case]:
    text = (folder / "ipls.toml").read_text()
    (beside := home / "configured").mkdir()
    shutil.copytree(folder / "tls", beside / "tls")
    shutil.copytree(folder / "keys", beside / "keys")
    for name in ("trust.toml", "bundle.pb"):
        shutil.copy(folder / name, beside)
    (beside / "keys/witness.key").chmod(0o644)
    (beside / "log").mkdir()

    def config(name: str, written: str) -> tuple[str, Path]:
        (beside / name).write_text(written)
        return "--config", beside / name

    yield "a folder that is in use", ("init", folder)
    yield "a namespace with a slash", ("init", home / "new", "--namespace", "a/b")
    yield "no ipls.toml", ("serve", "log", "--config", home / "absent.toml")
    yield "an unknown key", ("serve", "log", *config("key.toml", text.replace("[log]\n", "[log]\nspeed = 1\n")))
    yield "no witness of this name", ("serve", "witness", *config("name.toml", text), "--name", "nobody")
    yield "a key that others can read", ("serve", "witness", *config("open.toml", text))
    log = f'trust_root = "trust.toml"\n[log]\nlisten = "127.0.0.1:{taken}"\nobjects = "log"\n'
    yield "a port that is taken", ("serve", "log", *config("taken.toml", log))
    router = (HERE / "router.toml").read_text().replace("PORT", str(taken))
    yield "all keys of a router, at a port that is taken", ("serve", "router", *config("router.toml", router))
    full = (HERE / "full.toml").read_text()
    yield "all keys of ipls.toml, without a database", ("directory", "pins", *config("full.toml", full))
    yield "a witness without a token", ("witness", "key", *config("token.toml", text), "--label", "new")
    yield "a trust root that is none", ("audit", "--trust", beside / "taken.toml")


def _client(home: Path, folder: Path, stack: ExitStack) -> Iterator[Case]:
    (home / "book.vcf").write_bytes(book(2))
    endpoints = ("--endpoints", folder / "endpoints.json")
    where = ("--home", home)
    done("client", "contacts", "import", home / "book.vcf", *endpoints, *where)
    profiles = home / "profiles"
    for name in ("busy", "damaged", "other"):
        shutil.copytree(profiles / "default", profiles / name)
    (profiles / "damaged/profile.db").write_bytes(b"no database" * 1000)
    lock = stack.enter_context((profiles / "busy/lock").open())
    fcntl.flock(lock, fcntl.LOCK_EX)
    other = home / "other"
    other.mkdir()
    shutil.copy(folder / "endpoints.json", other)
    changed = (folder / "trust.toml").read_text().replace("max_head_age_ms = ", "max_head_age_ms = 1")
    (other / "trust.toml").write_text(changed)
    moved = (other / "endpoints.json").read_text().replace(f'"{folder}/trust.toml"', f'"{other}/trust.toml"')
    (other / "endpoints.json").write_text(moved)
    (home / "no.json").write_text("{}")

    yield "no profile", ("client", "status", *where, "--profile", "absent")
    yield "a profile that is in use", ("client", "contacts", "import", home / "book.vcf", *where, "--profile", "busy")
    yield "a profile that is damaged", ("client", "status", *where, "--profile", "damaged")
    yield "no account yet", ("client", "store", *where)
    yield "endpoints that are none", ("client", "vault", "key", *where, "--endpoints", home / "no.json")
    again = ("--profile", "other", "--endpoints", other / "endpoints.json")
    yield "another trust root", ("client", "vault", "key", *where, *again)
    yield "no service answers", ("client", "register", "+4930777000009", *where, "--code", "1", "--patience", 0)
    yield "no contact of this id", ("client", "contacts", "show", "z", *where)
    yield "several contacts of this id", ("client", "contacts", "show", "", *where)
    yield "an approver's key that is none", ("client", "vault", "trust", "00", *where)
    yield "an approval that is none", ("client", "vault", "approve", "nonsense", *where)


def _files(home: Path, folder: Path) -> Iterator[Case]:
    trust, bundle = ("--trust", folder / "trust.toml"), (folder / "bundle.pb").read_bytes()
    stranger = home / "stranger.toml"
    stranger.write_text((folder / "trust.toml").read_text().replace('"ipls.local"', '"other.ipls"'))
    (home / "bent.pb").write_bytes(bundle[:-1] + bytes([bundle[-1] ^ 1]))
    lines = VECTORS.read_text().splitlines(keepends=True)[:3]
    (home / "bent.jsonl").write_text("".join(lines).replace('"epoch":1', '"epoch":2'))
    (home / "state.json").write_text("{}")
    (home / "large").write_bytes(bytes(300_000))
    yield "no such file", ("verify", "history", home / "absent", *trust)
    yield "a proof of another kind", ("verify", "history", folder / "bundle.pb", *trust)
    yield "a bundle that was changed", ("verify", "bundle", home / "bent.pb", *trust)
    yield "a bundle of another namespace", ("verify", "bundle", folder / "bundle.pb", "--trust", stranger)
    yield "evidence of nothing", ("verify", "evidence", folder / "bundle.pb", *trust)
    yield "a file that is too large", ("verify", "evidence", home / "large", *trust)
    yield "an object of no epoch", ("verify", "append-only", folder / "bundle.pb", *trust)
    yield "vectors that differ", ("verify", "vectors", home / "bent.jsonl")
    yield "an audit without a log", ("audit", *trust, "--state", home / "absent.json")
    yield "an audit's state that is none", ("audit", *trust, "--state", home / "state.json")
    yield "no kept demonstration", ("demo", "--stop", home)


def _ceremonies(home: Path, folder: Path) -> Iterator[Case]:
    config = ("--config", folder / "ipls.toml")
    (home / "key").write_text("00" * 32 + "\n")
    (home / "key").chmod(0o600)
    draft, bundle = home / "trust-2.toml", home / "bundle-2.pb"
    done("keys", "trust", "next", draft, *config)
    done("keys", "bundle", "next", bundle, *config)
    (home / "officers.toml").write_text("m = 1\n")
    (home / "few.toml").write_text(f'm = 2\n[[officer]]\nname = "Anna"\nkey = "{"07" * 32}"\n')
    fleet = ("--officers", home / "officers.toml")
    yield "a key in the place of another", ("keys", "new", home / "key")
    other = ("--operator-key", home / "key")
    yield "another operator's key", ("keys", "bundle", "next", home / "new.pb", *config, *other)
    yield "a bundle without signatures", ("keys", "bundle", "publish", bundle, *config)
    yield "no bundle", ("keys", "bundle", "sign", home / "key", *config, "--yes")
    yield "a version that does not follow", ("keys", "trust", "sign", folder / "trust.toml", *config, "--yes")
    yield "officers that are none", ("keys", "fleet", "check", home / "key", home / "key", *config, *fleet)
    few = ("--officers", home / "few.toml")
    yield "too few officers", ("keys", "fleet", "genesis", home / "report", home / "key", *config, *few)


def _databases(home: Path, folder: Path) -> Iterator[Case]:
    config = folder / "ipls.toml"
    damaged = home / "damaged.db"
    damaged.write_bytes(b"no database" * 1000)
    text = config.read_text()

    def changed(name: str, old: str, new: str) -> tuple[str, Path]:
        path = folder / name
        path.write_text(text.replace(old, new))
        return "--config", path

    yield "no directory's database", ("directory", "pins", "--config", config)
    directory = changed("directory.toml", "data/directory.db", str(damaged))
    yield "a directory's database that is none", ("directory", "fsck", *directory)
    vault = changed("vault.toml", '"data/vault.db"', f'"{damaged}"')
    yield "a vault's database that is none", ("vault", "check", *vault)
    empty = changed("empty.toml", '"data/vault.db"', '"data/empty.db"')
    yield "a vault's anchor that is there", ("vault", "genesis", *empty)
    shard = changed("shard.toml", "[vault]\n", "[vault]\nshard = 1\n")
    yield "a shard that the bundle lacks", ("vault", "hand-off", folder / "bundle.pb", home / "off", *shard)
    roots = changed("roots.toml", '"data/vault.db"', '"data/copy.db"')
    shutil.copy(folder / "data/vault.db", folder / "data/copy.db")
    yield "no such storage root", ("vault", "drop-root", "00", *roots)
    witness = changed("witness.toml", '"data/witness.db"', '"data/lost-witness.db"')
    yield "a witness that was restored", ("witness", "genesis", *witness)
