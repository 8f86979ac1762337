"""Why an epoch does not come about: nothing of it is visible then.

NoQuorum            fewer than k witnesses signed; tried again, reads go on meanwhile
PublisherStopped    (a StoreError) the database contradicts itself, the witnesses or the log; an operator must look

Tested by tests/server/directory/test_recovery.py.
"""

from ipls.errors import IplsError
from ipls.store.errors import StoreError


class NoQuorum(IplsError):
    """Witnesses are down or refuse; `reason` is the first refusal's, WITNESS_UNREACHABLE, WITNESSES_SPLIT or
    STEP_UNAVAILABLE."""


class PublisherStopped(StoreError):
    """Going on could fork the directory, or can't succeed: STEP_DIFFERS, TREE_CORRUPT, ROOT_UNREACHABLE,
    START_NOT_EMPTY, LOG_EPOCH_TAKEN, LOG_OBJECT_EXISTS."""
