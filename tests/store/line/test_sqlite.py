"""Accounts' lines in a file whose pages are damaged."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ipls.contacts.sealing import name_of
from ipls.store.contacts import open_contacts_store
from ipls.store.engine.sqlite import settle
from tests.store.line.lines import Line, there_of


@contextmanager
def damaged(folder: Path) -> Iterator[tuple[Line, list[bytes]]]:
    """Three records, and a page of the second one's that is none."""
    path = folder / "contacts.db"
    with closing(open_contacts_store(path)) as store:
        line = Line(store.lines)
        records = [line.writer.record(f"{n}" * 30_000) for n in range(3)]
        line.stage(*records)
    settle(path)
    with closing(sqlite3.connect(path)) as db:
        pages = "SELECT pageno FROM dbstat WHERE name = 'sealed' AND pagetype = 'overflow' ORDER BY pageno"
        numbers = [number for (number,) in db.execute(pages)]
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:  # where the second one's begins; says which page is the next
        file.seek((numbers[len(numbers) // 3] - 1) * size)
        file.write(b"\x7f\xff\xff\xff")
    with closing(open_contacts_store(path)) as store:
        line.store = store.lines
        yield line, records


def test_a_page_that_is_damaged_costs_whose_it_is(tmp_path: Path) -> None:
    with damaged(tmp_path) as (line, records):
        assert there_of(line, records) == [True, False, True]
        line.store.mark_damaged(line.label, [name_of(record) for record in records])
        line.stage(*records)
        assert line.read(*records) == [True] * 3
        line.pass_days(8)
        assert line.read(*records) == [False] * 3


def test_a_damaged_page_holds_up_nothing_that_is_let_go(tmp_path: Path) -> None:
    with damaged(tmp_path) as (line, records):
        line.pass_days(8)
        assert there_of(line, records) == [False] * 3
        line.stage(*records)
        assert line.read(*records) == [True] * 3
