"""The log in S3: what its buckets keep from whom, and what becomes of a lost reply."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipls.store.errors import StoreError
from ipls.store.log import LogStore, ObjectInfo, object_name
from ipls.store.log.s3 import S3Log
from tests.store.gateway import Gateway
from tests.store.logs import NAME, NEW, OLD, OTHER, S3, denied, names, refused
from tests.store.proxy import Proxy


@pytest.fixture
def bucket(s3: Gateway) -> S3:
    return S3(s3)


def test_the_operators_own_credentials_cannot_remove_an_object(bucket: S3) -> None:
    bucket.open().put(NAME, b"blob")
    s3 = bucket.server.client()
    for name, key, blob in ((bucket.bucket.name, NAME, b"blob"), (bucket.bucket.claims, "1", NAME.encode())):
        where = {"Bucket": name, "Key": key}
        head = s3.head_object(**where)
        version = {**where, "VersionId": head["VersionId"]}
        until = head["ObjectLockRetainUntilDate"]
        assert head["ObjectLockMode"] == "COMPLIANCE"
        assert timedelta(hours=23) < until - datetime.now(UTC) <= timedelta(days=1)
        assert denied(s3.put_object, **where, Body=b"other", IfNoneMatch="*") == "PreconditionFailed"
        assert denied(s3.delete_object, **version) == "AccessDenied"
        assert denied(s3.delete_object, **version, BypassGovernanceRetention=True) == "AccessDenied"
        sooner = {"Mode": "COMPLIANCE", "RetainUntilDate": until - timedelta(hours=1)}
        assert denied(s3.put_object_retention, **version, Retention=sooner) == "AccessDenied"
        weaker = {"Mode": "GOVERNANCE", "RetainUntilDate": until + timedelta(hours=1)}
        assert denied(s3.put_object_retention, **version, Retention=weaker) in ("AccessDenied", "MethodNotAllowed")
        s3.put_object(**where, Body=b"other")  # S3 lets a version be put above: the first one stays
        s3.delete_object(**where)
        assert s3.get_object(**version)["Body"].read() == blob


def test_anyone_may_read_and_list_the_log_and_nothing_else(bucket: S3) -> None:
    bucket.open().put(NAME, b"blob")
    log, claims = (f"{bucket.server.url}/{name}" for name in (bucket.bucket.name, bucket.bucket.claims))
    assert httpx.get(f"{log}/{NAME}").content == b"blob"
    assert f"<Key>{NAME}</Key>" in httpx.get(f"{log}/", params={"list-type": "2"}).text
    assert httpx.put(f"{log}/{object_name(2, NEW, OTHER)}", content=b"x").status_code == 403
    assert httpx.delete(f"{log}/{NAME}").status_code == 403
    assert httpx.get(f"{claims}/", params={"list-type": "2"}).status_code == 403


def test_an_epoch_promised_to_an_object_is_taken_until_that_is_written(bucket: S3) -> None:
    """A writer died between its two steps; its successor has the same row, and so the same name."""
    writer = S3Log(bucket.bucket)
    writer._claim("1", NAME)
    assert refused(lambda: bucket.open().put(object_name(1, OLD, OTHER), b"blob")) == "LOG_EPOCH_TAKEN"
    assert bucket.everything() == []
    bucket.open().put(NAME, b"blob")
    assert bucket.everything() == [NAME]


def test_a_second_object_put_by_hand_takes_the_epoch(bucket: S3) -> None:
    bucket.open().put(NAME, b"blob")
    bucket.server.client().put_object(Bucket=bucket.bucket.name, Key=object_name(1, OLD, OTHER), Body=b"x")
    assert refused(lambda: bucket.open().put(NAME, b"blob")) == "LOG_EPOCH_TAKEN"


def test_an_object_that_is_not_locked_is_no_log(bucket: S3) -> None:
    bucket.server.client().put_object(Bucket=bucket.bucket.name, Key=NAME, Body=b"blob")
    assert refused(lambda: bucket.open().put(NAME, b"blob")) == "LOG_NOT_LOCKED"


@pytest.mark.parametrize("unlocked", ["name", "claims"])
def test_a_bucket_without_object_lock_is_refused(s3: Gateway, unlocked: str) -> None:
    bucket = s3.bucket()
    client = s3.client()
    for field in ("name", "claims"):
        client.create_bucket(Bucket=getattr(bucket, field), ObjectLockEnabledForBucket=field != unlocked)
    assert refused(S3Log(bucket).create_buckets) == "LOG_NOT_LOCKED"
    assert refused(lambda: S3Log(bucket).put(NAME, b"blob")) == "LOG_REFUSED"


def ignoring(operation: str, *parameters: str) -> Callable[[Any], None]:
    """The endpoint takes no notice of these parameters."""

    def drop(params: dict[str, Any], **_: object) -> None:
        for name in parameters:
            params.pop(name, None)

    return lambda client: client.meta.events.register(f"provide-client-params.s3.{operation}", drop)


def weakening(client: Any) -> None:
    """The endpoint keeps every object in governance mode only."""

    def weaken(params: dict[str, Any], **_: object) -> None:
        params |= {"ObjectLockMode": "GOVERNANCE"} if "ObjectLockMode" in params else {}

    client.meta.events.register("provide-client-params.s3.PutObject", weaken)


def pretending(client: Any) -> None:
    """The endpoint says that it keeps objects, and keeps none."""
    ignoring("PutObject", "ObjectLockMode", "ObjectLockRetainUntilDate")(client)
    kept = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)}
    client.get_object_retention = lambda **_: {"Retention": kept}


def shortening(client: Any) -> None:
    """The endpoint lets who asks for it have a shorter retention."""
    retention = client.get_object_retention
    shortened: list[Any] = []
    client.put_object_retention = lambda Retention, **_: shortened.append(Retention)
    client.get_object_retention = lambda **where: {"Retention": shortened[0]} if shortened else retention(**where)


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (ignoring("PutObject", "IfNoneMatch"), "ignores If-None-Match"),
        (ignoring("PutObject", "ObjectLockMode", "ObjectLockRetainUntilDate"), "does not keep an object"),
        (weakening, "does not keep an object"),
        (pretending, "lets an object be removed"),
        (shortening, "retention be shortened"),
    ],
)
def test_an_endpoint_that_does_not_hold_what_it_must_is_refused(
    s3: Gateway, endpoint: Callable[[Any], None], message: str
) -> None:
    store = S3Log(s3.bucket())
    endpoint(store._s3)
    with pytest.raises(StoreError, match=message) as e:
        store.create_buckets()
    assert e.value.reason == "LOG_NOT_LOCKED"


def test_an_epoch_is_not_published_by_an_endpoint_that_stopped_keeping(bucket: S3) -> None:
    store = S3Log(bucket.bucket)
    weakening(store._s3)
    assert refused(lambda: store.put(NAME, b"blob")) == "LOG_NOT_LOCKED"


def test_making_the_buckets_again_changes_nothing(bucket: S3) -> None:
    bucket.open().put(NAME, b"blob")
    S3Log(bucket.bucket).create_buckets()
    assert bucket.everything() == [NAME]


def test_no_bucket_is_final(s3: Gateway) -> None:
    store = S3Log(s3.bucket())
    for call in (store.list, lambda: store.put(NAME, b"x"), lambda: store.get(NAME)):
        assert refused(call) == "LOG_REFUSED"


def test_wrong_credentials_may_become_right_ones_and_are_not_told(bucket: S3, tmp_path: Path) -> None:
    secret = "this-is-the-wrong-secret"
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id = ipls-test\naws_secret_access_key = {secret}\n")
    with pytest.raises(OSError, match="SignatureDoesNotMatch") as e:
        S3Log(replace(bucket.bucket, credentials=credentials)).put(NAME, b"blob")
    assert secret not in str(e.value)
    with pytest.raises(OSError, match="does not answer: NoCredentialsError"):
        S3Log(replace(bucket.bucket, credentials=tmp_path / "nowhere")).put(NAME, b"blob")


def test_no_credential_is_logged(bucket: S3, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    secrets = ("ipls-test", "the-secret-itself", "the-session-token")
    fields = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    credentials = tmp_path / "credentials"
    credentials.write_text("\n".join(["[default]", *(f"{f} = {s}" for f, s in zip(fields, secrets, strict=True))]))
    caplog.set_level(logging.DEBUG)
    with pytest.raises(OSError, match="refuses") as e:
        S3Log(replace(bucket.bucket, credentials=credentials)).put(NAME, b"blob")
    assert [s for s in secrets if s in caplog.text + str(e.value)] == []


def test_a_profile_that_is_not_there_is_refused(bucket: S3) -> None:
    assert refused(lambda: S3Log(replace(bucket.bucket, profile="nobody"))) == "LOG_REFUSED"


@contextmanager
def through(bucket: S3) -> Iterator[tuple[Proxy, LogStore]]:
    """A store that reaches the bucket through a proxy."""
    with Proxy(bucket.server.port) as proxy:
        yield proxy, S3Log(replace(bucket.bucket, endpoint=f"http://127.0.0.1:{proxy.port}"))


@pytest.mark.parametrize("request_of", [b"PUT /%b/1/", b"PUT /%b-claims/1"])
def test_a_put_whose_reply_is_lost_is_found_out(bucket: S3, request_of: bytes) -> None:
    with through(bucket) as (proxy, store):
        proxy.lose_reply_to(request_of % bucket.bucket.name.encode(), times=1)
        store.put(NAME, b"blob")
        assert proxy.lost == 1
    assert bucket.everything() == [NAME]


def test_a_put_whose_every_reply_is_lost_can_be_made_again(bucket: S3) -> None:
    with through(bucket) as (proxy, store):
        proxy.lose_reply_to(b"PUT /%b/1/" % bucket.bucket.name.encode(), times=1000)
        with pytest.raises(OSError, match="does not answer"):
            store.put(NAME, b"blob")
        assert 1 < proxy.lost < 10
        assert bucket.open().get(NAME) == b"blob"  # unknown to the writer
        store.put(NAME, b"blob")
        assert refused(lambda: store.put(NAME, b"other")) == "LOG_OBJECT_EXISTS"
    assert bucket.everything() == [NAME]


def test_a_reply_cut_in_its_body_is_no_object(bucket: S3) -> None:
    bucket.open().put(NAME, bytes(100_000))
    with through(bucket) as (proxy, store):
        proxy.lose_reply_to(b"GET /%b/1/" % bucket.bucket.name.encode(), times=1000, after=50_000)
        with pytest.raises(OSError, match="does not answer"):
            store.get(NAME)


def test_a_server_that_is_away_is_an_error_that_passes(tmp_path: Path) -> None:
    server = Gateway(tmp_path)
    server.start()
    try:
        store = server.log()
        server.stop()
        with pytest.raises(OSError, match="does not answer: EndpointConnectionError"):
            store.put(NAME, b"blob")
        server.start()
        store.put(NAME, b"blob")
        assert names(store) == [NAME]
    finally:
        server.stop()


def test_a_listing_goes_on_over_pages(bucket: S3) -> None:
    client = bucket.server.client()
    many = sorted(object_name(epoch, OLD, NEW) for epoch in range(1, 1012))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: client.put_object(Bucket=bucket.bucket.name, Key=name, Body=b""), many))
    store = bucket.open()
    assert names(store, limit=5000) == many
    assert names(store, limit=1001) == many[:1001]
    assert isinstance(store.list(limit=1)[0], ObjectInfo)
