"""`ipls witness`: what somebody does who is to run one: a key in a token, a state to begin with."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from ipls.config import ConfigError, load_trust_root, load_witnesses, read_pin
from ipls.store.files import write_new
from ipls.store.witness import init_witness_state

app = typer.Typer(no_args_is_help=True, help="A witness's key in a token, and its beginning.")

Settings = Annotated[
    Path, typer.Option("--config", help="The file with the trust root's path and the witness's table.")
]
Name = Annotated[str | None, typer.Option(help="Which witness, where there are several.")]


@app.command()
def key(
    config: Settings,
    label: Annotated[str, typer.Option(help="The key's name in the token.")],
    name: Name = None,
) -> None:
    """Make a key in the witness's PKCS#11 token, where it stays; print its public half.

    A folder's token, SoftHSM's, is made if it is not there, and its PIN too. For a key in a file: ipls keys new.
    """
    from ipls.hsm.token.signing import make_token_key

    witness = load_witnesses(config).named(name)
    if (token := witness.token) is None:
        raise ConfigError(f"{config}: witness {witness.name} has no token")
    if isinstance(token.place, Path) and not token.place.exists() and not token.pin.exists():
        write_new(token.pin, secrets.token_hex(16).encode() + b"\n")
    print(make_token_key(token.place, read_pin(token.pin), label).hex())


@app.command()
def genesis(config: Settings, name: Name = None) -> None:
    """Make the state of a new witness, which starts where the trust root does. Done before, it changes nothing.

    Never for a key that has signed before: a witness that lost its state, or has it from a backup, gets a new key.
    """
    settings = load_witnesses(config)
    witness = settings.named(name)
    if witness.watermark.exists() and not witness.database.exists():
        raise ConfigError("this witness has signed before and lost its state: it needs a new key", "WITNESS_RESTORED")
    root = load_trust_root(settings.trust_root)
    init_witness_state(witness.database, root)
    print(f"{witness.database}: witness {witness.name} starts at epoch {root.start_epoch} of {root.namespace}")
