"""A carrier's answer: what its lines are, and what a reason may not have."""

import pytest

from tests.kernel.test_text import BAD
from tokenworks.billing.charge_file import LAYOUT, LineAnswer, read_answer, sequence_of
from tokenworks.billing.errors import AcknowledgementFaulty


@pytest.mark.parametrize("text", [t for t in BAD.values() if "\n" not in t], ids=ascii)
def test_a_reason_has_nothing_that_no_text_may_have(text):
    """`splitlines` would also take VT, FS, NEL and the like for a line's end: a reason could bring lines of its own."""
    with pytest.raises(AcknowledgementFaulty, match="line 2: the reason has"):
        read_answer(f"A|{LAYOUT}|7\nR|1|rejected|no{text}\n", 1)


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_no_other_character_ends_a_line(end):
    with pytest.raises(AcknowledgementFaulty):
        read_answer(f"A|{LAYOUT}|7\nR|1|accepted|{end}R|2|accepted|\n", 2)


@pytest.mark.parametrize("number", ["١", "１", "²", "1 ", "+1", ""])
def test_a_line_and_a_sequence_are_of_ascii_digits(number):
    with pytest.raises(AcknowledgementFaulty):
        read_answer(f"A|{LAYOUT}|7\nR|{number}|accepted|\n", 1)
    with pytest.raises(AcknowledgementFaulty):
        sequence_of(f"A|{LAYOUT}|{number}\n")


def test_lines_end_with_lf_or_crlf():
    for end in ("\n", "\r\n"):
        text = end.join([f"A|{LAYOUT}|7", "R|1|accepted|", "R|2|rejected|号码不存在", ""])
        assert read_answer(text, 2) == (7, [LineAnswer(1, True, None), LineAnswer(2, False, "号码不存在")])
