"""The payload of a frame of the journal. Its first byte is its kind, which decides the layout of the rest.

Version 1 of the layout has the three kinds below. Another layout uses other letters, so that a release refuses what it cannot read
instead of settling it wrongly. A release reads all letters that were ever written (`tests/charging/test_old_journal.py` has a journal of
each layout).
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
"""A worker's id (16 bytes) and its `JournalBatch`, unchanged."""
OWN: Final = b"R"
"""Operations of the recorder itself, which closes the open attempts of a lost worker."""
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
    """Operations of the recorder itself."""

    ops: list[JournalOp]


def worker_payload(worker_id: str, body: bytes) -> bytes:
    return FROM_WORKER + bytes.fromhex(worker_id) + body


def own_payload(ops: Sequence[WrittenOp]) -> bytes:
    return OWN + wire.encode(ops)


def checkpoint_payload(attempts: Sequence[OpenAttempt], last_message: Mapping[str, int]) -> bytes:
    """A checkpoint of these attempts and message numbers. Starts are written without the tag of an operation."""
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
    """Decode the payload of the frame with this sequence. Raises `JournalCorrupt`."""
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
    """The operations in a payload; a checkpoint has none. Raises `JournalCorrupt`."""
    content = read_payload(seq, payload)
    if isinstance(content, WorkerPayload):
        return content.batch.ops
    return content.ops if isinstance(content, OwnPayload) else ()


__all__ = [
    "OwnPayload",
    "WorkerPayload",
    "checkpoint_payload",
    "ops_of",
    "own_payload",
    "read_payload",
    "worker_payload",
]
