"""Whether a recorded history is linearizable: a register per account, of a generation and its key, stored by
compare-and-swap. By Wing and Gong's search; what it has been through it does not go through again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple


class Register(NamedTuple):
    """An account's last generation, 0 for none, and its key."""

    generation: int = 0
    key: bytes = b""


NOTHING = Register()


@dataclass(kw_only=True)
class Operation:
    """`called` and `returned` are places in one order of all calls and returns; what never returned may have come to be
    at any time since, or never."""

    called: int
    returned: float = inf

    def after(self, register: Register) -> Register | None:
        """What it makes of this one; None if it can't have returned what it did."""
        raise NotImplementedError

    def too_late(self, register: Register) -> bool:
        """Whether it has not returned and can't come to be any more: generations only grow."""
        return False


@dataclass(kw_only=True)
class Store(Operation):
    """`refused` because another generation was the last."""

    expected: int
    key: bytes
    refused: bool = False

    def after(self, register: Register) -> Register | None:
        if (register.generation == self.expected) is self.refused:
            return None
        return register if self.refused else Register(self.expected + 1, self.key)

    def too_late(self, register: Register) -> bool:
        return self.returned == inf and self.expected < register.generation


@dataclass(kw_only=True)
class Retrieve(Operation):
    found: Register = NOTHING

    def after(self, register: Register) -> Register | None:
        return register if register == self.found else None

    def too_late(self, register: Register) -> bool:
        return self.returned == inf


def linearizable(history: Sequence[Operation]) -> bool:
    """Whether some order of the operations, each between its call and its return, explains all that returned."""
    operations = sorted(history, key=lambda operation: operation.called)
    whole = sum(1 << i for i, operation in enumerate(operations) if operation.returned < inf)
    # A place in the search: the operations done, as bits; how many of the first are all done; the register then.
    places = [(0, 0, NOTHING)]
    known = {(0, NOTHING)}
    while places:
        done, first, register = places.pop()
        if done & whole == whole:
            return True
        while done >> first & 1 or operations[first].too_late(register):
            first += 1
        reached = list[tuple[float, int, Register]]()
        earliest = inf  # whoever was called after this return can't be next
        for i in range(first, len(operations)):
            operation = operations[i]
            if operation.called > earliest:
                break
            if not done >> i & 1:
                earliest = min(earliest, operation.returned)
                after = operation.after(register)
                if after is not None:
                    reached.append((operation.returned, i, after))
        # What returned first is tried first, at the end of `places`; then a recorded history is soon explained.
        for _, i, after in sorted(reached, reverse=True):
            place = (done | 1 << i, after)
            if place not in known:
                known.add(place)
                places.append((place[0], first, after))
    return False
