"""A vault account: its state and what each operation does to it (the vault spec's Policy and State). Pure."""

import struct
from typing import NamedTuple

from ipls.proto.vault.v1 import vault_pb2
from ipls.session import effects
from ipls.session.errors import SessionRefused
from ipls.trust.identity import Identity

RETENTION_MS = 30 * 24 * 3600 * 1000
# Kept at once of those stored under one identity version: per version, so that a thief can't use up the owner's.
MAX_GENERATIONS = 8

_FORMAT = 1
_HEADER = struct.Struct(">B10Q32s")
_GENERATION = struct.Struct(">Q16s16s40s5Q")


class Generation(NamedTuple):
    """One stored contact key. Times in ms, 0 while the event has not happened."""

    number: int
    store_id: bytes  # 16 bytes
    root_id: bytes  # 16 bytes: the storage root that derives the wrapping key
    wrapped: bytes  # 40 bytes
    identity_version: int
    identity_epoch: int
    stored_ms: int
    superseded_ms: int = 0
    released_ms: int = 0  # by finish_rotation or delete


class Account(NamedTuple):
    """All state of one account; a fresh one is `Account()`."""

    last_generation: int = 0  # the counter: survives a delete
    identity_version: int = 0  # the highest accepted
    identity_epoch: int = 0
    first_seen_ms: int = 0  # of that version
    deleted_ms: int = 0  # the tombstone
    handshakes: int = 0
    stores: int = 0
    retrieves: int = 0
    change_delay_ms: int = 0
    history_length: int = 0
    chain_head: bytes = bytes(32)
    generations: tuple[Generation, ...] = ()  # ascending

    def encode(self) -> bytes:
        """The canonical encoding, as the store keeps it."""
        return _HEADER.pack(_FORMAT, *self[:-1]) + b"".join(_GENERATION.pack(*g) for g in self.generations)

    @classmethod
    def decode(cls, data: bytes) -> "Account":
        """The inverse of `encode`. Raises SessionRefused VAULT_ACCOUNT_UNREADABLE."""
        try:
            version, *fields = _HEADER.unpack_from(data)
            generations = tuple(Generation(*g) for g in _GENERATION.iter_unpack(data[_HEADER.size :]))
        except struct.error as e:
            raise SessionRefused("VAULT_ACCOUNT_UNREADABLE", "the account's row is damaged") from e
        if version != _FORMAT:
            raise SessionRefused("VAULT_ACCOUNT_UNREADABLE", "the account's row has an unknown format")
        return cls._make((*fields, generations))


def apply(
    account: Account | None, identity: Identity, operation: effects.Operation, now_ms: int
) -> tuple[Account, effects.Result]:
    """The account after the operation, and the operation's result; None stands for an account never seen.

    `identity` was proven at a judged head, `now_ms` is the vault's clock. Raises SessionRefused; the account then stays
    as it was. The caller makes the returned account durable before anybody sees the result.
    """
    account = _expire(_identify(account or Account(), identity, now_ms), now_ms)
    match operation:
        case effects.Handshake():
            return account._replace(handshakes=account.handshakes + 1), None
        case effects.Store():
            return _store(account, identity, operation, now_ms)
        case effects.Retrieve(number):
            g = _find(account, number)
            account = account._replace(retrieves=account.retrieves + 1)
            return account, effects.StoredRecord(g.number, g.store_id, g.root_id, g.wrapped)
        case effects.FinishRotation(number):
            _find(account, number)
            return _release(account, number, now_ms), vault_pb2.FinishRotationAnswer()
        case effects.Delete():
            account = _release(account, account.last_generation + 1, now_ms)
            return account._replace(deleted_ms=now_ms), vault_pb2.DeleteAnswer()
        case effects.List():
            return account, _listing(account)
        case effects.History() | effects.SetChangeDelay():
            raise SessionRefused("VAULT_OPERATION_UNAVAILABLE", "this vault does not offer that operation yet")


def _identify(account: Account, identity: Identity, now_ms: int) -> Account:
    if identity.version < account.identity_version:
        raise SessionRefused("VAULT_IDENTITY_SUPERSEDED", "a later identity of this account was accepted before")
    if identity.version == account.identity_version:
        return account
    return account._replace(identity_version=identity.version, identity_epoch=identity.epoch, first_seen_ms=now_ms)


def _store(
    account: Account, identity: Identity, operation: effects.Store, now_ms: int
) -> tuple[Account, effects.Result]:
    number = operation.expected_generation + 1
    for g in account.generations:
        # A repeat: AES-KW is deterministic, so the same key under the same record gives the same bytes.
        if (g.number, g.store_id, g.wrapped) == (number, operation.store_id, operation.wrapped):
            return account, vault_pb2.StoreAnswer(generation=number)
    if operation.expected_generation != account.last_generation:
        raise SessionRefused("VAULT_GENERATION_CONFLICT", f"the last generation stored is {account.last_generation}")
    if sum(g.identity_version == identity.version for g in account.generations) >= MAX_GENERATIONS:
        raise SessionRefused("VAULT_TOO_MANY_GENERATIONS", "finish a rotation before storing another key")
    stored = Generation(
        number, operation.store_id, operation.root_id, operation.wrapped, identity.version, identity.epoch, now_ms
    )
    older = tuple(g._replace(superseded_ms=g.superseded_ms or now_ms) for g in account.generations)
    account = account._replace(
        last_generation=number, deleted_ms=0, stores=account.stores + 1, generations=(*older, stored)
    )
    return account, vault_pb2.StoreAnswer(generation=number)


def _release(account: Account, below: int, now_ms: int) -> Account:
    """Lets go of the generations below this number: at once, or in 30 days where another identity stored them."""
    return _expire(
        account._replace(
            generations=tuple(
                g._replace(superseded_ms=g.superseded_ms or now_ms, released_ms=g.released_ms or now_ms)
                if g.number < below
                else g
                for g in account.generations
            )
        ),
        now_ms,
    )


def _expire(account: Account, now_ms: int) -> Account:
    # What an earlier identity stored outlives its release by 30 days: a thief's identity can't destroy it, its owner
    # has that long to register again. The release is never before the supersession: those 30 days are covered too.
    return account._replace(
        generations=tuple(
            g
            for g in account.generations
            if not g.released_ms
            or (g.identity_version < account.identity_version and now_ms < g.released_ms + RETENTION_MS)
        )
    )


def _find(account: Account, number: int) -> Generation:
    """The generation of this number, 0 for the current one."""
    for g in account.generations:
        if g.number == number or (number == 0 and not g.superseded_ms):
            return g
    raise SessionRefused("VAULT_GENERATION_UNKNOWN", "no such generation is stored")


def _listing(account: Account) -> vault_pb2.ListAnswer:
    return vault_pb2.ListAnswer(
        last_generation=account.last_generation,
        generations=[
            vault_pb2.Generation(
                generation=g.number,
                store_id=g.store_id,
                identity_version=g.identity_version,
                identity_epoch=g.identity_epoch,
                stored_ms=g.stored_ms,
                state=_state(g),
            )
            for g in account.generations
        ],
    )


def _state(g: Generation) -> vault_pb2.Generation.State.ValueType:
    if g.released_ms:
        return vault_pb2.Generation.STATE_RETAINED
    return vault_pb2.Generation.STATE_PREVIOUS if g.superseded_ms else vault_pb2.Generation.STATE_CURRENT
