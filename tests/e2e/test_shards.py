"""Several vaults as docs/operations.md sets them up, from what `ipls init` makes: its own files and commands, on other
ports."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ipls.admin.deployment import free_ports
from ipls.client.outbox import code_from
from ipls.trust.bundle import shard_of
from tests.client.deployment import book
from tests.e2e.running import IPLS, Deployment, ipls, running
from tests.environment import BARE

SECTION = (
    (Path(__file__).parent.parent.parent / "docs/operations.md")
    .read_text()
    .partition("## Several vaults, and moving a shard")[2]
    .partition("\n## ")[0]
)
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
            await stores_and_restores(deployment, of_shard[shard])


async def stores_and_restores(deployment: Deployment, label: str) -> None:
    async with deployment.device(f"old{label}") as phone:
        await phone.register(label, code_from(deployment.folder / "data/registration.outbox"))
        phone.import_cards(book(2))
        await phone.store()
    async with deployment.device(f"new{label}") as phone:
        await phone.register(label, code_from(deployment.folder / "data/registration.outbox"))
        assert (await phone.restore()).contacts == 2
