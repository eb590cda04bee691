"""The auditor's pass: recompute every invariant from the tables, and name the rows that break one.

It streams; it holds no table in memory, and it reads one snapshot (REPEATABLE READ), so that it can run beside
a server that settles. A check is a statement that returns (where, detail) of the rows that break its invariant, or a function
that yields findings; rooms above charging hand in their own (`more`). docs/VERIFY.md says which tables and columns are covered.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import psycopg
from psycopg import Connection

from tokenworks.catalog import RateCard
from tokenworks.charging.ledger.verify import buckets, chains, charges, entries, usage
from tokenworks.charging.ledger.verify.chains import INVARIANT as CHAINED
from tokenworks.charging.ledger.verify.finding import Finding
from tokenworks.charging.ledger.verify.references import INVARIANT as REFERENCES
from tokenworks.charging.ledger.verify.references import references
from tokenworks.charging.ledger.verify.usage import INVARIANT as RERATED
from tokenworks.charging.ledger.verify.usage import rerate

FINDINGS_MAX: Final = 1000
CHECKS: Final[dict[str, str]] = {
    **buckets.CHECKS,
    **entries.CHECKS,
    **charges.CHECKS,
    **usage.CHECKS,
    **chains.CHECKS,
}
"""Charging's own: invariant -> statement."""

CheckFunction = Callable[[Connection], Iterable[Finding]]
"""A check that is no statement: it reads rows and recomputes them with the product's own rules."""


def verify(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: Callable[[str, int], None] | None = None,
    more: Mapping[str, str] | None = None,
    passes: Sequence[tuple[str, CheckFunction]] = (),
) -> list[Finding]:
    """Every broken invariant, at most `FINDINGS_MAX`. `cards` are the rate cards by version. Changes nothing.

    `more` and `passes` are the checks of other rooms. `progress(what, done)` is called as it goes on.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found: list[Finding] = []
        for at, (invariant, check) in enumerate(checks(cards, more, passes), 1):
            found += check(connection)
            if len(found) >= FINDINGS_MAX:
                break
            if progress:
                progress(invariant, at)
    return found[:FINDINGS_MAX]


def steps(more: Mapping[str, str] | None = None, passes: Sequence[tuple[str, CheckFunction]] = ()) -> int:
    """How many steps `progress` counts to."""
    return sum(1 for _ in checks({}, more, passes))


def checks(
    cards: dict[str, RateCard],
    more: Mapping[str, str] | None = None,
    passes: Sequence[tuple[str, CheckFunction]] = (),
) -> Iterator[tuple[str, CheckFunction]]:
    """(invariant, check) of all, in their order."""
    for invariant, statement in {**CHECKS, **(more or {})}.items():
        yield invariant, _stated(invariant, statement)
    own: list[tuple[str, CheckFunction]] = [
        (REFERENCES, lambda connection: references(connection, FINDINGS_MAX)),
        (RERATED, lambda connection: rerate(connection, cards)),
        (CHAINED, chains.history),
    ]
    for invariant, check in [*own, *passes]:
        yield invariant, _guarded(invariant, check)


def _stated(invariant: str, statement: str) -> CheckFunction:
    def check(connection: Connection) -> Iterator[Finding]:
        limited = f"{statement} LIMIT {FINDINGS_MAX}"
        for where, detail in connection.execute(limited.encode()):
            yield Finding(invariant, str(where), str(detail))

    return _guarded(invariant, check)


def _guarded(invariant: str, check: CheckFunction) -> CheckFunction:
    """A row that a check can't read is a finding, and keeps no other check from its turn."""

    def guarded(connection: Connection) -> list[Finding]:
        try:
            with connection.transaction():
                return list(islice(check(connection), FINDINGS_MAX))
        except (
            psycopg.DataError,
            ArithmeticError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
        ) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            return [Finding(invariant, "a row of what this reads", f"cannot be read: {reason}")]

    return guarded


__all__ = [
    "CHAINED",
    "CHECKS",
    "FINDINGS_MAX",
    "RERATED",
    "CheckFunction",
    "Finding",
    "checks",
    "steps",
    "verify",
]
