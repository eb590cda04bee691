"""`count_tokens`: free, and yet a request: under the key's limits, for a plan that has something left or pays as it goes.

Where a deployment of the model names its tokenizer the host's tokenizer process answers, template included; where none does, or
it is away or too slow, the request is relayed as any other.
"""

from typing import Final

import msgspec

from tokenworks.factory import MediaRules
from tokenworks.gateway.counting import TokenizerCounts
from tokenworks.gateway.protocol.media_items import items_cost
from tokenworks.gateway.request.state import HeldRequest

_MEDIA: Final = b'"source"'


def tokenizer_of(request: HeldRequest) -> str | None:
    """The model's own tokenizer. None where no place names one, and after it was asked once: the request is relayed then."""
    if request.counted_here is not None:
        return None
    for view in request.places:
        if view.deployment.tokenizer is not None:
            return view.deployment.tokenizer
    return None


def answer(request: HeldRequest, found: TokenizerCounts) -> bytes:
    """The body of the answer; its head is prepared. Media are counted as the hold counts them."""
    request.counted_here = True
    ids = request.request_id.encode()
    request.response_head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: %b\r\nrequest-id: %b\r\n%b"
        % (ids, ids, request.head.lines)
    )
    return b'{"input_tokens":%d}' % (found.input + _media_tokens(request, request.route.rules[0].media))


def _media_tokens(request: HeldRequest, rules: MediaRules) -> int:
    if _MEDIA not in request.body:
        return 0
    try:
        return items_cost(msgspec.json.decode(request.parsed.fields["messages"]), rules).tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
