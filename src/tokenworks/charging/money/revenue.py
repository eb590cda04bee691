"""The arithmetic of what is charged and earned: integers in nano units, pure.

Everything rounds down but a tax, and what is rounded off is never lost: it stays in the part that is left.
"""

from typing import Final

# What people pay is in fen.
FEN_NANO: Final = 10_000_000


def share(price_nano: int, num: int, den: int) -> int:
    """floor(price * num / den): the part of a price that a shortened cycle or a step of a bundle costs."""
    assert num >= 0 and den > 0
    return price_nano * num // den


def fen_of(amount_nano: int) -> int:
    """An amount in whole fen, in nano: rounded half away from zero."""
    sign = -1 if amount_nano < 0 else 1
    return sign * ((abs(amount_nano) + FEN_NANO // 2) // FEN_NANO * FEN_NANO)


def tax_in(gross_nano: int, vat_percent: int) -> int:
    """The VAT that a gross amount includes, rounded half up; of a negative amount the same with its sign."""
    sign = -1 if gross_nano < 0 else 1
    gross = abs(gross_nano)
    return sign * ((2 * gross * vat_percent + 100 + vat_percent) // (2 * (100 + vat_percent)))
