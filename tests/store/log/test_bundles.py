"""The fleet's bundles in the log: write-once beside the steps, and in no listing."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ipls.store.errors import StoreError
from ipls.store.log import LogStore, bundle_name
from tests.store.gateway import Gateway
from tests.store.logs import NAME, RACERS, S3, Backend, denied, make, names, refused


@pytest.fixture(params=["folder", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return make(request.param, request, tmp_path_factory)


@pytest.fixture
def store(backend: Backend) -> LogStore:
    return backend.open()


def test_a_bundle_is_there_once_and_in_no_listing(backend: Backend, store: LogStore) -> None:
    store.put(NAME, b"step")
    for number in (1, 12):
        store.put(bundle_name(number), b"bundle %d" % number)
        store.put(bundle_name(number), b"bundle %d" % number)
    assert refused(lambda: store.put(bundle_name(12), b"other")) == "LOG_OBJECT_EXISTS"
    reader = backend.open()
    assert reader.get("fleet/12") == b"bundle 12"
    assert reader.read("fleet/12", 7, 9) == b"12"
    stat = reader.stat("fleet/1")
    assert stat is not None
    assert (stat.name, stat.size, reader.get("fleet/2"), reader.stat("fleet/2")) == ("fleet/1", 8, None, None)
    assert names(reader) == [NAME]
    assert names(reader, prefix="fleet/") == names(reader, start_after="f") == []


@pytest.mark.parametrize(
    "name", ["fleet", "fleet/", "fleet/0", "fleet/01", "fleet/1/1", "fleet/../1", "fleet/٣", "Fleet/1", "fleet/1\n"]
)
def test_only_numbers_are_bundles(store: LogStore, name: str) -> None:
    for call in (store.get, store.stat, lambda n: store.put(n, b"x"), lambda n: store.read(n, 0, 1)):
        assert refused(lambda call=call: call(name)) == "LOG_NAME_INVALID"


def test_of_racing_writers_of_a_bundle_one_wins(backend: Backend) -> None:
    stores = [backend.open() for _ in range(RACERS)]

    def write(number: int) -> bool:
        try:
            stores[number].put("fleet/1", b"%d" % number)
        except StoreError as e:
            return e.reason != "LOG_OBJECT_EXISTS"
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(write, range(RACERS)))
    assert won.count(True) == 1
    assert stores[0].get("fleet/1") == b"%d" % won.index(True)


def test_the_operators_own_credentials_cannot_remove_a_bundle(s3: Gateway) -> None:
    bucket = S3(s3)
    bucket.open().put("fleet/1", b"bundle")
    name, client = bucket.bucket.claims, s3.client()
    version = client.list_object_versions(Bucket=name, Prefix="fleet/")["Versions"][0]["VersionId"]
    assert denied(client.delete_object, Bucket=name, Key="fleet/1", VersionId=version)
    assert bucket.open().get("fleet/1") == b"bundle"
