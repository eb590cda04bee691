"""The skeleton of a name, after UTS #39: names that a reader can mistake for each other have the same skeleton.

Steps: NFKC and case folding (UAX #15, #31); combining marks are removed; letters and digits of other scripts are replaced by what they
look like. The table has the confusables of UTS #39 whose prototype is a Latin letter or a digit, and those between kana and Han.
Invisible characters are refused earlier (`kernel.text`).

Latin letters with a stroke, a hook or the like have no decomposition (`ø`, `đ`, `ł`, `ɓ`). They, and small capitals, are replaced by the
letter in their Unicode names, which never change (Unicode stability policy). Limits: the table is a copy of some rows of UTS #39; a
script that it does not have is not compared with Latin, and Han characters are not compared with each other. Decision 41 says why no
library is used.
"""

import re
import unicodedata
from typing import Final

# prototype -> the characters that look like it, after case folding.
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
    """The Latin letter in the Unicode name of a character; the character itself if its name has none."""
    if char.isascii():
        return char
    found = _LATIN.fullmatch(unicodedata.name(char, ""))
    return char if found is None else found[1].lower()


def skeleton(name: str) -> str:
    """A text that is equal for all names that look alike."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    text = _SPACES.sub("", text).translate(_MAP)
    # The table is applied again to the letters that `_base` gives, so that the skeleton of a skeleton is itself.
    text = "".join(map(_base, text)).translate(_MAP)
    for pair, looks in _PAIRS:
        text = text.replace(pair, looks)
    return text
