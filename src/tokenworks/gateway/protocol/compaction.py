"""Compaction of a conversation of responses as JSON, without I/O: the request for a summary that stands for one, the answer in OpenAI's
shapes, and the item in later requests.

A client requests a compaction by `POST /v1/responses/compact` or, as Codex does, by an item `compaction_trigger` at the end of the input
of an ordinary request. Shapes: developers.openai.com, API reference, "Compact a response" (2026-11); Codex 0.171.0 takes exactly one item
`compaction` in the output of a request with a trigger.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.body import COUNTED_BYTES, VALUES_MAX, check_count
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, BodyError
from tokenworks.gateway.protocol.fields.layout import OPEN_OBJECT, RawObject
from tokenworks.gateway.protocol.fields.scan import any_decoder, first_byte, object_decoder
from tokenworks.gateway.protocol.stored import input_items, whole_response

COMPACT_PATH: Final = "/v1/responses/compact"
# The items that this gateway made begin with this; those of a provider are its own.
OWN_MARK: Final = "twc1."
MAXIMUM: Final = "max_output_tokens"
# Compactions of this gateway in one request: each of them has a key that is opened.
OWN_ITEMS_MAX: Final = 16
INSTRUCTION: Final = (
    "The conversation above ends here, and a summary by you will stand in its place. Write that summary for a model that continues the "
    "work and sees nothing else of the conversation. State what the user wants and under which conditions, what was done and decided and "
    "why, names, paths, figures and commands exactly, what failed, the present state, and what is still to be done. Answer with the text "
    "of the summary alone; call no tool."
)
PREFACE: Final = (
    "Summary of the conversation up to here, written by a model because the conversation was compacted:\n\n"
)
CUT_NOTE: Final = "\n\n[The summary was cut here: its tokens were limited.]"
NO_SUMMARY: Final = Refusal(
    422,
    "not_compacted",
    "the model wrote no summary, and the tokens that it used were charged: the conversation is as it was",
)
NOT_OURS: Final = Refusal(
    400,
    "foreign_object",
    "a compaction in input can't be read: it works only for the member whose key received it, and only unchanged",
    param="input",
)
_encode: Final = msgspec.json.encode
TRIGGER: Final = msgspec.Raw(b'{"type":"compaction_trigger"}')
_FALSE: Final = msgspec.Raw(b"false")
_NONE: Final = msgspec.Raw(b'"none"')
_COMPLETED: Final = msgspec.Raw(b'"completed"')
_IN_PROGRESS: Final = msgspec.Raw(b'"in_progress"')
_EMPTY: Final = msgspec.Raw(b"[]")
_NULL: Final = msgspec.Raw(b"null")
# Fields of a request that shape the answer that the client wanted, and not a summary.
_OF_THE_ANSWER: Final = frozenset(
    {"stream", "stream_options", "text", "include", "tool_choice", "max_tool_calls", "top_logprobs"}
)
# All fields of the route at OpenAI, which refuses others. The last two are for this gateway alone.
_OF_THE_ROUTE: Final = frozenset(
    {
        "model", "input", "instructions", "previous_response_id", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "service_tier", "models", "usage",
    }
)  # fmt: skip


class SealedItem(NamedTuple):
    """A compaction of this gateway: the place of its item in the input, and its sealed content."""

    place: int
    sealed: bytes


class Found(NamedTuple):
    """The input of a request that has a compaction or asks for one. `users`: the messages of the user, as they came."""

    items: list[msgspec.Raw]
    own: list[SealedItem]
    triggers: bool
    users: list[msgspec.Raw]


def triggered(body: bytes) -> bytes | Refusal:
    """The body of a request to the route, as that of a request of responses with a trigger. What can't be read is refused."""
    try:
        if len(body) > COUNTED_BYTES:
            check_count(body)
        fields = object_decoder.decode(body)
        given = fields.get("input", _NULL)
        items = [] if given == _NULL else input_items(given)
    except BodyError as error:
        return error.refusal
    except UNREADABLE as error:
        return Refusal(400, "bad_request", f"the body is not a JSON object with an input: {error}")
    fields.pop("stream", None)
    # A compaction is not stored: the client has it.
    fields |= {"input": msgspec.Raw(_encode([*items, TRIGGER])), "store": _FALSE}
    return _encode(fields)


def find(value: msgspec.Raw) -> Found | Refusal:
    """Read the input. Triggers are not among its items any more. Each item is read, so that their number is limited."""
    given = input_items(value)
    if len(given) > VALUES_MAX:
        return Refusal(400, "invalid_body", f"input has at most {VALUES_MAX} items", param="input")
    items: list[msgspec.Raw] = []
    own: list[SealedItem] = []
    users: list[msgspec.Raw] = []
    triggers = False
    for item in given:
        fields = _fields(item)
        kind = _text(fields, "type")
        if kind == "compaction_trigger":
            triggers = True
            continue
        if kind == "compaction":
            content = _text(fields, "encrypted_content")
            if content.startswith(OWN_MARK):
                sealed = _unwritten(content)
                if sealed is None:
                    return NOT_OURS
                own.append(SealedItem(len(items), sealed))
        elif kind in {"", "message"} and _text(fields, "role") == "user":
            users.append(item)
        items.append(item)
    if len(own) > OWN_ITEMS_MAX:
        return Refusal(
            400, "invalid_body", f"a request has at most {OWN_ITEMS_MAX} compactions", param="input"
        )
    return Found(items, own, triggers, users)


def is_trigger(item: msgspec.Raw) -> bool:
    return _text(_fields(item), "type") == "compaction_trigger"


def opened_item(summary: bytes) -> msgspec.Raw:
    """The message that any deployment reads in place of a compaction."""
    content = [{"type": "input_text", "text": PREFACE + summary.decode("utf-8", "replace")}]
    return msgspec.Raw(_encode({"type": "message", "role": "user", "content": content}))


def with_input(fields: RawObject, items: list[msgspec.Raw]) -> bytes:
    """The body with other items."""
    return _encode(fields | {"input": msgspec.Raw(_encode(items))})


def summary_body(fields: RawObject, items: list[msgspec.Raw]) -> bytes:
    """The body of the request for a summary, which is not streamed. It has the tools of the conversation, so that its calls can be read and
    a provider's cache holds, and may call none of them.
    """
    sent = {name: value for name, value in fields.items() if name not in _OF_THE_ANSWER}
    content = [{"type": "input_text", "text": INSTRUCTION}]
    asked = msgspec.Raw(_encode({"type": "message", "role": "user", "content": content}))
    sent["input"] = msgspec.Raw(_encode([*items, asked]))
    if "tools" in sent:
        sent["tool_choice"] = _NONE
    return _encode(sent)


def route_body(fields: RawObject, items: list[msgspec.Raw]) -> tuple[bytes, tuple[str, ...]]:
    """(the body for a provider's own route, the names of fields that the route does not have)."""
    sent = {name: value for name, value in fields.items() if name in _OF_THE_ROUTE}
    sent["input"] = msgspec.Raw(_encode(items))
    return _encode(sent), tuple([name for name in fields if name not in sent and name != "store"])


def without_maximum(fields: RawObject) -> RawObject:
    """The fields of a request with a trigger for a vendor that compacts: its compaction may have more tokens than the request's maximum."""
    return {name: value for name, value in fields.items() if name != MAXIMUM}


def written(sealed: bytes) -> str:
    """The `encrypted_content` of an item."""
    return OWN_MARK + base64.urlsafe_b64encode(sealed).decode()


def _unwritten(content: str) -> bytes | None:
    try:
        return base64.b64decode(content[len(OWN_MARK) :], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


def summary_of(answer: RawObject) -> str:
    """The text of the messages in an answer; "" if it has none. A text whose tokens were limited says so at its end."""
    texts: list[str] = []
    for item in _objects(answer.get("output")):
        if _text(item, "type") == "message":
            for part in _objects(item.get("content")):
                if _text(part, "type") == "output_text":
                    texts.append(_text(part, "text"))
    text = "\n\n".join(texts).strip()
    return text + CUT_NOTE if text and _text(answer, "status") == "incomplete" else text


def item_of(item_id: str, content: str) -> msgspec.Raw:
    return msgspec.Raw(_encode({"type": "compaction", "id": item_id, "encrypted_content": content}))


def compacted(answer: RawObject, output: Sequence[msgspec.Raw]) -> bytes:
    """The answer of the route."""
    return _encode(
        {
            "id": answer.get("id", _NULL),
            "object": "response.compaction",
            "created_at": answer.get("created_at", msgspec.Raw(b"0")),
            "output": output,
            "usage": answer.get("usage", _NULL),
        }
    )


def response_with(answer: RawObject, item: msgspec.Raw) -> RawObject:
    """The answer to a request with a trigger: a response whose output is the compaction alone."""
    return answer | {
        "status": _COMPLETED,
        "incomplete_details": _NULL,
        "output": msgspec.Raw(_encode([item])),
    }


def events_of(response: RawObject, item: msgspec.Raw) -> bytes:
    """The same as a whole stream."""
    begun = response | {"status": _IN_PROGRESS, "output": _EMPTY, "usage": _NULL}
    events: list[dict[str, object]] = [
        {"type": "response.created", "sequence_number": 0, "response": begun},
        {"type": "response.in_progress", "sequence_number": 1, "response": begun},
        {"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": item},
        {"type": "response.output_item.done", "sequence_number": 3, "output_index": 0, "item": item},
        {"type": "response.completed", "sequence_number": 4, "response": response},
    ]
    return b"".join([b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), _encode(e)) for e in events])


def _objects(value: msgspec.Raw | None) -> Iterable[RawObject]:
    """The objects of a list; none of any other value."""
    if value is None:
        return
    try:
        items = input_items(value)
    except UNREADABLE:
        return
    for item in items:
        fields = whole_response(bytes(item))
        if fields is not None:
            yield fields


def _fields(item: msgspec.Raw) -> RawObject | None:
    """The fields of an item; None if it is no object."""
    return whole_response(bytes(item)) if first_byte(item) == OPEN_OBJECT else None


def _text(fields: RawObject | None, name: str) -> str:
    """A field's text; "" if it has none."""
    if fields is None:
        return ""
    try:
        value = any_decoder.decode(fields.get(name, b"null"))
    except UNREADABLE:
        return ""
    return value if isinstance(value, str) else ""
