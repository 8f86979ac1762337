"""What a vault session asks of the process that runs it.

The session is a generator (`ipls.vault.session.vault`): it yields one of `Effect` and is sent the answer named with
each, or has `SessionRefused` thrown into it. It does no I/O and knows no clock.

Tested by tests/vault/session/test_session.py and tests/vault/test_account.py.
"""

from dataclasses import dataclass

from ipls.proto.vault.v1 import vault_pb2
from ipls.proto.witness.v1 import head_pb2
from ipls.trust.identity import Identity


@dataclass(frozen=True)
class Receive:
    """Answer: the bytes of the client's next `SessionRequest`."""


@dataclass(frozen=True)
class ReceiveRequest:
    """In a proven session. Answer: those bytes, and the epoch of the head that the vault judges by now.

    Refused where that head may not be judged by any more.
    """


@dataclass(frozen=True)
class Send:
    """Answer: None."""

    frame: bytes
    """An encoded `SessionResponse`."""


@dataclass(frozen=True)
class JudgeBy:
    """Answer: the `SignedHead` to judge by, verified, of accepted age, never below any accepted before.

    It is the higher of the core's own and the client's, and durably accepted as the highest when this returns.
    """

    client_head: head_pb2.SignedHead | None = None


@dataclass(frozen=True)
class Admit:
    """Answer: None, if the fleet's bundle has this number and gives the label's shard to this HSM."""

    label: str
    bundle_number: int


@dataclass(frozen=True)
class NeedHistory:
    """Answer: a `HistoryHandIn` of this epoch: the label's encoded HistoryProof, most recent 1, or its AbsenceProof,
    unverified."""

    label: str
    epoch: int


@dataclass(frozen=True)
class Handshake:
    """The identity was proven. Result: None."""


@dataclass(frozen=True)
class Store:
    """Result: `StoreAnswer`."""

    expected_generation: int
    store_id: bytes
    storage_key_id: bytes
    wrapped: bytes


@dataclass(frozen=True)
class Retrieve:
    """Generation 0 is the current one. Result: `StoredRecord`."""

    generation: int


@dataclass(frozen=True)
class FinishRotation:
    """Generations below this one may go. Result: `FinishRotationAnswer`."""

    generation: int


@dataclass(frozen=True)
class Delete:
    """Result: `DeleteAnswer`."""


@dataclass(frozen=True)
class List:
    """Result: `ListAnswer`."""


@dataclass(frozen=True)
class History:
    """Result: `HistoryAnswer`."""

    first: int


@dataclass(frozen=True)
class SetChangeDelay:
    """Result: `SetChangeDelayAnswer`."""

    delay_ms: int


@dataclass(frozen=True)
class AddApprover:
    """Result: `AddApproverAnswer`."""

    approver: bytes


@dataclass(frozen=True)
class RemoveApprover:
    """Result: `RemoveApproverAnswer`."""

    approver: bytes


@dataclass(frozen=True)
class Approve:
    """This key signed for the session's identity. Result: `ApproveAnswer`."""

    approver: bytes


@dataclass(frozen=True)
class Checkpoint:
    """How far the line of the account's contacts has come. Result: `CheckpointAnswer`."""

    line: bytes
    n: int
    chain: bytes


Operation = (
    Handshake
    | Store
    | Retrieve
    | FinishRotation
    | Delete
    | List
    | History
    | SetChangeDelay
    | AddApprover
    | RemoveApprover
    | Approve
    | Checkpoint
)


@dataclass(frozen=True)
class StoredRecord:
    """A contact key as it lies in the database: AES-KW under the record's key, derived from that storage key."""

    generation: int
    store_id: bytes
    storage_key_id: bytes
    wrapped: bytes


@dataclass(frozen=True)
class Commit:
    """Answer: the operation's result, once `ipls.vault.account.apply` accepted it and its account is durable."""

    label: str
    identity: Identity
    operation: Operation


Effect = Receive | ReceiveRequest | Send | Admit | JudgeBy | NeedHistory | Commit

Result = (
    None
    | StoredRecord
    | vault_pb2.StoreAnswer
    | vault_pb2.FinishRotationAnswer
    | vault_pb2.DeleteAnswer
    | vault_pb2.ListAnswer
    | vault_pb2.HistoryAnswer
    | vault_pb2.SetChangeDelayAnswer
    | vault_pb2.AddApproverAnswer
    | vault_pb2.RemoveApproverAnswer
    | vault_pb2.ApproveAnswer
    | vault_pb2.CheckpointAnswer
)
