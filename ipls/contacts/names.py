"""Names that somebody else gives, of a person or a device, before they are shown to a person.

Tested by tests/contacts/test_linking.py and tests/contacts/test_contact_code.py.
"""

import unicodedata


def is_shown_as_it_is(text: str, limit: int) -> bool:
    """Whether there is something to see, `limit` bytes of UTF-8 at most, and nothing in it steers a terminal or turns
    the text around: no characters of the classes Cc, Cf, Zl and Zp, but the two joiners that scripts and emoji need."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    return bool(text.strip()) and size <= limit and not any(map(_steers, text))


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") and character not in "\u200c\u200d"
