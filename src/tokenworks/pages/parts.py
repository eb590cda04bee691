"""What templates show with the parts of `ui.html`, as types."""

from typing import Literal, NamedTuple

Tone = Literal["", "ok", "warn", "soft"]


class Figure(NamedTuple):
    """A card with one figure. `href`: the page that explains it."""

    what: str
    figure: str
    note: str = ""
    href: str = ""
    tone: Tone = ""


class Alert(NamedTuple):
    """What a visitor has to do, and the page on which to do it."""

    text: str
    href: str
    action: str
    tone: Literal["note", "warn"] = "note"
