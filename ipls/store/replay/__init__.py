"""Signed calls, each admitted once: a part of the stores that take them (`contacts`, `readers`).

contract    what every backend gives          sqlite      tables and their statements, for a store's own file
"""

from ipls.store.replay.contract import ReplayGuard

__all__ = ["ReplayGuard"]
