"""Amounts, quantities and offerings as text for people."""

import re
from typing import Final

from tokenworks.catalog import Offering
from tokenworks.charging import FEN_NANO
from tokenworks.kernel import Invalid, format_money, format_tokens, parse_money
from tokenworks.pages.words import WORDS
from tokenworks.texts import Language

# Amounts, days, quantities.


def fen(amount_nano: int) -> int:
    """An amount rounded to whole fen as a bill rounds it, half away from zero; in nano."""
    sign = -1 if amount_nano < 0 else 1
    return sign * ((abs(amount_nano) + FEN_NANO // 2) // FEN_NANO) * FEN_NANO


def yuan(amount_nano: int) -> str:
    """An amount in whole fen, such as ¥1,234.50."""
    rounded = fen(amount_nano)
    return f"{'−' if rounded < 0 else ''}¥{format_money(abs(rounded))}"


def price_of(offering: Offering) -> int:
    return parse_money(offering.price).amount_nano


def name_of(offering: Offering, language: Language) -> str:
    return offering.name_zh if language == "zh" else offering.name


def span(window_s: int, language: Language) -> str:
    """The length of a window, in whole days if possible, else in hours."""
    words = WORDS[language]
    if window_s % 86_400:
        return words["every_hours"].format(hours=window_s // 3600)
    return words["every_days"].format(days=window_s // 86_400)


def brings(offering: Offering, language: Language) -> str:
    """The quantities of an offering, as one line."""
    words = WORDS[language]
    monthly = offering.cycle != "once"
    parts = []
    for bucket in offering.buckets:
        quantity = format_tokens(bucket.quantity * 1000, bucket.unit, language)
        if bucket.window_s is not None:
            parts.append(words["in_window"].format(quantity=quantity, window=span(bucket.window_s, language)))
        elif monthly:
            parts.append(words["a_month"].format(quantity=quantity))
        elif offering.validity_days is not None:
            parts.append(words["for_days"].format(quantity=quantity, days=offering.validity_days))
        else:
            parts.append(quantity)
    if offering.rollover is not None:
        parts.append(words["rolls_over"])
    return words["list_comma"].join(parts)


def read_tokens(text: str) -> int | None:
    """Parse a number of tokens as people write it: 500000, 500,000, 50万, 2M. None for an empty text. Raises `Invalid`."""
    text = text.replace(",", "").replace("，", "").replace(" ", "")
    if not text:
        return None
    match = _TOKENS.fullmatch(text)
    if match is None:
        raise Invalid("a cap is a whole number of tokens, such as 500000")
    return int(match[1]) * _SIZES[match[2].lower()]


_TOKENS = re.compile(r"([0-9]{1,13})(万|亿|[kKmM]|)")
_SIZES: Final = {"": 1, "万": 10_000, "亿": 100_000_000, "k": 1000, "m": 1_000_000}
