"""The SQL of recalls between hosts: a host queues a recall, each host with an open grant answers; the oldest recall is served first."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection

# A recall older than this is ignored: its host may be dead.
RECALL_WAIT_MAX_S: Final = 1.0
# The journal of a recall that no host waits for: every host is asked, and no host is served behind it.
NO_HOST: Final = UUID(int=0)
# The most recalls that one poll reads.
RECALLS_MAX: Final = 1000


def first_waiter(connection: Connection, account_id: UUID, wait_s: float) -> UUID | None:
    """The journal whose recall of an account is the oldest; None if there is no recall."""
    return first_waiters(connection, [account_id], wait_s).get(account_id)


def first_waiters(connection: Connection, account_ids: Sequence[UUID], wait_s: float) -> dict[UUID, UUID]:
    """`first_waiter` for each account that has one."""
    if not account_ids:
        return {}
    rows = connection.execute(
        """SELECT DISTINCT ON (account_id) account_id, journal_id FROM recall
           WHERE account_id = ANY(%s) AND ended_at IS NULL AND journal_id <> %s
             AND asked_at > clock_timestamp() - make_interval(secs => %s) ORDER BY account_id, recall_id""",
        (list(account_ids), NO_HOST, wait_s),
    )
    return {row[0]: row[1] for row in rows}


def request_recall(connection: Connection, account_id: UUID, journal_id: UUID) -> int:
    """Queue a recall of what other hosts hold of an account, and notify them. Returns the recall's number in the queue."""
    with connection.transaction():
        row = connection.execute(
            "INSERT INTO recall (account_id, journal_id) VALUES (%s, %s) RETURNING recall_id",
            (account_id, journal_id),
        ).fetchone()
        assert row is not None
        connection.execute("SELECT pg_notify('tokenworks_recall', %s)", (account_id.hex,))
    return int(row[0])


def recalls_for(connection: Connection, journal_id: UUID) -> list[tuple[int, str]]:
    """(recall, account) of the recalls that this journal must answer: it has an open grant of the account and has not answered."""
    waiting = connection.execute(
        """SELECT r.recall_id, r.account_id FROM recall r
           WHERE r.ended_at IS NULL AND r.journal_id <> %(journal)s
             AND r.asked_at > clock_timestamp() - make_interval(secs => %(wait)s)
             AND NOT EXISTS (SELECT 1 FROM recall_answer a WHERE a.recall_id = r.recall_id AND a.journal_id = %(journal)s)
           ORDER BY r.recall_id LIMIT %(most)s""",
        {"journal": journal_id, "wait": RECALL_WAIT_MAX_S, "most": RECALLS_MAX},
    ).fetchall()
    if not waiting:
        return []
    # One statement per account, all in one round trip.
    accounts = sorted({account for _, account in waiting})
    holding = set()
    with connection.cursor() as cursor:
        cursor.executemany(
            "SELECT account_id FROM grants WHERE account_id = %s AND journal_id = %s AND state = 'open' LIMIT 1",
            [(account, journal_id) for account in accounts],
            returning=True,
        )
        for result in cursor.results():
            holding |= {row[0] for row in result}
    return [(recall_id, account.hex) for recall_id, account in waiting if account in holding]


def answer_recall(connection: Connection, recall_id: int, journal_id: UUID) -> None:
    connection.execute(
        "INSERT INTO recall_answer (recall_id, journal_id) SELECT recall_id, %s FROM recall WHERE recall_id = %s "
        "ON CONFLICT DO NOTHING",
        (journal_id, recall_id),
    )


def recall_answered(connection: Connection, recall_id: int, account_id: UUID, journal_id: UUID) -> bool:
    """True if every other host with unused quantity of the account has answered."""
    # Answers are read first: a host returns its free quantity before it answers, so a host that has answered holds nothing any more,
    # unless it got a new grant since.
    answers = connection.execute("SELECT journal_id FROM recall_answer WHERE recall_id = %s", (recall_id,))
    answered = {row[0] for row in answers}
    holders = connection.execute(
        """SELECT DISTINCT journal_id FROM grants
           WHERE account_id = %s AND journal_id <> %s AND state = 'open' AND amount > used""",
        (account_id, journal_id),
    )
    return {row[0] for row in holders} <= answered


def end_recall(connection: Connection, recall_id: int) -> None:
    connection.execute(
        "UPDATE recall SET ended_at = clock_timestamp() WHERE recall_id = %s AND ended_at IS NULL",
        (recall_id,),
    )


def delete_old_recalls(connection: Connection) -> None:
    connection.execute("DELETE FROM recall WHERE asked_at < clock_timestamp() - interval '1 minute'")
