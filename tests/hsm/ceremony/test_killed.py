"""`kill -9` at every step of a ceremony: run again, it ends as it should, and nothing extractable is left."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pkcs11 import Attribute, ObjectClass

from ipls.hsm.token.derivation import by_profile
from ipls.hsm.token.module import hidden
from ipls.hsm.token.pkcs11 import purposes
from ipls.proto.vault.v1.fleet_pb2 import Report
from ipls.trust.ceremony import parse_transcript
from tests.hsm.ceremony.test_steps import kept, opened, session_of
from tests.hsm.fleets import Fleet, Host

SCRIPT = Path(__file__).parent / "dying.py"


def deaths(folder: Path, *command: object) -> list[str]:
    """Where it died; run again it was done, and once more it changed nothing or was refused."""
    ran = subprocess.run([sys.executable, SCRIPT, folder, *map(str, command)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    *died, last = map(json.loads, ran.stdout.splitlines())
    assert last["ended"] == 0
    assert all(line["ended"] is None for line in died)
    for line in died:
        # What writes a file of its own is refused when the file is there: whole, as it comes last.
        there = command[0] != "join" and line["where"] == "after replace"
        assert line["again"] == ([1, 1] if there else [0, 1] if command[0] != "join" else [0, 0]), line
    return [line["where"] for line in died]


def test_prepare(tmp_path: Path) -> None:
    host = Host(tmp_path, "h0")
    card = host.folder / "h0.card"
    places = deaths(host.folder, "prepare", host.config, card)
    assert {"after create", "after make_pair", "before replace", "after replace"} <= set(places)
    with session_of(host) as session:
        for label in ("fleet", "transport"):
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                assert len(list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label}))) == 1


def test_genesis(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.prepare()
    folder = tmp_path / "files"
    folder.mkdir()
    report = folder / "report.pb"
    host = fleet.hosts[0]
    places = deaths(folder, "hold", host.config, fleet.officers, report, *fleet.cards)
    assert {"after _extractable", "after _parcel", "before write_new", "after replace"} <= set(places)
    parcels = [path.read_bytes() for path in sorted(folder.glob("*.parcel"))]
    members = parse_transcript(report.read_bytes()).members
    assert [hashlib.sha256(parcel).digest() for parcel in parcels] == [member.parcel_hash for member in members]
    assert kept(host) == []


def test_join(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1)
    (host,) = fleet.hosts
    signatures = fleet.held()
    arguments = [host.config, fleet.officers, fleet.report, fleet.parcel(host), *signatures]
    places = deaths(host.folder, "join", *arguments)
    assert places.count("after _unwrap") == 4  # two keys, each looked at first
    assert kept(host) == ["log", "storage root"]
    with opened(host) as token:
        assert token.storage_key_id == Report.FromString(fleet.report.read_bytes()).root_id


@pytest.mark.parametrize("label", ["storage root", "log"])
def test_a_key_that_a_killed_join_left_half_written(label: str, tmp_path: Path) -> None:
    """SoftHSM writes an object before its value: here it has another one."""
    fleet = Fleet(tmp_path, 1)
    (host,) = fleet.hosts
    signatures = fleet.held()
    report = Report.FromString(fleet.report.read_bytes())
    (purpose,) = (each for each in purposes(by_profile(host.profile)) if each.label == label)
    with session_of(host) as session:
        session.generate_key(
            purpose.kind,
            256,
            store=True,
            label=label,
            id=report.root_id,
            capabilities=purpose.use,
            template=hidden(purpose.mechanism),
        )
    for _ in range(2):
        assert fleet.join(host, *signatures) == ""
    assert kept(host) == ["log", "storage root"]
