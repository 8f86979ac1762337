"""Why an epoch does not come about: nothing of it is visible then.

NoEpoch             tried again, reads go on meanwhile
├── NoQuorum        fewer than k witnesses signed
│   └── OtherRoot   of one witness: it shows its signature, or a quorum's, on another root
├── LogRefused      the log does not take the epoch's object, or has another
└── EpochDamaged    what it is made of is damaged in this database: an operator must mend that
PublisherStopped    (a StoreError) the database contradicts what witnesses have signed, as was verified here: an
                    operator must look. No other party's words end in it.

Tested by tests/server/directory/test_recovery.py.
"""

from ipls.errors import IplsError
from ipls.store.errors import StoreError


class NoEpoch(IplsError):
    pass


class NoQuorum(NoEpoch):
    """Witnesses are down or refuse; `reason` is the first refusal's, or WITNESS_UNREACHABLE."""


class OtherRoot(NoQuorum):
    pass


class LogRefused(NoEpoch):
    """LOG_EPOCH_TAKEN, LOG_OBJECT_EXISTS, STEP_UNAVAILABLE, or what the log's store refused by."""


class EpochDamaged(NoEpoch):
    """TREE_CORRUPT, STEP_DIFFERS, STEP_UNPROVEN. Nothing of the epoch is shown to anybody."""


class PublisherStopped(StoreError):
    """Going on can't succeed: ROOT_UNREACHABLE, START_NOT_EMPTY."""
