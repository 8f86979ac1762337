"""Other people's keys: asked of the directory when they are used and at each sync, and remembered, so that one that
changes, or that the directory shows otherwise than before, is noticed (docs/protocol/contacts.md, Contacts' keys).

Whoever is asked about, the directory learns the number of.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from ipls.client.directory import DirectoryReader, Newest
from ipls.client.errors import ProfileError, RefusedError, TryLaterError
from ipls.client.events import ContactIdentityChanged, ContactIdentityDiffers, ContactIdentityUnproved, Report
from ipls.client.profile import ContactIdentity, Discovery, Profile
from ipls.contacts.cards.numbers import comparable_number, country_of
from ipls.contacts.cards.reading import read_card
from ipls.contacts.envelope import Verified
from ipls.contacts.whole import fits
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import KEY_BYTES
from ipls.trust.identity import check_label
from ipls.trust.safety import Comparison, Party, SafetyNumber
from ipls.units import DAY_MS

PATIENCE_S = 5.0
"""With the directory, about one number."""
ROUND_S = 30.0
"""The longest that a sync waits for all of them: who was not reached is first at the next."""
MAX_SILENT = 2
"""Numbers in a row without an answer: then the directory is away."""
OVERDUE_MS = 7 * DAY_MS
"""A key in use that was not proved for so long is told of."""
DISCOVERED_A_DAY = 500
"""Of the other contacts, where the person has switched that on: a quarter of what the directory lets an account ask."""
DISCOVERED_AGAIN_MS = 30 * DAY_MS

# What the directory has against this device: about nobody is there an answer now.
_ABOUT_THIS_DEVICE = {"CALL_QUOTA", "DEVICE_UNLISTED", "IDENTITY_SUPERSEDED", "LABEL_QUOTA", "READER_UNKNOWN"}


class IdentityRound(NamedTuple):
    """What a sync found: `asked` numbers, whose keys changed, for whom the directory's answer did not hold (number and
    reason), how many are left for the next, and why (a reason; empty if none is)."""

    asked: int
    changed: list[ContactIdentity]
    unproved: list[tuple[str, str]]
    left: int
    stopped: str


class ContactIdentities:
    """Of one open profile. Raises ProfileError, RefusedError, TryLaterError; a refused answer changes nothing."""

    def __init__(
        self,
        profile: Profile,
        namespace: str,
        reader: Callable[[], Awaitable[DirectoryReader]],
        *,
        now_ms: Callable[[], int],
        report: Report,
    ) -> None:
        """`reader`: by the newest trust root."""
        self._profile = profile
        self._namespace = namespace
        self._reader = reader
        self._now_ms = now_ms
        self._report = report

    def known(self) -> list[ContactIdentity]:
        """Everybody who was asked about, by number."""
        return sorted(self._profile.contact_identities())

    def changed(self) -> list[ContactIdentity]:
        """Whose key is not the one that the person knows of; told until it is acknowledged."""
        return [identity for identity in self.known() if identity.changed]

    def overdue(self) -> list[ContactIdentity]:
        """Whose key is in use, and was not proved for OVERDUE_MS: no answer, or none that held."""
        since = self._now_ms() - OVERDUE_MS
        return [each for each in self.known() if each.in_use and max(each.since_ms, each.proved_ms) < since]

    def verified(self, label: str) -> bool:
        """Whether a person compared the key that the number has now."""
        identity, verified = self._profile.contact_identity(label), self._profile.verified(label)
        return bool(identity and verified and identity.public_key == verified.public_key)

    async def use(self, label: str) -> ContactIdentity:
        """The number's key, asked now; from here on each sync asks for it too, until `forget`.

        Raises ProfileError: LABEL_INVALID; SAFETY_NUMBER_INVALID for the own one.
        """
        if _checked(label) == self._profile.account.label:
            raise ProfileError("SAFETY_NUMBER_INVALID", "that is this account's own number")
        asked = self._known(label)._replace(asked_ms=self._now_ms(), in_use=True)
        self._profile.put_contact_identity(asked)
        return await self._ask(await self._reader(), asked)

    def forget(self, label: str) -> bool:
        """No sync asks for it any more; what was known, and that it was compared, goes, on the account's other devices
        too. Whether there was anything. Raises CardError CARD_EDIT_REFUSED, see `whole.fitting`."""
        profile = self._profile
        with profile.transaction():
            kept = [each for each in profile.contacts() if any(v.label == label for v in each.envelope.verified)]
            settings = profile.settings
            in_settings = any(each.label == label for each in settings.verified)
            known = bool(profile.contact_identity(label) or profile.verified(label) or kept or in_settings)
            profile.drop_contact_identity(label)
            profile.put_contacts(each._replace(envelope=each.envelope.without_verified(label)) for each in kept)
            if in_settings:
                profile.put_settings(settings.without_verified(label))
        return known

    def acknowledge(self, label: str, version: int) -> None:
        """The person knows of the number's key of this version: it is told no more, a later one is."""
        identity = self._known(label)
        if identity.acknowledged < version <= identity.version:
            self._profile.put_contact_identity(identity._replace(acknowledged=version))

    async def safety_number(self, label: str) -> SafetyNumber:
        """To be compared with the other person's. Raises RefusedError LABEL_NOT_FOUND for who has no key."""
        return self._number(await self.use(label))

    def compare(self, label: str, scanned: SafetyNumber) -> Comparison:
        """What the other person's says of the key that was proved last. Where it matches, the key is `verified`, and
        kept with the contacts that have the number: on the account's other devices, and after a restore, it is too."""
        identity = self._known(label)
        if not identity.proved_ms:
            raise RefusedError("IDENTITY_UNPROVEN", "no key of this number was proved yet: ask for it first")
        found = self._number(identity).compare(scanned)
        if found is Comparison.MATCHES:
            compared = Verified(label, identity.public_key, identity.version, identity.epoch)
            acknowledged = max(identity.acknowledged, identity.version)
            with self._profile.transaction():
                self._profile.put_verified(compared)
                self._profile.put_contact_identity(identity._replace(in_use=True, acknowledged=acknowledged))
                self._keep_with_contacts(compared)
        return found

    def _keep_with_contacts(self, verified: Verified) -> None:
        """With those who have the number; where nobody has, or one is so large that it would lose a value by it, with
        the settings."""
        profile, country = self._profile, country_of(self._profile.account.label)
        given = [
            each._replace(envelope=each.envelope.with_verified(verified))
            for each in profile.contacts()
            if verified.label in {comparable_number(number, country) for number in read_card(each.card).numbers}
        ]
        fitting = [each for each in given if fits(each.envelope)]
        profile.put_contacts(fitting)
        if not given or len(fitting) < len(given):
            profile.put_settings(profile.settings.with_verified(verified))

    def _claims(self) -> dict[str, list[Verified]]:
        """What people's entries and the settings say was compared, by number: by another device of the account, or by
        this one before it was lost. What is no key of a number is passed over."""
        claims: dict[str, list[Verified]] = {}
        for each in self._profile.verified_in_list():
            sound = _is_label(each.label) and len(each.public_key) == KEY_BYTES and each.version > 0
            if sound and each.label != self._profile.account.label:
                claims.setdefault(each.label, []).append(each)
        return claims

    def _take(self, before: ContactIdentity, newest: Newest, claims: Iterable[Verified]) -> ContactIdentity:
        """Take those that the directory's proof bears out: of the key that the number has, or of an earlier one. One
        that differs is told, and is nothing against the directory: a device of the account may have made it up. One
        of a later epoch waits for that."""
        now, kept = newest.identity, self._profile.verified(before.label)
        for claim in sorted(claims, key=lambda each: each.epoch):
            if claim == kept or claim.epoch > newest.head.epoch:
                continue
            if not now or (claim[1:] != now and not (claim.version < now.version and claim.epoch < now.epoch)):
                self._report(ContactIdentityDiffers(before.label))
            elif kept is None or kept.epoch < claim.epoch:
                kept = claim
                self._profile.put_verified(claim)
                before = before._replace(acknowledged=max(before.acknowledged, claim.version))
        return before

    def discover(self, on: bool) -> None:
        """Whether syncs also find out who of all contacts is on the service; off until the person, who was told that
        the directory learns the numbers by it, switches it on."""
        self._profile.put(Discovery(on))

    async def check(self, numbers: Callable[[], Iterable[str]], *, for_s: float = ROUND_S) -> IdentityRound:
        """Ask for the keys in use, also those that another device of the account had compared, those first that were
        not asked for longest; then, where that is switched on, for some of `numbers`, the contacts'; what is none in
        E.164 is passed over.

        It takes `for_s` seconds at most, and nothing that the directory does or leaves undone makes it raise.
        """
        claims = self._claims()
        for known in map(self._known, claims):
            if not known.in_use:
                self._profile.put_contact_identity(known._replace(in_use=True))
        due = self._due(numbers)
        asked, silent, stopped = 0, 0, ""
        changed: list[ContactIdentity] = []
        unproved: list[tuple[str, str]] = []
        try:
            async with asyncio.timeout(for_s):
                reader = await self._reader() if due else None
                for identity in due:
                    assert reader
                    # Kept before: whoever has no answer is the last of the next round, and keeps nobody else from one.
                    self._profile.put_contact_identity(identity)
                    asked += 1
                    try:
                        found = await self._ask(reader, identity, claims.get(identity.label, ()))
                    except TryLaterError as error:
                        silent += 1
                        if silent == MAX_SILENT:
                            stopped = error.reason
                            break
                        continue
                    except RefusedError as error:
                        if error.reason in _ABOUT_THIS_DEVICE:
                            stopped = error.reason
                            break
                        unproved.append((identity.label, error.reason))
                        self._report(ContactIdentityUnproved(identity.label, error.reason))
                        continue
                    silent = 0
                    if found.changed:
                        changed.append(found)
        except TimeoutError:
            stopped = "DEADLINE_EXCEEDED"
        except (RefusedError, TryLaterError) as error:  # already of the trust root
            stopped = error.reason
        return IdentityRound(asked, changed, unproved, len(due) - asked, stopped)

    def _due(self, numbers: Callable[[], Iterable[str]]) -> list[ContactIdentity]:
        """As they are kept when they are asked for now, in that order."""
        now_ms = self._now_ms()
        known = {identity.label: identity for identity in self._profile.contact_identities()}

        def waited_ms(identity: ContactIdentity) -> int:
            """Since it was asked for; for ever, if that was in the future, by a clock that was wrong."""
            return now_ms - identity.asked_ms if identity.asked_ms <= now_ms else now_ms

        due = [identity for identity in known.values() if identity.in_use]
        discovery = self._profile.get(Discovery)
        others: list[ContactIdentity] = []
        if discovery and discovery.on:
            asked_today = sum(waited_ms(identity) < DAY_MS for identity in known.values() if not identity.in_use)
            labels = {number for number in numbers() if _is_label(number)} - {self._profile.account.label}
            people = (known.get(label, ContactIdentity(label, now_ms)) for label in labels)
            others = [each for each in people if not each.in_use and waited_ms(each) >= DISCOVERED_AGAIN_MS]
            others.sort(key=lambda each: (-waited_ms(each), each.label))
            del others[max(0, DISCOVERED_A_DAY - asked_today) :]
        due.sort(key=lambda each: (-waited_ms(each), each.label))
        return [identity._replace(asked_ms=now_ms) for identity in due + others]

    def _known(self, label: str) -> ContactIdentity:
        return self._profile.contact_identity(label) or ContactIdentity(label, self._now_ms())

    async def _ask(
        self, reader: DirectoryReader, before: ContactIdentity, claims: Iterable[Verified] = ()
    ) -> ContactIdentity:
        """What is proved of it now, kept and told if it changed."""
        newest = await reader.newest_of(before.label, before.proof)
        self._hold_against(before, newest, reader)
        before = self._take(before, newest, claims)
        now_ms = self._now_ms()
        now = before._replace(
            public_key=newest.identity.public_key if newest.identity else b"",
            version=newest.identity.version if newest.identity else 0,
            epoch=newest.identity.epoch if newest.identity else 0,
            head_epoch=newest.head.epoch,
            proof=newest.proof if before.in_use else b"",
            proved_ms=now_ms,
        )
        if now.version != before.version:
            now = now._replace(since_ms=now_ms)
        same = not before.changed and (now.version, now.public_key) == (before.version + 1, before.public_key)
        if not before.acknowledged or not before.in_use or same:
            # There was none that the person relied on, or nobody had another one meanwhile.
            now = now._replace(acknowledged=max(now.version, before.acknowledged))
        self._profile.put_contact_identity(now)
        if now.changed and now.version != before.version:
            verified = self._profile.verified(now.label) is not None
            self._report(ContactIdentityChanged(now.label, now.version, now.epoch, now_ms, before.proved_ms, verified))
        return now

    def _hold_against(self, before: ContactIdentity, newest: Newest, reader: DirectoryReader) -> None:
        """Raises RefusedError HISTORY_REWRITTEN where what is proved now can't follow on what was known."""
        label, identity = before.label, newest.identity
        now = (identity.version, identity.epoch, identity.public_key) if identity else (0, 0, b"")
        known = [((before.version, before.epoch, before.public_key), before.head_epoch)] if before.proved_ms else []
        if verified := self._profile.verified(label):
            known.append(((verified.version, verified.epoch, verified.public_key), verified.epoch))
        for then, newest_until in known:
            if now != then and not (now[0] > then[0] and now[1] > newest_until):
                if newest.proof:
                    reader.contradicted(before.proof, newest.proof)
                message = "the directory proves something else of a contact's key than before"
                raise RefusedError("HISTORY_REWRITTEN", message)

    def _number(self, identity: ContactIdentity) -> SafetyNumber:
        if not identity.public_key:
            raise RefusedError("LABEL_NOT_FOUND", "this number has no account on the service")
        account = self._profile.account
        mine, theirs = Party(account.label, self._profile.identity_key), Party(identity.label, identity.public_key)
        try:
            return SafetyNumber.between(self._namespace, mine, theirs)
        except VerificationError as error:
            raise ProfileError(error.reason, error.message) from error


def _is_label(text: str) -> bool:
    with suppress(VerificationError):
        return bool(check_label(text))
    return False


def _checked(label: str) -> str:
    try:
        return check_label(label)
    except VerificationError as error:
        raise ProfileError(error.reason, error.message) from error
