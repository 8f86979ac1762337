"""The CardDAV server on an open profile: what is answered, and when book and list are brought together.

Tested by tests/client/addressbook/dav/test_server.py.
"""

from collections.abc import Callable

from ipls.client.addressbook.dav.book import Book, Resource
from ipls.client.addressbook.dav.server import BOOK, Request, Response, answer
from ipls.client.addressbook.plan import Account
from ipls.client.addressbook.sync import ContactList, SyncTerms, sync
from ipls.client.errors import SideError
from ipls.client.rows import Rows

_LISTS = ("sync-collection", "addressbook-query")


class DavService:
    """For one thread at a time, and those whom `Access` lets in."""

    def __init__(
        self,
        rows: Rows,
        contacts: ContactList,
        account: Account,
        now_ms: Callable[[], int],
        *,
        allow_removals: bool = False,
        told: Callable[[SideError], None] = lambda error: None,
    ) -> None:
        """`told` hears why what clients removed stays in the list."""
        self._rows, self._contacts, self._account, self._now_ms = rows, contacts, account, now_ms
        self._terms = SyncTerms(yes=True, allow_removals=allow_removals)
        self._told = told
        self._changed = False

    def handle(self, request: Request, reread: Callable[[str], Resource | None] | None = None) -> Response:
        """The answer; what a client put or removed is in the profile by then. `reread`: see `Book`."""
        if _lists(request):
            self.bring_together()
        response = answer(request, Book(self._rows, self._now_ms(), reread))
        self._changed |= request.method in ("PUT", "DELETE") and response.status < 300
        return response

    def resource(self, href: str) -> Resource | None:
        """What is there."""
        return Book(self._rows, self._now_ms()).resource(href)

    def finish(self) -> None:
        """Have the list take what clients did, if it has not."""
        if self._changed:
            self.bring_together()

    def bring_together(self) -> None:
        """The list takes what clients did, the book what was done elsewhere; not if so much was removed in one of them
        that a person has to say that it was meant."""
        book = Book(self._rows, self._now_ms())
        book.forget()
        self._changed = False
        try:
            sync(book, self._account, self._contacts, self._rows, self._now_ms(), self._terms)
        except SideError as error:
            self._told(error)


def _lists(request: Request) -> bool:
    """Whether a client asks what there is: before that, what was done elsewhere comes in."""
    if request.method == "PROPFIND":
        return f"{request.path}/".startswith(BOOK)
    return request.method == "REPORT" and any(name.encode() in request.body for name in _LISTS)
