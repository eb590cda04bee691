"""What a worker asks the wiring through the recorder, and what the wiring publishes to workers: names and their types.

Both are bytes inside a frame (`Request`, `Reply`, `Publication`). The recorder and the worker's client pass the bytes on; only the
wiring on both sides decodes them.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from tokenworks.charging import wire
from tokenworks.charging.wiring_messages import (
    BlockedKeys,
    ClockOffset,
    ContentKeys,
    ContentKeysAsked,
    ContentToLog,
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
    ReplayFound,
    ReplayLookup,
    ReplayName,
    ReplayToKeep,
    UpstreamObject,
)

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")
Content = TypeVar("Content")

NIL: Final = b"\xc0"
"""An answer that could not be given."""


class Question(Generic[Argument, Answer]):
    """A kind of question, by its name: encodes and decodes its argument and its answer."""

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
    """A row of a key that ended is shorter than one of a live key. Raises `WireError`."""
    found: list[LiveKey | EndedKey] = []
    for row in _key_rows(body):
        try:
            found.append(_live_key(row))
        except wire.UNREADABLE:
            found.append(_ended_key(row))
    return found


# The MACs of one key under each pepper -> the key with one of these MACs; an empty answer: no such key was ever issued.
KEYS: Final = Question("keys", list[bytes], _decode_keys)
OBJECT_OWNER: Final = Question("owns", UpstreamObject, wire.BodyDecoder("the answer of owns", ObjectOwner))
DEPLOYMENT_PAUSE: Final = Question(
    "rested", DeploymentPause, wire.BodyDecoder("the answer of rested", type(None))
)

# An answer to give again; whether an answer was stored; a claim on an idempotency key that came to nothing.
REPLAY_LOOKUP: Final = Question("replay", ReplayLookup, wire.BodyDecoder("the answer of replay", ReplayFound))
REPLAY_KEEP: Final = Question("keep", ReplayToKeep, wire.BodyDecoder("the answer of keep", bool))
REPLAY_DROP: Final = Question("unclaim", ReplayName, wire.BodyDecoder("the answer of unclaim", type(None)))


# Keys of contents that lie with a client.
CONTENT_KEYS: Final = Question(
    "content_keys", ContentKeysAsked, wire.BodyDecoder("the answer of content_keys", ContentKeys)
)


# An entry of the log of content; the answer is whether it was stored.
CONTENT_LOG: Final = Question("content", ContentToLog, wire.BodyDecoder("the answer of content", bool))


class Topic(Generic[Content]):
    """A kind of publication, by its name."""

    __slots__ = ("decode", "name")

    def __init__(self, name: str, content: type[Content]) -> None:
        self.name = name
        self.decode = wire.BodyDecoder(f"the publication {name}", content)

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
