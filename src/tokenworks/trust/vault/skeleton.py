"""What a name looks like: two names with one skeleton are taken for each other by whoever reads them.

NFKC and case folding (UAX #15, #31), marks taken off, then letters and digits of other scripts by what they look like: the rows
of the confusables of UTS #39 whose prototype is a Latin letter or a digit, and those between kana and Han. Characters that show
as nothing are refused before (`kernel.text`).

Beside the table, Latin letters with a stroke, a hook or the like, which have no decomposition (`ø`, `đ`, `ł`, `ɓ`), and small capitals
are read off their names in Python's Unicode Character Database: names never change (Unicode stability policy). Limits: the table is
ours, from the rows of UTS #39 that this was made with; a script that it does not have is not compared with Latin, nor Han with Han.
Decision 41 says why no library is asked.
"""

import re
import unicodedata
from typing import Final

# prototype: what is taken for it, after case folding.
_LIKE: Final = {
    "a": "аαɑ⍺ᴀᎪ𖽀ꭺ",
    "b": "вьƅβßᏴᏏᏼꮟʙ",
    "c": "сϲᴄⲥᏟꮯ",
    "d": "ԁᏧᎠꭰժᴅ",
    "e": "еєҽεᎬꭼᴇ",
    "f": "ꬵϝքſẝ",
    "g": "ɡցԍᏀꮐɢᶃ",
    "h": "һнհηᏂᎻꮋʜ",
    "j": "јϳյᎫꭻᴊ",
    "k": "кκᴋᏦⲕ",
    "l": "iıɩіιӏןᎥᏞꮮ1|ǀ׀ߊ١۱ⅼⵏ∣ꞁ",
    "m": "мμᎷꮇϻᴍ",
    "n": "пոռνnɴ",
    "o": "оοօσ0ᴏᴑ০੦೦൦〇○◯๐໐၀٥۵ഠⲟ",
    "p": "рρ⍴ᏢꮲᴘҏϷϸ",
    "q": "ԛգզ",
    "r": "гᴦⲅᏒꮁʀя",
    "s": "ѕꜱƽᏚꮪ5",
    "t": "тτᎢꭲᴛ",
    "u": "υսᴜцʋ",
    "v": "ѵᴠᏙꮩ∨",
    "w": "ѡԝաᴡᎳꮃш",
    "x": "хχ×ⅹ᙮",
    "y": "уγүყʏу",
    "z": "ᴢᏃꮓζ2ƨ",
    "一": "ー―—–－丨",
    "二": "ニ",
    "八": "ハ",
    "力": "カ",
    "口": "ロ囗",
    "夕": "タ",
    "工": "エ",
    "卜": "ト",
    "三": "ミ",
}  # fmt: skip
_MAP: Final = {ord(like): looks for looks, likes in _LIKE.items() for like in likes if like != looks}
_PAIRS: Final = (("rn", "m"), ("vv", "w"))
_SPACES: Final = re.compile(r"[\s._'’-]+")


# "LATIN SMALL LETTER O WITH STROKE", "LATIN LETTER SMALL CAPITAL G WITH HOOK".
_LATIN: Final = re.compile(r"LATIN (?:SMALL LETTER|LETTER SMALL CAPITAL) ([A-Z])(?: WITH .*)?")


def _base(char: str) -> str:
    """The Latin letter that a letter shows as, by its name; itself where it is none."""
    if char.isascii():
        return char
    found = _LATIN.fullmatch(unicodedata.name(char, ""))
    return char if found is None else found[1].lower()


def skeleton(name: str) -> str:
    """The same for all names that look alike."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    text = _SPACES.sub("", text).translate(_MAP)
    # What a name says goes through the table again, so that a skeleton is its own.
    text = "".join(map(_base, text)).translate(_MAP)
    for pair, looks in _PAIRS:
        text = text.replace(pair, looks)
    return text
