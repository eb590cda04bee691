"""Marks of the prompt cache: a request may have four, and none of an hour may follow one of five minutes."""

from typing import Final

from tokenworks.gateway.translate.form import CacheLifetime, JsonObject

MARKS_MAX: Final = 4


class Breakpoints:
    """Collects the marks in the order of the prompt (tools, system, messages). `settle` removes the first ones of too many: the last
    ones cover the longest beginnings.
    """

    __slots__ = ("_marked",)

    def __init__(self) -> None:
        self._marked: list[tuple[JsonObject, CacheLifetime]] = []

    def mark(self, block: JsonObject, lifetime: CacheLifetime | None) -> None:
        if lifetime is not None:
            block["cache_control"] = (
                {"type": "ephemeral"} if lifetime == "5m" else {"type": "ephemeral", "ttl": "1h"}
            )
            self._marked.append((block, lifetime))

    def settle(self) -> bool:
        """True if there were too many marks."""
        too_many = len(self._marked) > MARKS_MAX
        for block, _ in self._marked[:-MARKS_MAX]:
            del block["cache_control"]
        short = False
        for block, lifetime in self._marked[-MARKS_MAX:]:
            short = short or lifetime == "5m"
            if short:
                block["cache_control"] = {"type": "ephemeral"}
        return too_many
