from pathlib import Path

from tokenworks.gateway.protocol.fields.docs import reference

ROOT = Path(__file__).parents[4]


def test_the_lists_in_the_docs_are_those_of_the_data():
    written = (ROOT / "docs/FIELDS.md").read_text()
    assert written == reference(), "run: python -m tokenworks.gateway.protocol.fields.docs > docs/FIELDS.md"
