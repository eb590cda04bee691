"""Every language has every customer text, with the same blanks."""

import re
from string import Formatter

import pytest

from tokenworks.billing import invoice
from tokenworks.subscriptions import PURPOSES, notice_text
from tokenworks.texts import CATALOGUES, LANGUAGES, Catalogue

# The name of an offering is the tariff's in that language.
BLANKS_OF_A_LANGUAGE = {"name_zh": "name", "said_zh": "said"}
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
# Names of the other language, as its own speakers write it.
IN_CHINESE_EVERYWHERE = {("pages", "other_language")}


def blanks(text):
    return sorted(BLANKS_OF_A_LANGUAGE.get(name, name) for _, name, _, _ in Formatter().parse(text) if name)


@pytest.mark.parametrize("section", Catalogue._fields)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_text_with_the_same_blanks(language, section):
    first = getattr(CATALOGUES[LANGUAGES[0]], section)
    texts = getattr(CATALOGUES[language], section)
    # A refusal may be said as it is (an invalid field, in English), a kind of line may have no word in a language.
    assert set(first) - set(texts) <= ({"Invalid"} if (section, language) == ("refusals", "en") else set())
    assert set(texts) <= set(first)
    for name, text in texts.items():
        assert text.strip() == text or name in {"and", "list_comma"} or name.startswith("kind_"), name
        assert text and blanks(text) == blanks(first[name]), (language, section, name)


def test_there_is_a_catalogue_of_every_language_and_its_own_script():
    assert set(CATALOGUES) == set(LANGUAGES)
    for section in Catalogue._fields:
        for name, text in getattr(CATALOGUES["en"], section).items():
            assert not CHINESE.search(text) or (section, name) in IN_CHINESE_EVERYWHERE, (section, name)


def test_what_is_agreed_to_has_a_text_for_every_purpose():
    for language in LANGUAGES:
        assert set(CATALOGUES[language].consents) == set(PURPOSES)


def test_every_notice_is_said_without_a_blank_left_over():
    content = {
        "percent": 80, "bill_no": "B1", "line_no": 2, "spent_nano": 10**9, "cap_nano": 2 * 10**9, "remaining_nano": 3 * 10**9,
        "name": "Light", "name_zh": "轻享版", "from_price_nano": 10**9, "to_price_nano": 2 * 10**9, "at": "2027-05-01T00:00:00+08:00",
        "hint": "x9Qr", "amount_nano": 10**9, "said": "Slow.", "said_zh": "变慢。",
    }  # fmt: skip
    for language in LANGUAGES:
        for kind in CATALOGUES[language].notices:
            said = notice_text(kind, content, language)
            assert "None" not in said and "{" not in said, (language, kind, said)


def test_texts_stand_in_the_catalogue_alone():
    """No sentence of a subscriber's is in the modules that say it."""
    from pathlib import Path

    for module in (invoice,):
        assert not CHINESE.search(Path(module.__file__).read_text())
    root = Path(invoice.__file__).parents[1]
    for path in (
        *(root / "pages").glob("*.py"),
        root / "app/ports/notify.py",
        *(root / "subscriptions").glob("*.py"),
    ):
        for line in path.read_text().splitlines():
            assert not re.search(r"[\u4e00-\u9fff]{6,}", line.partition("#")[0]), (path, line)
