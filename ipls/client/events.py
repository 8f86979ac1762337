"""What a device tells of while it works, so that a person can be shown each thing as it is checked.

Tested by tests/client/test_device.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ipls.proto.vault.v1.vault_pb2 import SessionRequest


@dataclass(frozen=True)
class HeadChecked:
    """A directory head holds: k pinned witnesses signed it, recently; it is not below any seen before."""

    epoch: int
    root_hash: bytes
    signers: Mapping[str, int]
    """Witness name -> time of its newest counted signature, ms."""


@dataclass(frozen=True)
class TrustRootFollowed:
    """A newer version of the trust root holds, and is used from now on: old and new witnesses signed it."""

    number: int


@dataclass(frozen=True)
class CodeAwaited:
    """A registration's code is on its way, and is asked for next: where the service says that it sent it (plain text,
    empty where it doesn't), and how many seconds it holds from now on."""

    sent_to: str
    holds_s: int


@dataclass(frozen=True)
class HistoryChecked:
    """The own account's history proof holds at that head."""

    kind: Literal["complete", "most recent 1"]
    epoch: int
    root_hash: bytes
    versions: int
    """The newest version's number."""


@dataclass(frozen=True)
class IdentityChange:
    """One version of the own identity; `origin` as in `profile.KnownVersion`."""

    version: int
    epoch: int
    public_key: bytes
    origin: str


@dataclass(frozen=True)
class ContactIdentityChanged:
    """A contact's number has another key, of this version, published in `epoch`; this device saw it at `seen_ms`, and
    the one before at `before_ms` last. `verified`: a person had compared an earlier one."""

    label: str
    version: int
    epoch: int
    seen_ms: int
    before_ms: int
    verified: bool


@dataclass(frozen=True)
class ContactIdentityUnproved:
    """What the directory answered of a contact's key does not hold, or is not what it proved before; `reason` as in
    docs/protocol/errors.md. Nothing of it was believed."""

    label: str
    reason: str


@dataclass(frozen=True)
class ContactIdentityDiffers:
    """The account's list says that a key of a contact was compared which the directory proves not to be that number's:
    a device of the account is at fault, or the directory. It is passed over; comparing safety numbers tells."""

    label: str


@dataclass(frozen=True)
class EvidenceMet:
    """The directory or a witness broke its word: the file proves it to anyone; None where it could not be written."""

    text: str
    file: Path | None


@dataclass(frozen=True)
class AccessEntry:
    """One entry of the vault's access history: an operation on the account, at `time_ms`, in a session of an identity
    version that was published in `epoch`. `generation`, `delay_ms` and `approver` are 0 or empty where it is about
    none; `origin` is the version's, as in `profile.KnownVersion`."""

    number: int
    time_ms: int
    operation: str
    generation: int
    identity_version: int
    epoch: int
    delay_ms: int
    approver: bytes
    origin: str


@dataclass(frozen=True)
class VaultAccepted:
    """A vault session stands: the HSM is the bundle's, the vault judged this device's key by this head."""

    bundle_number: int
    hsm_key_id: bytes
    epoch: int
    root_hash: bytes
    identity_version: int
    identity_epoch: int


@dataclass(frozen=True)
class FrameSent:
    """A frame went out to the vault: these bytes are what the network and the vault's front see of it."""

    frame: SessionRequest


@dataclass(frozen=True)
class JourneyStep:
    """A step of a journey is done, and durable: a journey cut off here goes on from here."""

    name: Literal[
        "registration sent",
        "registered",
        "key made",
        "key stored",
        "key read back",
        "records stored",
        "manifest made",
        "manifest swapped",
        "rotation finished",
        "old records dropped",
        "key retrieved",
        "records restored",
        "commit made",
        "commit stands",
        "base made",
        "base stands",
        "records staged",
        "changes received",
        "checkpoint set",
        "contacts brought over",
        "line ended",
        "number changed",
        "keys let go",
        "account deleted",
    ]
    generation: int = 0
    count: int = 0
    """Of records, where they are what the step is about."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` of what takes long."""

    what: Literal["storing", "restoring"]
    done: int
    total: int


@dataclass(frozen=True)
class FollowBegun:
    """The profile is followed from here on."""


@dataclass(frozen=True)
class CaughtUp:
    """Profile and line are at the same commit: so many contacts that others changed were received just now, so many
    changes sent, and so many contacts can't be read in the store. `due`: `store` has something to do for the line."""

    n: int
    chain: bytes
    received: int
    sent: int
    unread: int
    due: bool


@dataclass(frozen=True)
class FollowTrouble:
    """`follow` goes on trying in spite of this, until `FollowMended` says that it is over: a service is away, say
    (`reason` as in docs/protocol/errors.md, `message` for people)."""

    reason: str
    message: str


@dataclass(frozen=True)
class FollowMended:
    """What `FollowTrouble` told, with this reason and message, is over."""

    reason: str
    message: str


Event = (
    TrustRootFollowed
    | HeadChecked
    | CodeAwaited
    | HistoryChecked
    | IdentityChange
    | AccessEntry
    | EvidenceMet
    | ContactIdentityChanged
    | ContactIdentityDiffers
    | ContactIdentityUnproved
    | VaultAccepted
    | FrameSent
    | JourneyStep
    | Progress
    | FollowBegun
    | CaughtUp
    | FollowTrouble
    | FollowMended
)
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """A Report that tells nobody."""
