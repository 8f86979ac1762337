"""`ipls witness`: what somebody does who is to run one: a key in a token, a state to begin with.

Tested by tests/admin/test_witness.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from ipls.admin import witness
from ipls.config import ConfigError, load_trust_root, load_witnesses

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
    chosen = load_witnesses(config).named(name)
    if chosen.token is None:
        raise ConfigError(f"{config}: witness {chosen.name} has no token")
    print(witness.make_key(chosen.token.place, chosen.token.pin, label).hex())


@app.command()
def genesis(config: Settings, name: Name = None) -> None:
    """Make the state of a new witness, which starts where the trust root does. Done before, it changes nothing.

    Never for a key that has signed before: a witness that lost its state, or has it from a backup, gets a new key.
    """
    settings = load_witnesses(config)
    chosen, root = settings.named(name), load_trust_root(settings.trust_root)
    witness.genesis(chosen, root)
    print(f"{chosen.database}: witness {chosen.name} starts at epoch {root.start_epoch} of {root.namespace}")
