"""What was recorded, and the shape of JSON: its keys and the types of what is in it."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "snapshots"
ENUMERATIONS = {"origin", "operation", "kind", "event", "proof", "theft", "by", "profile", "check", "reason"}
"""Keys whose very values other programs compare with."""


def recorded(name: str) -> Any:
    """The snapshot of this name."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def record(name: str, value: Any) -> None:
    """Put it in the place of the one before."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(f"{text}\n")


def shape(value: Any, key: str = "") -> Any:
    """An object's keys with the shape of each value, a list's different shapes, else the name of the type."""
    match value:
        case dict():
            return {name: shape(item, name) for name, item in value.items()}
        case list():
            return shapes(value, key)
        case str() if key in ENUMERATIONS:
            return f"= {value}"
        case None:
            return "null"
    return type(value).__name__


def shapes(values: list[Any], key: str = "") -> list[Any]:
    """The different shapes, in an order of their own."""
    found = {json.dumps(shape(value, key), sort_keys=True) for value in values}
    return [json.loads(text) for text in sorted(found)]
