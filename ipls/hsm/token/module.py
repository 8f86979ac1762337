"""Any PKCS#11 module through python-pkcs11: tokens initialised and opened, objects found, and what a secret is like.

A module may run without locking here (C_Initialize without arguments): one thread of one process uses a token, opened
after any fork, one at a time.

Tested by tests/hsm/token/test_pkcs11.py and tests/hsm/token/test_check.py.
"""

import ctypes
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass
from pkcs11.attributes import AttributeMapper

from ipls.config import ConfigError, TokenConfig

POINT_HEADER = b"\x04\x41"
"""DER: an OCTET STRING of 65 bytes, a point of P-256."""
_HEADERS = {67: POINT_HEADER, 34: b"\x04\x20"}  # by the length with it; a key of Ed25519 has 32 bytes
FUNCTIONS = 68
INIT_TOKEN = 9
"""Of CK_FUNCTION_LIST: how many functions, and which one."""

P = ParamSpec("P")
T = TypeVar("T")

TokenFailed = pkcs11.PKCS11Error
"""What a token, or its module, raises."""


class _FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST of PKCS #11 2.40, which every later module has as well."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * FUNCTIONS))


def initialise(place: TokenConfig) -> Any:
    """The token's module, begun anew: it reads its environment now, and forgets every open session."""
    os.environ.update(place.environment)
    library = pkcs11.lib(str(place.module))
    library.reinitialize()
    return library


def init_token(place: TokenConfig, library: Any, pin: str) -> None:
    """Initialises the token in the first slot, all of it, and sets the user's PIN. Raises pkcs11.PKCS11Error."""
    officer_pin = secrets.token_hex(16)  # not kept: nobody is to set another user PIN
    (slot, *_) = library.get_slots()
    # python-pkcs11 has no C_InitToken, and tools take PINs on their command line.
    label = place.label.ljust(32).encode()
    result = call(place, INIT_TOKEN, slot.slot_id, officer_pin.encode(), len(officer_pin), label)
    if result != 0:
        raise pkcs11.PKCS11Error(f"C_InitToken: 0x{result:x}")
    with library.get_token(token_label=place.label).open(rw=True, so_pin=officer_pin) as session:
        session.init_pin(pin)


def call(place: TokenConfig, function: int, *arguments: int | bytes | ctypes.Structure) -> int:
    """Calls the function of this place in the list, past python-pkcs11; what it returns, a CK_RV."""
    table = ctypes.POINTER(_FunctionList)()
    if ctypes.CDLL(str(place.module)).C_GetFunctionList(ctypes.byref(table)) != 0:
        raise pkcs11.PKCS11Error("C_GetFunctionList")
    kinds = [ctypes.c_ulong if isinstance(argument, int) else ctypes.c_void_p for argument in arguments]
    values = [ctypes.byref(argument) if isinstance(argument, ctypes.Structure) else argument for argument in arguments]
    function_type = ctypes.CFUNCTYPE(ctypes.c_ulong, *kinds)
    result: int = function_type(table.contents.functions[function])(*values)
    return result


def open_session(place: TokenConfig, library: Any, pin: str) -> Any:
    """Logged in, to read and write. Closing the session that logged in logs every session out."""
    return library.get_token(token_label=place.label).open(rw=True, user_pin=pin, attribute_mapper=_mapper())


@contextmanager
def usable() -> Iterator[None]:
    """Raises ConfigError TOKEN_UNUSABLE for whatever ends the work with a token."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise ConfigError(
            f"the token can't be used: {type(error).__name__} {error}".strip(), "TOKEN_UNUSABLE"
        ) from error


def until_free(ask: Callable[P, T]) -> Callable[P, T]:
    """Done again, for a second, where the token refuses as it does while another process writes to it, or destroys what
    is being looked at: a second time it must come to the same."""

    @wraps(ask)
    def ask_again(*arguments: P.args, **named: P.kwargs) -> T:
        for pause_s in _PAUSES_S:
            with suppress(*_BUSY):
                return ask(*arguments, **named)
            time.sleep(pause_s)  # the other process says to nobody that it is through
        return ask(*arguments, **named)

    return ask_again


_BUSY = (pkcs11.DeviceMemory, pkcs11.GeneralError, pkcs11.ObjectHandleInvalid)
"""CKR_DEVICE_MEMORY is kryoptic's where its SQLite file is locked (C_CreateObject, C_FindObjectsInit and
C_GetAttributeValue, measured); CKR_GENERAL_ERROR its, and CKR_OBJECT_HANDLE_INVALID SoftHSM's, for an object that the
other process has destroyed since it was found."""
_PAUSES_S = [0.001 * 2**n for n in range(10)]


def find(session: Any, kind: ObjectClass, label: str) -> list[Any]:
    """The objects of this kind and label."""
    # Unfiltered, the search raises on the empty object files that a crash of SoftHSM can leave behind.
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label}))


def labelled(session: Any, labels: Iterable[str]) -> list[Any]:
    """The objects of every kind with one of these labels."""
    return [found for label in labels for found in session.get_objects({Attribute.LABEL: label})]


def hidden(mechanism: Mechanism) -> dict[Attribute, Any]:
    """The template of a secret that never leaves the token and serves one mechanism."""
    return {
        Attribute.ALLOWED_MECHANISMS: [mechanism],
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.MODIFIABLE: False,  # last: SoftHSM sets one after the other
    }


def raw_point(encoded: bytes) -> bytes:
    """A P-256 or Ed25519 public key's CKA_EC_POINT without its DER header, which some modules leave out."""
    return encoded.removeprefix(_HEADERS.get(len(encoded), b""))


def _mapper() -> AttributeMapper:
    def pack(mechanisms: Sequence[int]) -> bytes:
        return struct.pack(f"{len(mechanisms)}L", *mechanisms)

    mapper = AttributeMapper()
    mapper.register_handler(
        Attribute.ALLOWED_MECHANISMS, pack, lambda data: [mechanism for (mechanism,) in struct.iter_unpack("L", data)]
    )
    return mapper
