"""Writes the cost of a request into the usage of its answer, whole or streamed: `cost` and `cost_details`, as OpenRouter's clients read
them. The other members of the usage keep their bytes.
"""

import re
from typing import Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.splice import payload_of, with_payload
from tokenworks.gateway.protocol.usage import BOM, UNREADABLE

RawFields = dict[str, msgspec.Raw]
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.Encoder().encode
_ANY_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_DONE: Final = b"[DONE]"


def body_with_cost(body: bytes, protocol: str, cost: RawFields, counts: Counts) -> bytes:
    """A whole answer with the cost in its usage; `counts` makes a usage where the answer has none. A body that is no object is returned
    unchanged.
    """
    fields = _fields(body.removeprefix(BOM))
    if fields is None:
        return body
    fields["usage"] = _usage_with_cost(fields.get("usage"), protocol, cost, counts)
    return _encode(fields)


def events_with_cost(
    events: bytes, protocol: str, cost: RawFields, counts: Counts, answer_id: str, model: str
) -> bytes:
    """The last events of a stream with the cost in the last usage among them. Chat completions and completions without one get a usage
    event of their own before the terminal event, with the id of the events before it; `answer_id`: if none of them has one.
    """
    parts = _parts(events)
    for at in range(len(parts) - 1, -1, -1):
        changed = _event_with_cost(parts[at], protocol, cost, counts)
        if changed is not None:
            parts[at] = changed
            return b"".join(parts)
    if protocol not in {"chat", "completions"}:
        return events
    kind = b"text_completion" if protocol == "completions" else b"chat.completion.chunk"
    usage = _usage_with_cost(None, protocol, cost, counts)
    own_id = _id_of(parts) or _encode(answer_id)
    own = b'data: {"id":%b,"object":"%b","created":0,"model":%b,"choices":[],"usage":%b}\n\n' % (
        own_id,
        kind,
        _encode(model),
        bytes(usage),
    )
    ends = [at for at, part in enumerate(parts) if payload_of(part).strip() == _DONE]
    parts.insert(ends[0] if ends else len(parts), own)
    return b"".join(parts)


def _id_of(parts: list[bytes]) -> bytes | None:
    """The id in the last of the events that has one, as it is written there."""
    for part in reversed(parts):
        fields = _fields(payload_of(part))
        found = None if fields is None else fields.get("id")
        if found is not None:
            return bytes(found)
    return None


def _parts(events: bytes) -> list[bytes]:
    """The events, each with its empty line. Bytes after the last empty line are a part of their own."""
    parts = list[bytes]()
    at = 0
    for end in _ANY_END.finditer(events):
        parts.append(events[at : end.end()])
        at = end.end()
    if at < len(events):
        parts.append(events[at:])
    return parts


def _event_with_cost(event: bytes, protocol: str, cost: RawFields, counts: Counts) -> bytes | None:
    """The event with the cost in its usage; None if it has none."""
    fields = _fields(payload_of(event))
    if fields is None:
        return None
    if protocol == "responses":
        raw = fields.get("response")
        response = None if raw is None else _fields(bytes(raw))
        if response is None:
            return None
        response["usage"] = _usage_with_cost(response.get("usage"), protocol, cost, counts)
        fields["response"] = msgspec.Raw(_encode(response))
    else:
        raw = fields.get("usage")
        if raw is None or _fields(bytes(raw)) is None:
            return None
        fields["usage"] = _usage_with_cost(raw, protocol, cost, counts)
    return with_payload(event, _encode(fields))


def _usage_with_cost(raw: msgspec.Raw | None, protocol: str, cost: RawFields, counts: Counts) -> msgspec.Raw:
    usage = None if raw is None else _fields(bytes(raw))
    if usage is None:
        names = ("prompt_tokens", "completion_tokens")
        if protocol in {"messages", "responses"}:
            names = ("input_tokens", "output_tokens")
        usage = {
            names[0]: msgspec.Raw(b"%d" % counts.input_tokens),
            names[1]: msgspec.Raw(b"%d" % counts.output_tokens),
        }
        if protocol != "messages":
            usage["total_tokens"] = msgspec.Raw(b"%d" % (counts.input_tokens + counts.output_tokens))
    usage.update(cost)
    return msgspec.Raw(_encode(usage))


def _fields(payload: bytes) -> RawFields | None:
    try:
        return _object.decode(payload)
    except UNREADABLE:
        return None
