"""What a contact store takes into an account's line: contacts.md, The line (docs/protocol/contacts.md). Pure.

A store sees what stands in clear: places, authors, keys and signatures. What is sealed, devices judge.
"""

from typing import NamedTuple

from ipls.contacts.commits import Commit, Link, Signed, author_digest, chain_link, devices_digest, line_id, write_digest
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import MAX_SNAPSHOT, is_sealed_size, name_of
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify

MAX_COMMIT = 128 << 10
"""Bytes: 1,000 entries and their drops, 16 devices and their keys fit."""
MAX_COMMITS = 1_000_000
"""Of one line, whose links a new phone reads: 40 MB."""
MAX_INT = 2**63 - 1


class Standing(NamedTuple):
    """Where a line stands, as its store has it: the head, the newest base, and who may write what comes next."""

    line: bytes
    seed: bytes
    n: int
    chain: bytes
    base_n: int = 0
    generation: int = 0
    write_key: bytes = b""
    version: int = 0
    """Of the identity that made the last commit, or listed the device that did."""
    identity_key: bytes = b""
    """That identity's."""
    devices: tuple[bytes, ...] = ()
    """Keys of the devices that it lists."""


class Caller(NamedTuple):
    """Whose call it is: the account's identity, as it was proved last, or a device that this version of it lists."""

    key: bytes
    version: int
    identity_key: bytes

    @property
    def is_identity(self) -> bool:
        return self.key == self.identity_key


class Admitted(NamedTuple):
    """A commit that may stand at `standing.n`, and where the line stands with it."""

    commit: Commit
    signed: Signed
    link: Link
    standing: Standing


def admit_first(namespace: str, label: str, caller: Caller, seed: bytes, signed: Signed) -> Admitted:
    """The first commit of a new line. Raises LineError as `admit`."""
    if not caller.is_identity:
        raise _identity_only()
    line = line_id(namespace, label, seed)
    return admit(namespace, label, Standing(line, seed, 0, line), caller, 1, line, signed)


def admit(
    namespace: str, label: str, standing: Standing, caller: Caller, n: int, before: bytes, signed: Signed
) -> Admitted:
    """The commit of `caller`, who is proved, that is to stand at `n` behind the chain `before`.

    Raises LineError: LINE_CONFLICT, another one is the head; IDENTITY_ONLY, a device's commit that lists devices or
    is a base; BODY_INVALID with what is wrong; ACCOUNT_QUOTA, the line is as long as one may be.
    """
    if (n - 1, before) != (standing.n, standing.chain):
        raise LineError("LINE_CONFLICT", "another commit is the line's head")
    if n > MAX_COMMITS:
        raise LineError("ACCOUNT_QUOTA", f"a line has at most {MAX_COMMITS} commits: begin a new one")
    admitted = _judge(namespace, label, standing, signed, caller.identity_key)
    if admitted.commit.author != caller.key:
        raise _invalid("its author is not who calls")
    if admitted.commit.identity_version != caller.version:
        raise _invalid("it is not of the account's newest identity version")
    _check_signature(
        standing.write_key or admitted.standing.write_key, write_digest(admitted.standing.chain), signed.write
    )
    return admitted


def check_snapshot(commit: Commit, snapshot: bytes) -> None:
    """That a base is about this snapshot. Raises LineError SNAPSHOT_ABSENT, BODY_INVALID."""
    if commit.base is None:
        raise _invalid("it has a snapshot and is no base")
    if (commit.base.snapshot, commit.base.size) != (name_of(snapshot), len(snapshot)):
        raise LineError("SNAPSHOT_ABSENT", "the base is about another snapshot")


def _judge(namespace: str, label: str, standing: Standing, signed: Signed, identity_key: bytes) -> Admitted:
    """All but the write key's signature; `identity_key` is that of the commit's version."""
    if len(signed.commit) > MAX_COMMIT:
        raise _invalid(f"it has over {MAX_COMMIT} bytes")
    try:
        commit = Commit.decode(signed.commit)
    except LineError as error:
        raise LineError("BODY_INVALID", error.message) from error
    n = standing.n + 1
    link = Link(commit.generation, name_of(signed.commit))
    chain = chain_link(n, standing.chain, link)
    _check_signature(commit.author, author_digest(chain), signed.author)
    if commit.identity_version < standing.version:
        raise _invalid("its identity version is below the line's")
    if not 1 <= commit.generation <= MAX_INT:
        raise _invalid("its generation is out of its bounds")
    listed = standing.devices if commit.identity_version == standing.version else ()
    if commit.author != identity_key:
        if commit.devices or commit.base:
            raise _identity_only()
        if commit.author not in listed:
            raise _invalid("its author is neither the identity nor listed")
    if commit.base:
        if not is_sealed_size(commit.base.size, MAX_SNAPSHOT):
            raise _invalid("a snapshot is a sealed power of two from 256 bytes to 16 MiB")
        keys = [key for key, _ in commit.base.keys]
        if commit.devices is None or keys != [device.key for device in commit.devices.devices]:
            raise _invalid("a base lists the devices, and has the contact key for each of them")
    elif n == 1 or commit.generation != standing.generation:
        raise _invalid("a line, and another generation, begin with a base")
    if commit.devices:
        digest = devices_digest(namespace, label, n, identity_key, commit.devices.devices)
        _check_signature(identity_key, digest, commit.devices.signature)
        listed = tuple(device.key for device in commit.devices.devices)
    after = standing._replace(
        n=n,
        chain=chain,
        generation=commit.generation,
        version=commit.identity_version,
        identity_key=identity_key,
        devices=listed,
    )
    if commit.base:
        after = after._replace(base_n=n, write_key=commit.base.write_key)
    return Admitted(commit, signed, link, after)


def _check_signature(key: bytes, digest: bytes, signature: bytes) -> None:
    try:
        verify(key, digest, signature)
    except VerificationError as error:
        raise _invalid(f"a signature does not hold: {error.message}") from error


def _identity_only() -> LineError:
    return LineError("IDENTITY_ONLY", "only the account's identity may do this, none of its devices")


def _invalid(what: str) -> LineError:
    return LineError("BODY_INVALID", f"the commit is refused: {what}")
