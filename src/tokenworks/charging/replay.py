"""The charge of an answer that is given again: a declared share of what its record was charged. Pure.

A record has a share of each token class, rounded down at whole tokens, and pays for one request unless the share is 0. It is rated by the
account's rate cards of today, so a share of 100 % costs what the original cost for as long as the rates stay. Where something has to be
rounded, the subscriber pays less.
"""

from collections.abc import Sequence
from operator import sub
from typing import Final

from tokenworks.catalog import Counts
from tokenworks.charging.messages import Loss, Need
from tokenworks.charging.model import COUNT_NEED

IDEMPOTENCY_KEY: Final = "idempotency_key"
"""The reason of a record, and the kind of a stored answer: a repeat of a request with its `Idempotency-Key`. Its share is 0."""
RESPONSE_CACHE: Final = "response_cache"
"""An equal request of the same account, which asked for the cache. The plan declares the share."""
STORED_RESPONSE: Final = "stored_response"
"""The kind of a response that a member keeps under its id, to read or to continue it. It is read without a charge: a request that continues
it sends its items again, and is metered as any other."""
STORED_CUT: Final = "application/json; status=incomplete"
"""The media type of a stored response whose stream was cut: it counts beside an interrupted record, and any other beside a complete one."""
PERCENT_WHOLE: Final = 100


def charged_counts(counts: Counts, losses: Sequence[Loss]) -> Counts:
    """The tokens of a record that were charged: all but the operator's losses."""
    for loss in losses:
        counts = Counts(*map(sub, counts, loss.counts))
    assert min(counts) >= 0, f"losses {losses} are more than the record has"
    return counts


def share_of(charged: Counts, percent: int) -> Counts:
    """The tokens of a replayed record, for the charged tokens of its original."""
    assert 0 <= percent <= PERCENT_WHOLE, f"a share of {percent} %"
    return Counts(*[count * percent // PERCENT_WHOLE for count in charged])


def need_of(share: Counts, percent: int) -> Need:
    """What a replay holds: what it is charged. Nothing for a share of 0. One token of input alone is the need of a count of tokens, for
    which an account that pays as it goes buys nothing: a replay of that size holds two.
    """
    if not percent:
        return Need(0, 0, 0)
    need = Need(1, share.input_tokens, share.output_tokens)
    return Need(1, 2, 0) if need == COUNT_NEED else need
