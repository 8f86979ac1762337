"""Makes commits as a device does, and as one that lies."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ipls.contacts import commits
from ipls.contacts.admission import Caller
from ipls.contacts.commits import Base, Commit, DeviceList, Edit, Left, Link, ListedDevice, Signed
from ipls.contacts.sealing import ContactKey, name_of
from ipls.crypto.keys import SeedSigner, public_key, sign
from tests.trust.roots import NAMESPACE

LABEL = "+491700000001"


class Made(NamedTuple):
    """A commit, and what it brings."""

    n: int
    before: bytes
    signed: Signed
    records: Sequence[bytes] = ()
    snapshot: bytes | None = None

    @property
    def link(self) -> Link:
        return Link(Commit.decode(self.signed.commit).generation, name_of(self.signed.commit))

    @property
    def chain(self) -> bytes:
        return commits.chain_link(self.n, self.before, self.link)


@dataclass(frozen=True)
class Writer:
    """One who writes into a line: an identity or a device, with a contact key."""

    seed: bytes = field(default_factory=lambda: os.urandom(32))
    label: str = LABEL
    version: int = 1
    key: ContactKey = field(default_factory=lambda: ContactKey(os.urandom(32), LABEL, 1))
    identity: "Writer | None" = None
    """Whose device it is."""

    @property
    def public(self) -> bytes:
        return public_key(self.seed)

    @property
    def caller(self) -> Caller:
        return Caller(self.public, self.version, (self.identity or self).public)

    def device(self) -> "Writer":
        return replace(self, seed=os.urandom(32), identity=self)

    def renewed(self) -> "Writer":
        """The next identity, that has the same contact key."""
        return replace(self, seed=os.urandom(32), version=self.version + 1)

    def rotated(self) -> "Writer":
        """With another contact key."""
        return replace(self, key=ContactKey(os.urandom(32), self.label, self.key.generation + 1))

    def record(self, text: str) -> bytes:
        return self.key.seal_record(text.encode().ljust(16, b"\0"), text.encode())

    def edit(self, n: int, before: bytes, *records: bytes, drops: Sequence[bytes] = (), **changes: Any) -> Made:
        """`changes` are made to the commit before it is signed."""
        entries = tuple((os.urandom(16), name_of(record)) for record in records)
        body = commits.encode_body(Edit(1, entries))
        return self._sign(n, before, body, list(records), None, {"drops": tuple(sorted(drops)), **changes})

    def base(
        self,
        n: int,
        before: bytes,
        state: Sequence[bytes] = (),
        devices: Sequence["Writer"] = (),
        *,
        write_by: ContactKey | None = None,
        **changes: Any,
    ) -> Made:
        """Of a list of these records. `write_by`: the key that was in force, where this one is another."""
        snapshot = self.key.seal(
            commits.snapshot_aad(n, before),
            commits.encode_snapshot({os.urandom(16): name_of(record) for record in state}),
        )
        keys = sorted(device.public for device in devices)
        base = Base(
            name_of(snapshot), len(snapshot), self.key.writer.public_key, tuple((key, bytes(1168)) for key in keys)
        )
        listed = self.listing(n, devices)
        body = commits.encode_body(Left(1))
        return self._sign(n, before, body, [], snapshot, {"devices": listed, "base": base, **changes}, write_by)

    def listing(self, n: int, devices: Sequence["Writer"]) -> DeviceList:
        listed = tuple(ListedDevice(key, bytes(32)) for key in sorted(device.public for device in devices))
        digest = commits.devices_digest(NAMESPACE, self.label, n, self.public, listed)
        return DeviceList(listed, sign(self.seed, digest))

    def _sign(
        self,
        n: int,
        before: bytes,
        body: bytes,
        records: list[bytes],
        snapshot: bytes | None,
        changes: dict[str, Any],
        write_by: ContactKey | None = None,
    ) -> Made:
        sealed = self.key.seal(commits.commit_aad(n, before), body)
        commit = Commit(self.version, self.key.generation, self.public, None, None, (), sealed)._replace(**changes)
        data = commit.encode()
        chain = commits.chain_link(n, before, Link(commit.generation, name_of(data)))
        author = SeedSigner(self.seed).sign(commits.author_digest(chain))
        write = (write_by or self.key).writer.sign(commits.write_digest(chain))
        return Made(n, before, Signed(data, author, write), records, snapshot)


def line_of(seed: bytes, label: str = LABEL) -> bytes:
    return commits.line_id(NAMESPACE, label, seed)
