"""Every exception that ipls defines has one ancestor."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from ipls.errors import IplsError

ROOT = Path(__file__).parent.parent


def below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for cls in kind.__subclasses__():
        yield cls
        yield from below(cls)


def test_every_exception_is_an_ipls_error() -> None:
    for file in (ROOT / "ipls").rglob("*.py"):
        import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    ours = {cls for cls in below(BaseException) if cls.__module__.startswith("ipls.")}
    assert IplsError in ours
    assert sorted(cls.__name__ for cls in ours if not issubclass(cls, IplsError)) == []


def test_its_text_is_its_message() -> None:
    error = IplsError("SOME_REASON", "some text", retry_after_s=2)
    assert (str(error), error.reason, error.message, error.retry_after_s) == (
        "some text",
        "SOME_REASON",
        "some text",
        2,
    )
    assert IplsError("SOME_REASON", "some text").retry_after_s is None
