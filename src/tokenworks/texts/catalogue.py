"""The sections of a catalogue. A section has texts by name; `{name}` in a text is replaced where the text is shown."""

from collections.abc import Mapping
from typing import NamedTuple


class Catalogue(NamedTuple):
    """All customer texts of one language."""

    pages: Mapping[str, str]
    refusals: Mapping[str, str]
    privacy: Mapping[str, str]
    sessions: Mapping[str, str]
    notices: Mapping[str, str]
    notice_titles: Mapping[str, str]
    notice_mails: Mapping[str, str]
    consents: Mapping[str, str]
    invoice: Mapping[str, str]
    staff: Mapping[str, str]
    staff_refusals: Mapping[str, str]
