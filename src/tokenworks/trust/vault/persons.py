"""Checking the numbers of identity documents. Their keyed hash (`Lookup.identity`) tells whether two subscribers are one person."""

import re
from typing import Final, Literal, get_args

from tokenworks.kernel import Invalid
from tokenworks.trust.vault.lookup import normal_id_number

Document = Literal["resident_id", "passport", "business_licence"]
_RESIDENT_ID: Final = re.compile(r"[0-9]{17}[0-9X]")
_OTHER: Final = re.compile(r"[0-9A-Z]{6,32}")
_TEXT_CHARS_MAX: Final = 64
# GB 11643-1999, 3.6: weights of the first 17 digits (ISO 7064 MOD 11-2) and the check character of each remainder.
_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS: Final = "10X98765432"


def checked_id_number(document: Document, number: str) -> str:
    """The number in the form that is hashed: equal numbers give equal texts. Raises `Invalid`."""
    if document not in get_args(Document):
        raise Invalid(f"an identity document is one of {', '.join(get_args(Document))}")
    if len(number) > _TEXT_CHARS_MAX:
        raise Invalid("the identity number is too long")
    text = normal_id_number(number)
    if document == "resident_id":
        if not _RESIDENT_ID.fullmatch(text):
            raise Invalid("a resident identity number has 17 digits and a digit or X")
        if (
            _CHECKS[sum(int(digit) * weight for digit, weight in zip(text[:17], _WEIGHTS, strict=True)) % 11]
            != text[17]
        ):
            raise Invalid("the resident identity number's check character is wrong: it has a typo")
    elif not _OTHER.fullmatch(text):
        raise Invalid("an identity number has 6 to 32 letters and digits")
    return text
