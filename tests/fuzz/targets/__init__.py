"""The parsers of what comes from outside: of each how it is run, what it may raise, and valid inputs to bend.

`run` also asserts that what is taken is what was signed or proven: a bent input must not be taken for another truth.
A message that gRPC could not decode never reaches a handler (ipls.rpc.server), hence `DecodeError` beside a refusal.
"""

from tests.cli import verify_targets  # noqa: F401  # it registers them
from tests.fuzz.target import TARGETS

# The vault last: an open token closes any other of the process.
from tests.fuzz.targets import (  # noqa: F401  # these too
    cache,
    contacts,
    device,
    directory,
    files,
    frames,
    lines,
    logs,
    proofs,
    services,
    trust,
    vault,
    witnesses,
)

__all__ = ["TARGETS"]
