"""A directory's database in its operator's hands: checked, and opened to pin epochs.

Tested by tests/cli/test_commands.py.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from ipls.akd import DirectoryKey
from ipls.config import Config, load_trust_root, read_secret
from ipls.store.directory import DirectoryStore, open_directory_store
from ipls.store.directory.fsck import Fsck
from ipls.store.errors import StoreDamaged, StoreRefused, StoreUnavailable


@contextmanager
def checking(config: Config) -> Iterator[Fsck]:
    """A check of the database, for the block to run. Raises StoreError as `Fsck`; StoreDamaged where it can't be."""
    key = DirectoryKey.from_seed(read_secret(config.directory.vrf_key))
    namespace = load_trust_root(config.trust_root).namespace
    database = config.directory.database
    try:
        with closing(Fsck(database, namespace, key)) as check:
            yield check
    except StoreUnavailable as error:
        raise StoreDamaged("DATABASE_UNREADABLE", f"can't be checked: {error}") from error


@contextmanager
def opened(config: Config) -> Iterator[DirectoryStore]:
    """The database, which is there. Raises StoreRefused DATABASE_MISSING."""
    root, database = load_trust_root(config.trust_root), config.directory.database
    if not database.is_file():
        raise StoreRefused("DATABASE_MISSING", f"{database}: no database here")
    with closing(open_directory_store(database, root.namespace, root.vrf_public_key)) as store:
        yield store
