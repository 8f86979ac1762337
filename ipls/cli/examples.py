"""What stands at the end of each command's help: how it is called, one line an example.

Tested by tests/cli/test_documents.py.
"""

from collections.abc import Container
from typing import Any

_EXAMPLES = """
ipls client
ipls client register +15555550100 --endpoints DIR/endpoints.json
ipls client register +15555550100 --code 123456
ipls client store
ipls client store --profile work --verbose
ipls client restore
ipls client recover --show
ipls client recover
ipls client recover --anew --before 2
ipls client number
ipls client number +15555550123
ipls client delete-account
ipls client export-all all.zip
ipls client background
ipls client link
ipls client join --name laptop --endpoints DIR/endpoints.json
ipls client devices
ipls client devices list --json
ipls client devices rename laptop "old laptop"
ipls client devices remove laptop
ipls client monitor
ipls client history --save history.proof
ipls client lookup +15555550101 --save lookup.proof
ipls client status --json
ipls client identity
ipls client identity --that-was-me 2
ipls client sync ~/contacts
ipls client sync ~/contacts --yes
ipls client serve-dav --add-client laptop
ipls client serve-dav
ipls client contacts import google.csv old-phone.vcf --dry-run
ipls client contacts import --undo
ipls client contacts list
ipls client contacts find "munoz 0100"
ipls client contacts show 3fa9
ipls client contacts show 3fa9 --raw
ipls client contacts add "Ada King" --number "+1 202 555 0100" --email ada@example.org
ipls client contacts edit 3fa9
ipls client contacts edit 3fa9 --name "Ada Lovelace" --remove-number 2025550100
ipls client contacts remove 3fa9 b71c
ipls client contacts duplicates
ipls client contacts merge 3fa9 b71c
ipls client contacts apart 3fa9 b71c
ipls client contacts conflicts
ipls client contacts conflicts 3fa9
ipls client contacts settle 3fa9 1 --take
ipls client contacts settle 3fa9 --keep
ipls client contacts place --only-ipls
ipls client contacts place 3fa9 --address-book
ipls client contacts groups
ipls client contacts copy 3fa9 --to work
ipls client contacts move 3fa9 b71c --to work
ipls client contacts undo
ipls client contacts export book.vcf
ipls client contacts export - --format google
ipls client contacts code "Ada King"
ipls client contacts verify "Bo"
ipls client contacts keys
ipls client contacts keys --acknowledge +15555550101
ipls client contacts forget +15555550101
ipls client profiles
ipls client profiles list --json
ipls client profiles add work --endpoints DIR/endpoints.json
ipls client profiles rename work office
ipls client profiles lock office
ipls client profiles unlock office
ipls client profiles passphrase office
ipls client profiles remove office
ipls client profiles wipe office
ipls client vault show
ipls client vault delay 3
ipls client vault delete
ipls client vault key --profile tablet --endpoints DIR/endpoints.json
ipls client vault trust KEY
ipls client vault distrust KEY
ipls client vault request
ipls client vault sign REQUEST --profile tablet
ipls client vault approve APPROVAL
"""


def add_examples(command: Any, *name: str) -> None:
    """To a command and to those below it; `name` is its words, from `ipls` on."""
    below = getattr(command, "commands", {})
    for word, each in below.items():
        add_examples(each, *name, word)
    lines = [line for line in _EXAMPLES.splitlines() if _is_of(line.split(), list(name), below)]
    if lines:
        command.epilog = "\n\n".join(["Examples:" if lines[1:] else "Example:", *lines])


def _is_of(line: list[str], name: list[str], below: Container[str]) -> bool:
    return line[: len(name)] == name and (len(line) == len(name) or line[len(name)] not in below)
