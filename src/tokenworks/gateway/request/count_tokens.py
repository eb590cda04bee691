"""`count_tokens`, and `input_tokens` of responses: requests that cost nothing. The key's limits apply, and the plan must have something left or pay as you go.

If a deployment of the model names a tokenizer, the host's tokenizer process answers, with the chat template. If none does, or the
process is away or too slow, the request is relayed like any other.
"""

import msgspec

from tokenworks.factory import MediaRules
from tokenworks.gateway.counting import TokenizerCounts
from tokenworks.gateway.protocol.media_items import items_cost
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
    request.counted_here = True
    ids = request.request_id.encode()
    request.response_head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: %b\r\nrequest-id: %b\r\n%b"
        % (ids, ids, request.head.lines)
    )
    tokens = counts.input + _media_tokens(request, request.route.rules[0].media)
    if request.protocol == "responses":
        return b'{"object":"response.input_tokens","input_tokens":%d}' % tokens
    return b'{"input_tokens":%d}' % tokens


def _media_tokens(request: HeldRequest, rules: MediaRules) -> int:
    try:
        return items_cost(request.parsed.content, rules).tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
