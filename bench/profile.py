"""What sealing costs a profile: `python bench/profile.py [CONTACTS ...]` (1,000, 10,000 and 100,000: half a minute).

Each contact is a row with a card of some 400 bytes, in a file on this disk. *Put*: all as new, in one transaction; *put
again*: each changed; *read*: all opened; *opened*: the file, its key in a file beside it. Beside them the same rows put
into and read from a table of SQLite in clear, with the same settings.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ipls.client.profile import Contact, Profile
from ipls.contacts.envelope import Envelope
from ipls.store.engine.sqlite import Schema, open_database, transaction

CLEAR = Schema(
    "a client's profile",
    "CREATE TABLE contact (number INTEGER PRIMARY KEY, id BLOB UNIQUE, card BLOB, generation INTEGER, digest BLOB);\n",
    frozenset(),
)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def contact(n: int) -> Contact:
    card = f"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Person {n}\r\nTEL:+1555{n:07}\r\nNOTE:{'x' * 320}\r\nEND:VCARD"
    return Contact(os.urandom(16), Envelope(card.encode()))


def measure(count: int, folder: Path) -> None:
    contacts = [contact(n) for n in range(count)]
    changed = [each._replace(envelope=Envelope(each.card.replace(b"Person", b"Human"))) for each in contacts]
    with closing(Profile(folder / "sealed")) as profile:
        put = seconds(lambda: profile.put_contacts(contacts))
        again = seconds(lambda: profile.put_contacts(changed))
        read = seconds(profile.contacts)
    opened = seconds(lambda: Profile(folder / "sealed").close())
    size = (folder / "sealed/profile.db").stat().st_size
    with closing(open_database(folder / "clear.db", CLEAR)) as db:

        def put_in_clear() -> None:
            with transaction(db):
                rows = ((each.id, each.card) for each in contacts)
                db.executemany("INSERT INTO contact (id, card, generation, digest) VALUES (?, ?, 0, x'')", rows)

        clear_put = seconds(put_in_clear)
        clear_read = seconds(
            lambda: [Contact(row[1], Envelope(row[2])) for row in db.execute("SELECT * FROM contact ORDER BY number")]
        )
    clear_size = (folder / "clear.db").stat().st_size
    print(
        f"{count:7,}  put {put:.3f} s ({clear_put:.3f} in clear)  put again {again:.3f} s"
        f"  read {read:.3f} s ({clear_read:.3f})  opened {opened * 1000:.1f} ms"
        f"  {size / count:.0f} bytes a contact ({clear_size / count:.0f})"
        f"  peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )


if __name__ == "__main__":
    for asked in [int(argument) for argument in sys.argv[1:]] or [1_000, 10_000, 100_000]:
        with tempfile.TemporaryDirectory() as place:
            measure(asked, Path(place))
