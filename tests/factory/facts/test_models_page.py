from pathlib import Path

from tokenworks.factory.facts.models_page import page

ROOT = Path(__file__).parents[3]


def test_the_models_in_the_docs_are_those_of_the_data():
    written = (ROOT / "docs/MODELS.md").read_text()
    assert written == page(), "run: python -m tokenworks.factory.facts.models_page > docs/MODELS.md"
