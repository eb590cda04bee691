"""The names of fields that a request has and a translation does not carry."""

from typing import Final

NAMES_MAX: Final = 100


class Named:
    """Each name once, in the order in which they came, and at most `NAMES_MAX` of them."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        if len(self._names) < NAMES_MAX:
            self._names[name] = None

    def names(self) -> tuple[str, ...]:
        return tuple(self._names)
