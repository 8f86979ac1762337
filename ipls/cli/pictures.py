"""Pictures on the terminals that can draw them.

Tested by tests/cli/test_pictures.py.
"""

from base64 import b64encode
from collections.abc import Mapping

ROWS = 12
"""Lines of the terminal that a picture takes."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_CHUNK = 4096


def drawn(picture: bytes, environment: Mapping[str, str]) -> str:
    """What has the terminal of this environment draw a PNG or JPEG; empty where it can't, or nobody knows that it can.

    iTerm2's inline images (https://iterm2.com/documentation-images.html), or kitty's graphics protocol, which takes no
    JPEG (https://sw.kovidgoyal.net/kitty/graphics-protocol). The bytes go as base64: nothing in them is obeyed.
    """
    program, terminal = environment.get("TERM_PROGRAM"), environment.get("TERM", "")
    if not picture.startswith((_PNG, _JPEG)) or "TMUX" in environment or terminal.startswith("screen"):
        return ""
    data = b64encode(picture).decode()
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return f"\x1b]1337;File=inline=1;size={len(picture)};height={ROWS}:{data}\x07\n"
    if picture.startswith(_PNG) and (terminal in ("xterm-kitty", "xterm-ghostty") or program == "ghostty"):
        chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        heads = [f"a=T,f=100,r={ROWS},", *[""] * (len(chunks) - 1)]
        more = [1] * (len(chunks) - 1) + [0]
        return "".join(f"\x1b_G{h}m={m};{c}\x1b\\" for h, m, c in zip(heads, more, chunks, strict=True)) + "\n"
    return ""
