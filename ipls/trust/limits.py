"""Bounds that directory, witnesses and auditors share: what one makes, every other accepts.

Tested by tests/attack/test_catching_up.py.
"""

# Updates in one epoch.
MAX_EPOCH_UPDATES = 10_000

# Bytes of one epoch's encoded SingleAppendOnlyProof. 10,000 updates insert at most 20,000 leaves; in a tree of
# 2^32 leaves they leave about 18 subtrees alone each, at 76 bytes an element: 29 MB.
MAX_BLOB = 32 * 1024 * 1024

# Signatures on one head: far above any n, low enough that checking all of them is nothing.
MAX_COSIGNATURES = 64

# How far a signature's time may lie ahead of the clock.
MAX_AHEAD_MS = 2 * 60 * 1000

# How far the clocks of the directory and of a witness may be apart, either way.
MAX_APART_MS = 2 * 60 * 1000

# Integers on the wire are u64; stores and TOML hold 63 bits.
MAX_INT = 2**63 - 1
