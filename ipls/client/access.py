"""The vault's access history in plain words."""

from datetime import datetime

from ipls.client.events import AccessEntry
from ipls.units import DAY_MS

_WHAT = {
    "handshake": "a session with the vault was opened",
    "store": "a key was stored (generation {generation})",
    "retrieve": "your key was released (generation {generation})",
    "finish_rotation": "the keys before generation {generation} were let go",
    "delete": "all keys were let go",
    "set_change_delay": "a new identity was set to wait {delay}",
    "add_approver": "a device was allowed to approve, {approver}",
    "remove_approver": "a device was no longer allowed to approve, {approver}",
    "approve": "a device let a new identity in without waiting, {approver}",
}
_WHOSE = {"own": "this device", "earlier": "from before this device", "foreign": "NOT OURS"}

WARNING = (
    "If one of these was not you: whoever held that identity got the key, and could read what was stored under it. "
    "Contacts stored since under a new key are safe from it."
)


def describe(use: AccessEntry) -> str:
    """One use: when, what, by which identity."""
    what = _WHAT.get(use.operation, use.operation).format(
        generation=use.generation, delay=days(use.delay_ms), approver=f"key {use.approver.hex()[:16]}…"
    )
    whose = _WHOSE.get(use.origin, use.origin)
    by = f"by identity version {use.identity_version}, published in epoch {use.epoch} ({whose})"
    return f"{when(use.time_ms)}: {what} {by}"


def when(time_ms: int) -> str:
    """A time as people read it: the local one, with its zone."""
    return datetime.fromtimestamp(time_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def days(delay_ms: int) -> str:
    """A change delay as people read it."""
    return f"{delay_ms / DAY_MS:.4g} days" if delay_ms else "no time"
