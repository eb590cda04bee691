"""Customer texts: one catalogue for each language."""

from typing import Final, Literal, get_args

from tokenworks.texts import en, zh
from tokenworks.texts.catalogue import Catalogue

Language = Literal["zh", "en"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
CATALOGUES: Final[dict[Language, Catalogue]] = {"zh": zh.CATALOGUE, "en": en.CATALOGUE}

__all__ = ["CATALOGUES", "LANGUAGES", "Catalogue", "Language"]
