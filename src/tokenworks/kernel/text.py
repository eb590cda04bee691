r"""Text at the edge: one rule for text that comes in, and one for text that is shown.

In: a line (a name, a reason, a reference) has no control character, escape sequence, bidirectional control, zero-width or other
invisible character, private-use or unpaired code point, and no pile of combining marks. A line that has one is refused with the name
of it; nothing is repaired silently. A number or a phone number has ASCII digits: `str.isdigit`, `int` and `\d` also accept digits of
other scripts, so no check is made with them alone. Lengths are counted in characters, which have at most 4 bytes in UTF-8.

A name that identifies something is kept in one form (NFKC, single spaces), so that two names that look the same are equal.

Out: text that was stored before this rule, or comes from another system, is shown with each such character as an escape (`\x1b`,
`\u202e`), and in a CSV without a formula at its beginning.

The characters: general categories Cc, Cf, Cs, Co, Zl and Zp of the Unicode Character Database, its noncharacters, and
letters that have no glyph (UAX #44; UTS #39, section 3; CVE-2021-42574 for the bidirectional ones).
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

from tokenworks.kernel.errors import Invalid

NAME_CHARS_MAX: Final = 100
REASON_CHARS_MAX: Final = 200
# The replacement of free texts of an erased subscriber.
FORGOTTEN: Final = "(erased)"
REFERENCE_CHARS_MAX: Final = 100
# Anything else that is one line: a URL, an address, a path.
LINE_CHARS_MAX: Final = 1000
# A prompt on the command line.
TEXT_CHARS_MAX: Final = 100_000
MODEL_CHARS_MAX: Final = 200
NUMBER_CHARS_MAX: Final = 40
# How deep nested lists and objects of a request are checked.
DEPTH_MAX: Final = 20

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
_BIDI: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ZERO_WIDTH: Final = r"\u200b-\u200d\u2060-\u2064\ufeff"
# Other format characters; then letters and marks that have no glyph.
_INVISIBLE: Final = (
    r"\xad\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u180e\u2065\u206a-\u206f\ufff9-\ufffb\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    r"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
)
_SEPARATOR: Final = r"\u2028\u2029"
_SURROGATE: Final = r"\ud800-\udfff"
_PRIVATE: Final = r"\ue000-\uf8ff\U000f0000-\U0010ffff\ufdd0-\ufdef\ufffe\uffff" + "".join(
    rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(1, 15)
)
_KINDS: Final = (
    ("a control character", re.compile(f"[{_CONTROL}]")),
    ("a line or paragraph separator", re.compile(f"[{_SEPARATOR}]")),
    ("a mark that turns the direction of text", re.compile(f"[{_BIDI}]")),
    ("a zero-width character", re.compile(f"[{_ZERO_WIDTH}]")),
    ("an invisible character", re.compile(f"[{_INVISIBLE}]")),
    ("half of a character (an unpaired surrogate)", re.compile(f"[{_SURROGATE}]")),
    ("a code point that is no character", re.compile(f"[{_PRIVATE}]")),
)
_BAD: Final = re.compile(f"[{_CONTROL}{_SEPARATOR}{_BIDI}{_ZERO_WIDTH}{_INVISIBLE}{_SURROGATE}{_PRIVATE}]")
# Characters that a text of several lines may have.
_LINE_ENDS: Final = str.maketrans("", "", "\n\t")
_PILE: Final = re.compile(
    r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{5}"
)
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+*-]*")
# What a spreadsheet takes for the beginning of a formula, or strips before it looks for one (OWASP, CSV injection).
_FORMULA: Final = frozenset("=+-@\t\r\n＝＋－＠")


def flaw(text: str, *, lines: bool = False) -> str | None:
    """The name of the first thing in a text that no text may have, or None. `lines`: line ends and tabs are allowed."""
    if text.isascii() and text.isprintable():
        return None
    if lines:
        text = text.replace("\r\n", "\n").translate(_LINE_ENDS)
    if _BAD.search(text) is not None:
        name, found = next((name, match) for name, kind in _KINDS if (match := kind.search(text)))
        return f"{name} (U+{ord(found[0]):04X})"
    return "a pile of combining marks" if _PILE.search(text) is not None else None


def flaw_in(value: object, depth: int = 0) -> str | None:
    """The first flaw of any text in lists and mappings, or None."""
    if isinstance(value, str):
        return flaw(value)
    if isinstance(value, Mapping):
        parts: Iterable[object] = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    else:
        return None
    if depth >= DEPTH_MAX:
        return f"more than {DEPTH_MAX} levels"
    return next((found for part in parts if (found := flaw_in(part, depth + 1)) is not None), None)


def check_line(text: str, what: str, *, chars_max: int = NAME_CHARS_MAX, chars_min: int = 1) -> str:
    """Check a line and return it without spaces around it. Raises `Invalid`, which names `what` and the reason, but not the text."""
    found = flaw(text)
    if found is not None:
        raise Invalid(f"{what} has {found}: leave it out")
    text = text.strip()
    if not chars_min <= len(text) <= chars_max:
        raise Invalid(f"{what} has {chars_min} to {chars_max} characters, not {len(text)}")
    return text


def normal_name(text: str) -> str:
    """The normal form of a name that identifies: NFKC (a full-width A is an A) and single spaces. Two names with the same normal form
    are one name.
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def check_name(text: str, what: str, *, chars_max: int = NAME_CHARS_MAX) -> str:
    """Check a name that identifies (a member, a department, a contract) and return its normal form. Raises `Invalid`."""
    check_line(text, what, chars_max=chars_max)
    # Checked again: NFKC may replace one character by several, and by some that no text may have.
    return check_line(normal_name(text), what, chars_max=chars_max)


def check_reason(text: str, *, optional: bool = False) -> str:
    """Check the reason for an operation, a line that is kept. Raises `Invalid`."""
    if (not optional and not text.strip()) or len(text.strip()) > REASON_CHARS_MAX:
        raise Invalid(f"say why, in at most {REASON_CHARS_MAX} characters")
    return check_line(text, "the reason", chars_max=REASON_CHARS_MAX, chars_min=0)


def check_names(
    names: Iterable[str], what: str, *, count_max: int, chars_max: int = MODEL_CHARS_MAX
) -> tuple[str, ...]:
    """Check a list of model names, with bounds on their number and lengths, and return each name once. Raises `Invalid`."""
    found: dict[str, None] = {}
    for name in names:
        if len(name) > chars_max or _MODEL.fullmatch(name) is None:
            raise Invalid(f"{what}: a name has 1 to {chars_max} letters, digits and . _ : / @ + * -")
        found[name] = None
        if len(found) > count_max:
            raise Invalid(f"{what} are at most {count_max} names")
    return tuple(found)


def is_digits(text: str, count_max: int = NUMBER_CHARS_MAX) -> bool:
    """True if a text has only ASCII digits, at least one and at most `count_max`."""
    return text.isascii() and text.isdigit() and len(text) <= count_max


def check_number(value: object) -> object:
    """For a validator of decimals: a text has only ASCII characters, and not many. Raises `ValueError`."""
    if isinstance(value, str) and not (value.isascii() and len(value) <= NUMBER_CHARS_MAX):
        raise ValueError("a number has ASCII digits, at most 40")
    return value


def shown(text: str, *, lines: bool = False) -> str:
    """A text that is safe on a terminal, a page or a bill: characters that must not act there are escaped. `lines`: as in `flaw`."""
    if text.isascii() and text.isprintable():
        return text
    keep = "\n\t" if lines else ""
    return _BAD.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _escaped(char: str) -> str:
    number = ord(char)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe. Numbers are unchanged."""
    if value is None or isinstance(value, int | Decimal):
        return value
    text = shown(str(value))
    # A spreadsheet may strip spaces before it looks for a formula.
    return f"'{text}" if text.lstrip()[:1] in _FORMULA and text.strip() else text
