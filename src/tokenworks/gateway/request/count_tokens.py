"""`count_tokens`, and `input_tokens` of responses: requests that cost nothing. The key's limits apply, and the plan must have something left or pay as you go.

If a deployment of the model names a tokenizer, the host's tokenizer process answers, with the chat template. If none does, or the
process is away or too slow, the request is relayed like any other, or answered by an estimate if no deployment speaks messages.
"""

import msgspec

from tokenworks.factory import MediaRules
from tokenworks.gateway.counting import TokenizerCounts
from tokenworks.gateway.protocol.media_items import items_cost
from tokenworks.gateway.protocol.meter import BYTES_PER_TOKEN
from tokenworks.gateway.request.state import HeldRequest


def tokenizer_of(request: HeldRequest) -> str | None:
    """The model's tokenizer; None if no deployment names one or it was asked before: the request is relayed then."""
    if request.counted_here is not None:
        return None
    for view in request.views:
        if view.deployment.tokenizer is not None:
            return view.deployment.tokenizer
    return None


def answer(request: HeldRequest, counts: TokenizerCounts) -> bytes:
    """The body of the answer; sets the response's head. Media are counted as the hold counts them."""
    return _answer(request, counts.input, "tokenizer")


def estimate(request: HeldRequest) -> bytes:
    """The body of the answer if no tokenizer counts and no deployment speaks the client's protocol: an estimate from bytes, by the rule
    for a provider that reports no usage, and so it is named in the response's head. A client such as Claude Code would send a request
    that costs tokens instead, or compact too late, if it got a refusal.
    """
    return _answer(request, max(1, request.parsed.text_bytes // BYTES_PER_TOKEN), "estimate")


def _answer(request: HeldRequest, text_tokens: int, counted_by: str) -> bytes:
    request.counted_here = True
    ids = request.request_id.encode()
    request.response_head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: %b\r\nrequest-id: %b\r\nx-tokenworks-counted: %b\r\n%b"
        % (ids, ids, counted_by.encode(), request.head.lines)
    )
    tokens = text_tokens + _media_tokens(request, request.route.rules[0].media)
    if request.protocol == "responses":
        return b'{"object":"response.input_tokens","input_tokens":%d}' % tokens
    return b'{"input_tokens":%d}' % tokens


def _media_tokens(request: HeldRequest, rules: MediaRules) -> int:
    try:
        return items_cost(request.parsed.content, rules).tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
