"""docs/protocol/errors.md names every reason that the code can give, and no other."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
REASON = re.compile(r"[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)*")


@cache
def nodes() -> list[ast.AST]:
    """Of all our modules."""
    files = (file for file in (ROOT / "ipls").rglob("*.py") if "proto" not in file.relative_to(ROOT).parts)
    return [node for file in files for node in ast.walk(ast.parse(file.read_text()))]


def literals(value: ast.expr | None) -> Iterator[str]:
    """The reasons that stand in an expression: the whole of it, or on either side of a condition."""
    match value:
        case ast.Constant(value=str(text)):
            if REASON.fullmatch(text):
                yield text
        case ast.IfExp():
            yield from literals(value.body)
            yield from literals(value.orelse)


def positions() -> dict[str, set[int]]:
    """Of every function and class that takes a `reason`: its name, and where among the arguments the reason stands."""
    classes = [node for node in nodes() if isinstance(node, ast.ClassDef)]
    methods = {id(item): cls for cls in classes for item in cls.body}
    found: dict[str, set[int]] = defaultdict(set)
    for node in nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            cls = methods.get(id(node))
            names = [argument.arg for argument in node.args.args]
            name = cls.name if cls and node.name == "__init__" else node.name
            names = names[1:] if cls else names
        elif isinstance(node, ast.ClassDef):  # the fields of a dataclass or a NamedTuple
            names = [ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)]
            name = node.name
        else:
            continue
        if "reason" in names:
            found[name].add(names.index("reason"))
    for _ in range(4):  # as deep as errors inherit from one another
        for cls in classes:
            for base in cls.bases:
                found[cls.name] |= found.get(ast.unparse(base), set())
    return found


def given() -> set[str]:
    """Every reason that the code passes as one, assigns or returns before its message."""
    places = positions()
    found: set[str] = set()
    for node in nodes():
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super"))), args=[first, _]):
                found.update(literals(first))
            case ast.Call(func=func, args=args, keywords=keywords):
                name = func.attr if isinstance(func, ast.Attribute) else ast.unparse(func)
                for position in places.get(name, ()):
                    found.update(literals(args[position] if position < len(args) else None))
                for keyword in keywords:
                    if keyword.arg == "reason":
                        found.update(literals(keyword.value))
            case ast.Assign(targets=[ast.Name(id="reason")], value=value):
                found.update(literals(value))
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for target, value in zip(names, values, strict=True):
                    if ast.unparse(target) == "reason":
                        found.update(literals(value))
            case ast.arguments(args=names, defaults=defaults):
                for argument, value in zip(reversed(names), reversed(defaults), strict=False):
                    if argument.arg == "reason":
                        found.update(literals(value))
            case ast.Return(value=ast.Tuple(elts=[first, _])):
                found.update(literals(first))
    return found


def documented() -> list[str]:
    """The reasons in the first column of the document's tables."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/protocol/errors.md").read_text(), re.MULTILINE)
    return [reason for cell in rows for reason in re.findall(r"`([A-Z0-9_]+)`", cell)]


def test_the_collector_knows_the_ways_in_which_reasons_are_given() -> None:
    direct, inherited, by_helper = "HEAD_FORK", "PROFILE_BUSY", "VAULT_BUSY"
    default, by_super, returned, chosen = "CONFIG_INVALID", "PIPE_BROKEN", "HEAD_OTHER_ROOT", "LOG_UNAVAILABLE"
    assigned_beside_another = "UNREACHABLE"
    ways = {direct, inherited, by_helper, default, by_super, returned, chosen, assigned_beside_another}
    assert ways <= given()


def test_every_reason_is_documented() -> None:
    assert sorted(given() - set(documented())) == []


def test_no_reason_is_documented_that_the_code_does_not_give() -> None:
    assert sorted(set(documented()) - given()) == []


def test_each_reason_is_documented_once() -> None:
    names = documented()
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
