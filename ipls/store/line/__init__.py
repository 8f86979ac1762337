"""Accounts' lines of commits, their records and snapshots: a part of the contact store's database.

contract    what every backend gives          sqlite      tables and their statements, for the store's file
"""

from ipls.store.line.contract import Hidden, KeptBlob, KeptLine, LineStore, Place, Quota, View

__all__ = ["Hidden", "KeptBlob", "KeptLine", "LineStore", "Place", "Quota", "View"]
