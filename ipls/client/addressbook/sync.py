"""A sync of the list with one side. All of it is local: what it changes of the list is sent later.

Whatever it is cut off at, the next run finds the same: the shadow is written with the list in one transaction, after
the side's write is durable, so what was written and not noted is found there as both having changed alike.
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from ipls.client.addressbook.plan import Account, List, Plan, Step, make_plan
from ipls.client.addressbook.shadows import SHADOWS, SIDES, KnownSide, shadows_of
from ipls.client.addressbook.side import Bad, ChangedMeanwhile, Side
from ipls.client.errors import SideError
from ipls.client.rows import Rows, Unreadable
from ipls.contacts.envelope import Envelope

SHRUNK_BY = 10
"""So many cards gone, and over a quarter of those that were agreed, are an accident until a person says otherwise."""


class ContactList(Protocol):
    """The account's list on this device."""

    def entries(self) -> Mapping[bytes, Envelope]:
        """All that it has by id, in its order."""

    def is_whole(self) -> bool:
        """Whether that is all: nothing of it was damaged, or is still to be fetched."""

    def edit(self, changes: Mapping[bytes, Envelope | None]) -> None:
        """What these are from now on, None: removed. It is part of the transaction of rows that is open, and one thing
        to be undone."""


class SyncTerms(NamedTuple):
    """What a person said of this sync."""

    yes: bool = False
    """Also if this side was never synced with."""
    allow_removals: bool = False
    """However many."""
    read_only: bool = False
    """Nothing is written on the side."""
    dry_run: bool = False
    """Nothing is written at all."""


class SyncCounts(NamedTuple):
    """Of contacts."""

    added: int = 0
    changed: int = 0
    removed: int = 0


class SyncReport(NamedTuple):
    """What a sync did; or, `shown`, would do. `withheld`: what a read-only side was not given. `put_off`: hrefs whose
    card was changed under our hands; `failed`: hrefs that the system did not let us write. Both are tried again."""

    shown: bool
    first: bool
    here: SyncCounts
    there: SyncCounts
    withheld: SyncCounts
    bad: list[Bad]
    put_off: list[str]
    failed: list[str]
    conflicts: int
    """Contacts of which both had changed one thing: the side's stands in the card."""


def sync(side: Side, account: Account, contacts: ContactList, rows: Rows, now_ms: int, terms: SyncTerms) -> SyncReport:
    """Bring side and list together. The first time it only shows what it would do, until `terms.yes`.

    Raises SideError: SIDE_AWAY, SIDE_SHRUNK; nothing was changed then.
    """
    known = rows.get(SIDES, side.id)
    first = known is None or isinstance(known, Unreadable)
    token = known.token if isinstance(known, KnownSide) else ""
    shadows = shadows_of(rows, side.id)
    found = List(contacts.entries(), contacts.is_whole())
    plan = make_plan(side.id, account, side.listing(token, shadows), shadows, found, now_ms)
    if not terms.allow_removals:
        _refuse_shrunk(plan)
    steps = [_without_writing(step) for step in plan.steps] if terms.read_only else plan.steps
    withheld = _count(_there(plan.steps)) if terms.read_only else SyncCounts()
    if terms.dry_run or (first and not terms.yes):
        return SyncReport(
            True, first, _count(_here(steps)), _count(_there(steps)), withheld, plan.bad, [], [], _conflicts(steps)
        )
    if first or not (token or terms.read_only):
        token = "" if terms.read_only else secrets.token_hex(16)
        if token:
            side.adopt(token)
        rows.put(SIDES, KnownSide(side.id, token))
    put_off: list[str] = []
    failed: list[str] = []
    done = _write(side, rows, steps, put_off, failed)
    done, late = _agree(contacts, rows, done)
    put_off += late
    return SyncReport(
        False, first, _count(_here(done)), _count(_there(done)), withheld, plan.bad, put_off, failed, _conflicts(done)
    )


def _refuse_shrunk(plan: Plan) -> None:
    most = max(plan.gone_there, plan.gone_here)
    if most and (plan.emptied or (most >= SHRUNK_BY and most * 4 > plan.agreed)):
        raise SideError(
            "SIDE_SHRUNK",
            f"of {plan.agreed} contacts {plan.gone_there} are gone from the address book, {plan.gone_here} from the"
            " list; nothing was removed anywhere",
        )


def _without_writing(step: Step) -> Step:
    """As far as it goes on a side that nothing is written on: what was agreed there stays, to be compared again."""
    if step.there == step.wanted:
        return step
    if step.there is None:
        return step._replace(after=step.before, wanted=None, agreed=step.old)
    if step.agreed is None:
        return step._replace(wanted=step.there, agreed=step.old and step.old._replace(card=step.there, listed=b""))
    return step._replace(wanted=step.there, agreed=step.agreed._replace(card=step.there, listed=b""))


def _write(side: Side, rows: Rows, steps: Iterable[Step], put_off: list[str], failed: list[str]) -> list[Step]:
    """What is to be on the side; the steps that are done there."""
    new = (step.agreed._replace(card=b"") for step in steps if step.there is None and step.agreed and not step.old)
    rows.put_many(SHADOWS, new)
    done = []
    for step in steps:
        try:
            if step.wanted is None and step.there is not None:
                side.remove(step.href, step.there)
            elif step.wanted is not None and step.wanted != step.there:
                side.write(step.href, step.wanted, step.there)
        except ChangedMeanwhile:
            put_off.append(step.href)
        except OSError:
            failed.append(step.href)
        else:
            done.append(step)
    return done


def _agree(contacts: ContactList, rows: Rows, done: list[Step]) -> tuple[list[Step], list[str]]:
    """List and shadows in one transaction. What another program changed in the list since it was read is left for the
    next sync: the steps that are done, the hrefs that are not."""
    with rows.transaction():
        entries = contacts.entries()
        fresh = [step for step in done if entries.get(step.id) == step.before]
        late = [step.href for step in done if entries.get(step.id) != step.before]
        rows.delete(SHADOWS, (step.old.key for step in fresh if step.old and _has_moved(step)))
        rows.put_many(SHADOWS, (step.agreed for step in fresh if step.agreed))
        changes = {step.id: step.after for step in fresh if step.before != step.after}
        if changes:
            contacts.edit(changes)
    return fresh, late


def _has_moved(step: Step) -> bool:
    return step.old is not None and (step.agreed is None or step.agreed.key != step.old.key)


def _conflicts(steps: Iterable[Step]) -> int:
    return sum(
        bool(step.before and step.after and set(step.after.conflicts) - set(step.before.conflicts)) for step in steps
    )


def _here(steps: Iterable[Step]) -> Iterable[tuple[object, object]]:
    return ((step.before, step.after) for step in steps)


def _there(steps: Iterable[Step]) -> Iterable[tuple[object, object]]:
    return ((step.there, step.wanted) for step in steps)


def _count(changes: Iterable[tuple[object, object]]) -> SyncCounts:
    kinds = Counter(
        "added" if before is None else "removed" if after is None else "changed"
        for before, after in changes
        if before != after
    )
    return SyncCounts(kinds["added"], kinds["changed"], kinds["removed"])
