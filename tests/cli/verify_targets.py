"""Fuzz targets: files with a proof, as `ipls verify` takes them."""

import io
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from ipls.cli import verify
from ipls.cli.status import REFUSED
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from ipls.trust.root import encode_trust_root
from tests.cli import test_verify_files
from tests.fuzz.target import Target, folder, serialized, target


class _Refused(Exception):
    """`ipls verify` ended as it does for a file that proves nothing."""


def _verified(kind: str, seed: LabelProof) -> Target:
    """A file that anybody may hand over; what is printed has no control characters."""
    path, trust = folder() / "file", folder() / "trust.toml"
    trust.write_bytes(encode_trust_root(test_verify_files.ROOT))

    def run(data: bytes) -> None:
        path.write_bytes(data)
        said = io.StringIO()
        try:
            # A buffer of the largest size is taken whatever the file's.
            with patch.object(verify, "MAX_PROOF", 64 * 1024), redirect_stdout(said), redirect_stderr(said):
                getattr(verify, kind)(path, trust)
        except SystemExit as e:
            if e.code != REFUSED:
                raise
            raise _Refused from e
        finally:
            assert said.getvalue().replace("\n", "").isprintable()

    return Target(run, (_Refused,), serialized(seed), weight=4)


@target("file with a lookup")
def _() -> Target:
    return _verified("lookup", test_verify_files.lookup(2))


@target("file with a history")
def _() -> Target:
    return _verified("history", test_verify_files.history(2, 1))
