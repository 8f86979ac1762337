"""Cards as programs write them, and as no program does."""

from hypothesis import strategies as st

SINGLE = [
    b"FN:Ada",
    b"FN:Ada Lovelace",
    b"FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:Zo=C3=AB",
    b"N:Lovelace;Ada;;;",
    b"NOTE:long\r\n er",
    b"NOTE;QUOTED-PRINTABLE:soft=\r\nbreak",
    b"item1.ORG:Acme",
    b"ORG:Acme\\; Ltd",
    b"PHOTO;ENCODING=b;TYPE=JPEG:AAAA\r\n BBBB",
    b"PHOTO;BASE64:\r\nAAAA\r\nCCCC\r\n",
]
MANY = [
    b"TEL;TYPE=CELL:+1 202 555 0100",
    b"TEL;CELL:+12025550100",
    b"tel;type=home:(202) 555-0101",
    b"item1.TEL:+1 202 555 0102\r\nitem1.X-ABLabel:Boat",
    b"item1.TEL:+1 202 555 0103\r\nitem1.X-ABLabel:Barn",
    b"item2.EMAIL:ada@example.org",
    b"EMAIL:ada@example.org",
    b'X-Unknown;X-P="a;b":kept\\, too',
    b"CATEGORIES:a,b",
]
OWN = [b"UID:u-1", b"UID:u-2", b"REV:20260101", b"REV:20260202", b"PRODID:p"]
BROKEN = [
    b"no colon",
    b" begins with a blank:x",
    b":",
    b"AGENT:\r\nBEGIN:VCARD\r\nN:Aide\r\nEND:VCARD",
    b"NOTE;QUOTED-PRINTABLE:open=",
]

newlines = st.sampled_from([b"\r\n", b"\n"])
versions = st.sampled_from([b"VERSION:3.0", b"VERSION:4.0", b"VERSION:2.1"])


def made(version: bytes, lines: list[bytes], newline: bytes) -> bytes:
    return b"\r\n".join([b"BEGIN:VCARD", version, *lines, b"END:VCARD"]).replace(b"\r\n", newline)


sound_lines = st.lists(st.sampled_from(SINGLE + MANY + OWN), max_size=6)
cards = st.builds(made, versions, sound_lines, newlines)
any_lines = st.lists(st.sampled_from(SINGLE + MANY + OWN + BROKEN) | st.binary(max_size=30), max_size=6)
any_cards = st.builds(made, versions, any_lines, newlines)
