"""The CardDAV server of a profile: opened when a client asks for something, let go when none does, so that others have
their turn.

Tested by tests/client/test_dav.py and tests/cli/test_serve_dav.py.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ipls.client.address_book import AddressBook
from ipls.client.addressbook.dav.access import CLIENTS, Access, add_client
from ipls.client.addressbook.dav.server import Request, Response
from ipls.client.addressbook.dav.service import DavService
from ipls.client.errors import ProfileError, SideError
from ipls.client.profile import Profile, exists
from ipls.client.profile_key import KeyAccess
from ipls.clock import system_now_ms

IDLE_S = 1.0
"""So long after its last request it has the profile to itself."""


class DavServer:
    """For one thread, and one more for `admit`. Raises ProfileError PROFILE_ABSENT, and as `Profile`, when it is made;
    later whoever asks is told to come again."""

    def __init__(
        self, folder: Path, key: KeyAccess, *, allow_removals: bool, told: Callable[[SideError], None]
    ) -> None:
        """`told` hears why what clients removed stays in the list."""
        self._folder, self._key, self._allow_removals, self._told = folder, key, allow_removals, told
        self._open: tuple[Profile, DavService] | None = None
        self._was_used = False
        profile = _opened(folder, key)
        try:
            self._access = Access(profile.rows.all(CLIENTS), time.monotonic)
        finally:
            profile.close()

    def admit(self, request: Request) -> str | Response:
        """By a request's head: whose it is, or what refuses it."""
        return self._access.admit(request)

    def handle(self, request: Request) -> Response:
        """The answer to one that was admitted. While it is on its way others may have the profile."""
        try:
            response = self._service().handle(request, lambda href: self._service().resource(href))
        except ProfileError:
            return Response(503, {"Retry-After": "2"})
        return response._replace(body=_as_far_as_open(response.body))

    def was_used(self) -> bool:
        """Whether the profile was asked since this was."""
        was, self._was_used = self._was_used, False
        return was

    def let_go(self) -> None:
        """Have the list take what clients did, and others use the profile."""
        if self._open:
            profile, service = self._open
            self._open = None
            try:
                service.finish()
            finally:
                profile.close()

    def _service(self) -> DavService:
        self._was_used = True
        if self._open is None:
            profile = _opened(self._folder, self._key)
            book = AddressBook(profile, system_now_ms)
            self._open = profile, book.dav_service(allow_removals=self._allow_removals, told=self._told)
        return self._open[1]


def add_dav_client(folder: Path, key: KeyAccess, name: str) -> str:
    """The password of a client, new if it had one. Raises as `DavServer`."""
    profile = _opened(folder, key)
    try:
        return add_client(profile.rows, name)
    finally:
        profile.close()


def _as_far_as_open(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Where another program has the profile by then, the answer ends: cut short it is no XML, and nobody takes it for
    whole."""
    with suppress(ProfileError):
        yield from pieces


def _opened(folder: Path, key: KeyAccess) -> Profile:
    if not exists(folder):
        raise ProfileError("PROFILE_ABSENT", "there is no such profile yet")
    return Profile(folder, key)
