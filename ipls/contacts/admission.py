"""What a contact store takes into an account's line: contacts.md, The line (docs/protocol/contacts.md). Pure.

A store sees what stands in clear: places, authors, keys and signatures. What is sealed, devices judge.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ipls.contacts.commits import Commit, Link, Signed, author_digest, chain_link, devices_digest, line_id, write_digest
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import MAX_SNAPSHOT, is_sealed_size, name_of
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify

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
    commit = _decode(signed)
    if commit.author != caller.key:
        raise _invalid("its author is not who calls")
    if commit.identity_version != caller.version:
        raise _invalid("it is not of the account's newest identity version")
    admitted = _judge(namespace, label, standing, commit, signed, caller.identity_key)
    _check_write(standing, admitted)
    return admitted


class Healed(NamedTuple):
    """What a store lost of its line. Over a `gap`, of which nobody showed the commits, it is the line anew."""

    standing: Standing
    gap: bool
    links: list[Link]
    """All of the line's."""
    chains: list[bytes]
    """Of each of them."""
    commits: dict[int, Admitted]
    """What is given back, by its place."""


def heal(
    namespace: str,
    label: str,
    standing: Standing | None,
    caller: Caller,
    line: bytes,
    seed: bytes,
    links: Sequence[Link],
    commits: Mapping[int, Signed],
) -> Healed:
    """What `caller` gives back of a line: all its links, and its last commits, without a hole among them.

    Commits that follow on the head are held to what `admit` holds them to, but that others may be their authors; those
    that stand below it, to their links. Over a gap, or where there is no line, they begin with a base whose write
    signature nobody can check: only the identity may, and what was there becomes a line that was left.

    Raises LineError: LINE_REPLACED, the account has another line; LINE_CONFLICT, the links do not lead over the head;
    IDENTITY_ONLY; BODY_INVALID; ACCOUNT_QUOTA.
    """
    if line_id(namespace, label, seed) != line:
        raise _invalid("the line is not of these bytes")
    standing = standing or Standing(line, seed, 0, line)
    if standing.line != line:
        raise LineError("LINE_REPLACED", "the account has another line")
    if len(links) > MAX_COMMITS:
        raise LineError("ACCOUNT_QUOTA", f"a line has at most {MAX_COMMITS} commits: begin a new one")
    chains = [line]
    for n, link in enumerate(links, 1):
        chains.append(chain_link(n, chains[-1], link))
    if len(links) < standing.n or chains[standing.n] != standing.chain:
        raise LineError("LINE_CONFLICT", "the links do not lead over the line's head")
    first = min(commits, default=0)
    if not commits or sorted(commits) != list(range(first, len(links) + 1)):
        raise _invalid("the commits do not reach to the last link without a hole")
    gap = standing.n == 0 or first > standing.n + 1
    if gap and not caller.is_identity:
        raise _identity_only()
    now = standing._replace(n=first - 1, chain=chains[first - 1], generation=0, devices=()) if gap else standing
    known = {standing.version: standing.identity_key, caller.version: caller.identity_key}
    given: dict[int, Admitted] = {}
    for n in sorted(commits):
        signed, commit = commits[n], _decode(commits[n])
        if Link(commit.generation, name_of(signed.commit)) != links[n - 1]:
            raise _invalid("it is not the one of its link")
        if n <= now.n:  # it stands there, and may have been damaged
            given[n] = Admitted(commit, signed, links[n - 1], now)
            continue
        if commit.identity_version > caller.version:
            raise _invalid("its identity version is above the proved one")
        if commit.identity_version not in known and not caller.is_identity:
            raise _identity_only()
        identity_key = known.setdefault(commit.identity_version, commit.author)  # its first commit is the identity's
        given[n] = _judge(namespace, label, now, commit, signed, identity_key)
        if n == 1 or not (gap and n == first):
            _check_write(now, given[n])
        now = given[n].standing
    return Healed(now, gap, list(links), chains[1:], given)


def check_snapshot(commit: Commit, snapshot: bytes) -> None:
    """That a base is about this snapshot. Raises LineError SNAPSHOT_ABSENT, BODY_INVALID."""
    if commit.base is None:
        raise _invalid("it has a snapshot and is no base")
    if (commit.base.snapshot, commit.base.size) != (name_of(snapshot), len(snapshot)):
        raise LineError("SNAPSHOT_ABSENT", "the base is about another snapshot")


def _decode(signed: Signed) -> Commit:
    try:
        return Commit.decode(signed.commit)
    except LineError as error:
        raise LineError("BODY_INVALID", error.message) from error


def _check_write(before: Standing, admitted: Admitted) -> None:
    """By the key in force; a line's first commit has its own."""
    after = admitted.standing
    _check_signature(before.write_key or after.write_key, write_digest(after.chain), admitted.signed.write)


def _judge(
    namespace: str, label: str, standing: Standing, commit: Commit, signed: Signed, identity_key: bytes
) -> Admitted:
    """All but the write key's signature; `identity_key` is that of the commit's version."""
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
