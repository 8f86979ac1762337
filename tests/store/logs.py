"""Logs to test: both backends, empty, and what is asked of either."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ipls.store.errors import StoreError
from ipls.store.log import FileLog, LogStore, object_name
from ipls.store.log.s3 import S3Log
from tests.store.gateway import Gateway

OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
NAME = object_name(1, OLD, NEW)
RACERS = 16


class Backend(ABC):
    """A log, empty at first, that several stores can be opened over."""

    @abstractmethod
    def open(self) -> LogStore: ...

    @abstractmethod
    def everything(self) -> list[str]:
        """Whatever lies there, of other names too."""


class Folder(Backend):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> LogStore:
        return FileLog(self.folder)

    def everything(self) -> list[str]:
        found = [path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()]
        return sorted(map(str, found))


class S3(Backend):
    def __init__(self, server: Gateway) -> None:
        self.server = server
        self.bucket = server.bucket()
        S3Log(self.bucket).create_buckets()

    def open(self) -> LogStore:
        return S3Log(self.bucket)

    def everything(self) -> list[str]:
        page = self.server.client().list_objects_v2(Bucket=self.bucket.name)
        return [entry["Key"] for entry in page.get("Contents", [])]


def make(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return Folder(tmp_path_factory.mktemp("log")) if kind == "folder" else S3(request.getfixturevalue("s3"))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as e:
        call()
    return e.value.reason


def names(store: LogStore, **query: Any) -> list[str]:
    return [entry.name for entry in store.list(**query)]


def denied(call: Callable[..., object], **arguments: object) -> str:
    with pytest.raises(ClientError) as e:
        call(**arguments)
    return str(e.value.response["Error"]["Code"])
