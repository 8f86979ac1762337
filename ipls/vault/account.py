"""A vault account: its state and what each operation does to it (the vault spec's Policy and State). Pure."""

import struct
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ipls.proto.vault.v1 import vault_pb2
from ipls.trust.identity import Identity
from ipls.units import DAY_MS, HOUR_MS
from ipls.vault.errors import SessionRefused
from ipls.vault.history import Seen
from ipls.vault.limits import Limits, Releases
from ipls.vault.session import effects

# The longest change delay of a thief, then of the owner who registers again, and 30 days for the owner to act in.
RETENTION_MS = 90 * DAY_MS
# Kept at once of those stored under one identity version: per version, so that a thief can't use up the owner's.
MAX_GENERATIONS = 8
# Beside so many of other versions, enough for a rotation, and so long after another version's last: a thief who takes
# the number again and again, however often, leaves room. An owner who has it back waits so long at most.
CROWDED, MAX_CROWDED_GENERATIONS, TURN_MS = 64, 2, 5 * HOUR_MS
# Of all versions: an account stays small, and its listing a frame. There is room for all that 90 days can bring; what
# was superseded before that makes room, let go or not.
MAX_ALL_GENERATIONS = CROWDED + MAX_GENERATIONS + MAX_CROWDED_GENERATIONS * (RETENTION_MS // TURN_MS + 2)
MAX_CHANGE_DELAY_MS = 30 * DAY_MS
MAX_APPROVERS = 8
MAX_CHECKPOINTS = 4

# The format before had no checkpoints; what is written has the present one.
_FORMAT, _WITHOUT_CHECKPOINTS = 4, 3
_HEADER = struct.Struct(">B17Q32sB")
_APPROVER_BYTES = 32
_COUNT = struct.Struct(">B")
_CHECKPOINT = struct.Struct(">Q32sQ32s")
_GENERATION = struct.Struct(">Q16s16s40s5Q")


class Checkpoint(NamedTuple):
    """How far a line of commits had come when an identity said so last."""

    identity_version: int
    line: bytes  # the line's id, 32 bytes
    n: int
    chain: bytes  # chain_n, 32 bytes


class Generation(NamedTuple):
    """One stored contact key. Times in ms, 0 while the event has not happened."""

    number: int
    store_id: bytes  # 16 bytes
    storage_key_id: bytes  # 16 bytes: the storage root that derives the wrapping key
    wrapped: bytes  # 40 bytes
    identity_version: int
    identity_epoch: int
    stored_ms: int
    superseded_ms: int = 0
    released_ms: int = 0  # by finish_rotation or delete


class Account(NamedTuple):
    """All state of one account; a fresh one is `Account()`.

    Times are the vault's; those of the identity, its delay and its day are the witnesses', which no host's clock moves.
    """

    last_generation: int = 0  # the counter: survives a delete
    identity_version: int = 0  # the highest accepted
    identity_epoch: int = 0
    first_seen_ms: int = 0  # of that version
    waits_until_ms: int = 0  # that version; 0 once it was let in
    deleted_ms: int = 0  # the tombstone
    handshakes: int = 0
    stores: int = 0
    retrieves: int = 0
    released_version: int = 0  # the highest identity version that was given a key which another one had stored
    day_ms: int = 0  # when the present 24 hours of `day_uses` began
    day_uses: int = 0
    change_delay_ms: int = 0
    change_delay_from_ms: int = 0
    next_delay_ms: int = 0  # a shorter one that was asked for
    next_delay_from_ms: int = 0  # 0 while none was
    history_length: int = 0
    chain_head: bytes = bytes(32)
    approvers: tuple[bytes, ...] = ()  # Ed25519 keys, in the order in which they were named
    checkpoints: tuple[Checkpoint, ...] = ()  # one an identity version, ascending
    generations: tuple[Generation, ...] = ()  # ascending

    def encode(self) -> bytes:
        """The canonical encoding, as the store keeps it."""
        return b"".join(
            (
                _HEADER.pack(_FORMAT, *self[:-3], len(self.approvers)),
                *self.approvers,
                _COUNT.pack(len(self.checkpoints)),
                *(_CHECKPOINT.pack(*c) for c in self.checkpoints),
                *(_GENERATION.pack(*g) for g in self.generations),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> "Account":
        """The inverse of `encode`, and of that of the format before. Raises SessionRefused VAULT_ACCOUNT_UNREADABLE."""
        try:
            version, *fields, count = _HEADER.unpack_from(data)
            at = _HEADER.size + count * _APPROVER_BYTES
            approvers = tuple(data[i : i + _APPROVER_BYTES] for i in range(_HEADER.size, at, _APPROVER_BYTES))
            checkpoints: tuple[Checkpoint, ...] = ()
            if version == _FORMAT:
                (count,) = _COUNT.unpack_from(data, at)
                begin, at = at + _COUNT.size, at + _COUNT.size + count * _CHECKPOINT.size
                checkpoints = tuple(Checkpoint(*c) for c in _CHECKPOINT.iter_unpack(data[begin:at]))
            generations = tuple(Generation(*g) for g in _GENERATION.iter_unpack(data[at:]))
        except struct.error as e:
            raise SessionRefused("VAULT_ACCOUNT_UNREADABLE", "the account's row is damaged") from e
        if version not in (_FORMAT, _WITHOUT_CHECKPOINTS) or len(data) < at:
            raise SessionRefused("VAULT_ACCOUNT_UNREADABLE", "the account's row is damaged or of an unknown format")
        return cls._make((*fields, approvers, checkpoints, generations))


class Applied(NamedTuple):
    """What an operation does: account and releases after it, its result, the entry that its use of the account adds."""

    account: Account
    releases: Releases
    result: effects.Result
    use: vault_pb2.HistoryEntry | None = None


class Times(NamedTuple):
    """`now_ms` is the vault's clock, `witness_ms` the highest time that a quorum of witnesses signed."""

    now_ms: int
    witness_ms: int


def apply(
    account: Account | None,
    releases: Releases,
    identity: Identity,
    operation: effects.Operation,
    times: Times,
    limits: Limits,
) -> Applied:
    """Applies an operation; None stands for an account never seen, `releases` are those of all accounts.

    `identity` was proven at a judged head. Raises SessionRefused; all then stays as it was. The caller makes account,
    releases and entry durable together before anybody sees the result. The answer to `History` has no entries yet: they
    are the store's. A repeat of an operation has the success of the first; nothing comes of it, so it adds no entry.
    """
    now_ms, witness_ms = times
    account = _expire(_identify(_mature(account or Account(), witness_ms), identity, witness_ms), now_ms)

    def counted(after: Account) -> Account:
        if witness_ms >= after.day_ms + DAY_MS:
            after = after._replace(day_ms=witness_ms, day_uses=0)
        if after.day_uses >= limits.daily_uses:
            raise SessionRefused(
                "VAULT_ACCOUNT_LIMIT", f"an account is used at most {limits.daily_uses} times in 24 hours"
            )
        return after._replace(day_uses=after.day_uses + 1)

    def used(after: Account, result: effects.Result, name: str, **details: Any) -> Applied:
        after = counted(after)
        entry = vault_pb2.HistoryEntry(
            number=after.history_length + 1,
            time_ms=now_ms,
            operation=name,
            identity_version=identity.version,
            epoch=identity.epoch,
            **details,
        )
        length, chain_head = Seen(after.history_length, after.chain_head).extended(entry)
        return Applied(after._replace(history_length=length, chain_head=chain_head), releases, result, entry)

    def changed(after: Account, result: effects.Result, name: str, **details: Any) -> Applied:
        return Applied(account, releases, result) if after == account else used(after, result, name, **details)

    match operation:
        case effects.Handshake():
            return used(account._replace(handshakes=account.handshakes + 1), None, "handshake")
        case effects.Store():
            stored = _store(account, identity, operation, now_ms)
            answer = vault_pb2.StoreAnswer(generation=operation.expected_generation + 1)
            return changed(stored, answer, "store", generation=answer.generation)
        case effects.Retrieve(number):
            _check_let_in(account)
            g = _find(account, number)
            record = effects.StoredRecord(g.number, g.store_id, g.storage_key_id, g.wrapped)
            if max(g.identity_version, account.released_version) < identity.version:
                releases = releases.and_one_more(witness_ms, limits)
                account = account._replace(released_version=identity.version)
            return used(account._replace(retrieves=account.retrieves + 1), record, "retrieve", generation=g.number)
        case effects.FinishRotation(number):
            _check_let_in(account)
            _find(account, number)
            released = _release(account, number, now_ms)
            return changed(released, vault_pb2.FinishRotationAnswer(), "finish_rotation", generation=number)
        case effects.Delete():
            _check_let_in(account)
            return changed(_delete(account, now_ms), vault_pb2.DeleteAnswer(), "delete")
        case effects.List():
            return Applied(account, releases, _listing(account))
        case effects.History():
            history = vault_pb2.HistoryAnswer(length=account.history_length, chain_head=account.chain_head)
            return Applied(account, releases, history)
        case effects.SetChangeDelay(delay_ms):
            _check_let_in(account)
            delayed = _set_change_delay(account, delay_ms, witness_ms)
            effective_ms = delayed.next_delay_from_ms or delayed.change_delay_from_ms
            result = vault_pb2.SetChangeDelayAnswer(effective_ms=effective_ms)
            return changed(delayed, result, "set_change_delay", delay_ms=delay_ms)
        case effects.AddApprover(key):
            _check_let_in(account)
            return changed(_add_approver(account, key), vault_pb2.AddApproverAnswer(), "add_approver", approver=key)
        case effects.RemoveApprover(key):
            _check_let_in(account)
            without = account._replace(approvers=tuple(k for k in account.approvers if k != key))
            return changed(without, vault_pb2.RemoveApproverAnswer(), "remove_approver", approver=key)
        case effects.Approve(key):
            # Only who was let in names devices: one that waits, or waited, has none of its own among them.
            if key not in account.approvers:
                raise SessionRefused("VAULT_APPROVER_UNKNOWN", "the account's owner named no such device")
            return changed(account._replace(waits_until_ms=0), vault_pb2.ApproveAnswer(), "approve", approver=key)
        case effects.Checkpoint(line, n, chain):
            _check_let_in(account)
            marked = _set_checkpoint(account, Checkpoint(identity.version, line, n, chain))
            # No use of a key, so no entry; but a write like any other, so it counts.
            return Applied(account if marked == account else counted(marked), releases, vault_pb2.CheckpointAnswer())


def _mature(account: Account, witness_ms: int) -> Account:
    """Puts a shorter delay into effect that was asked for long enough ago, and lets in who has waited."""
    if 0 < account.next_delay_from_ms <= witness_ms:
        account = account._replace(
            change_delay_ms=account.next_delay_ms,
            change_delay_from_ms=account.next_delay_from_ms,
            next_delay_ms=0,
            next_delay_from_ms=0,
        )
    return account if witness_ms < account.waits_until_ms else account._replace(waits_until_ms=0)


def _identify(account: Account, identity: Identity, witness_ms: int) -> Account:
    if identity.version < account.identity_version:
        raise SessionRefused("VAULT_IDENTITY_SUPERSEDED", "a later identity of this account was accepted before")
    if identity.version == account.identity_version:
        return account
    return account._replace(
        identity_version=identity.version,
        identity_epoch=identity.epoch,
        first_seen_ms=witness_ms,
        waits_until_ms=witness_ms + account.change_delay_ms if account.change_delay_ms else 0,
        # The shorter delay was the earlier identity's wish: it must not come into effect for this one's successor.
        next_delay_ms=0,
        next_delay_from_ms=0,
        # What an earlier one used up, a thief's say, is not held against this one.
        day_uses=0,
    )


def _check_let_in(account: Account) -> None:
    """An identity that waits may store, list and read the history; nothing that takes or loosens."""
    if account.waits_until_ms:
        until = datetime.fromtimestamp(account.waits_until_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        raise SessionRefused(
            "VAULT_CHANGE_DELAYED",
            f"this identity is new to the account: it has to wait until {until}, or for a device that its owner named",
        )


def _set_change_delay(account: Account, delay_ms: int, witness_ms: int) -> Account:
    """A longer delay is in effect at once, a shorter one when the present one has passed."""
    if delay_ms > MAX_CHANGE_DELAY_MS:
        raise SessionRefused("VAULT_FIELD_INVALID", f"a change delay is at most {MAX_CHANGE_DELAY_MS} ms")
    if delay_ms == account.change_delay_ms:
        return account._replace(next_delay_ms=0, next_delay_from_ms=0)
    if delay_ms > account.change_delay_ms:
        return account._replace(
            change_delay_ms=delay_ms, change_delay_from_ms=witness_ms, next_delay_ms=0, next_delay_from_ms=0
        )
    if account.next_delay_from_ms and delay_ms == account.next_delay_ms:
        return account
    return account._replace(next_delay_ms=delay_ms, next_delay_from_ms=witness_ms + account.change_delay_ms)


def _add_approver(account: Account, key: bytes) -> Account:
    if key in account.approvers:
        return account
    if len(account.approvers) >= MAX_APPROVERS:
        raise SessionRefused("VAULT_TOO_MANY_APPROVERS", f"an account has at most {MAX_APPROVERS}; remove one first")
    return account._replace(approvers=(*account.approvers, key))


def _set_checkpoint(account: Account, new: Checkpoint) -> Account:
    """In the place of this identity's one before. Those of other versions bind it to nothing, nor does it touch them,
    but that the earliest makes room."""
    kept = {checkpoint.identity_version: checkpoint for checkpoint in account.checkpoints}
    own = kept.get(new.identity_version, new)
    if new.line == own.line and (new.n < own.n or (new.n == own.n and new.chain != own.chain)):
        message = f"this line had come to {own.n}: it goes neither back nor on from another chain"
        raise SessionRefused("VAULT_CHECKPOINT_BELOW", message)
    kept[new.identity_version] = new
    return account._replace(checkpoints=tuple(kept.values())[-MAX_CHECKPOINTS:])


def _store(account: Account, identity: Identity, operation: effects.Store, now_ms: int) -> Account:
    number = operation.expected_generation + 1
    for g in account.generations:
        # A repeat: AES-KW is deterministic, so the same key under the same record gives the same bytes.
        if (g.number, g.store_id, g.wrapped) == (number, operation.store_id, operation.wrapped):
            return account
    if operation.expected_generation != account.last_generation:
        raise SessionRefused("VAULT_GENERATION_CONFLICT", f"the last generation stored is {account.last_generation}")
    account = _make_room(account, identity, now_ms)
    stored = Generation(
        number,
        operation.store_id,
        operation.storage_key_id,
        operation.wrapped,
        identity.version,
        identity.epoch,
        now_ms,
    )
    older = tuple(g._replace(superseded_ms=g.superseded_ms or now_ms) for g in account.generations)
    return account._replace(
        last_generation=number, deleted_ms=0, stores=account.stores + 1, generations=(*older, stored)
    )


def _make_room(account: Account, identity: Identity, now_ms: int) -> Account:
    """For one more generation. Raises SessionRefused VAULT_TOO_MANY_GENERATIONS."""
    others = [g for g in account.generations if g.identity_version != identity.version]
    own, crowded = len(account.generations) - len(others), len(others) >= CROWDED
    if own >= (MAX_CROWDED_GENERATIONS if crowded else MAX_GENERATIONS):
        raise SessionRefused("VAULT_TOO_MANY_GENERATIONS", "finish a rotation before storing another key")
    if crowded and (wait_ms := max(g.stored_ms for g in others) + TURN_MS - now_ms) > 0:
        message = f"many identities stored keys, the last one just now: try again in {wait_ms // 60_000 + 1} minutes"
        raise SessionRefused("VAULT_TOO_MANY_GENERATIONS", message)
    if len(account.generations) < MAX_ALL_GENERATIONS:
        return account
    for oldest in others:
        if oldest.superseded_ms and oldest.superseded_ms + RETENTION_MS <= now_ms:
            return account._replace(generations=tuple(g for g in account.generations if g != oldest))
    raise SessionRefused("VAULT_TOO_MANY_GENERATIONS", "there is no room until what others stored is 90 days old")


def _release(account: Account, below: int, now_ms: int) -> Account:
    """Lets go of the generations below this number: at once, or in 90 days where another identity stored them."""
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


def _delete(account: Account, now_ms: int) -> Account:
    released = _release(account, account.last_generation + 1, now_ms)
    return released if account.deleted_ms else released._replace(deleted_ms=now_ms)


def _expire(account: Account, now_ms: int) -> Account:
    # What an earlier identity stored outlives its release by 90 days: a thief's identity can't destroy it, its owner
    # has that long to register again. The release is never before the supersession: those 90 days are covered too.
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
        change_delay_ms=account.change_delay_ms,
        next_change_delay_ms=account.next_delay_ms,
        next_change_delay_from_ms=account.next_delay_from_ms,
        approvers=account.approvers,
        waits_until_ms=account.waits_until_ms,
        checkpoints=[
            vault_pb2.Checkpoint(identity_version=c.identity_version, line=c.line, n=c.n, chain=c.chain)
            for c in account.checkpoints
        ],
    )


def _state(g: Generation) -> vault_pb2.Generation.State.ValueType:
    if g.released_ms:
        return vault_pb2.Generation.STATE_RETAINED
    return vault_pb2.Generation.STATE_PREVIOUS if g.superseded_ms else vault_pb2.Generation.STATE_CURRENT
