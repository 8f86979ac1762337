"""The lines that every command with --json prints, the files of a deployment and of a profile, what services refuse."""

from typing import Any

import pytest

from tests.surface import commands, story
from tests.surface.snapshot import recorded


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return story.tell(tmp_path_factory.mktemp("story"))


def test_each_command_prints_json_of_the_same_shape(told: dict[str, dict[str, Any]]) -> None:
    assert told["answers"] == recorded("answers")


def test_every_command_that_prints_json_has_a_part_in_the_story() -> None:
    able = {name.removesuffix(" --json") for name in recorded("commands") if name.endswith(" --json")}
    assert recorded("answers").keys() == able


ELSEWHERE = {
    "ipls client background",
    "ipls client serve-dav",
    "ipls client contacts groups",
    "ipls client contacts keys",
    "ipls client contacts move",
    "ipls client contacts verify",
    "ipls client delete-account",
    "ipls client join",
    "ipls client link",
    "ipls client recover",
    "ipls fsck",
    "ipls status",
    *(f"ipls client devices {name}" for name in ("remove", "rename")),
    *(f"ipls client profiles {name}" for name in ("add", "lock", "passphrase", "remove", "rename", "unlock", "wipe")),
    *(f"ipls client vault {name}" for name in ("approve", "delete", "distrust", "key", "request", "sign", "trust")),
}
"""What these print is looked at by tests of their own."""


def test_each_later_command_prints_json_of_the_same_shape(told: dict[str, dict[str, Any]]) -> None:
    assert told["later"] == recorded("later")


def test_every_later_command_that_prints_json_has_a_part_or_tests_of_its_own() -> None:
    able = {name.removesuffix(" --json") for name in commands.surface() if name.endswith(" --json")}
    assert able - recorded("answers").keys() == recorded("later").keys() | ELSEWHERE


def test_the_files_have_the_same_names_modes_and_keys(told: dict[str, dict[str, Any]]) -> None:
    assert told["files"] == recorded("files")


def test_what_runs_refuses_for_the_same_reasons(told: dict[str, dict[str, Any]]) -> None:
    assert told["refusals"] == recorded("refusals")
