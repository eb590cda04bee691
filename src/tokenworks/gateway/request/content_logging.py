"""The log of content of a key whose holder turned it on: a bounded copy of the request and the answer, sent to the recorder at the end.

A request whose key has no log does nothing of this. The copy is counted in the worker's memory budget until the recorder has answered;
where that has no room, or the recorder is away, the entry is left out and counted.
"""

from typing import Final

from tokenworks.charging import CONTENT_LOG, ContentToLog
from tokenworks.gateway.request.compacted import compacted_body
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.state import AnsweredAttempt, HeldRequest
from tokenworks.gateway.shared import Shared

# Of an entry: the request has at most half, and the answer what is left.
REQUEST_SHARE: Final = 2


def log_content(parts: Parts, request: HeldRequest, attempt: AnsweredAttempt | None) -> None:
    """The request is over: send its entry. One without a record was not served, and has none."""
    record, shared = request.record, parts.shared
    settings = shared.settings
    bytes_max = settings.content_log_entry_bytes_max
    if record is not None and settings.content_log_days:
        said = request.body if request.own_body is None else request.own_body
        body = said[: bytes_max // REQUEST_SHARE]
        answer, size = _answer(parts, request, attempt)
        answer = answer[: bytes_max - len(body)]
        entry = ContentToLog(
            record.account_id,
            request.request_id,
            record.key_id,
            record.member_id,
            request.protocol,
            record.model,
            record.state,
            len(said),
            size,
            body,
            answer,
        )
        taken = len(body) + len(answer)
        if shared.memory.take(request.address, taken):
            sent = _SentEntry(shared, request.address, taken)
            shared.client.request(CONTENT_LOG, entry, sent.answered)
        else:
            shared.stats.c["content_not_logged"] += 1
    if request.copy is not None and request.copy.cut:
        request.copy.forget()
        request.copy = None


def _answer(parts: Parts, request: HeldRequest, attempt: AnsweredAttempt | None) -> tuple[bytes, int]:
    """(what is known of the answer, its size). Of an answer that was given again there is none: the entry of its original has it. Nor is
    there of one that is not streamed and not complete, since its client got nothing of it.
    """
    copy, record = request.copy, request.record
    if copy is not None and (attempt is None or attempt.meter is not None):
        return (b"", copy.size) if copy.lost else (copy.content(), copy.size)
    if attempt is None or not attempt.chunks or record is None or record.state != "complete":
        return b"", 0
    answer = parts.answers.whole_body(attempt, record.c)
    if request.compaction is not None:
        answer = compacted_body(request, answer) or b""
    return answer, len(answer)


class _SentEntry:
    """An entry that waits for the recorder's answer, with its bytes in the memory budget."""

    __slots__ = ("_address", "_shared", "_size")

    def __init__(self, shared: Shared, address: str, size: int) -> None:
        self._shared = shared
        self._address = address
        self._size = size

    def answered(self, is_stored: bool | None) -> None:
        self._shared.memory.give(self._address, self._size)
        self._shared.stats.c["content_logged" if is_stored else "content_not_logged"] += 1
