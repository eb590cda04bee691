"""docs/TRANSLATION.md is written from the codecs' data, and the data has no kind of its own."""

from pathlib import Path

import pytest

from tokenworks.gateway.protocol.fields import lists_of
from tokenworks.gateway.translate.directions import DIRECTIONS
from tokenworks.gateway.translate.docs import KINDS, load, reference

ROOT = Path(__file__).parents[3]


def test_the_tables_in_the_docs_are_those_of_the_data():
    written = (ROOT / "docs/TRANSLATION.md").read_text()
    assert written == reference(), "run: python -m tokenworks.gateway.translate.docs > docs/TRANSLATION.md"


@pytest.mark.parametrize("protocol", list(DIRECTIONS))
def test_each_field_of_the_body_has_a_row(protocol):
    content = load(protocol)
    listed = {name for name, rule in lists_of(protocol).body.rules.items() if rule.base}
    assert listed <= set(content.reads["body"])
    for entry in (entry for fields in content.reads.values() for entry in fields.values()):
        assert (entry if isinstance(entry, str) else next(iter(entry))) in KINDS
