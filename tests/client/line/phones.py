"""Two devices of one account, each with a real profile: what people do on one is seen on the other."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ipls.client.address_book import AddressBook
from ipls.client.line.kept import TABLES
from ipls.client.profile import Account, Profile
from tests.client.line.world import LABEL, Device, World


class Phone:
    """`book` is what its person sees."""

    def __init__(self, device: Device, profile: Profile) -> None:
        self.device, self.profile = device, profile
        profile.put(Account(LABEL, device.seed, 1, 1))
        for table in TABLES:
            rows = [device.rows.only(table)] if isinstance(table.key, bytes) else device.rows.all(table)
            profile.rows.put_many(table, (row for row in rows if row))
        device.rows = profile.rows
        device.start()
        profile._line, profile._line_as_of = device.kept, profile.changes
        self.book = AddressBook(profile, lambda: device.world.now_ms)

    def sync(self) -> None:
        self.device.do("sync")

    def cards(self) -> list[bytes]:
        return self.book.cards()


@contextmanager
def phones(folder: Path) -> Iterator[tuple[Phone, Phone]]:
    """The primary, and one that is linked."""
    world = World(linked=1)
    with closing(Profile(folder / "one")) as one, closing(Profile(folder / "other")) as other:
        yield Phone(world.primary, one), Phone(world.linked[0], other)
