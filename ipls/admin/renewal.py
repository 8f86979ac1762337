"""`ipls keys renew`: certificates, the trust root and the bundle anew, by the keys that lie here.

Each step is one file that is replaced, whole; a crash between two leaves what the next renewal goes on with. A draft
that a witness has signed lies beside what it renews, as `.next`, until it is in use: there is no second one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ipls.admin.bundles import countersign_as, next_bundle, put_in_use, read_bundle
from ipls.admin.certificates import certificate_window_ms, renew_certificate, tls_files_of
from ipls.admin.expiry import Ending, bundle_endings, trust_root_endings
from ipls.admin.trust_roots import Draft, append_version, sign_version
from ipls.admin.witness import write_signature
from ipls.config import Config, load_trust_root, load_trust_version
from ipls.errors import IplsError
from ipls.store.files import replace
from ipls.trust.bundle import bundle_head
from ipls.trust.chain import successor
from ipls.trust.root import encode_trust_root
from ipls.units import date

DAYS = 365
"""For which a new version of the trust root is good, and with it the windows of the bundle's HSMs."""


class Renewed(NamedTuple):
    """What was renewed and until when, or why not."""

    what: str
    text: str
    failed: bool = False

    @property
    def needs_restart(self) -> bool:
        """Services read the trust root when they start, and all else as they go."""
        return self.what == "trust root" and not self.failed


def renew(config: Config, folder: Path, now_ms: int, *, early: bool = False) -> list[Renewed]:
    """Renew what three quarters of its time are over of; with `early`, all. `folder` is the one of `ipls.toml`.

    What can't be renewed here, as its keys are elsewhere, is among what is returned, and the rest goes on.
    """
    done = list(_certificates(config, now_ms, early=early))
    if early or _any_due(lambda: trust_root_endings(config.trust_root), now_ms):
        done.append(_attempt("trust root", lambda: _trust_root(config, now_ms)))
    early = early or any(each.needs_restart for each in done)  # a bundle names the rules of the trust root
    if early or _any_due(lambda: bundle_endings(config.vault.bundle), now_ms):
        done.append(_attempt("bundle", lambda: _bundle(config, folder / "keys/operator.key", now_ms)))
    return done


def _any_due(endings: Callable[[], Iterator[Ending]], now_ms: int) -> bool:
    """What can't be read is: the attempt says why."""
    try:
        return any(ending.due(now_ms) for ending in endings())
    except (OSError, IplsError):
        return True


def _attempt(what: str, step: Callable[[], str]) -> Renewed:
    try:
        return Renewed(what, step())
    except (OSError, IplsError) as error:
        return Renewed(what, str(error), failed=True)


def _certificates(config: Config, now_ms: int, *, early: bool) -> Iterator[Renewed]:
    """The CA's before those that it signs."""
    cas = {tls.certificate: tls.ca for _, tls in tls_files_of(config)}
    cas |= {ca: ca for ca in cas.values()}
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
    if not draft.exists() or draft.read_bytes() == old.file:  # the latter: published, then the machine died
        replace(draft, encode_trust_root(Draft(old, days=DAYS, now_ms=now_ms).made()))
    new = successor(old, draft.read_bytes())
    pinned = {witness.name for witness in new.root.witnesses}
    signatures = [
        write_signature(draft, witness.name, sign_version(witness, old, new, now_ms))
        for witness in config.witnesses
        if witness.name in pinned
    ]
    append_version(config.trust_root, draft, signatures, now_ms)
    for file in (*signatures, draft):
        file.unlink()
    return f"number {new.root.number}, good until {date(new.root.expires_ms)}"


def _bundle(config: Config, operator_key: Path, now_ms: int) -> str:
    """The next one, the same but for its time and the windows of its HSMs, which end with the trust root."""
    root, old = load_trust_root(config.trust_root), read_bundle(config.vault.bundle)
    draft = config.vault.bundle.with_suffix(".next")
    if not draft.exists() or bundle_head(read_bundle(draft)) == bundle_head(old):
        replace(draft, next_bundle(config, operator_key, now_ms=now_ms).SerializeToString())
    signed = read_bundle(draft)
    pinned = {witness.name for witness in root.witnesses}
    signed.cosignatures.extend(
        countersign_as(witness, root, signed, old, now_ms) for witness in config.witnesses if witness.name in pinned
    )
    bundle = put_in_use(config, signed, now_ms=now_ms)
    draft.unlink()
    return f"number {bundle.number}, good until {date(bundle.expires_ms)}"
