"""What was stored before there was a line of commits comes back, and begins the line."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipls.client.device import Device
from ipls.client.errors import RefusedError
from ipls.client.events import silent
from ipls.client.line.kept import TABLES, Kept
from ipls.client.line_store import LineStore
from ipls.client.rows import Rows, schema
from ipls.client.vault import Vault
from ipls.client.version1 import OldContacts
from ipls.crypto.keys import SeedSigner
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.store.contacts import Manifest, RecordKey
from ipls.store.engine.sqlite import temporary
from tests.client.deployment import Crash, Deployment, book, cards_of
from tests.contacts import old_records
from tests.store.contacts.before import store_before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def stored_as_before(world: Deployment, label: str, cards: list[bytes], *, lost: int = 0) -> Path:
    """A phone of an earlier version stored these, and the store has lost the last of them."""
    profile, secret = await world.registered(label), os.urandom(32)
    async with world.device(profile) as device:
        await device._vault.run(lambda session: session.store(0, os.urandom(16), secret))
    sealed = []
    for n, card in enumerate(cards, 1):
        id = n.to_bytes(16, "big")
        data = old_records.seal_record(secret, label, 1, id, card)
        sealed.append((RecordKey(1, id, old_records.digest(data)), data))
    listed = old_records.Manifest(1, 1, {key.id: key.digest for key, _ in sealed})
    check, data = old_records.check_value(secret), old_records.seal_manifest(secret, label, listed)
    kept = sealed[: len(sealed) - lost]
    store_before(world.config.contacts.database, label, kept, Manifest(1, 1, check, data))
    return profile


async def test_it_is_restored_and_begins_the_line(world: Deployment) -> None:
    label, cards = world.label(), cards_of(book(30))
    await stored_as_before(world, label, cards)
    async with world.device(await world.registered(label)) as device:
        restored = await device.restore()
        assert (restored.contacts, restored.sent, restored.n) == (30, 30, 1)
        assert restored.generation == 2  # another than what the old manifest was sealed under
        assert device.address_book.cards() == cards
    await world.restores(label, book(30))


@pytest.mark.parametrize("step", ["key retrieved", "key read back", "records staged", "base made", "base stands"])
async def test_a_migration_cut_off_goes_on(world: Deployment, step: str) -> None:
    label = world.label()
    await stored_as_before(world, label, cards_of(book(5)))
    profile = await world.registered(label)
    assert await world.cut_off(profile, Device.restore, step)
    async with world.device(profile) as device:
        assert (await device.store()).contacts == 5
    await world.restores(label, book(5))


@pytest.mark.parametrize("lost", ["call", "answer"])
async def test_a_migration_of_which_each_call_is_lost_once_goes_on(
    world: Deployment, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The phone dies at the first call to contact store and vault, then at the second, and so on."""
    label, left = world.label(), 0
    await stored_as_before(world, label, cards_of(book(5)))
    profile = await world.registered(label)

    def dying(honest: Any) -> Any:
        async def call(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and lost == "call":
                raise Crash
            answer = await honest(*args)
            if left == 0:
                raise Crash
            return answer

        return call

    for which, name in ((OldContacts, "_retrying"), (LineStore, "_retrying"), (Vault, "run")):
        monkeypatch.setattr(which, name, dying(getattr(which, name)))
    for calls in itertools.count(1):
        left = calls
        try:
            async with world.device(profile) as device:
                assert (await device.restore()).contacts == 5
            break
        except Crash:
            continue
    assert calls > 5
    monkeypatch.undo()
    await world.restores(label, book(5))


async def test_of_two_phones_in_the_middle_of_it_neither_loses_or_doubles_anything(world: Deployment) -> None:
    label = world.label()
    await stored_as_before(world, label, cards_of(book(5)))
    first = await world.registered(label)
    assert await world.cut_off(first, Device.restore, "base made")
    second = await world.registered(label)
    async with world.device(second) as device:
        assert (await device.restore()).contacts == 5
        device.address_book.import_cards(book(1, "Second's"))
        await device.store()
    async with world.device(first) as device:
        await device.register(label, world.code)
        device.acknowledge_version(3)
        device.address_book.import_cards(book(1, "First's"))
        assert (await device.store()).contacts == 7
    await world.restores(label, book(5) + book(1, "Second's") + book(1, "First's"))


async def test_one_record_that_is_gone_costs_itself(world: Deployment) -> None:
    label = world.label()
    await stored_as_before(world, label, cards_of(book(5)), lost=1)
    async with world.device(await world.registered(label)) as device:
        assert (await device.restore()).contacts == 4
        assert device.address_book.cards() == cards_of(book(4))


async def test_a_phone_that_has_the_contacts_needs_nothing_of_it(world: Deployment) -> None:
    """Not even a manifest that opens: a thief may have put his own there."""
    label = world.label()
    profile = await stored_as_before(world, label, cards_of(book(2, "Thief")))
    async with world.device(profile) as device:
        await device.delete_keys()
        await device._vault.run(lambda session: session.store(1, os.urandom(16), os.urandom(32)))
        device.address_book.import_cards(book(3))
        with pytest.raises(RefusedError, check=lambda error: error.reason == "VAULT_GENERATION_UNKNOWN"):
            await device.store()


class Endless:
    """A service whose answers have no end."""

    def __init__(self, *responses: Any) -> None:
        self._responses = responses

    def _answer(self, request: Any, timeout: float) -> Any:
        class Stream:
            async def __aiter__(stream) -> AsyncIterator[Any]:
                for response in itertools.cycle(self._responses):
                    yield response

            def cancel(stream) -> None:
                pass

        return Stream()

    GetRecords = GetManifest = _answer


@pytest.mark.parametrize("header", [pb.ManifestHeader(size=1 << 20), pb.ManifestHeader(size=2**64 - 1), None])
async def test_a_manifest_without_end_is_refused(header: pb.ManifestHeader | None) -> None:
    chunk = pb.GetManifestResponse(chunk=bytes(1 << 20))
    answers = [pb.GetManifestResponse(header=header), chunk, chunk] if header else [chunk]
    connection = temporary()
    connection.executescript(schema(TABLES))
    kept, stub = Kept(Rows(connection, bytes(32), TABLES), "+491701234567"), Endless(*answers)
    old = OldContacts(
        stub, "test.ipls", "+491701234567", SeedSigner(bytes(32)), kept, now_ms=lambda: 0, report=silent, retry_for_s=0
    )
    with pytest.raises(RefusedError, check=lambda error: error.reason == "STORE_ANSWER_INVALID"):
        await old.are_there()
