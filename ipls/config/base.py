"""What every service's model is made of, strict: an unknown or missing key is an error that names it.

Tested by tests/config/test_addresses.py.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from ipls.address import parse_address, reachable
from ipls.errors import IplsError


class ConfigError(IplsError):
    """The configuration can't be used; the message says what to do."""

    def __init__(self, message: str, reason: str = "CONFIG_INVALID") -> None:
        super().__init__(reason, message)


def _address(value: str) -> str:
    parse_address(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
"""host:port or [IPv6]:port"""


def _peer(value: str) -> str:
    if reachable(value) != value:
        raise ValueError("0.0.0.0 and [::] are where a service listens; name the host that is asked")
    return value


Peer = Annotated[Address, AfterValidator(_peer)]
"""The same, of a service that is asked: one host's."""


class Model(BaseModel):
    """A table of `ipls.toml`, or the file itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and (not text or "\0" in text) for text in texts):
            raise ValueError("a text that is empty, or has a zero byte in it")
        return value


class TlsFiles(Model):
    """A certificate with its key, and the CA that the other side's certificate must come from."""

    certificate: Path
    key: Path
    ca: Path


def _rebase(model: Model, base: Path) -> Model:
    """Every path in the model, and in the models in it, made absolute against `base`."""
    changes: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, tuple):
            changes[name] = tuple(_rebased(item, base) for item in value)
        else:
            changes[name] = _rebased(value, base)
    return model.model_copy(update=changes)


def _rebased(item: object, base: Path) -> object:
    if isinstance(item, Path):
        return base / item
    return _rebase(item, base) if isinstance(item, Model) else item


def paths(item: object) -> Iterator[Path]:
    """Every path in a model, and in the models in it."""
    match item:
        case Path():
            yield item
        case tuple():
            for each in item:
                yield from paths(each)
        case Model():
            for name in type(item).model_fields:
                yield from paths(getattr(item, name))


def in_home(path: Path) -> Path:
    """The path with the user's home in the place of a `~` at its beginning. Raises ConfigError where there is none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: this user has no home folder; set HOME, or name another place") from error


ModelT = TypeVar("ModelT", bound=Model)


def load_model(path: Path, model: type[ModelT], *, absent: str = "run `ipls init DIR` to make a deployment") -> ModelT:
    """Read a file as this model. Raises ConfigError with one line that names the file and the key at fault; `absent`
    says what to do where there is none."""
    try:
        config = model.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {error.strerror}; {absent}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number too long, nested too deep
        raise ConfigError(f"{path}: {error}") from error
    rebased = _rebase(config, path.resolve().parent)
    assert isinstance(rebased, model)
    return rebased
