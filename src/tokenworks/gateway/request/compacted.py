"""The answer to a request for a compaction that the gateway answers itself: the summary, sealed, in the shape that the client expects.

A sealed summary is made once for a request, so that the client, a repeat by idempotency key and the log get the same one.
"""

import re
from typing import Final

import msgspec

from tokenworks.gateway.protocol.compaction import (
    NO_SUMMARY,
    compacted,
    events_of,
    item_of,
    response_with,
    summary_of,
    written,
)
from tokenworks.gateway.protocol.errors import error_body
from tokenworks.gateway.protocol.fields.layout import RawObject
from tokenworks.gateway.protocol.stored import whole_response
from tokenworks.gateway.request.state import ArrivedRequest, Compaction
from tokenworks.trust import seal_content

_encode: Final = msgspec.json.encode
_STATUS: Final = re.compile(rb"^HTTP/1\.1 200 OK")
_TYPE: Final = re.compile(rb"\r\ncontent-type: [^\r]*")


def compacted_response(request: ArrivedRequest, body: bytes) -> RawObject | None:
    """The answer as a response whose output is the compaction; None if the model wrote no summary. An answer that is no summary is returned
    as it is.
    """
    answer = whole_response(body)
    compaction = request.compaction
    if answer is None or compaction is None or compaction.relayed:
        return answer
    item = _item(request, compaction, answer)
    return None if item is None else response_with(answer, item)


def compacted_body(request: ArrivedRequest, body: bytes) -> bytes | None:
    """The same as the bytes that the client gets."""
    compaction = request.compaction
    if compaction is None or compaction.relayed:
        return body
    answer = whole_response(body)
    item = None if answer is None else _item(request, compaction, answer)
    if answer is None or item is None:
        return None
    if compaction.by_route:
        return compacted(answer, [*compaction.users, item])
    response = response_with(answer, item)
    return events_of(response, item) if compaction.streams else _encode(response)


def compacted_end(request: ArrivedRequest, body: bytes) -> bytes:
    """The body that is written, and the response's head for it. Without a summary it is a refusal, although the request is charged: a client
    that took it for a compaction would lose its conversation.
    """
    compaction = request.compaction
    if compaction is None or compaction.relayed:
        return body
    out = compacted_body(request, body)
    if out is None:
        head = _STATUS.sub(b"HTTP/1.1 %d Unprocessable Content" % NO_SUMMARY.status, request.response_head, 1)
        request.response_head = _TYPE.sub(b"\r\ncontent-type: application/json", head, 1)
        return error_body(NO_SUMMARY, request.protocol, request.request_id)
    if compaction.streams:
        request.response_head = _TYPE.sub(b"\r\ncontent-type: text/event-stream", request.response_head, 1)
    request.response_head += b"x-tokenworks-compacted: summary\r\n"
    return out


def _item(request: ArrivedRequest, compaction: Compaction, answer: RawObject) -> msgspec.Raw | None:
    if not compaction.content:
        summary = summary_of(answer)
        if not summary:
            return None
        sealed = compaction.sealed_key + seal_content(compaction.key, summary.encode("utf-8", "replace"))
        compaction.content = written(sealed)
    return item_of(f"cmp_{request.request_id}", compaction.content)
