"""Several vaults as docs/operations.md sets them up, from what `ipls init` makes: its own files and commands, on other
ports."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path

from typer.testing import CliRunner

from ipls.admin.deployment import free_ports
from ipls.cli.commands import app
from ipls.client.outbox import code_from
from ipls.config import load_core
from ipls.trust.bundle import shard_of
from ipls.trust.ceremony import encode, sign_transcript
from tests.client.deployment import book
from tests.e2e.running import IPLS, Deployment, ipls, running
from tests.environment import BARE
from tests.hsm.fleets import OFFICERS, officers_table

OPERATIONS = (Path(__file__).parent.parent.parent / "docs/operations.md").read_text()


def section(title: str) -> str:
    return OPERATIONS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(text: str) -> list[str]:
    return re.findall(r"^ipls .*", text.replace("\\\n", " "), re.M)


SECTION = section("Several vaults, and moving a shard")
FILES = dict(re.findall(r"```toml\n# ([\w.-]+)\n(.*?)```", SECTION, re.S))


@contextmanager
def serving(service: str, config: Path) -> Iterator[None]:
    """Until it says that it serves."""
    command = [*IPLS, "serve", service, "--config", str(config), "--stop-at-eof"]
    with subprocess.Popen(command, env=BARE, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if '"event": "serving"' in line:
                break
        else:
            raise AssertionError(said)
        try:
            yield
        finally:
            process.stdin.close()
            process.stderr.read()


async def test_an_account_of_the_second_shard_is_served_by_its_vault_through_the_router(tmp_path: Path) -> None:
    folder = tmp_path / "ipls"
    assert FILES.keys() == {"vault-1.toml", "router.toml"}
    router, vault, *internal = (f"127.0.0.1:{port}" for port in free_ports(4))

    def prepare(config: Path) -> None:
        assert '`internal_listen = "127.0.0.1:7418"`' in SECTION
        config.write_text(config.read_text().replace("[vault]\n", f'[vault]\ninternal_listen = "{internal[0]}"\n'))

    with ExitStack() as stack:
        deployment = stack.enter_context(running(folder, shards=2, prepare=prepare))
        services = deployment.endpoints()
        here = {
            "127.0.0.1:7416": router,
            "127.0.0.1:7417": vault,
            "127.0.0.1:7401": str(services["updates"]["address"]),
            "127.0.0.1:7418": internal[0],
            "127.0.0.1:7419": internal[1],
        }
        for name, text in FILES.items():
            (folder / name).write_text(re.sub("|".join(here), lambda found: here[found[0]], text))
        begun = ipls("vault", "genesis", "--config", folder / "vault-1.toml")
        assert begun.returncode == 0, begun.stderr
        stack.enter_context(serving("vault", folder / "vault-1.toml"))
        stack.enter_context(serving("router", folder / "router.toml"))
        endpoints = json.loads((folder / "endpoints.json").read_text())
        endpoints["services"]["vault"]["address"] = router
        (folder / "endpoints.json").write_text(json.dumps(endpoints))
        of_shard = {shard_of(label, 2): label for label in (f"+49305550000{n}" for n in range(10))}
        for shard in (0, 1):
            await stores(deployment, of_shard[shard])
            await restores(deployment, of_shard[shard])


async def stores(deployment: Deployment, label: str) -> None:
    async with deployment.device(f"old{label}") as phone:
        await phone.register(label, code_from(deployment.folder / "data/registration.outbox"))
        phone.address_book.import_cards(book(2))
        await phone.store()


async def restores(deployment: Deployment, label: str) -> None:
    async with deployment.device(f"new{label}") as phone:
        await phone.register(label, code_from(deployment.folder / "data/registration.outbox"))
        assert (await phone.restore()).contacts == 2


def run(folder: Path, line: str) -> None:
    """A document's command, in this folder, by who says yes."""
    words = [
        str(name) for word in shlex.split(line)[1:] for name in (sorted(folder.glob(word)) if "*" in word else [word])
    ]
    with chdir(folder):
        ended = CliRunner().invoke(app, words, input="y\n", catch_exceptions=False)
    assert ended.exit_code == 0, (line, ended.output)


def two_hsms(config: Path) -> None:
    """A fleet as the documents make one: hsm-1, with shard 0 by ipls.toml and 1 by old.toml, and hsm-2, by new.toml."""
    folder, ports = config.parent, (f"127.0.0.1:{port}" for port in free_ports(4))
    config.write_text(config.read_text().replace('"token"', '"hsm-1"').replace("data/vault.db", "data/vault-0.db"))
    old = FILES["vault-1.toml"].replace("127.0.0.1:7401", str(load_core(config).vault.directory))
    new = old.replace("data/vault-1.db", "data/new.db").replace('"token"', '"hsm-2"')
    for name, text in (("old.toml", old.replace('"token"', '"hsm-1"')), ("new.toml", new)):
        (folder / name).write_text(re.sub(r"127\.0\.0\.1:74\d\d", lambda _: next(ports), text))
    (folder / "officers.toml").write_text(officers_table(2, **OFFICERS))
    prepare, genesis, join = (
        next(line for line in commands(section("A fleet of HSMs")) if line.startswith(f"ipls keys fleet {command} "))
        for command in ("prepare", "genesis", "join")
    )
    for line in (prepare, other(prepare), genesis):
        run(folder, line)
    for secret, name in zip(OFFICERS.values(), ("1a2b3c4d", "5e6f7a8b"), strict=False):
        signature = sign_transcript(secret, (folder / "report.pb").read_bytes())
        (folder / f"report.pb.{name}.sig").write_bytes(encode(signature))
    _, sign, publish = commands(section("The fleet's bundle"))
    (draft,) = (line for line in commands(section("A fleet of HSMs")) if line.startswith("ipls keys bundle next "))
    for line in (join, other(join), draft, sign, publish):
        run(folder, line)
    for name in ("ipls.toml", "old.toml"):
        run(folder, f"ipls vault genesis --config {name}")


def other(line: str) -> str:
    """The same at the other HSM's host."""
    return line.replace("hsm-1", "hsm-2").replace("ipls.toml", "new.toml")


async def test_a_shard_moves_by_the_commands_that_the_steps_give(tmp_path: Path) -> None:
    folder = tmp_path / "ipls"
    *steps, hand_off, take_over, serve = commands(SECTION.partition("**To move a shard**")[2])
    assert serve == "ipls serve vault --config new.toml"
    numbers = (f"+4930555{n:04}" for n in range(20))
    label = next(number for number in numbers if shard_of(number, 3) == 1)
    (address,) = (f"127.0.0.1:{port}" for port in free_ports(1))

    with running(folder, shards=3, prepare=two_hsms) as deployment:
        endpoints = json.loads((folder / "endpoints.json").read_text())
        endpoints["services"]["vault"]["address"] = address
        (folder / "endpoints.json").write_text(json.dumps(endpoints))

        @contextmanager
        def served_by(name: str) -> Iterator[None]:
            """By this vault, which the router has as shard 1's."""
            vault = str(load_core(folder / name).vault.internal_listen)
            text = FILES["router.toml"].replace("127.0.0.1:7416", address).replace("127.0.0.1:7419", vault)
            (folder / "router.toml").write_text(text)
            with serving("vault", folder / name), serving("router", folder / "router.toml"):
                yield

        with served_by("old.toml"):
            await stores(deployment, label)
            for line in steps:
                run(folder, line)
        draft = ipls(*hand_off.replace("bundle.pb", "bundle-3.pb").split()[1:], cwd=folder)
        assert (draft.returncode, draft.stderr.rpartition("[")[2]) == (1, "HEAD_NO_QUORUM]\n")
        run(folder, hand_off)
        shutil.copy(folder / "data/vault-1.db", folder / "data/new.db")
        run(folder, take_over)
        with served_by("new.toml"):
            await restores(deployment, label)
        refused = ipls("serve", "vault", "--config", folder / "old.toml")
        assert refused.returncode != 0
        assert "[VAULT_HANDED_OFF]" in refused.stderr
        assert "there it goes on, by `ipls vault take-over`" in refused.stderr
