"""The public names with their signatures, as the sources have them; `python -m tests.api.public` records them anew."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RECORDED = Path(__file__).parent / "public.txt"
PACKAGES = ("ipls.client", "ipls.akd", "ipls.trust", "ipls.auditlog", "ipls.contacts")


def public() -> str:
    """A line for each function, class, method, field and constant, by package."""
    return "".join(f"{line}\n" for package in PACKAGES for line in _package(package))


def _package(package: str) -> Iterator[str]:
    tree = _parsed(ROOT / package.replace(".", "/") / "__init__.py")
    home = {
        alias.name: statement.module
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
    for name in _exported(tree):
        module = _parsed(ROOT / f"{home[name].replace('.', '/')}.py")
        yield from _definition(f"{package}.{name}", next(each for each in module.body if _defines(each, name)))


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _exported(tree: ast.Module) -> list[str]:
    (names,) = (each.value for each in tree.body if isinstance(each, ast.Assign) and _defines(each, "__all__"))
    found: list[str] = ast.literal_eval(names)
    return found


def _defines(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return statement.name == name
    return isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]


def _definition(name: str, statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.ClassDef():
            yield f"class {name}({', '.join(map(ast.unparse, statement.bases))})"
            for each in statement.body:
                yield from _member(name, each)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            decorators = "".join(f"@{ast.unparse(each)} " for each in statement.decorator_list)
            kind = "async def" if isinstance(statement, ast.AsyncFunctionDef) else "def"
            returns = f" -> {ast.unparse(statement.returns)}" if statement.returns else ""
            yield f"{decorators}{kind} {name}({ast.unparse(statement.args)}){returns}"
        case ast.Assign():
            yield f"{name} = {ast.unparse(statement.value)}"


def _member(owner: str, statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.AnnAssign() if not (field := ast.unparse(statement.target)).startswith("_"):
            default = f" = {ast.unparse(statement.value)}" if statement.value else ""
            yield f"{owner}.{field}: {ast.unparse(statement.annotation)}{default}"
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name == "__init__" or name[0] != "_":
            yield from _definition(f"{owner}.{name}", statement)


if __name__ == "__main__":
    RECORDED.write_text(public())
