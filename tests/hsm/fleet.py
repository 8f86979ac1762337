"""Several vaults of one fleet: their tokens share storage root and log key, as after a ceremony."""

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from pkcs11 import Attribute, Mechanism, MechanismFlag, ObjectClass

from ipls.hsm.token import module
from ipls.hsm.token.pkcs11 import HsmToken, TokenKeys, make_pair, token_at
from ipls.proto.vault.v1.vault_pb2 import Bundle, Hsm
from ipls.trust.bundle import bundle_head
from tests.hsm.rig import Rig
from tests.hsm.tokens import PIN


def another_host(rig: Rig, folder: Path, *, shard: int) -> Rig:
    """Of the same fleet and directory, with a token and a database of its own."""
    folder.mkdir()
    for name in (
        "trust.toml",
        "pin",
        "ca.pem",
        "server.pem",
        "server.key",
        "reader.pem",
        "reader.key",
        "router.pem",
        "router.key",
    ):
        shutil.copy(rig.folder / name, folder)
    other = object.__new__(Rig)
    other.__dict__ |= rig.__dict__
    other.folder = folder
    other.token = folder / "token"
    other.tokens = _copied(rig.folder / "token", folder / "token")
    with socket.create_server(("127.0.0.1", 0)) as free:
        other.address = f"127.0.0.1:{free.getsockname()[1]}"
    other.shard = shard
    other.configure()
    return other


def _copied(source: Path, target: Path) -> TokenKeys:
    """A token with the same secrets, keys of its own in the place of the pairs, and no anchor."""
    shutil.copytree(source, target)
    conf = target / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(source), str(target)))
    place = token_at(target)
    library = module.initialise(place)
    with module.open_session(place, library, PIN) as session:
        for found in module.labelled(session, ("fleet", "transport")):
            found.destroy()
        for found in session.get_objects({Attribute.CLASS: ObjectClass.DATA}):
            found.destroy()
        make_pair(session, MechanismFlag.SIGN, Mechanism.ECDSA, "fleet")
        make_pair(session, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE, "transport")
    library.finalize()
    token = HsmToken.open(target, PIN)
    token.close()
    return TokenKeys(token.public_point, token.transport_point, token.profile)


def write_bundle(fleet: Sequence[tuple[Rig, Sequence[int]]]) -> None:
    """The fleet's next bundle, for each of its vaults: the shards of each."""
    first = fleet[0][0]
    bundle = Bundle.FromString(first.bundle.SerializeToString())
    bundle.number, bundle.previous = first.bundle.number + 1, bundle_head(first.signed_bundle).root_hash
    hsm = bundle.hsms[0].SerializeToString()
    del bundle.hsms[:]
    for rig, shards in fleet:
        own = Hsm.FromString(hsm)
        own.public_key, own.transport_key = rig.tokens.public_point, rig.tokens.transport_point
        own.shards[:] = shards
        bundle.hsms.append(own)
    first.sign_bundle(bundle)
    for rig, _ in fleet:
        rig.signed_bundle, rig.bundle = first.signed_bundle, first.bundle
        (rig.folder / "bundle.pb").write_bytes(first.signed_bundle.SerializeToString())
