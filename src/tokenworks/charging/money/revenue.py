"""The arithmetic of charges and revenue, in integers of nano units. Pure.

All divisions round down, except for fen and tax. What is rounded off is not lost: it stays in the rest of the price.
"""

from typing import Final

# Payments are in whole fen (0.01 yuan).
FEN_NANO: Final = 10_000_000


def share(price_nano: int, num: int, den: int) -> int:
    """floor(price * num / den): the part of a price, for example for a shortened cycle."""
    assert num >= 0 and den > 0
    return price_nano * num // den


def fen_of(amount_nano: int) -> int:
    """An amount in whole fen, in nano: rounded half away from zero."""
    sign = -1 if amount_nano < 0 else 1
    return sign * ((abs(amount_nano) + FEN_NANO // 2) // FEN_NANO * FEN_NANO)


def tax_in(gross_nano: int, vat_percent: int) -> int:
    """The VAT in a gross amount, rounded half up. A negative amount has the same tax with a negative sign."""
    sign = -1 if gross_nano < 0 else 1
    gross = abs(gross_nano)
    return sign * ((2 * gross * vat_percent + 100 + vat_percent) // (2 * (100 + vat_percent)))
