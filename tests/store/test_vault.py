"""The contract of the vault's store."""

import subprocess
import sys
from pathlib import Path

import pytest

from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.session.account import Account
from ipls.store.vault import VaultStore


def head(epoch: int, root: bytes, timestamp: bytes = b"") -> SignedHead:
    signed = SignedHead(epoch=epoch, root_hash=root * 32)
    signed.cosignatures.add(message=timestamp)
    return signed


def stores(account: Account | None) -> tuple[Account, int]:
    account = account or Account()
    return account._replace(stores=account.stores + 1), account.stores


def test_an_account_is_changed_and_kept(tmp_path: Path) -> None:
    store = VaultStore(tmp_path / "vault.db")
    assert [store.change("+1", stores), store.change("+1", stores), store.change("+2", stores)] == [0, 1, 0]
    store.close()
    store = VaultStore(tmp_path / "vault.db")
    assert store.change("+1", stores) == 2
    assert b"+1" not in (tmp_path / "vault.db").read_bytes()
    store.close()


def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    store = VaultStore(tmp_path / "vault.db")
    store.change("+1", stores)

    def refuse(account: Account | None) -> tuple[Account, int]:
        stores(account)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # whatever it raises
        store.change("+1", refuse)
    assert store.change("+1", stores) == 1
    store.close()


def test_the_first_root_of_an_epoch_stays(tmp_path: Path) -> None:
    store = VaultStore(tmp_path / "vault.db")
    assert (store.newest_head(), store.highest_timestamp(), store.root_at(1)) == (None, 0, None)
    store.accept_head(head(1, b"a", b"first"), 10)
    store.accept_head(head(1, b"b"), 30)
    store.accept_head(head(1, b"a", b"again"), 20)
    store.accept_head(head(2, b"c"), 15)
    assert store.root_at(1) == b"a" * 32
    assert store.newest_head() == (head(2, b"c"), 15)
    assert store.highest_timestamp() == 20
    for _ in range(2):
        store.keep_evidence(head(1, b"b"))
    assert store.evidence() == [(head(1, b"a", b"again"), head(1, b"b"))]
    store.close()


OPEN = """
import sys
from pathlib import Path
from ipls.store.vault import VaultStore
print("waiting", flush=True)
store = VaultStore(Path(sys.argv[1]))
print("open")
"""


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    store = VaultStore(tmp_path / "vault.db")
    second = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path / "vault.db")], stdout=subprocess.PIPE)
    try:
        assert second.stdout
        assert second.stdout.readline() == b"waiting\n"
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.2)
        store.close()
        assert second.stdout.read() == b"open\n"
    finally:
        second.kill()
        second.wait()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    VaultStore(tmp_path / "vault.db").close()
    assert (tmp_path / "vault.db").stat().st_mode & 0o077 == 0
