"""The core's processes: it, its workers and its anchor service start, fail, are killed, and lose nothing.

The test is in the place of the untrusted front.
"""

import asyncio
import json
import os
import resource
import secrets
import signal
import sys
from contextlib import suppress

import pytest

from ipls.proto.vault.v1.vault_pb2 import SessionRequest, SessionResponse
from ipls.vault.errors import SessionRefused
from tests.hsm.rig import (
    CoreProcess,
    Exchange,
    Owner,
    Rig,
    child,
    children,
    ended,
    running,
    running_core,
    started_core,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_worker_is_replaced_after_its_number_of_sessions(rig: Rig) -> None:
    rig.configure(worker_sessions=2)
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig) as core:
        workers = set[int]()
        for _ in range(5):
            exchange = core.stream()
            client = await rig.open(owner, exchange, known_head=head)
            client.on_answer(await exchange(client.list_request()))
            workers |= {*running(core.process.pid, "ipls.hsm.worker")}  # one that ends lasts on for a while
            core.close()
        assert len(workers) >= 3


async def test_another_worker_is_ready_before_one_has_had_its_number(rig: Rig) -> None:
    rig.configure(worker_sessions=8)
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig) as core:
        replaced = ended(child(core.process.pid, "ipls.hsm.worker"))
        for _ in range(6):
            await rig.open(owner, core.stream(), known_head=head)
            core.close()
        await replaced


async def test_workers_and_anchor_service_end_with_their_core(rig: Rig) -> None:
    async with running_core(rig) as core:
        both = [ended(pid) for pid in children(core.process.pid)]
        assert len(both) == 2
        core.process.kill()
        await asyncio.gather(*both)


async def store(rig: Rig, exchange: Exchange, owner: Owner, number: int, name: bytes, key: bytes) -> None:
    client = await rig.open(owner, exchange, known_head=rig.directory.head())
    assert client.on_answer(await exchange(client.store_request(number - 1, name, key))).generation == number


async def test_a_worker_whose_core_was_killed_ends_in_order(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """With a session under way: its keys go before the token does, and nothing is said."""
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig) as core:
        await rig.open(owner, core.stream(), known_head=head)
        gone = ended(child(core.process.pid, "ipls.hsm.worker"))
        core.process.kill()
        await gone
    assert "Traceback" not in capfd.readouterr().err


FAILING = """
import sys
from pathlib import Path
from ipls.runtime.logging import configure_logging
from ipls.hsm import pipe
from ipls.hsm.core import app, rotation, workers
def fail(*arguments):
    raise ZeroDivisionError("+491700000001")
setattr({owner}, {method!r}, fail)
configure_logging()
app.run(Path(sys.argv[1]), *pipe.take_stdio())
"""


@pytest.mark.parametrize(
    ("task", "owner", "method"),
    [
        ("keep worker 0", "workers.WorkerProcess", "start"),
        ("rotate", "rotation.Rotation", "storage_key_ids"),
        ("worker", "workers.WorkerProcess", "run"),
    ],
)
async def test_a_task_that_fails_as_nobody_foresaw_ends_the_core_and_is_named(
    rig: Rig, task: str, owner: str, method: str
) -> None:
    """The front starts it again."""
    code = FAILING.format(owner=owner, method=method)
    command = ("-c", code, str(rig.config_path))
    core = await started_core(rig, sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    process = core.process
    assert process.stderr
    said = (await process.stderr.read()).decode()  # to the end of the core and of all that it started
    assert await process.wait() == 1
    told = [json.loads(line) for line in said.splitlines() if "and the process with it" in line]
    assert task in [line["task"] for line in told]  # others fail with it, where they shared a transaction
    assert {line["error"] for line in told} == {"ZeroDivisionError"}
    assert "+49" not in str(told)


STRANGE_WORKER = """
import asyncio, sys
from ipls.hsm import pipe
from ipls.hsm.core import app, workers
from ipls.hsm.process import main
start, hangs_s = workers.WorkerProcess.start, pipe.HANGS_S
async def strange(*arguments):
    workers.WorkerProcess.start = start
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", {program!r},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    pipe.HANGS_S = {hangs_s}
    worker = workers.WorkerProcess(process, *arguments[1:])
    pipe.HANGS_S = hangs_s
    return worker
workers.WorkerProcess.start = strange
main("core", app.run)
"""


HANGING = "import sys; sys.stdin.read()"


@pytest.mark.parametrize(
    ("program", "hangs_s", "event"),
    [
        pytest.param("", 3600, "vault worker failed to start", id="ends at once"),
        pytest.param(
            f"import os; os.write(1, bytes(12) + bytes([255])); {HANGING}",
            3600,
            "vault worker not understood",
            id="not understood, as its program was replaced meanwhile",
        ),
        pytest.param(HANGING, 0.1, "vault worker hangs", id="hangs before its token is open"),
    ],
)
async def test_a_worker_of_no_use_is_replaced(rig: Rig, program: str, hangs_s: float, event: str) -> None:
    owner = Owner()
    head = rig.directory.publish(owner)
    code = STRANGE_WORKER.format(program=program, hangs_s=hangs_s)
    async with running_core(rig, "-c", code, str(rig.config_path), stderr=asyncio.subprocess.PIPE) as core:
        await rig.open(owner, core.stream(), known_head=head)
    assert core.process.stderr
    assert event in (await core.process.stderr.read()).decode()


IMPATIENT = """
from ipls.hsm import pipe
from ipls.hsm.core import app, workers
from ipls.hsm.process import main
of, hangs_s, first = workers.WorkerProcess.{method}, pipe.HANGS_S, []
def impatient(self, *arguments):
    first.append(self)
    pipe.HANGS_S = 0.1 if self is first[0] else hangs_s
    of(self, *arguments)
    pipe.HANGS_S = hangs_s
workers.WorkerProcess.{method} = impatient
main("core", app.run)
"""
"""A core that has little patience with its first worker, for what it asks of it in this method."""


async def test_a_worker_that_hangs_is_replaced(rig: Rig) -> None:
    """Else each first frame that lies before it would keep a turn for good, and the vault have none left."""
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig, "-c", IMPATIENT.format(method="open"), str(rig.config_path)) as core:
        os.kill(child(core.process.pid, "ipls.hsm.worker"), signal.SIGSTOP)
        with pytest.raises(SessionRefused) as refusal:
            await rig.open(owner, core.stream(), known_head=head)
        assert refusal.value.reason == "VAULT_WORKER_LOST"
        await core.receive(ready=True)
        await rig.open(owner, core.stream(), known_head=head)


async def test_a_worker_that_hangs_at_its_end_is_killed(rig: Rig) -> None:
    rig.configure(worker_sessions=1)
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig, "-c", IMPATIENT.format(method="_end_if_idle"), str(rig.config_path)) as core:
        worker = child(core.process.pid, "ipls.hsm.worker")
        over = ended(worker)
        await rig.open(owner, core.stream(), known_head=head)
        os.kill(worker, signal.SIGSTOP)
        core.close()
        await over


async def test_a_worker_that_could_not_be_started_is_started_later(rig: Rig) -> None:
    """The core may open no file when its worker dies, so that it can make no pipe to the next one."""
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig, stderr=asyncio.subprocess.PIPE) as core:
        pid = core.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        os.kill(child(pid, "ipls.hsm.worker"), signal.SIGKILL)
        assert core.process.stderr
        while b"vault worker not started" not in (line := await core.process.stderr.readline()):
            assert line
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        await core.receive(ready=True)
        await rig.open(owner, core.stream(), known_head=head)


@pytest.mark.parametrize("module", ["core", "worker", "anchor_service"])
async def test_why_a_process_does_not_start_is_one_line(rig: Rig, module: str) -> None:
    (rig.folder / "pin").unlink()
    (rig.folder / "vault.db").unlink()
    (rig.folder / "vault.db").mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"ipls.hsm.{module}", str(rig.config_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    [line] = said.splitlines()
    assert json.loads(line)["process"] == module.replace("_", " ")


def killing(exchange: Exchange, victim: int, step: int) -> Exchange:
    """`exchange`, but the process is killed before the frame of that number, or right behind the third, the last."""
    sent = 0

    async def exchange_or_kill(frame: SessionRequest) -> SessionResponse:
        nonlocal sent
        sent += 1
        answer = asyncio.create_task(exchange(frame)) if step >= sent else None
        await asyncio.sleep(0)  # the frame, if it is sent, is in the pipe
        if step == sent - 1 or (step, sent) == (3, 3):
            gone = ended(victim)
            os.kill(victim, signal.SIGKILL)
            await gone
        return await (answer or exchange(frame))

    return exchange_or_kill


@pytest.mark.parametrize("victim", ["worker", "anchor_service", "core"])
@pytest.mark.parametrize("step", range(4))
async def test_a_killed_process_loses_nothing_acknowledged(step: int, victim: str, rig: Rig) -> None:
    owner, first, second = Owner(), secrets.token_bytes(32), secrets.token_bytes(32)
    rig.directory.publish(owner)
    name = secrets.token_bytes(16)

    async def store_second_again(core: CoreProcess) -> None:
        await store(rig, core.stream(), owner, 2, name, second)
        core.close()
        exchange = core.stream()
        client = await rig.open(owner, exchange, known_head=rig.directory.head())
        assert client.on_answer(await exchange(client.retrieve_request(1))) == (1, first)
        assert client.on_answer(await exchange(client.retrieve_request(2))) == (2, second)

    async with running_core(rig) as core:
        await store(rig, core.stream(), owner, 1, secrets.token_bytes(16), first)
        core.close()
        pid = core.process.pid if victim == "core" else child(core.process.pid, f"ipls.hsm.{victim}")
        with suppress(EOFError, ConnectionError, SessionRefused):
            await store(rig, killing(core.stream(), pid, step), owner, 2, name, second)
        while victim != "core":
            try:
                await store_second_again(core)
                break
            except SessionRefused as refused:  # until worker or anchor service have a successor
                if refused.reason not in ("VAULT_WORKER_LOST", "VAULT_NOTARY_LOST"):
                    raise
    if victim == "core":
        async with running_core(rig) as core:
            await store_second_again(core)
