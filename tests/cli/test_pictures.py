"""A picture is drawn where the terminal is known to draw it, and nothing in it is obeyed."""

import os
import re
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from ipls.cli.pictures import drawn
from tests.e2e.running import IPLS, ipls, shown

PNG = b"\x89PNG\r\n\x1a\n" + b"\x1b]0;obeyed\x07" * 1000
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)


@pytest.mark.parametrize("picture", [PNG, JPEG], ids=["PNG", "JPEG"])
@pytest.mark.parametrize("environment", [{"TERM_PROGRAM": "iTerm.app"}, {"LC_TERMINAL": "iTerm2"}], ids=str)
def test_iterm_takes_both_in_one_sequence(picture: bytes, environment: dict[str, str]) -> None:
    sequence = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);height=12:([\w+/=]+)\x07\n", drawn(picture, environment)
    )
    assert sequence is not None
    assert (int(sequence[1]), b64decode(sequence[2])) == (len(picture), picture)


def test_kitty_takes_a_png_in_pieces_and_no_jpeg() -> None:
    text = drawn(PNG, {"TERM": "xterm-kitty"})
    pieces = re.findall(r"\x1b_G([^;]*);([\w+/=]{1,4096})\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in pieces) + "\n" == text
    assert [keys for keys, _ in pieces] == ["a=T,f=100,r=12,m=1", *["m=1"] * (len(pieces) - 2), "m=0"]
    assert b64decode("".join(data for _, data in pieces)) == PNG
    assert drawn(JPEG, {"TERM": "xterm-kitty"}) == ""


@pytest.mark.parametrize(
    ("picture", "environment"),
    [
        (PNG, {"TERM": "xterm-256color"}),
        (PNG, {"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}),
        (PNG, {"TERM": "screen", "TERM_PROGRAM": "WezTerm"}),
        (b"<svg>", {"TERM_PROGRAM": "iTerm.app"}),
        (b"", {"TERM_PROGRAM": "iTerm.app"}),
    ],
    ids=["not known", "in tmux", "in screen", "no PNG or JPEG", "empty"],
)
def test_nothing_is_drawn_elsewhere(picture: bytes, environment: dict[str, str]) -> None:
    assert drawn(picture, environment) == ""


def test_show_draws_on_a_terminal_and_into_no_file(tmp_path: Path) -> None:
    assert ipls("init", tmp_path / "ipls", "--port", 0).returncode == 0
    encoded = b64encode(JPEG).decode()
    photos = f"PHOTO;ENCODING=b;TYPE=JPEG:{encoded}\r\nPHOTO:data:image/jpeg;base64,{encoded}\r\nPHOTO;ENCODING=b:?"
    (tmp_path / "book.vcf").write_text(f"BEGIN:VCARD\r\nVERSION:3.0\r\nUID:a\r\nFN:Ada\r\n{photos}\r\nEND:VCARD\r\n")
    home, endpoints = ("--home", tmp_path), ("--endpoints", tmp_path / "ipls/endpoints.json")
    assert ipls("client", "contacts", "import", tmp_path / "book.vcf", *home, *endpoints).returncode == 0
    id = ipls("client", "contacts", "list", *home, "--json").stdout.split('"id": "')[1][:32]
    command = [*map(str, [*IPLS, "client", "contacts", "show", id, *home])]
    environment = os.environ | {"TERM_PROGRAM": "iTerm.app"}
    environment.pop("TMUX", None)
    assert b"\x1b" not in subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    assert shown(command, environment).count(f":{encoded}\x07".encode()) == 2
