"""The auditor: it recomputes every invariant from the tables and names the rows that break one.

The auditor streams rows, holds no table in memory, and reads one snapshot (REPEATABLE READ), so it can run while a server settles. A
check is either a statement that returns (where, detail) of the rows that break its invariant, or a function that yields findings.
Rooms above charging pass in their own checks. docs/VERIFY.md lists the tables and columns that are covered.
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
"""The statements of charging: invariant -> SQL."""

CheckFunction = Callable[[Connection], Iterable[Finding]]
"""A check in Python: it reads rows and recomputes them with the rules of the product."""


def verify(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: Callable[[str, int], None] | None = None,
    more: Mapping[str, str] | None = None,
    passes: Sequence[tuple[str, CheckFunction]] = (),
) -> list[Finding]:
    """All findings, at most `FINDINGS_MAX`. Changes nothing. `cards`: the rate cards by version.

    `more` and `passes`: the statements and the functions of other rooms. `progress(invariant, steps done)` is called after each check.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found: list[Finding] = []
        for step, (invariant, check) in enumerate(checks(cards, more, passes), 1):
            found += check(connection)
            if len(found) >= FINDINGS_MAX:
                break
            if progress:
                progress(invariant, step)
    return found[:FINDINGS_MAX]


def steps(more: Mapping[str, str] | None = None, passes: Sequence[tuple[str, CheckFunction]] = ()) -> int:
    """The number of steps that `progress` counts to."""
    return sum(1 for _ in checks({}, more, passes))


def checks(
    cards: dict[str, RateCard],
    more: Mapping[str, str] | None = None,
    passes: Sequence[tuple[str, CheckFunction]] = (),
) -> Iterator[tuple[str, CheckFunction]]:
    """(invariant, check) of all checks, in the order in which they run."""
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
    """The check, with an error turned into a finding: a row that one check cannot read does not stop the other checks."""

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
