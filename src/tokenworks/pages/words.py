"""What the pages say, in every language."""

from collections.abc import Mapping
from typing import Final

from tokenworks.kernel import Invalid, TokenworksError
from tokenworks.texts import CATALOGUES, LANGUAGES, Language

WORDS: Final[dict[Language, Mapping[str, str]]] = {one: CATALOGUES[one].pages for one in LANGUAGES}
PRIVACY_WORDS: Final[dict[Language, Mapping[str, str]]] = {one: CATALOGUES[one].privacy for one in LANGUAGES}
SESSION_WORDS: Final[dict[Language, Mapping[str, str]]] = {one: CATALOGUES[one].sessions for one in LANGUAGES}


def refusal(error: TokenworksError, language: Language) -> str:
    """What a person is told of a refusal; in English, what was invalid is said as it is."""
    if language == "en" and isinstance(error, Invalid):
        text = str(error)
        return f"{text[:1].upper()}{text[1:]}."
    said = CATALOGUES[language].refusals
    return next((said[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in said), str(error))
