"""Pieces of text are told from texts that repeat all earlier text."""

import pytest

from tokenworks.gateway.translate.chat.repeats import Repeats


def read(*texts):
    """What is told of each text of one channel, and at its end."""
    repeats = Repeats()
    told = [repeats.pieces("text", text) for text in texts]
    return [*told, repeats.end("text")]


def whole(*texts):
    return "".join(read(*texts))


@pytest.mark.parametrize(
    "texts",
    [
        ("The", " tram", " runs"), ("ha", "ha", "ha"), ("1", "10", "2"), ("=", "==", "x"), ("\n", "\n\n"), ("1", "1"), (" ", "  "), ("a",),
        ("x", "xy", "xy"), ("你好", "你好"), ("- ", "- [", "x"),
    ],
)  # fmt: skip
def test_pieces_stay_pieces(texts):
    assert whole(*texts) == "".join(texts)


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (("The", "The second", "The second"), "The second"),
        (("Two", "Two options."), "Two options."),
        (("T", "The", "The second"), "The second"),
        (("你", "你好", "你好呀", "你好呀！"), "你好呀！"),
        (("The second", "The second"), "The second"),
    ],
)
def test_repeated_text_is_told_once(texts, text):
    assert whole(*texts) == text


def test_what_proves_pieces_ends_the_asking():
    repeats = Repeats()
    assert [repeats.pieces("text", text) for text in ("1", "10", "2", "20")] == ["1", "", "102", "20"]
    assert repeats.decided


def test_repetition_in_one_channel_is_repetition_in_all():
    repeats = Repeats()
    assert [repeats.pieces("reasoning", text) for text in ("Two", "Two options.")] == ["Two", ""]
    assert repeats.end("reasoning") == " options."
    assert [repeats.pieces("text", text) for text in ("A", "AB", "ABC")] == ["A", "B", "C"]
    # Text that does not repeat disproves it, and nothing is lost from here on.
    assert [repeats.pieces("text", text) for text in ("x", "xy")] == ["x", "xy"]
