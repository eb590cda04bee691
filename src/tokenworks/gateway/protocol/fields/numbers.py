"""Reads the priced values of a body: numbers, texts and flags, in the forms that clients write (100.0 for 100, null for nothing)."""

from typing import Final, TypeVar

import msgspec

from tokenworks.gateway.protocol.fields.errors import UNREADABLE, invalid
from tokenworks.gateway.protocol.fields.layout import OPEN_ARRAY, RawObject
from tokenworks.gateway.protocol.fields.scan import any_decoder, first_byte, items_decoder

TOKENS_MAX: Final = 10**12
CHOICES_MAX: Final = 128
INPUTS_MAX: Final = 100_000
_string: Final = msgspec.json.Decoder(str | None)
_number: Final = msgspec.json.Decoder(int | float | None)
_truth: Final = msgspec.json.Decoder(bool | None)
_T = TypeVar("_T")
# The first bytes of a text, or of a number in a list of tokens.
_ONE_INPUT: Final = frozenset(b'"-0123456789')


def typed(fields: RawObject, name: str, decoder: "msgspec.json.Decoder[_T]") -> _T | None:
    """A field's value; None if it is absent or null. Raises `BodyError`."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise invalid(f"{name} is of the wrong type", name) from None
    except UNREADABLE as error:
        raise invalid(f"{name}: {error}", name) from None


def text(fields: RawObject, name: str) -> str | None:
    return typed(fields, name, _string)


def flag(fields: RawObject, name: str) -> bool:
    return bool(typed(fields, name, _truth))


def whole(fields: RawObject, name: str) -> int | None:
    """A whole number. 100.0 is a whole number, too."""
    value = typed(fields, name, _number)
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > TOKENS_MAX:
            raise invalid(f"{name} is a whole number", name)
        return int(value)
    return value


def choices(fields: RawObject, name: str) -> int:
    if name not in fields:
        return 1
    value = whole(fields, name)
    if value is None:
        return 1
    if not 0 < value <= CHOICES_MAX:
        raise invalid(f"{name} is 1 to {CHOICES_MAX}", name)
    return value


def inputs(fields: RawObject, name: str) -> int:
    """The number of texts in a batch. A single text and a list of token numbers count as one."""
    raw = fields.get(name)
    if raw is None or first_byte(raw) != OPEN_ARRAY:
        return 1
    head = bytes(memoryview(raw)[1:64]).lstrip()
    if head and head[0] != b'"'[0] and head[0] in _ONE_INPUT:
        return 1
    try:
        count = len(items_decoder.decode(raw))
    except UNREADABLE as error:
        raise invalid(f"{name}: {error}", name) from None
    if count > INPUTS_MAX:
        raise invalid(f"{name} is a list of at most {INPUTS_MAX}", name)
    return max(1, count)


_THINKS: Final = frozenset(
    {
        "reasoning_effort",
        "reasoning",
        "thinking",
        "enable_thinking",
        "thinking_budget",
        "chat_template_kwargs",
        "output_config",
    }
)
_ON: Final = frozenset({"enabled", "adaptive", "auto", "between_tools"})


def asks_to_think(fields: RawObject) -> bool:
    """True if a request asks for reasoning, which a vendor may not show."""
    names = _THINKS.intersection(fields)
    if not names:
        return False
    values: dict[str, object] = {}
    for name in names:
        try:
            values[name] = any_decoder.decode(fields[name])
        except UNREADABLE:
            return True
    switches = [value for value in values.values() if isinstance(value, dict)]
    return (
        _is_effort(values.get("reasoning_effort"))
        or bool(values.get("enable_thinking") or values.get("thinking_budget"))
        or any(_switched_on(switch) for switch in switches)
    )


def _is_effort(value: object) -> bool:
    """True for any effort but `none`, even for a value of the wrong type."""
    return value is not None and value != "none"


def _switched_on(switch: dict[str, object]) -> bool:
    """True if `reasoning`, `thinking` or the switches of a chat template turn reasoning on."""
    kind = switch.get("type")
    if (isinstance(kind, str) and kind in _ON) or switch.get("enabled") is True or switch.get("max_tokens"):
        return True  # `enabled` and `max_tokens`: of OpenRouter's `reasoning`
    return bool(switch.get("enable_thinking") or switch.get("thinking") or switch.get("thinking_budget")) or (
        "format" not in switch and _is_effort(switch.get("effort")) and "type" not in switch
    )
