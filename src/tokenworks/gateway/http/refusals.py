"""Refusals by the client connection itself, and the response of any refusal."""

from typing import Final

from tokenworks.gateway.http.chunked import ChunkedError
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.protocol.errors import Refusal, error_response, in_language

NOT_HTTP: Final = Refusal(400, "bad_request", "this is not HTTP/1.1")
NOT_IN_TIME: Final = Refusal(408, "request_timeout", "the request did not arrive in time")


def head_too_large(bytes_max: int) -> Refusal:
    return Refusal(431, "headers_too_large", f"the headers are over {bytes_max} bytes")


def body_too_large(bytes_max: int) -> Refusal:
    return Refusal(413, "body_too_large", f"a body is at most {bytes_max} bytes here")


def refusal_of_chunks(error: ChunkedError, bytes_max: int) -> Refusal:
    """The refusal of a chunked body that can't be read on."""
    if error.status == 413:
        return body_too_large(bytes_max)
    if error.status == 431:
        return Refusal(431, "headers_too_large", "trailers, or a chunk's extensions, are too long")
    return Refusal(400, "bad_request", "the chunked body is malformed")


def refusal_response(
    refusal: Refusal, head: Head | None, protocol: str | None, request_id: str, *, close: bool
) -> bytes:
    """The response, in the client's language. `head`: the request's, if it could be read; `protocol` None: by its path."""
    lines, without_body = b"", False
    if head is not None:
        refusal = in_language(refusal, head.headers.get(b"accept-language"))
        lines, without_body = head.lines, head.method == b"HEAD"
    if protocol is None:
        protocol = "messages" if head is not None and head.messages else "chat"
    return error_response(refusal, protocol, request_id, close=close, head=without_body, lines=lines)
