"""What no text may have, how it is shown, and what counts as a number."""

import csv
import io
import sys
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.kernel import (
    Invalid,
    check_line,
    check_name,
    check_names,
    check_number,
    csv_cell,
    flaw,
    flaw_in,
    is_digits,
    shown,
)

BAD = {
    "NUL": "a\x00b",
    "backspace": "a\bb",
    "line end": "a\nb",
    "ANSI colour": "\x1b[31mred\x1b[0m",
    "OSC link": "\x1b]8;;http://example.com\x07x\x1b]8;;\x07",
    "C1 CSI": "a\x9b31m",
    "DEL": "a\x7f",
    "right-to-left override": "invoice\u202egpj.exe",
    "isolate": "\u2067abc\u2069",
    "Arabic letter mark": "a\u061cb",
    "zero-width space": "pay\u200bpal",
    "zero-width joiner": "a\u200db",
    "byte order mark": "\ufeffname",
    "word joiner": "a\u2060b",
    "soft hyphen": "a\xadb",
    "tag": "a\U000e0041",
    "line separator": "a\u2028b",
    "lone surrogate": "a\ud800b",
    "private use": "a\ue000",
    "noncharacter": "a\uffff",
    "Hangul filler": "\u3164",
    "braille blank": "\u2800",
    "a pile of marks": "Z" + "\u0301" * 9,
}
GOOD = [
    "Ann",
    "王小明",
    "全角　空格",
    "Zoë Núñez",
    "Ελένη",
    "محمد",
    "ກ",
    "café!",
    "👍🏽 ok ❤️",
    "a=b",
    "<b>&amp;</b>",
    "१२३",
]


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_no_text_may_have_is_named_and_refused(text):
    assert flaw(text)
    with pytest.raises(Invalid) as refused:
        check_line(text, "a name")
    assert refused.value.args[0].startswith("a name has ") and text not in refused.value.args[0]
    assert flaw(str(refused.value)) is None, "the refusal itself harms nobody"
    assert flaw_in({"a": ["ok", {"b": (text,)}]}) and flaw_in({text: 1})


@pytest.mark.parametrize("text", GOOD)
def test_what_people_write_passes_as_it_is(text):
    assert flaw(text) is None and check_line(f" {text} ", "a name") == text and shown(text) == text


def test_every_control_format_private_and_unpaired_code_point_is_covered():
    """The rule is held against the Unicode database of this Python."""
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        nobody = (number & 0xFFFE) == 0xFFFE or 0xFDD0 <= number <= 0xFDEF
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} or nobody:
            assert flaw(char) is not None, f"U+{number:04X}"


@given(st.text(max_size=200))
def test_what_is_shown_has_no_flaw_of_a_character_and_keeps_what_is_good(text):
    out = shown(text)
    assert all(flaw(char) is None for char in out)
    assert out.encode().decode() == out, "and it can be written"
    if flaw(text) is None:
        assert out == text


def test_lines_and_tabs_pass_where_they_may():
    assert flaw("a\nb\tc\r\nd", lines=True) is None and flaw("a\rb", lines=True)
    assert shown("a\n\x1b[2Jb", lines=True) == "a\n\\x1b[2Jb" and shown("a\nb") == "a\\x0ab"


def test_lengths_are_counted_in_characters():
    assert check_line("王" * 100, "x") and check_line("", "x", chars_min=0) == ""
    for text in ("", "   ", "王" * 101):
        with pytest.raises(Invalid, match="1 to 100 characters"):
            check_line(text, "x")


@pytest.mark.parametrize("digits", ["١٢٣", "１２３", "१२३", "²", "𝟏𝟐", "12\n", "", "1" * 41, "+1", "1_0"])
def test_other_scripts_digits_are_no_number(digits):
    assert not is_digits(digits)
    if not digits.isascii():
        with pytest.raises(ValueError):
            check_number(digits)


def test_a_number_of_ascii_digits_is_one():
    assert is_digits("0123456789") and check_number("12.5") == "12.5" and check_number(Decimal(1)) == 1


def test_lists_of_names_have_bounds_in_number_and_length():
    assert check_names(["a", "b", "a", "auto:fast", "claude-*"], "models", count_max=4) == (
        "a",
        "b",
        "auto:fast",
        "claude-*",
    )
    for names in (["a" * 201], ["a b"], [""], ["a\x00"], ["模型"], ["a\u202e"], list("abcde")):
        with pytest.raises(Invalid):
            check_names(names, "models", count_max=4)


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "  =1",
        "＝1",
        '=HYPERLINK("http://x")',
    ],
)
def test_no_cell_of_a_csv_begins_as_a_formula(text):
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text)])
    (cell,) = next(csv.reader(io.StringIO(out.getvalue())))
    assert cell.lstrip()[0] not in "=+-@\t\r＝"


def test_numbers_of_a_csv_stay_numbers():
    assert csv_cell(Decimal("-49.9")) == Decimal("-49.9") and csv_cell(-1) == -1 and csv_cell("a-b") == "a-b"
    assert csv_cell(None) is None and csv_cell("") == ""


@pytest.mark.parametrize(
    ("text", "normal"),
    [("Ａnna", "Anna"), ("ﬁ", "fi"), ("①", "1"), ("Mei  Li", "Mei Li"), ("Mei\u3000Li", "Mei Li"), ("e\u0301", "é"), ("李梅", "李梅"), ("Ⅷ", "VIII")],
)  # fmt: skip
def test_a_name_that_identifies_has_one_form(text, normal):
    assert check_name(text, "a name") == normal == check_name(normal, "a name")


def test_a_name_that_is_too_long_in_its_normal_form_is_refused():
    with pytest.raises(Invalid):
        check_name("\ufdfa" * 50, "a name")  # 18 characters each
    with pytest.raises(Invalid):
        check_name("\u3000", "a name")
