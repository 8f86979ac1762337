"""An account's line in a store, written to as a service does once it has admitted the call."""

import os
from collections.abc import Sequence
from typing import Any

from ipls.contacts.admission import admit, admit_first
from ipls.contacts.sealing import name_of
from ipls.store.line import LineStore, Quota
from tests.contacts.writers import Made, Writer, line_of
from tests.trust.roots import NAMESPACE, NOW

DAY = 24 * 60 * 60 * 1000
QUOTA = Quota(1000, 1 << 20)


class Line:
    """Writes what follows on the head that it knows; what it takes is the time, `now_ms`, and the `quota`."""

    def __init__(self, store: LineStore, writer: Writer | None = None) -> None:
        self.store = store
        self.now_ms, self.quota = NOW, QUOTA
        self.writer = writer or Writer()
        self.seed = os.urandom(16)
        self.n, self.chain = 0, line_of(self.seed, self.label)

    @property
    def label(self) -> str:
        return self.writer.label

    @property
    def _terms(self) -> dict[str, Any]:
        return {"quota": self.quota, "now_ms": self.now_ms}

    def begin(self, *records: bytes, writer: Writer | None = None) -> Made:
        """A new line, of these records."""
        writer = writer or self.writer
        self.stage(*records, version=writer.version)
        self.seed = os.urandom(16)
        made = writer.base(1, line_of(self.seed, self.label), records)
        admitted = admit_first(NAMESPACE, self.label, writer.caller, self.seed, made.signed)
        self.store.begin(self.label, admitted, made.snapshot, **self._terms)
        self.writer, self.n, self.chain = writer, made.n, made.chain
        return made

    def stage(self, *records: bytes, version: int | None = None, snapshot: bytes | None = None) -> None:
        self.store.put(self.label, version or self.writer.version, records, snapshot, **self._terms)

    def edit(self, *records: bytes, drops: Sequence[bytes] = (), writer: Writer | None = None) -> Made:
        """Brings these records and drops those."""
        writer = writer or self.writer
        drop = [name_of(record) for record in drops]
        return self.take(writer, writer.edit(self.n + 1, self.chain, *records, drops=drop))

    def base(self, *state: bytes, writer: Writer | None = None) -> Made:
        """A compaction, or, by a writer with another key, a rotation."""
        writer = writer or self.writer
        made = self.take(writer, writer.base(self.n + 1, self.chain, state, write_by=self.writer.key))
        self.writer = writer
        return made

    def take(self, writer: Writer, made: Made) -> Made:
        standing = self.store.standing(self.label)
        assert standing is not None
        admitted = admit(NAMESPACE, self.label, standing, writer.caller, made.n, made.before, made.signed)
        self.store.append(self.label, standing, admitted, made.records, made.snapshot, **self._terms)
        self.n, self.chain = made.n, made.chain
        return made

    def pass_days(self, days: float) -> None:
        self.now_ms += int(days * DAY)
        while self.store.expire(self.now_ms, 3):
            pass

    def read(self, *records: bytes) -> list[bool]:
        """Whether the store gives each of them back."""
        names = [name_of(record) for record in records]
        assert self.store.sizes(self.label, names) == [
            len(r) * there for r, there in zip(records, there_of(self, records), strict=True)
        ]
        return there_of(self, records)

    def stays(self, *records: bytes, staged: bool = False) -> list[bool]:
        missing = self.store.missing(self.label, [name_of(record) for record in records], staged=staged)
        return [place not in missing for place in range(len(records))]


def there_of(line: Line, records: Sequence[bytes]) -> list[bool]:
    found = line.store.get(line.label, [name_of(record) for record in records])
    assert all(data in (None, record) for data, record in zip(found, records, strict=True))
    return [data is not None for data in found]
