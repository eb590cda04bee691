"""The cost of a request, as the client reads it: what its usage record draws from the account's buckets.

The record is written before the end of an answer is sent, so the cost that an answer names is the record's. Tokens beyond the hold
that settlement still draws are in no answer (`UsageRecord.unpaid`). Pay-as-you-go sells tokens in steps, so a request draws tokens
there, too; the money is that of the step (decision 17).
"""

from typing import Final

import msgspec

from tokenworks.charging import PER_UNIT, UsageRecord
from tokenworks.gateway.protocol.cost_fields import RawFields, body_with_cost, events_with_cost
from tokenworks.gateway.request.losses import NO_COUNTS
from tokenworks.gateway.request.state import HeldRequest

DEFAULT_UNIT: Final = "token"


def drawn(record: UsageRecord | None) -> dict[str, int]:
    """The amounts drawn from balances, in thousandths, by unit. A request that draws on windows alone counts in its first window."""
    amounts = dict[str, int]()
    if record is None:
        return amounts
    for part in record.parts:
        if part.kind == "balance":
            amounts[part.unit] = amounts.get(part.unit, 0) + part.amount
    if not amounts:
        for part in record.parts:
            if part.kind == "window":
                return {part.unit: part.amount}
    return amounts


def decimal(thousandths: int) -> str:
    """An amount in whole units, exact: `12`, `12.5`, `0.001`."""
    whole, rest = divmod(thousandths, PER_UNIT)
    return f"{whole}.{rest:03}".rstrip("0") if rest else str(whole)


def cost_members(amounts: dict[str, int]) -> RawFields:
    """The members of a usage: `cost` is the amount in tokens or, if no tokens were drawn, in the first unit, which `cost_details` names."""
    unit = DEFAULT_UNIT if DEFAULT_UNIT in amounts or not amounts else next(iter(amounts))
    details = ",".join(f'{{"unit":"{name}","thousandths":{amount}}}' for name, amount in amounts.items())
    return {
        "cost": msgspec.Raw(decimal(amounts.get(unit, 0)).encode()),
        "cost_details": msgspec.Raw(f'{{"unit":"{unit}","drawn":[{details}]}}'.encode()),
    }


def cost_line(amounts: dict[str, int]) -> bytes:
    """The value of `x-tokenworks-cost`: `1234.5 token`, with a comma between several units."""
    texts = [f"{decimal(amount)} {unit}" for unit, amount in amounts.items()]
    return (", ".join(texts) or f"0 {DEFAULT_UNIT}").encode()


def whole_answer(request: HeldRequest, body: bytes) -> bytes:
    """The body of a whole answer with its cost, which the response's head gets as well."""
    amounts = drawn(request.record)
    request.response_head += b"x-tokenworks-cost: " + cost_line(amounts) + b"\r\n"
    record = request.record
    counts = NO_COUNTS if record is None else record.c
    return body_with_cost(body, request.protocol, cost_members(amounts), counts)


def stream_end(request: HeldRequest, answer_id: str, last: bytes) -> bytes:
    """The end of a stream (`last`, as its client reads it), with the cost in its usage. `answer_id`: if no event of it has an id."""
    record = request.record
    return events_with_cost(
        last,
        request.protocol,
        cost_members(drawn(record)),
        NO_COUNTS if record is None else record.c,
        answer_id,
        request.shown_model,
    )
