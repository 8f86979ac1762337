"""The table of reasons is what docs/protocol/errors.md says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.rpc.errors import ServiceError, refuse
from ipls.rpc.reasons import EXIT_STATUSES, STATUSES
from ipls.store.errors import StoreError

DOCUMENT = (Path(__file__).parents[2] / "docs/protocol/errors.md").read_text()


def rows() -> Iterator[tuple[str, str]]:
    """(reason, status column) of the tables that have one."""
    for table in re.findall(r"^\| reason \| status \|.*\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE):
        for names, status in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", table, re.MULTILINE):
            for reason in re.findall(r"`([A-Z0-9_]+)`", names):
                yield reason, status


def test_each_status_is_the_documented_one() -> None:
    codes = "|".join(grpc.StatusCode.__members__)
    found = {reason: re.search(rf"\b({codes})\b", status) for reason, status in rows()}
    assert {reason: match[1] for reason, match in found.items() if match} == {
        reason: code.name for reason, code in STATUSES.items()
    }


def test_each_exit_status_is_the_documented_one() -> None:
    [paragraph] = re.findall(r"^\*\*The command\*\*.*?\n\n", DOCUMENT, re.MULTILINE | re.DOTALL)
    documented = {
        reason: int(status)
        for status, reasons in re.findall(r"(\d) [^();]*\(([^)]*)\)", paragraph)
        for reason in re.findall(r"`([A-Z_]+)`", reasons)
    }
    assert documented == EXIT_STATUSES


def test_what_a_store_refuses_crosses_the_wire() -> None:
    with pytest.raises(ServiceError) as raised:
        refuse(StoreError("QUEUE_FULL", "later", retry_after_s=2))
    refused = raised.value
    assert (refused.code, refused.reason, refused.message) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL", "later")
    assert refused.retry_after_s == 2


def test_a_service_may_give_a_reason_another_status() -> None:
    with pytest.raises(ServiceError, check=lambda error: error.code is grpc.StatusCode.UNAUTHENTICATED):
        refuse(StoreError("LABEL_INVALID", "no"), code=grpc.StatusCode.UNAUTHENTICATED)


def test_a_fault_stays_in_its_process() -> None:
    with pytest.raises(StoreError, check=lambda error: error.reason == "STEP_GAP"):
        refuse(StoreError("STEP_GAP", "no"))
