"""Every path of the tree that a document names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md"))
)
NAMED = re.compile(r"(?<![\w/.-])(?:ipls|tests|docs|scripts|bench|protos)/[\w./-]*\w/?")
LINKED = re.compile(r"\]\((?!\w+:)([^)#]+)")  # what is not a URL

NO_PATHS = re.compile(
    r"ipls/\w+/v[12]"  # a tag of a hash, or a name on the wire
    r"|ipls/a/b\.py|tests/a/test_b\.py"  # any module, and its test
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_it_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = (path for path in NAMED.findall(text) if not NO_PATHS.fullmatch(path))
    assert sorted({path for path in named if not (ROOT / path).exists()}) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    assert [path for path in LINKED.findall((ROOT / document).read_text()) if not (folder / path).exists()] == []
