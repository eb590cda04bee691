"""`count_tokens`: free, and yet a request: under the key's limits, for a plan that has something left or pays as it goes.

Where a deployment of the model names its tokenizer the host's tokenizer process answers, template included; where none does, or
it is away or too slow, the request is relayed as any other.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from tokenworks.factory import MediaRules
from tokenworks.gateway.counting import Counted, Job
from tokenworks.gateway.protocol.media_items import items_cost
from tokenworks.gateway.request.refusals import CUT

if TYPE_CHECKING:
    from tokenworks.gateway.request.place import Placing

_MEDIA: Final = b'"source"'
_RULES: Final = MediaRules()


def answer_count(exchange: "Placing", rules: MediaRules = _RULES) -> bool:
    """Have the model's own tokenizer answer. False where none is named, and after it could not: the request is relayed then.
    Media are counted as the hold counts them.
    """
    if exchange.counted_here is not None:
        return False
    names = (place.deployment.tokenizer for place in exchange.places)
    tokenizer = next((name for name in names if name is not None), None)
    if tokenizer is None:
        return False
    exchange.counted_here = False
    exchange.counting = True

    def done(found: Counted | None) -> None:
        exchange.counting = False
        if exchange.shared.cutting:
            exchange.refuse(CUT)
            return
        if found is None and exchange.conn is not None:
            exchange._try()
            return
        if found is not None:
            exchange.counted_here = True
            media_tokens = _media_tokens(exchange, rules)
            exchange.chunks = [b'{"input_tokens":%d}' % (found.input + media_tokens)]
        ids = exchange.request_id.encode()
        exchange.response_head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: %b\r\nrequest-id: %b\r\n%b"
            % (ids, ids, exchange.head.lines)
        )
        exchange._relay_free()

    exchange.shared.counter.count(Job(tokenizer, exchange.protocol, exchange.body), done)
    return True


def _media_tokens(exchange: "Placing", rules: MediaRules) -> int:
    if _MEDIA not in exchange.body:
        return 0
    try:
        return items_cost(msgspec.json.decode(exchange.parsed.fields["messages"]), rules).tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
