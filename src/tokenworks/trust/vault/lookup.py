"""Finding encrypted texts: keyed hashes of a whole number, of its last four digits, and of the parts of a name.

A hash is BLAKE2b under the lookup key, with the kind of text as its personalisation (RFC 7693, section 2.5), so the same text has a
different hash for each kind. With the database alone, numbers cannot be guessed and checked. It only shows that two rows have an equal
number, ending or part of a name.
"""

import hashlib
import re
import unicodedata
from typing import Final, Literal

from tokenworks.kernel import Invalid

HashKind = Literal["phone", "tail", "name-part", "name", "broadband", "identity", "email"]
HASH_BYTES: Final = 16
TAIL_DIGITS: Final = 4
# The most words of a name that are read, and the most hashes of a name that are stored.
NAME_WORDS_MAX: Final = 8
NAME_HASHES_MAX: Final = 64
PREFIX_CHARS_MIN: Final = 2
PREFIX_CHARS_MAX: Final = 8
# The most characters of a part in a script without spaces.
HAN_PART_CHARS_MAX: Final = 4
_HAN = re.compile(r"[㐀-鿿豈-﫿\U00020000-\U0003ffff]")
_WORD = re.compile(r"\w+")
_ID_NUMBER = re.compile(r"[0-9A-Z]{6,32}")


def words_of(name: str) -> list[str]:
    """The words of a name in the form for comparison: compatibility forms unified, case folded, without punctuation."""
    # Case folding stands between two normalisations, as in NFKC_Casefold (Unicode, section 3.13): folded characters can compose again.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return _WORD.findall(text)[:NAME_WORDS_MAX]


def has_part(name: str, text: str) -> bool:
    """True if every word of `text` is a word of `name` or the beginning of one, or a part of one that has Han characters."""
    words = words_of(name)
    wanted = words_of(text)
    return bool(wanted) and all(
        any(word.startswith(part) or (_HAN.search(word) and part in word) for word in words)
        for part in wanted
    )


def name_parts(name: str) -> list[str]:
    """The texts by which a name can be found, at most `NAME_HASHES_MAX`: whole words first, then beginnings and parts."""
    words = words_of(name)
    found = dict.fromkeys(word[:PREFIX_CHARS_MAX] for word in words)
    for word in words:
        if _HAN.search(word):
            longest = min(len(word), HAN_PART_CHARS_MAX)
            found |= dict.fromkeys(
                word[at : at + length]
                for length in range(1, longest + 1)
                for at in range(len(word) - length + 1)
            )
        found |= dict.fromkeys(
            word[:length] for length in range(PREFIX_CHARS_MIN, min(len(word), PREFIX_CHARS_MAX) + 1)
        )
    return list(found)[:NAME_HASHES_MAX]


def search_parts(text: str) -> list[str]:
    """The texts that a name's parts must contain for its row to be a candidate. `has_part` then decides on the decrypted name."""
    parts = []
    for word in words_of(text):
        chars = HAN_PART_CHARS_MAX if _HAN.search(word) else PREFIX_CHARS_MAX
        if len(word) >= PREFIX_CHARS_MIN or _HAN.search(word):
            parts.append(word[:chars])
    return parts


def normal_id_number(text: str) -> str:
    """The number of an identity document in the form that is hashed: full-width forms unified, capital letters, no spaces or hyphens.

    Raises `Invalid`.
    """
    number = re.sub(r"[\s-]", "", unicodedata.normalize("NFKC", text)).upper()
    if not _ID_NUMBER.fullmatch(number):
        raise Invalid("an identity document's number has 6 to 32 letters and digits")
    return number


class Lookup:
    """Makes keyed hashes under the lookup key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def hash(self, kind: HashKind, text: str) -> bytes:
        return hashlib.blake2b(
            text.encode(), key=self._key, person=kind.encode(), digest_size=HASH_BYTES
        ).digest()

    def replay(self, account_id: bytes, digest: bytes) -> bytes:
        """The hash of a request's digest, for an account: two accounts with the same request have different hashes."""
        return hashlib.blake2b(
            account_id + digest, key=self._key, person=b"replay", digest_size=2 * HASH_BYTES
        ).digest()

    def phone(self, phone: str) -> bytes:
        """The hash of a whole phone number in E.164."""
        return self.hash("phone", phone)

    def tail(self, phone: str) -> bytes:
        """The hash of a phone number's last four digits."""
        return self.hash("tail", phone[-TAIL_DIGITS:])

    def email(self, email: str) -> bytes:
        """The hash of an e-mail address, in small letters: most servers do not tell them from capital ones."""
        return self.hash("email", email.lower())

    def name(self, name: str) -> list[bytes]:
        """The hashes of all texts by which a name can be found."""
        return [self.hash("name-part", part) for part in name_parts(name)]

    def search_hashes(self, text: str) -> list[bytes]:
        """The hashes for a search text: a candidate's name has all of them."""
        return [self.hash("name-part", part) for part in search_parts(text)]

    def identity(self, id_number: str) -> bytes:
        """The hash of an identity document's number. It tells one person from another, which a phone number does not."""
        return self.hash("identity", normal_id_number(id_number))
