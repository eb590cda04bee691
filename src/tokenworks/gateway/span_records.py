"""The spans of one request as a worker hands them to the exporter, without content, keys, accounts or phone numbers.

Ids are bytes (W3C Trace Context: 16 of a trace, 8 of a span), times are UTC milliseconds since 1970. The module is not compiled, since a
compiled Struct loses its class keywords.
"""

from msgspec import Struct


class AttemptSpan(Struct, array_like=True, gc=False):
    """One attempt at a deployment. `cause`: why it gave nothing or is not whole; "": it is whole. `counts`: tokens by class, in the order
    of `catalog.TOKEN_CLASSES`; None: none are known. `first_chunk_ms`: from its beginning to the upstream's first byte.
    """

    span_id: bytes
    began_ms: int
    deployment: str
    provider: str
    model: str
    protocol: str
    address: str
    port: int
    ended_ms: int = 0
    cause: str = ""
    first_chunk_ms: int | None = None
    upstream_id: str | None = None
    finishes: tuple[str, ...] = ()
    counts: tuple[int, ...] | None = None


class RequestSpans(Struct, array_like=True, gc=False):
    """A request that is over, and its attempts. `parent_id`: of the client's span; b"": the trace begins here. `status`: of the response;
    0: the client left before one. `cause`: why the request was refused or is not whole; "": it is whole. `usage_id`: of its usage record,
    or "". `attempts_left_out`: how many attempts have no span.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    request_id: str
    protocol: str
    began_ms: int
    ended_ms: int
    model: str
    status: int
    cause: str
    usage_id: str
    attempts: list[AttemptSpan]
    attempts_left_out: int = 0
    streamed: bool = False
    counts_tokens: bool = False
    replayed: bool = False
    queued_ms: int = 0
