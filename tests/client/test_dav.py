"""When the CardDAV server of a profile needs it."""

from pathlib import Path

from ipls.client.addressbook.dav.server import Request
from ipls.client.dav import DavServer
from ipls.client.profile import Account, Profile
from ipls.client.profile_key import IN_FILE
from tests.client.addressbook.rig import LABEL, card

BOOK = "/books/contacts/"
ALL = b"""<addressbook-query xmlns="urn:ietf:params:xml:ns:carddav">
    <x:prop xmlns:x="DAV:"><address-data/></x:prop></addressbook-query>"""


def test_the_pieces_of_a_card_that_was_read_need_no_profile_and_those_of_a_report_do(tmp_path: Path) -> None:
    """By these it is let go: who takes a card slowly keeps it from nobody."""
    profile = Profile(tmp_path / "p")
    profile.put(Account(LABEL, bytes(32), 1, 1))
    profile.close()
    server = DavServer(tmp_path / "p", IN_FILE, allow_removals=False, told=lambda error: None)
    assert not server.was_used()
    new = card("a", "Ada")
    assert server.handle(Request("PUT", f"{BOOK}a.vcf", {}, new)).status == 201
    assert (server.was_used(), server.was_used()) == (True, False)
    answer = server.handle(Request("GET", f"{BOOK}a.vcf"))
    assert server.was_used()
    assert (b"".join(answer.body), server.was_used()) == (new, False)
    answer = server.handle(Request("REPORT", BOOK, {}, ALL))
    assert server.was_used()
    server.let_go()
    assert b"FN:Ada" in b"".join(answer.body)
    assert server.was_used()
    server.let_go()
    Profile(tmp_path / "p").close()
