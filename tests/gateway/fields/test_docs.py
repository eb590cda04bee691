from pathlib import Path

from tokenworks.gateway.fields.docs import reference

ROOT = Path(__file__).parents[3]


def test_the_lists_in_the_docs_are_those_of_the_data():
    written = (ROOT / "docs/FIELDS.md").read_text()
    assert written == reference(), "run: python -m tokenworks.gateway.fields.docs > docs/FIELDS.md"
