"""The log in an S3 bucket whose objects nobody can remove: Object Lock in compliance mode.

Two buckets, since S3 creates one *key* only once and an epoch's object may have many names, while the log's own bucket
must hold nothing but the steps: auditors in the field fail on other keys. The second, `claims`, holds for each epoch
one object `E` whose content is the one name that may be written, and the fleet's bundles.
"""

import hashlib
import json
import logging
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ipls.store.errors import StoreRefused
from ipls.store.log.contract import LogStore, ObjectInfo, is_bundle, parse_name

MAX_OBJECT = 128 * 1024 * 1024
"""Bytes of an object that are read: more than any step has."""
CONNECT_S, ANSWER_S, ATTEMPTS = 5, 30, 3
"""Seconds to connect and to wait for each piece of an answer; requests for one call, two of them retries."""
_MAX_KEYS = 1000
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")
_ABSENT = ("NoSuchKey", "NoSuchVersion", "404")
_NEVER = (
    "NoSuchBucket",
    "InvalidBucketName",
    "InvalidRequest",
    "InvalidArgument",
    "NotImplemented",
    "PermanentRedirect",
)
"""What no other attempt and no other rights would change: the bucket is not the one that the log needs."""

# They log whole requests at DEBUG, session tokens among the headers.
for _logger in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_logger).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Bucket:
    """Where the log is. Whatever is None comes from boto3's chain: environment, AWS files, the machine's role."""

    name: str
    claims: str
    retention: timedelta
    """How long each object can't be removed or replaced, from when it is written."""
    endpoint: str | None = None
    region: str | None = None
    credentials: Path | None = None
    """A file in the format of `~/.aws/credentials`."""
    profile: str | None = None
    """A section in it."""


class S3Log(LogStore):
    """The contract's guarantees, from an endpoint that keeps S3's: strongly consistent, one `If-None-Match: *` wins.

    Whoever holds the credentials and does not write by `put` can add a second object to an epoch, a version above an
    object's, or a delete marker. No retention hinders that; what was there before can still be read, by its version,
    until the retention is over. An audit finds all three.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._s3 = _client(bucket)

    def put(self, name: str, blob: bytes) -> None:
        if is_bundle(name):
            return self._put_bundle(name, blob)
        epoch, _, _ = parse_name(name)
        there = [entry.name for entry in self.list(prefix=f"{epoch}/", limit=2)]
        if there not in ([], [name]):
            raise StoreRefused("LOG_EPOCH_TAKEN", f"the log has another object for epoch {epoch}")
        created = False
        if not there:
            self._claim(epoch, name)
            created = self._create(self._bucket.name, name, blob, self._bucket.retention)
        self._check_locked(self._bucket.name, name)
        if not created and self._get(self._bucket.name, name) != blob:
            raise StoreRefused("LOG_OBJECT_EXISTS", f"the log's object for epoch {epoch} has other bytes")
        return None

    def _put_bundle(self, name: str, blob: bytes) -> None:
        created = self._create(self._bucket.claims, name, blob, self._bucket.retention)
        self._check_locked(self._bucket.claims, name)
        if not created and self._get(self._bucket.claims, name) != blob:
            raise StoreRefused("LOG_OBJECT_EXISTS", f"the log's bundle {name} has other bytes")

    def _claim(self, epoch: str, name: str) -> None:
        if self._create(self._bucket.claims, epoch, name.encode(), self._bucket.retention):
            return
        claimed = self._get(self._bucket.claims, epoch)
        if claimed is None:
            raise OSError("an epoch's claim exists and can't be read")
        if claimed != name.encode():
            raise StoreRefused("LOG_EPOCH_TAKEN", f"epoch {epoch} of the log is promised to another object")

    def _create(self, bucket: str, key: str, blob: bytes, retention: timedelta) -> bool:
        """Whether this call, or an earlier attempt of it whose answer was lost, may have made the object: False if it
        was there. After False compare its bytes."""
        digest = b64encode(hashlib.sha256(blob).digest()).decode()
        try:
            _ask(
                self._s3.put_object,
                Bucket=bucket,
                Key=key,
                Body=blob,
                IfNoneMatch="*",
                ChecksumSHA256=digest,
                ContentType="application/octet-stream",
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=datetime.now(UTC) + retention,
            )
        except ClientError as e:
            if _code(e) in _EXISTS:
                return False
            raise _error(e) from e
        return True

    def _check_locked(self, bucket: str, name: str) -> None:
        if self._retention(bucket, name)["Mode"] != "COMPLIANCE":
            raise StoreRefused("LOG_NOT_LOCKED", "the log's bucket does not keep the object in compliance mode")

    def _retention(self, bucket: str, key: str, **options: str) -> Any:
        """`Mode` and `RetainUntilDate` of an object that is there; None where it has none."""
        try:
            return _ask(self._s3.get_object_retention, Bucket=bucket, Key=key, **options)["Retention"]
        except ClientError as e:
            if _code(e) != "NoSuchObjectLockConfiguration":
                raise _error(e) from e
            return {"Mode": None, "RetainUntilDate": None}

    def get(self, name: str) -> bytes | None:
        return self._get(self._where(name), name)

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        return self._get(self._where(name), name, limit=length, Range=f"bytes={offset}-{offset + length - 1}")

    def _where(self, name: str) -> str:
        """The bucket of an object. Raises StoreRefused LOG_NAME_INVALID."""
        if is_bundle(name):
            return self._bucket.claims
        parse_name(name)
        return self._bucket.name

    def _get(self, bucket: str, key: str, limit: int = MAX_OBJECT, **options: str) -> bytes | None:
        try:
            body = _ask(self._s3.get_object, Bucket=bucket, Key=key, **options)["Body"]
            blob = bytearray()
            with body:
                # To its end, where botocore finds out that some of it is missing.
                while len(blob) <= limit and (piece := _ask(body.read, limit + 1 - len(blob))):
                    blob += piece
        except ClientError as e:
            if _code(e) in _ABSENT:
                return None
            if _code(e) == "InvalidRange":
                return b""
            raise _error(e) from e
        if len(blob) > limit:
            raise OSError("the log's bucket answers with more bytes than asked for")
        return bytes(blob)

    def stat(self, name: str) -> ObjectInfo | None:
        head = self._head(self._where(name), name)
        return head and _entry(name, head["ContentLength"], head)

    def _head(self, bucket: str, key: str) -> Any:
        try:
            return _ask(self._s3.head_object, Bucket=bucket, Key=key)
        except ClientError as e:
            if _code(e) in _ABSENT:
                return None
            raise _error(e) from e

    def list(self, *, start_after: str = "", prefix: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """As the contract says; a key that is no object's name is listed too, as every auditor sees it."""
        entries: list[ObjectInfo] = []
        while len(entries) < limit:
            page = self._page(entries[-1].name if entries else start_after, prefix, limit - len(entries))
            entries += [_entry(each["Key"], each["Size"], each) for each in page.get("Contents", [])]
            if not page["IsTruncated"]:
                break
        return entries

    def _page(self, start_after: str, prefix: str, limit: int) -> Any:
        try:
            return _ask(
                self._s3.list_objects_v2,
                Bucket=self._bucket.name,
                StartAfter=start_after,
                Prefix=prefix,
                MaxKeys=min(limit, _MAX_KEYS),
            )
        except ClientError as e:
            raise _error(e) from e

    def create_buckets(self) -> None:
        """Make both buckets with Object Lock, let anyone read the log's; buckets of ours that are there stay.

        Then try to break the lock in `claims`. Raises OSError, and StoreRefused LOG_NOT_LOCKED if anything gave way or
        an existing bucket was made without Object Lock.
        """
        for name in (self._bucket.claims, self._bucket.name):
            self._create_bucket(name)
        try:
            _ask(self._s3.put_bucket_policy, Bucket=self._bucket.name, Policy=_public(self._bucket.name))
        except ClientError as e:
            raise _error(e) from e
        self._attack()
        self._check_public()

    def _create_bucket(self, name: str) -> None:
        region = self._s3.meta.region_name
        options: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            _ask(
                self._s3.create_bucket,
                Bucket=name,
                ObjectLockEnabledForBucket=True,
                **({} if region == "us-east-1" else options),
            )
        except ClientError as e:
            if _code(e) != "BucketAlreadyOwnedByYou":
                raise _error(e) from e
        try:
            lock = _ask(self._s3.get_object_lock_configuration, Bucket=name)["ObjectLockConfiguration"]
        except ClientError as e:
            if _code(e) != "ObjectLockConfigurationNotFoundError":
                raise _error(e) from e
            lock = {}
        if lock.get("ObjectLockEnabled") != "Enabled":
            raise StoreRefused("LOG_NOT_LOCKED", f"the bucket {name} was made without Object Lock")

    def _attack(self) -> None:
        """Try all that must be refused, on an object that is kept for a day, and look whether it stands as before."""
        bucket, key, blob = self._bucket.claims, f"probe/{token_hex(16)}", b"probe"
        self._create(bucket, key, blob, timedelta(days=1))
        if self._create(bucket, key, b"other", timedelta(days=1)):
            raise StoreRefused("LOG_NOT_LOCKED", "the endpoint ignores If-None-Match: it replaces objects")
        head = self._head(bucket, key)
        version = {"Bucket": bucket, "Key": key, "VersionId": head["VersionId"]}
        kept = self._retention(bucket, key)
        if kept["Mode"] != "COMPLIANCE":
            raise StoreRefused("LOG_NOT_LOCKED", "the endpoint does not keep an object in compliance mode")
        self._try(self._s3.put_object, Bucket=bucket, Key=key, Body=b"other")
        self._try(self._s3.delete_object, **version)
        self._try(self._s3.delete_object, **version, BypassGovernanceRetention=True)
        sooner = kept["RetainUntilDate"] - timedelta(hours=12)
        for mode in ("COMPLIANCE", "GOVERNANCE"):
            self._try(self._s3.put_object_retention, **version, Retention={"Mode": mode, "RetainUntilDate": sooner})
        stands = self._get(bucket, key, VersionId=version["VersionId"]) == blob
        if not stands or self._retention(bucket, key, VersionId=version["VersionId"]) != kept:
            message = "the endpoint lets an object be removed, or its retention be shortened"
            raise StoreRefused("LOG_NOT_LOCKED", message)

    @staticmethod
    def _try(method: Callable[..., Any], **arguments: Any) -> None:
        try:
            _ask(method, **arguments)
        except ClientError as e:
            if e.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:  # this is no refusal
                raise _error(e) from e

    def _check_public(self) -> None:
        anyone = _client(self._bucket, signature_version=UNSIGNED)
        try:
            _ask(anyone.list_objects_v2, Bucket=self._bucket.name, MaxKeys=1)
        except ClientError as e:
            raise OSError(f"the log's bucket can't be listed by everyone: {_code(e)}") from e


def _client(bucket: Bucket, **options: Any) -> Any:
    core = botocore.session.Session(profile=bucket.profile)
    if bucket.credentials:
        core.set_config_variable("credentials_file", str(bucket.credentials))
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        **options,
    )
    try:
        return boto3.Session(botocore_session=core, region_name=bucket.region).client(
            "s3", endpoint_url=bucket.endpoint, config=config
        )
    except (BotoCoreError, ValueError) as e:
        raise StoreRefused("LOG_REFUSED", f"the log's bucket can't be used as configured: {type(e).__name__}") from e


def _ask(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The answer. Raises OSError where there is none, ClientError where it is an error."""
    try:
        return method(*arguments, **options)
    except BotoCoreError as e:  # its text may hold what was sent
        raise OSError(f"the log's bucket does not answer: {type(e).__name__}") from e


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _error(error: ClientError) -> Exception:
    """What an error that has no meaning of its own becomes; its code is S3's, its text may be long and is left out."""
    message = f"the log's bucket refuses {error.operation_name}: {_code(error)}"
    return StoreRefused("LOG_REFUSED", message) if _code(error) in _NEVER else OSError(message)


def _entry(name: str, size: int, answer: Any) -> ObjectInfo:
    return ObjectInfo(name, size, int(answer["LastModified"].timestamp()) * 1000, answer["ETag"].strip('"'))


def _public(bucket: str) -> str:
    """The policy by which anyone may read and list."""
    allow = {"Effect": "Allow", "Principal": "*"}
    statements = [
        {**allow, "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"},
        {**allow, "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
