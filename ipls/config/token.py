"""A PKCS#11 token, as the vault's and a witness's tables name it.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path

from pydantic import Field

from ipls.config.base import Model


class TokenConfig(Model):
    """An initialised token of a PKCS#11 module."""

    module: Path
    """The module's shared library."""
    label: str
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables that the module reads its own settings from."""
