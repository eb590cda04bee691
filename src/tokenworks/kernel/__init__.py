"""Money, units, ids, clock and the error tree. No I/O; imports nothing of ours."""

from tokenworks.kernel.clock import AnchoredClock, Clock, ManualClock, SystemClock
from tokenworks.kernel.errors import Conflict, Invalid, NotFound, Refused, TokenworksError, Unavailable
from tokenworks.kernel.ids import uuid7, uuid7_floor, uuid7_ms
from tokenworks.kernel.units import (
    MTOK_PER_TOKEN,
    NANO_PER_UNIT,
    Millitokens,
    Money,
    NanoMoney,
    Tokens,
    format_money,
    format_quantity,
    format_tokens,
    parse_money,
    tokens_to_mtok,
)

__all__ = [
    "MTOK_PER_TOKEN",
    "NANO_PER_UNIT",
    "AnchoredClock",
    "Clock",
    "Conflict",
    "Invalid",
    "ManualClock",
    "Millitokens",
    "Money",
    "NanoMoney",
    "NotFound",
    "Refused",
    "SystemClock",
    "Tokens",
    "TokenworksError",
    "Unavailable",
    "format_money",
    "format_quantity",
    "format_tokens",
    "parse_money",
    "tokens_to_mtok",
    "uuid7",
    "uuid7_floor",
    "uuid7_ms",
]
