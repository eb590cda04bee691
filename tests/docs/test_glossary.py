"""Each term of the glossary has its name in the code, and the words that the docs introduce are terms of it."""

import importlib
import re

import pytest

from tests.support.server import ROOT
from tokenworks.app.settings import Settings

GLOSSARY = ROOT / "docs/GLOSSARY.md"
DESIGN = ROOT.parent / "shared/DESIGN.md"
# What the docs set in bold that is no term: the heading of a paragraph, or an emphasis.
NO_TERMS = {"bounded", "replaceable", "fault", "text", "numbers"}
# How the docs inflect some terms.
FORMS = {"holds": "hold", "meters": "meter", "settles": "settlement", "charges": "charge"}


def entries():
    """(term, meaning, names in the code) of each row."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", GLOSSARY.read_text(), re.MULTILINE)
    return [
        (term, meaning, re.findall(r"`([^`]+)`", names)) for term, meaning, names in rows if term != "term"
    ]


def there(name):
    """Whether a name of the code exists."""
    if name.startswith("Settings."):
        return name.removeprefix("Settings.") in Settings.model_fields
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["tokenworks", *parts[:end]]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_each_name_is_in_the_code():
    assert len(entries()) > 50
    assert [(term, name) for term, _, names in entries() for name in names if not there(name)] == []
    assert all(names for _, _, names in entries())
    assert not there("charging.Slice5") and not there("charge.Hold") and not there("Settings.drain_m")


def test_terms_are_in_order_and_explained_once():
    terms = [term for term, _, _ in entries()]
    assert terms == sorted(set(terms))
    assert [meaning for _, meaning, _ in entries() if not meaning.endswith(".")] == []


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "docs/ARCHITECTURE.md"], ids=lambda path: path.name
)
def test_words_that_the_docs_introduce_are_terms(path):
    terms = {term for term, _, _ in entries()}
    # In the middle of a sentence a bold word is a term; one at a paragraph's beginning is its heading.
    found = set(re.findall(r"(?<=[\w:,] )\*\*([a-z][a-z -]+)\*\*", path.read_text()))
    found |= (
        {"drain", "hold", "meter", "settlement", "placement"} if path.name == "ARCHITECTURE.md" else set()
    )
    missing = {FORMS.get(word, word) for word in found} - terms - NO_TERMS
    assert not missing, f"{path.name} introduces them: {sorted(missing)}"


def test_the_vocabulary_of_the_design_is_in_it():
    if not DESIGN.exists():
        pytest.skip(f"{DESIGN.name} is not here: shared/")
    table = DESIGN.read_text().partition("## 2. Vocabulary")[2].partition("**Units")[0]
    words = {
        word.strip().removeprefix("product ")
        for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:]
        for word in row.split(",")
    } - {"offering price"}  # an attribute of the offering here
    terms = {term for term, _, _ in entries()} | {"---"}
    assert words - terms == set()
