"""A process that has what the library depends on, and nothing of the extras: `python -m tests.api.base`.

It imports all of the packages that embed, and checks a proof with them.
"""

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = ("ipls.client", "ipls.akd", "ipls.trust", "ipls.auditlog", "ipls.contacts", "ipls.vault")
VECTORS = Path(__file__).parent.parent / "vectors/whatsapp_v1.jsonl"


def base() -> set[str]:
    """The distributions that `ipls` without an extra brings, and those that they bring."""
    found: set[str] = set()
    wanted = {("ipls", "")}
    seen: set[tuple[str, str]] = set()
    while wanted:
        name, extra = wanted.pop()
        seen.add((name, extra))
        found.add(name)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                wanted |= {(needed, each) for each in ("", *requirement.extras)} - seen
    return found


class Without(MetaPathFinder):
    """Finds none of the modules that only other distributions have."""

    def __init__(self, distributions: set[str]) -> None:
        self._hidden = {
            module
            for module, owners in packages_distributions().items()
            if not distributions & {canonicalize_name(owner) for owner in owners}
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self._hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def hidden(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return True
    return False


if __name__ == "__main__":
    sys.meta_path.insert(0, Without(base()))
    assert all(map(hidden, ("boto3", "psycopg", "pkcs11", "pydantic", "redis", "starlette", "typer", "uvicorn")))

    for package in map(import_module, PACKAGES):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)

    from ipls.akd import verify_lookup
    from ipls.client import Device, ProfileError
    from ipls.trust import encode_trust_root, parse_trust_root
    from tests.trust.roots import make_root

    key, lookup = (
        next(line for line in map(json.loads, VECTORS.open()) if line["kind"] == kind) for kind in ("key", "lookup")
    )
    root, vrf_key, label, proof = map(
        bytes.fromhex, (lookup["root"], key["vrf_public_key"], lookup["label"], lookup["proof"])
    )
    assert verify_lookup(root, lookup["epoch"], vrf_key, label, proof).value.hex() == lookup["value"]
    assert parse_trust_root(encode_trust_root(make_root())) == make_root()
    try:
        Device.open(Path("/nonexistent"))
    except ProfileError as error:
        print(error.reason)
