"""Keyed hashes of identity documents: they tell whether two subscribers are one person, and nothing else of it.

An identity number has so few values that a plain hash of it can be tried out. The hash is keyed with the pepper, which is not
in the database.
"""

import hashlib
import re
import unicodedata
from typing import Final, Literal, get_args

from tokenworks.kernel import Invalid

Document = Literal["resident_id", "passport", "business_licence"]
_RESIDENT_ID: Final = re.compile(r"[0-9]{17}[0-9X]")
_OTHER: Final = re.compile(r"[0-9A-Z]{5,32}")
_TEXT_CHARS_MAX: Final = 64
# GB 11643-1999, 3.6: weights of the first 17 digits (ISO 7064 MOD 11-2) and the check character of each remainder.
_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS: Final = "10X98765432"
_PURPOSE: Final = b"real-name"


class Persons:
    """`peppers` by version. A hash is made with the newest; those of older ones are still found, as long as they are there."""

    def __init__(self, peppers: dict[int, bytes]) -> None:
        self._peppers = [peppers[version] for version in sorted(peppers, reverse=True)]

    def hashes(self, document: Document, number: str) -> list[bytes]:
        """Of one document, the newest pepper's first. Raises `Invalid`, which does not repeat the number."""
        text = f"{document}:{_checked(document, number)}".encode()
        return [
            hashlib.blake2b(text, key=pepper, digest_size=32, person=_PURPOSE).digest()
            for pepper in self._peppers
        ]


def _checked(document: Document, number: str) -> str:
    """The number as it is hashed: one text for one number. Raises `Invalid`."""
    if document not in get_args(Document):
        raise Invalid(f"an identity document is one of {', '.join(get_args(Document))}")
    if len(number) > _TEXT_CHARS_MAX:
        raise Invalid("the identity number is too long")
    text = re.sub(r"[ -]", "", unicodedata.normalize("NFKC", number)).upper()
    if document == "resident_id":
        if not _RESIDENT_ID.fullmatch(text):
            raise Invalid("a resident identity number has 17 digits and a digit or X")
        if (
            _CHECKS[sum(int(digit) * weight for digit, weight in zip(text[:17], _WEIGHTS, strict=True)) % 11]
            != text[17]
        ):
            raise Invalid("the resident identity number's check character is wrong: it has a typo")
    elif not _OTHER.fullmatch(text):
        raise Invalid("an identity number has 5 to 32 letters and digits")
    return text
