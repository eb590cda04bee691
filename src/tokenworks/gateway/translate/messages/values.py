"""Values of decoded JSON, narrowed: what has another type counts as absent."""

from tokenworks.gateway.translate.form import CacheLifetime, JsonObject


class Dropped:
    """The names of what is not carried, each once, in the order in which they were met."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        self._names[name] = None

    def others(self, fields: JsonObject, known: frozenset[str], prefix: str = "") -> None:
        """Add the fields that are given and not known. `prefix`: where they stand, with a point at its end."""
        for name, value in fields.items():
            if name not in known and value is not None:
                self.add(prefix + name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._names)


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) else None


def fields_of(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def items_of(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def int_of(value: object) -> int | None:
    """A whole number, also one that is written as a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def float_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def bool_of(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def lifetime_of(value: object) -> CacheLifetime | None:
    """Of a `cache_control`. One without `ttl` is of five minutes."""
    fields = fields_of(value)
    if fields.get("type") != "ephemeral":
        return None
    return "1h" if fields.get("ttl") == "1h" else "5m"
