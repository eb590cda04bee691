"""The SQL of journals: which ones the database knows, and the open grants of a lost one."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

JOURNALS_MAX: Final = 1000


class KnownJournal(NamedTuple):
    """`settled_seq`: the last sequence that the database has settled. `settled_at`: the time of that settlement."""

    journal_id: UUID
    host: str
    settled_seq: int
    settled_at: datetime | None


class OpenGrants(NamedTuple):
    """A journal's open grants in one unit. `quantity`: what they have granted and not settled, in thousandths of the unit."""

    unit: str
    grants: int
    accounts: int
    quantity: int


def known(connection: Connection, journal_id: UUID | None = None) -> list[KnownJournal]:
    """The journals, latest settlement first."""
    where = "" if journal_id is None else "WHERE journal_id = %(journal)s"
    rows = connection.execute(
        f"""SELECT journal_id, host, settled_seq, settled_at FROM journal {where}
            ORDER BY settled_at DESC NULLS LAST, journal_id LIMIT %(limit)s""".encode(),
        {"journal": journal_id, "limit": JOURNALS_MAX},
    )
    return [KnownJournal(*row) for row in rows]


def reserved(connection: Connection, journal_id: UUID) -> list[OpenGrants]:
    rows = connection.execute(
        """SELECT b.unit, count(*), count(DISTINCT g.account_id), sum(g.amount - g.used)::bigint
           FROM grants g JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
           WHERE g.journal_id = %s AND g.state = 'open' GROUP BY b.unit ORDER BY b.unit""",
        (journal_id,),
    )
    return [OpenGrants(*row) for row in rows]


def register_journal(connection: Connection, journal_id: UUID, host: str) -> int:
    """Register a journal if it is new. Returns its settled sequence; a new journal starts at 0."""
    connection.execute(
        "INSERT INTO journal (journal_id, host) VALUES (%s, %s) ON CONFLICT DO NOTHING", (journal_id, host)
    )
    row = connection.execute(
        "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def settled_seq(connection: Connection, journal_id: UUID) -> int | None:
    row = connection.execute(
        "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
    ).fetchone()
    return None if row is None else int(row[0])
