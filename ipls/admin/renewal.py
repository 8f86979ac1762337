"""`ipls keys renew`: certificates, the trust root and the bundle anew, by the keys that lie here.

Each step is one file that is replaced, whole; a crash between two leaves what the next renewal goes on with. A draft
that a witness has signed lies beside what it renews, as `.next`, until it is in use: there is no second one.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ipls.admin.bundles import countersign_as, next_bundle, put_in_use, read_bundle
from ipls.admin.certificates import certificate_window_ms, renew_certificate, tls_files_of
from ipls.admin.directory import opened
from ipls.admin.expiry import Ending, bundle_endings, certificate_endings, trust_root_endings
from ipls.admin.health import check_free
from ipls.admin.trust_roots import Draft, append_version, sign_version
from ipls.admin.witness import signer_for, write_signature
from ipls.config import Config, ConfigError, WitnessConfig, load_trust_root, load_trust_version
from ipls.errors import IplsError
from ipls.hsm.token.signing import witness_signers
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.files import write_new
from ipls.store.witness import open_witness_store
from ipls.trust.bundle import fleet_namespace, parse_bundle
from ipls.trust.chain import successor
from ipls.trust.heads import quorum_timestamp
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot, encode_trust_root
from ipls.units import DAY_MS, date

DAYS = 365
"""For which a new version of the trust root is good, and with it the windows of the bundle's HSMs."""
FAR_MS = DAY_MS
"""Between the clock and the newest head. What a clock that is wrong renews is not good once it is right again."""


class Renewed(NamedTuple):
    """What was renewed and until when, or why not."""

    what: str
    text: str
    failed: bool = False

    @property
    def needs_restart(self) -> bool:
        """Services read the trust root when they start, and all else as they go."""
        return self.what == "trust root" and not self.failed


def renew(config: Config, folder: Path, now_ms: int, *, early: bool = False, restarting: bool = False) -> list[Renewed]:
    """Renew what three quarters of its time are over of; with `early`, all. `folder` is the one of `ipls.toml`.

    A bundle that names the rules of a newer trust root than the vault runs by waits, unless that is being started anew
    (`restarting`): a device would meet two kinds of rules. What can't be renewed here, as its keys are elsewhere, is
    among what is returned, and the rest goes on.
    """
    with _alone(folder) as alone:
        if not alone:
            return [Renewed("renewal", "another one is at work here: run this again when it has ended", failed=True)]
        done = list(_certificates(config, now_ms, early=early))
        if early or _any_due(lambda: trust_root_endings(config.trust_root), now_ms):
            done.append(_attempt("trust root", lambda: _trust_root(config, now_ms)))

        def bundle() -> str:
            if _has_other_rules(config) and not restarting:
                _check_vault_is_off(config)
            return _bundle(config, folder / "keys/operator.key", now_ms)

        def is_due() -> bool:
            return _has_other_rules(config) or _any_due(lambda: bundle_endings(config.vault.bundle), now_ms)

        if early or is_due():
            done.append(_attempt("bundle", bundle))
            if not done[-1].failed and is_due():  # a draft was finished, of the rules before or as old
                done.append(_attempt("bundle", bundle))
        return done


def renew_unasked(config: Config, folder: Path, now_ms: int, *, jumped_ms: int, restarting: bool) -> list[Renewed]:
    """`renew` where nobody has looked at the clock, which was set by `jumped_ms` since the caller began: nothing, if
    something is due by a time far from that of the newest head."""
    head_ms = _newest_head_ms(config)
    apart_ms = max(abs(jumped_ms), abs(now_ms - head_ms) if head_ms else 0)
    if apart_ms > FAR_MS and _any_due(lambda: _endings(config), now_ms):
        seen = f"; the newest head was signed on {date(head_ms)}" if head_ms else ""
        text = f"by this machine's clock it is {date(now_ms)}{seen}: if the clock is right, run `ipls keys renew`"
        return [Renewed("renewal", text, failed=True)]
    return renew(config, folder, now_ms, restarting=restarting)


def _endings(config: Config) -> Iterator[Ending]:
    trust_root, bundle = trust_root_endings(config.trust_root), bundle_endings(config.vault.bundle)
    return chain(certificate_endings(config), trust_root, bundle)


def _newest_head_ms(config: Config) -> int:
    """When a quorum had signed the newest head that the directory has; 0 where it can't be known."""
    try:
        root = load_trust_root(config.trust_root)
        with opened(config) as store:
            head = store.head()
        signed = SignedHead.FromString(head.signed if head else b"")
        return quorum_timestamp(root, signed, now_ms=MAX_INT, check_age=False)
    except (OSError, IplsError):
        return 0


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else renews here, for as long as the block."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _has_other_rules(config: Config) -> bool:
    """Whether an HSM of the bundle is to judge by other rules than the newest trust root's."""
    try:
        digest = load_trust_root(config.trust_root).policy_digest
        return any(hsm.policy_digest != digest for hsm in parse_bundle(read_bundle(config.vault.bundle).bundle).hsms)
    except (OSError, IplsError):
        return False  # the attempt says why


def _check_vault_is_off(config: Config) -> None:
    """Raises ConfigError."""
    try:
        check_free("vault", config.vault.listen)
    except ConfigError:
        raise ConfigError(
            "it names the rules of the newest trust root, and the vault runs by those before: restart `ipls serve all`,"
            " which renews it then; without it restart the witnesses, end the vault, run this again, start vault and"
            " directory"
        ) from None


def _any_due(endings: Callable[[], Iterator[Ending]], now_ms: int) -> bool:
    """What can't be read is: the attempt says why."""
    try:
        return any(ending.due(now_ms) for ending in endings())
    except (OSError, IplsError):
        return True


def _attempt(what: str, step: Callable[[], str]) -> Renewed:
    try:
        return Renewed(what, step())
    except OSError as error:
        return Renewed(what, f"{error.filename}: {error.strerror}", failed=True)
    except IplsError as error:
        return Renewed(what, str(error), failed=True)


def _certificates(config: Config, now_ms: int, *, early: bool) -> Iterator[Renewed]:
    """The CA's before those that it signs: the services', and those beside it with their keys, as a router's."""
    cas = {tls.certificate: tls.ca for _, tls in tls_files_of(config)}
    for ca in set(cas.values()):
        cas |= {file: ca for file in ca.parent.glob("*.pem") if file.with_suffix(".key").exists()}
        cas[ca] = ca
    for file in sorted(cas, key=lambda file: file != cas[file]):

        def step(file: Path = file) -> str:
            renew_certificate(file, cas[file], now_ms)
            return f"good until {date(certificate_window_ms(file)[1])}"

        try:
            begin_ms, end_ms = certificate_window_ms(file)
            due = Ending("", "", end_ms, end_ms - begin_ms).due(now_ms)
        except (OSError, IplsError):
            due = True
        if early or due:
            yield _attempt(f"certificate {file.name}", step)


def _trust_root(config: Config, now_ms: int) -> str:
    """The next version, the same but for its time and that of the keys that ended with the one before."""
    old = load_trust_version(config.trust_root)
    draft = config.trust_root.with_suffix(".next")
    witnesses, signed_before = _witnesses_here(config, old.root, old.namespace, old.root.number + 1, now_ms)
    if not signed_before:
        draft.unlink(missing_ok=True)
    if not draft.exists():
        write_new(draft, encode_trust_root(Draft(old, days=DAYS, now_ms=now_ms).made()))
    new = successor(old, draft.read_bytes())
    signatures = [
        write_signature(draft, witness.name, sign_version(witness, old, new, now_ms)) for witness in witnesses
    ]
    append_version(config.trust_root, draft, signatures, now_ms)
    for file in (*signatures, draft):
        file.unlink()
    return f"number {new.root.number}, good until {date(new.root.expires_ms)}"


def _bundle(config: Config, operator_key: Path, now_ms: int) -> str:
    """The next one, the same but for its time and the windows of its HSMs, which end with the trust root."""
    root, old = load_trust_root(config.trust_root), read_bundle(config.vault.bundle)
    draft = config.vault.bundle.with_suffix(".next")
    number = parse_bundle(old.bundle).number + 1
    witnesses, signed_before = _witnesses_here(config, root, fleet_namespace(root), number, now_ms)
    if not signed_before:
        draft.unlink(missing_ok=True)
    if not draft.exists():
        write_new(draft, next_bundle(config, operator_key, now_ms=now_ms).SerializeToString())
    signed = read_bundle(draft)
    signed.cosignatures.extend(countersign_as(witness, root, signed, old, now_ms) for witness in witnesses)
    bundle = put_in_use(config, signed, now_ms=now_ms)
    draft.unlink()
    return f"number {bundle.number}, good until {date(bundle.expires_ms)}"


def _witnesses_here(
    config: Config, root: TrustRoot, namespace: str, number: int, now_ms: int
) -> tuple[list[WitnessConfig], bool]:
    """Those of the trust root that can sign here, and whether one has signed a document of this number before: only
    then is a draft of it another's than this renewal's.

    A witness signs one document a number for ever, so none signs what no quorum will: raises ConfigError then.
    """
    here, signed_before, pinned = list[WitnessConfig](), False, {witness.name for witness in root.witnesses}
    for witness in config.witnesses:
        if witness.name not in pinned:
            continue
        try:
            with (
                witness_signers(witness) as signers,
                closing(open_witness_store(witness.database, root.namespace, witness.watermark)) as store,
            ):
                signer_for(witness.name, signers, [root], now_ms)
                store.check_restored()
                signed_before |= store.has_signed(namespace, number)
        except (OSError, IplsError):
            continue
        here.append(witness)
    if len(here) < root.k:
        others = ", ".join(sorted(pinned - {witness.name for witness in here}))
        raise ConfigError(
            f"{root.k} witnesses are to sign it, and {len(here)} can here: have it signed by who runs {others}, by hand"
            " (docs/operations.md)"
        )
    return here, signed_before
