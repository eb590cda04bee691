"""The response that gives a stored answer again. Its body is what was stored; its head, and the cost in it, are of the repeat itself."""

from typing import Final

from tokenworks.charging import RESPONSE_CACHE, ReplayFound, ReplayKind
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import dropped_header
from tokenworks.gateway.request.cost import stream_end, whole_answer
from tokenworks.gateway.request.rate_headers import admitted_lines
from tokenworks.gateway.request.reply import end_stream, write_whole
from tokenworks.gateway.request.state import HeldRequest
from tokenworks.gateway.snapshot import Snapshot, allows

_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-request-id: %b\r\nrequest-id: %b\r\nx-tokenworks-replayed: %b\r\n%b"


def write_replayed(
    request: HeldRequest, conn: ClientConnection, found: ReplayFound, kind: ReplayKind, now_ms: int
) -> None:
    """Write a stored answer whose replay is recorded. `now_ms`: civil time."""
    request.response_head = _head(request, found, kind, now_ms)
    body = found.answer
    if request.parsed.stream:
        end_stream(request, conn, stream_end(request, None, body) if request.wants_cost else body)
    else:
        write_whole(request, conn, whole_answer(request, body) if request.wants_cost else body)


def _head(request: HeldRequest, found: ReplayFound, kind: ReplayKind, now_ms: int) -> bytes:
    ids = request.request_id.encode()
    lines = [
        _HEAD % (found.media_type.encode(), ids, ids, found.request_id.encode(), request.head.lines),
    ]
    if kind == RESPONSE_CACHE:
        lines.append(b"x-tokenworks-cache: hit\r\nage: %d\r\n" % found.age_s)
    if request.intent is not None or request.falls_back or found.asked is not None:
        # Of the model that answered, which may be another than this request would have now. A recorder of the release before says none.
        lines += (b"x-tokenworks-model: ", (found.model or request.model).encode(), b"\r\n")
        choice = found.choice if found.model else request.choice
        if choice is not None:
            lines += (b"x-tokenworks-choice: ", choice.encode(), b"\r\n")
    if request.admission is not None:
        lines.append(admitted_lines(request.admission, request.protocol, now_ms))
    if request.parsed.dropped:
        lines += (b"x-tokenworks-dropped: ", dropped_header(request.parsed.dropped), b"\r\n")
    return b"".join(lines)


def refusal_of_model(request: HeldRequest, found: ReplayFound, snapshot: Snapshot) -> Refusal | None:
    """The refusal if the request's key may not use the model that answered first: another key of the account may have asked, by an intent or
    with models to fall back to. A recorder of the release before names no model.
    """
    model, allowed = found.model, request.user.models
    if allowed is None or not model or allows(allowed, request.parsed.model, model):
        return None
    if model == request.user.policy.restrict_to or any(snapshot.resolve(name) == model for name in allowed):
        return None
    return Refusal(403, "model_not_allowed", f"this key may not use {model}", param="model")


def lookup_refusal(found: ReplayFound | None) -> Refusal | None:
    """The refusal of a request with an idempotency key; None if it goes on as the first one."""
    if found is None:
        return Refusal(503, "database_away", "the Idempotency-Key can't be looked up now", 1)
    if found.verdict == "in_flight":
        return Refusal(
            409,
            "idempotency_in_flight",
            "the first request with this Idempotency-Key is not over: its answer is given after that",
            1,
        )
    if found.verdict == "other_request":
        return Refusal(
            422,
            "idempotency_key_reused",
            "this Idempotency-Key was used with another request: repeat that one exactly, or use a new key",
        )
    if found.verdict == "spent":
        return Refusal(
            409,
            "idempotency_key_spent",
            "the first request with this Idempotency-Key was, or may have been, answered and charged, and its answer can't be given "
            "again: use a new key if the request is to be served and charged again",
        )
    if found.verdict == "full":
        return Refusal(
            429,
            "too_many_idempotency_keys",
            "this account has as many stored answers as it may have: older ones end after hours",
            60,
        )
    return None
