"""What a frame of the journal holds. The first byte of a payload is its kind, and stands for the layout of what follows.

Version 1 of the layout has the three kinds below. Another layout takes other letters, so that a release knows what it can't read and
says so, instead of settling it wrongly; a release reads all letters that were ever written (`tests/charging/test_old_journal.py` has a
journal of each layout).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tokenworks.charging import wire
from tokenworks.charging.errors import JournalCorrupt
from tokenworks.charging.messages import (
    AttemptStart,
    Checkpoint,
    JournalBatch,
    JournalOp,
    OpenAttempt,
    WrittenOp,
)

FROM_WORKER: Final = b"W"
"""A worker's id (16 bytes) and its `JournalBatch`, as it came."""
OWN: Final = b"R"
"""Operations of the recorder's own: it closes what a lost worker left open."""
CHECKPOINT: Final = b"C"
"""A `Checkpoint`, the first frame of each segment."""
WORKER_ID_BYTES: Final = 16

_decode_ops: Final = wire.BodyDecoder("a frame of the recorder's own", list[JournalOp])
_decode_checkpoint: Final = wire.BodyDecoder("a checkpoint", Checkpoint)
_start_fields: Final = AttemptStart.__struct_fields__


class WorkerPayload(NamedTuple):
    """One message of a worker. `worker_id` as 32 hex digits."""

    worker_id: str
    batch: JournalBatch


class OwnPayload(NamedTuple):
    ops: list[JournalOp]


def worker_payload(worker_id: str, body: bytes) -> bytes:
    return FROM_WORKER + bytes.fromhex(worker_id) + body


def own_payload(ops: Sequence[WrittenOp]) -> bytes:
    return OWN + wire.encode(ops)


def checkpoint_payload(attempts: Sequence[OpenAttempt], last_message: Mapping[str, int]) -> bytes:
    """A start stands in it without its tag, as it is an operation no more."""
    rows = [
        OpenAttempt(
            attempt.worker_id,
            AttemptStart(*[getattr(attempt.start, name) for name in _start_fields]),
            attempt.counts,
            attempt.first_byte_ms,
            attempt.progress_ms,
        )
        for attempt in attempts
    ]
    return CHECKPOINT + wire.encode(Checkpoint(rows, dict(last_message)))


def read_payload(seq: int, payload: bytes) -> WorkerPayload | OwnPayload | Checkpoint:
    """What the frame with this sequence holds. Raises `JournalCorrupt`."""
    kind, body = payload[:1], payload[1:]
    try:
        if kind == FROM_WORKER:
            batch = wire.decode_journal(body[WORKER_ID_BYTES:])
            return WorkerPayload(body[:WORKER_ID_BYTES].hex(), batch)
        if kind == OWN:
            return OwnPayload(_decode_ops(body))
        if kind == CHECKPOINT:
            return _decode_checkpoint(body)
    except wire.WireError as error:
        raise JournalCorrupt(f"frame {seq} has a layout that this release does not know: {error}") from error
    raise JournalCorrupt(f"frame {seq} is of no kind that this release knows")


def ops_of(seq: int, payload: bytes) -> Sequence[JournalOp]:
    """The operations of a frame; none of a checkpoint. Raises `JournalCorrupt`."""
    found = read_payload(seq, payload)
    if isinstance(found, WorkerPayload):
        return found.batch.ops
    return found.ops if isinstance(found, OwnPayload) else ()


__all__ = [
    "OwnPayload",
    "WorkerPayload",
    "checkpoint_payload",
    "ops_of",
    "own_payload",
    "read_payload",
    "worker_payload",
]
