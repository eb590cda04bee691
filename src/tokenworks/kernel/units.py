"""Quantities are integers with a unit. No balance is ever computed with a float.

Plan tokens are counted in millitokens (1 token = 1000 mtok), money in nano units of its currency
(1 yuan = 1 000 000 000 nano). The distinct types help readers and mypy; at run time they are `int`.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NewType

from tokenworks.kernel.errors import Invalid

Tokens = NewType("Tokens", int)
Millitokens = NewType("Millitokens", int)
NanoMoney = NewType("NanoMoney", int)

MTOK_PER_TOKEN: Final = 1000
NANO_PER_UNIT: Final = 1_000_000_000
NANO_PER_FEN: Final = NANO_PER_UNIT // 100
# What fits PostgreSQL's bigint; a quantity outside is refused where it enters.
QUANTITY_MAX: Final = 2**63 - 1

_MONEY = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?")


def tokens_to_mtok(tokens: Tokens) -> Millitokens:
    """Whole tokens as millitokens."""
    return Millitokens(tokens * MTOK_PER_TOKEN)


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An amount in nano units of `currency` (ISO 4217). Adding two currencies is an error."""

    amount_nano: NanoMoney
    currency: str = "CNY"

    def __post_init__(self) -> None:
        if type(self.amount_nano) is not int:
            raise Invalid(f"money is an integer of nano units, not {self.amount_nano!r}")
        if len(self.currency) != 3 or not self.currency.isascii() or not self.currency.isupper():
            raise Invalid(f"a currency is three capital letters (ISO 4217), not {self.currency!r}")

    def __add__(self, other: "Money") -> "Money":
        self._same(other)
        return Money(NanoMoney(self.amount_nano + other.amount_nano), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._same(other)
        return Money(NanoMoney(self.amount_nano - other.amount_nano), self.currency)

    def __neg__(self) -> "Money":
        return Money(NanoMoney(-self.amount_nano), self.currency)

    def _same(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise Invalid(f"{self.currency} and {other.currency} don't add up: convert one of them first")


def parse_money(text: str, currency: str = "CNY") -> Money:
    """Read a decimal such as `49.9` as money, exactly. Raises `Invalid` for anything else, including floats."""
    match = _MONEY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Invalid(
            f"an amount is a decimal in quotes such as '49.9', with at most 9 decimals, not {text!r}"
        )
    whole, fraction = match.group(1), match.group(2) or ""
    return Money(NanoMoney(int(whole) * NANO_PER_UNIT + int(fraction.ljust(9, "0"))), currency)


def format_money(amount_nano: int) -> str:
    """An amount in yuan and fen, for people. Half a fen is rounded away from zero. 15226967206 is `15.23`."""
    sign = "-" if amount_nano < 0 else ""
    fen = (abs(amount_nano) + NANO_PER_FEN // 2) // NANO_PER_FEN
    return f"{sign if fen else ''}{fen // 100:,}.{fen % 100:02d}"


def format_money_exact(amount_nano: int) -> str:
    """An exact decimal of nano units, with at least two places. 15226967206 is `15.226967206`."""
    sign = "-" if amount_nano < 0 else ""
    whole, fraction = divmod(abs(amount_nano), NANO_PER_UNIT)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole:,}.{digits}"


def exact_decimal(amount: int, parts: int) -> Decimal:
    """`amount` parts of a unit, of which the unit has `parts` (a power of ten), as an exact decimal without trailing zeros. 1500 of 1000
    is 1.5.
    """
    whole, rest = divmod(abs(amount), parts)
    text = f"{whole}.{rest:0{len(str(parts)) - 1}d}".rstrip("0").rstrip(".")
    return Decimal(f"-{text}" if amount < 0 else text)


def format_quantity(amount: int, unit: str) -> str:
    """A quantity of a bucket, for people. `amount` is in thousandths of a token, call or credit."""
    if unit == "CNY":
        return f"{format_money_exact(amount)} CNY"
    sign = "-" if amount < 0 else ""
    whole, thousandths = divmod(abs(amount), MTOK_PER_TOKEN)
    digits = f".{thousandths:03d}".rstrip("0") if thousandths else ""
    return f"{sign}{whole:,}{digits} {unit}{'' if whole == 1 and not thousandths else 's'}"


def format_tokens(amount: int, unit: str, language: str) -> str:
    """A quantity for a bill. In Chinese in 万 or 亿 if that is exact and short, else with separators.

    `amount` is in thousandths of a token, call, prompt or credit.
    """
    if language != "zh":
        return format_quantity(amount, unit)
    word = {"token": "词元", "call": "次", "prompt": "次提问", "credit": "点"}.get(unit, unit)
    whole, rest = divmod(amount, MTOK_PER_TOKEN)
    if not rest:
        for size, name in ((100_000_000, "亿"), (10_000, "万")):
            if whole >= size and not whole * 100 % size:
                value = f"{whole // size:,}.{whole * 100 // size % 100:02d}".rstrip("0").rstrip(".")
                return f"{value} {name}{word}"
    digits = f".{rest:03d}".rstrip("0") if rest else ""
    return f"{whole:,}{digits} {word}"
