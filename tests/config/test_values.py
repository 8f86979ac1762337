"""`ipls.toml`, and the officers' table, with a value of the wrong kind anywhere: one line, which names the key."""

import copy
import datetime
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ipls.admin.ceremony import read_officers
from ipls.config import ConfigError, load, load_service, load_witnesses

FULL = tomllib.loads((Path(__file__).parent.parent / "surface/full.toml").read_text())
WRONG: list[Any] = [10**30, float("inf"), "", [{}], {"a": 1}, datetime.date(2026, 1, 1)]
LOADERS: list[Callable[[Path], Any]] = [load_service, load_witnesses]  # every table, between them


def keys(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value, in whatever table or list it stands."""
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from keys(value, (*path, key))


def with_value(path: tuple[Any, ...], value: Any) -> str:
    """The whole file but for one value."""
    table = inner = copy.deepcopy(FULL)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tomli_w.dumps(table)


def refusal(loader: Callable[[Path], Any], file: Path) -> str | None:
    try:
        loader(file)
    except ConfigError as refused:
        return str(refused)
    return None


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_value_is_a_line_with_the_file_s_name_wherever_it_stands(tmp_path: Path, wrong: Any) -> None:
    file = tmp_path / "ipls.toml"
    for path in keys(FULL):
        file.write_text(with_value(path, wrong))
        for loader in LOADERS:
            said = refusal(loader, file)  # none where this value may stand
            assert said is None or (said.startswith(f"{file}: ") and "\n" not in said)


@pytest.mark.parametrize(("wrong", "key"), [("", "log"), ("a\0b", "vrf_key"), (float("inf"), "epoch_max_age_s")])
def test_what_no_file_and_no_time_can_be_is_refused_by_its_key(tmp_path: Path, wrong: Any, key: str) -> None:
    file = tmp_path / "ipls.toml"
    file.write_text(with_value(("directory", key), wrong))
    with pytest.raises(ConfigError, match=rf"directory\.{key}"):
        load(file)


def test_a_file_that_is_a_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, check=lambda error: str(error) == f"{tmp_path}: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("changed", [{"m": float("inf")}, {"officer": "x"}, {"name": 5}, {"key": "0g"}, {"key": 7}])
def test_officers_of_the_wrong_kind_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    officer = {"name": "Anna", "key": "07" * 32}
    if changed.keys() <= officer.keys():
        changed = {"officer": [officer | changed]}
    (tmp_path / "officers.toml").write_text(tomli_w.dumps({"m": 1, "officer": [officer]} | changed))
    with pytest.raises(ConfigError):
        read_officers(tmp_path / "officers.toml", development=True)
