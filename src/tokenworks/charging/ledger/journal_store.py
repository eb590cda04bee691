"""SQL about journals: which ones the database knows, and what is open of one that is lost."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

JOURNALS_MAX: Final = 1000


class KnownJournal(NamedTuple):
    """`settled_seq`: how far the database has settled it, at `settled_at` for the last time."""

    journal_id: UUID
    host: str
    settled_seq: int
    settled_at: datetime | None


class OpenGrants(NamedTuple):
    """Of a journal's open grants: what is granted and not settled, in the smallest part of the unit."""

    unit: str
    grants: int
    accounts: int
    quantity: int


def known(connection: Connection, journal_id: UUID | None = None) -> list[KnownJournal]:
    """Those that settled last come first."""
    one = "" if journal_id is None else "WHERE journal_id = %(journal)s"
    rows = connection.execute(
        f"""SELECT journal_id, host, settled_seq, settled_at FROM journal {one}
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
    """The journal's settled sequence; registers a new one at 0."""
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
