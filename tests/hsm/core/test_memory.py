"""Where the contact key is found: in the front never, in the core not while it is idle.

Each search finds a canary too, on the stack (an environment variable) and on the heap (the newest head's root hash, a
frame on its way), which proves that it would find the key.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from ipls.vault.session.client import ClientSession
from tests.hsm.core.memory import search
from tests.hsm.rig import Exchange, Owner, Rig, child, children
from tests.server.vault.process import Vault, running_vault

KEY = secrets.token_bytes(32)
SECRETS = [KEY, KEY[:16], KEY[16:]]
SAMPLES = 200


async def frames_of_a_loop(vault: Vault, owner: Owner) -> AsyncIterator[bytes]:
    """Stores the key and gets it back, for ever, one session after another; yields the sealed body of each request."""
    numbers = itertools.count()
    while True:
        async with vault.stream() as exchange:
            client = await vault.rig.open(owner, exchange, known_head=vault.rig.directory.head())
            for number in itertools.islice(numbers, 20):
                request = client.store_request(number, secrets.token_bytes(16), KEY)
                yield request.request.body
                client.on_answer(await exchange(request))
                request = client.retrieve_request()
                yield request.request.body
                assert client.on_answer(await exchange(request)) == (number + 1, KEY)
                client.on_answer(await exchange(client.finish_rotation_request(number + 1)))


async def test_the_front_never_holds_the_contact_key(rig: Rig) -> None:
    dice, canary = random.Random(1), secrets.token_hex(16)
    owner = Owner()
    root_hash = rig.directory.publish(owner).root_hash

    def look(front: int, body: bytes, delay_s: float) -> list[bool]:
        time.sleep(delay_s)  # the moment is random on purpose
        return search(front, [canary.encode(), root_hash, body, *SECRETS])

    samples: list[list[bool]] = []
    async with running_vault(rig, IPLS_CANARY=canary) as vault, aclosing(frames_of_a_loop(vault, owner)) as frames:
        looking = None
        async for body in frames:  # which goes out when this asks for the next
            if looking is not None:
                samples.append(await looking)
            if len(samples) == SAMPLES:
                break
            looking = asyncio.create_task(asyncio.to_thread(look, vault.front.pid, body, dice.uniform(0, 0.006)))

    environment, head, on_its_way, *found = map(sum, zip(*samples, strict=True))
    assert (environment, head) == (SAMPLES, SAMPLES)
    assert on_its_way > 0
    assert found == [0, 0, 0]


async def test_the_idle_core_holds_neither_the_contact_key_nor_a_half(rig: Rig) -> None:
    canary, owner = secrets.token_hex(16), Owner()
    rig.directory.publish(owner)
    async with running_vault(rig, IPLS_CANARY=canary) as vault:
        async with aclosing(frames_of_a_loop(vault, owner)) as frames:
            for _ in range(50):
                await anext(frames)

        async def list_it(client: ClientSession, exchange: Exchange) -> None:
            client.on_answer(await exchange(client.list_request()))

        # Steps of sessions are done in turn: when this one is answered the last is over.
        await vault.patiently(owner, list_it)
        core = vault.core()
        anchor_service = child(core, "ipls.hsm.anchor_service")
        for pid in (core, *children(core)):
            environment, heap, *found = search(pid, [canary.encode(), rig.root.vrf_public_key, *SECRETS])
            assert (environment, heap) == (True, pid != anchor_service)  # which reads no trust root
            assert found == [False, False, False]
