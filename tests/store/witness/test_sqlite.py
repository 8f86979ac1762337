"""A witness's file, which itself keeps what was signed."""

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from ipls.store.engine import sqlite
from ipls.store.errors import StoreRefused
from ipls.store.witness import WitnessStore, init_witness_state
from ipls.trust.heads import Head
from tests.server.witnesses import open_store
from tests.store.witness.test_contract import FIRST, R0, R1, TRUST, cosign
from tests.trust.roots import NAMESPACE, NOW, make_root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    init_witness_state(tmp_path / "w.db", make_root())
    return tmp_path / "w.db"


@pytest.fixture
def store(path: Path) -> WitnessStore:
    return open_store(path, NAMESPACE)


def test_no_state_is_never_taken_for_a_new_witness(tmp_path: Path) -> None:
    path = tmp_path / "lost.db"
    for there in (False, True):
        if there:
            path.touch()
        with pytest.raises(StoreRefused) as e:
            open_store(path, NAMESPACE)
        assert e.value.reason == "WITNESS_NO_GENESIS"
        assert path.exists() == there  # it makes none


def test_the_database_itself_holds_a_signed_root_fast(path: Path, store: WitnessStore) -> None:
    store.sign(FIRST, NOW, cosign)
    for sql in ("UPDATE epoch SET root_hash = x'00' WHERE epoch = 1", "DELETE FROM epoch WHERE epoch = 1"):
        with pytest.raises(sqlite3.IntegrityError):
            sqlite3.connect(path, isolation_level=None).execute(sql)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_older_copy_signs_no_other_document_for_a_number_that_was_signed(path: Path, store: WitnessStore) -> None:
    """No epoch tells it from the newest state."""
    store.sign_document(TRUST, Head(2, R0), R1, lambda: b"signed")
    sqlite.copy(path, path.with_name("copy.db"))
    store.sign_document(TRUST, Head(3, R1), R0, lambda: b"signed")
    store.close()
    for file in (*path.parent.glob("w.db-*"), path):
        file.unlink()
    path.with_name("copy.db").replace(path)
    restored = open_store(path, NAMESPACE)
    for act in (
        restored.check_restored,
        lambda: restored.sign_document(TRUST, Head(3, R0), R0, lambda: pytest.fail("it was signed")),
    ):
        with pytest.raises(StoreRefused) as e:
            act()
        assert e.value.reason == "WITNESS_RESTORED"


def test_a_watermark_without_a_number_of_documents_is_one_of_before(path: Path, store: WitnessStore) -> None:
    store.sign(FIRST, NOW, cosign)
    [mark] = path.parent.glob("*.mark")
    mark.write_text(json.dumps(json.loads(mark.read_text())[:3]))
    store.check_restored()
    store.sign_document(TRUST, Head(2, R0), R1, lambda: b"signed")
    assert json.loads(mark.read_text())[3:] == [1]


@pytest.mark.parametrize("change", ["UPDATE document SET digest = x'00'", "DELETE FROM document"])
def test_the_file_itself_keeps_a_signed_document(path: Path, store: WitnessStore, change: str) -> None:
    store.sign_document(TRUST, Head(2, R1), R0, lambda: b"signed")
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(change)
