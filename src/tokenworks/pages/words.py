"""The texts of pages, by language."""

from collections.abc import Mapping
from typing import Final

from tokenworks.kernel import Invalid, TokenworksError
from tokenworks.texts import CATALOGUES, LANGUAGES, Language

WORDS: Final[dict[Language, Mapping[str, str]]] = {
    language: CATALOGUES[language].pages for language in LANGUAGES
}
PRIVACY_WORDS: Final[dict[Language, Mapping[str, str]]] = {
    language: CATALOGUES[language].privacy for language in LANGUAGES
}
SESSION_WORDS: Final[dict[Language, Mapping[str, str]]] = {
    language: CATALOGUES[language].sessions for language in LANGUAGES
}
STAFF_WORDS: Final[dict[Language, Mapping[str, str]]] = {
    language: CATALOGUES[language].staff for language in LANGUAGES
}


def staff_refusal(error: TokenworksError | None, language: Language) -> str | None:
    """The text of a refusal for staff; None without one."""
    if error is None:
        return None
    texts = CATALOGUES[language].staff_refusals
    return next((texts[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in texts), str(error))


def refusal(error: TokenworksError, language: Language) -> str:
    """The text of a refusal for people. In English, the message of an `Invalid` is shown itself."""
    if language == "en" and isinstance(error, Invalid):
        text = str(error)
        return f"{text[:1].upper()}{text[1:]}."
    texts = CATALOGUES[language].refusals
    return next((texts[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in texts), str(error))
