"""docs/VERIFY.md is what the code declares."""

from pathlib import Path

from tokenworks.app.coverage import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_written_from_the_code():
    written = (ROOT / "docs" / "VERIFY.md").read_text()
    assert written == page(), "python -m tokenworks.app.coverage > docs/VERIFY.md"
