"""The names of the log's steps (docs/protocol/directory.md, The audit log).

Tested by tests/store/log/test_contract.py and tests/auditlog/test_parsers.py.
"""

import re

_NAME = re.compile(r"([1-9][0-9]{0,18})/([0-9a-f]{64})/([0-9a-f]{64})")


def object_name(epoch: int, old_root: bytes, new_root: bytes) -> str:
    """The name of the step `epoch` - 1 -> `epoch` (from 1), whose roots have 32 bytes."""
    return f"{epoch}/{old_root.hex()}/{new_root.hex()}"


def split_name(name: str) -> tuple[str, str, str] | None:
    """Epoch, old root and new root as they stand in a name; None for one that is no step's."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2], match[3]) if match else None
