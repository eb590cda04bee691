"""What a worker asks of the wiring through the recorder, and what the recorder publishes to workers: names and their types.

Both go as bytes inside a frame (`Request`, `Reply`, `Publication`): the recorder and the client pass them on, and only the two that talk
read them.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from tokenworks.charging import wire
from tokenworks.charging.wiring_messages import (
    BlockedKeys,
    ClockOffset,
    DatabaseAlive,
    DeploymentPause,
    EndedKey,
    JournalSpace,
    LiveKey,
    LossyAccounts,
    MissingPeppers,
    ObjectOwner,
    PausedDeployments,
    PublishedSnapshot,
    UpstreamObject,
)

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")
Content = TypeVar("Content")

NIL: Final = b"\xc0"
"""An answer that could not be given."""


class Question(Generic[Argument, Answer]):
    """One question by its name: how its argument and its answer are written and read."""

    __slots__ = ("decode_answer", "decode_argument", "name")

    def __init__(self, name: str, argument: type[Argument], answer: Callable[[wire.Bytes], Answer]) -> None:
        self.name = name
        self.decode_argument = wire.BodyDecoder(f"the argument of {name}", argument)
        self.decode_answer = answer

    def ask(self, argument: Argument) -> msgspec.Raw:
        return msgspec.Raw(wire.encode(argument))

    def answer(self, answer: Answer) -> msgspec.Raw:
        return msgspec.Raw(wire.encode(answer))


_key_rows: Final = wire.BodyDecoder("the answer of keys", list[msgspec.Raw])
_live_key: Final = msgspec.msgpack.Decoder(LiveKey).decode
_ended_key: Final = wire.BodyDecoder("a key that ended", EndedKey)


def _decode_keys(body: wire.Bytes) -> list[LiveKey | EndedKey]:
    """A key that ended is a shorter row. Raises `WireError`."""
    found: list[LiveKey | EndedKey] = []
    for row in _key_rows(body):
        try:
            found.append(_live_key(row))
        except wire.UNREADABLE:
            found.append(_ended_key(row))
    return found


# MACs of one key under each pepper -> what is known of it; nothing: no such key was ever issued.
KEYS: Final = Question("keys", list[bytes], _decode_keys)
OBJECT_OWNER: Final = Question("owns", UpstreamObject, wire.BodyDecoder("the answer of owns", ObjectOwner))
DEPLOYMENT_PAUSE: Final = Question(
    "rested", DeploymentPause, wire.BodyDecoder("the answer of rested", type(None))
)


class Topic(Generic[Content]):
    """One kind of news for workers, by its name."""

    __slots__ = ("decode", "name")

    def __init__(self, name: str, content: type[Content]) -> None:
        self.name = name
        self.decode = wire.BodyDecoder(f"the news {name}", content)

    def encode(self, content: Content) -> msgspec.Raw:
        return msgspec.Raw(wire.encode(content))


DATABASE_ALIVE: Final = Topic("alive", DatabaseAlive)
BLOCKED_KEYS: Final = Topic("blocked", BlockedKeys)
MISSING_PEPPERS: Final = Topic("peppers", MissingPeppers)
CLOCK_OFFSET: Final = Topic("clock", ClockOffset)
PAUSED_DEPLOYMENTS: Final = Topic("rested", PausedDeployments)
JOURNAL_SPACE: Final = Topic("journal", JournalSpace)
LOSSY_ACCOUNTS: Final = Topic("lossy", LossyAccounts)
SNAPSHOT: Final = Topic("snapshot", PublishedSnapshot)
"""`gateway.snapshot_to_wire` makes it, `gateway.snapshot_from_wire` reads it."""
