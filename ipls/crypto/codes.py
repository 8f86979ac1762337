"""Texts that a person scans as a QR, or pastes: `IPLS-NAME:VERSION:fields`.

Tested by tests/contacts/test_contact_code.py and tests/trust/test_safety.py.
"""

import re
from collections.abc import Callable


def read_code(
    text: str, name: str, what: str, fields: re.Pattern[str], refused: Callable[[str], Exception]
) -> tuple[str, ...]:
    """The fields of a code of version 1, the groups of a pattern that is all of them; blanks and line ends are left
    out, and nothing else is forgiven. `name` is LINK, for one, and `what` what people call it.

    Raises what `refused` makes of a message, which quotes nothing.
    """
    text = "".join(text.split())
    if not text.startswith(f"IPLS-{name}:"):
        raise refused(f"that is no {what}: it begins with IPLS-{name}:")
    prefix = f"IPLS-{name}:1:"
    if not text.startswith(prefix):
        raise refused(f"the {what} is of another version than this device knows")
    match = fields.fullmatch(text, len(prefix))
    if match is None:
        raise refused(f"the {what} is cut off, or a character of it is wrong")
    return match.groups()
