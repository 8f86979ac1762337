"""Ed25519 keys in a PKCS#11 token, SoftHSM's in a folder or any other module's: private, sensitive, never extractable.

One thread opens the token and does all its work, whoever calls: see `ipls.hsm.token.module`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from ipls.config import ConfigError, TokenConfig, WitnessConfig, read_pin, read_secret
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import SeedSigner, Signer, check_public_key, verify
from ipls.hsm.token import module, softhsm
from ipls.hsm.token.module import raw_point, usable

_NAME = "ipls witness"
_CURVE = {Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}

_T = TypeVar("_T")


class SigningToken:
    """An open token with keys that sign. Close it; one at a time in a process."""

    def __init__(self, place: Path | TokenConfig, pin: str) -> None:
        """Opens what `make_key` made. Raises ConfigError TOKEN_UNUSABLE."""
        self._thread = ThreadPoolExecutor(1)
        self._library: Any = None
        try:
            self._session = self.run(lambda: self._open(softhsm.token_at(place, _NAME), pin))
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _open(self, place: TokenConfig, pin: str) -> Any:
        self._library = module.initialise(place)
        return module.open_session(place, self._library, pin)

    def run(self, work: Callable[[], _T]) -> _T:
        """Does it in the token's thread. Raises ConfigError TOKEN_UNUSABLE for whatever the token refuses."""
        with usable():
            return self._thread.submit(work).result()

    def signer(self, label: str) -> "TokenSigner":
        """The key of this label. Raises ConfigError TOKEN_KEY_MISSING."""
        return self.run(lambda: TokenSigner(self, *self._pair(label)))

    def _pair(self, label: str) -> tuple[Any, bytes]:
        kinds = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        private, public = (module.find(self._session, kind, label) for kind in kinds)
        if len(private) != 1 or len(public) != 1:
            raise ConfigError(f"the token has no key {label}", "TOKEN_KEY_MISSING")
        return private[0], _point(public[0])

    def make_key(self, label: str) -> bytes:
        """A new key of this label; its public half. Raises ConfigError TOKEN_KEY_EXISTS."""

        def make() -> bytes:
            if module.find(self._session, ObjectClass.PRIVATE_KEY, label):
                raise ConfigError(f"the token has a key {label} already", "TOKEN_KEY_EXISTS")
            parameters = self._session.create_domain_parameters(KeyType.EC_EDWARDS, _CURVE, local=True)
            public, _ = parameters.generate_keypair(
                mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                store=True,
                label=label,
                capabilities=MechanismFlag.SIGN,
                private_template=module.hidden(Mechanism.EDDSA),
            )
            return _point(public)

        return self.run(make)

    def close(self) -> None:
        """Ends the PKCS#11 module in this process."""

        def end() -> None:
            if self._library is not None:
                self._library.finalize()

        self._thread.submit(end).result()
        self._thread.shutdown()


class TokenSigner:
    """`ipls.crypto.keys.Signer`."""

    def __init__(self, token: SigningToken, private: Any, public: bytes) -> None:
        self.public_key = public
        self._token = token
        self._private = private

    def sign(self, message: bytes) -> bytes:
        """See `Signer`. What the token makes is verified before it is used: a faulty one gives nothing away."""
        signature: bytes = self._token.run(lambda: self._private.sign(message, mechanism=Mechanism.EDDSA))
        try:
            verify(self.public_key, message, signature)
        except VerificationError as error:
            raise ConfigError("the token made a signature that does not hold", "TOKEN_UNUSABLE") from error
        return signature


def make_token_key(place: Path | TokenConfig, pin: str, label: str) -> bytes:
    """A new key in the token; its public half. A folder is made if it is not there. Raises ConfigError."""
    if isinstance(place, Path) and not place.exists():
        with usable():
            softhsm.create(place, pin, _NAME, lambda session: None)
    token = SigningToken(place, pin)
    try:
        return token.make_key(label)
    finally:
        token.close()


@contextmanager
def witness_signers(config: WitnessConfig) -> Iterator[list[Signer]]:
    """The keys that a witness's configuration names, for as long as the block runs. Raises ConfigError."""
    signers: list[Signer] = [SeedSigner(read_secret(path)) for path in config.key_files]
    if config.token is None:
        yield signers
        return
    token = SigningToken(config.token.place, read_pin(config.token.pin))
    try:
        yield [*signers, *(token.signer(label) for label in config.token.keys)]
    finally:
        token.close()


def _point(public: Any) -> bytes:
    return check_public_key(raw_point(public[Attribute.EC_POINT]))
