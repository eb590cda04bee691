"""The SQL of failed jobs."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from tokenworks.charging.ledger.model import FailedJob, JobName

_COLUMNS = "job, ref, state, attempts, reason, first_failed_at, failed_at, next_at"


def note(
    connection: Connection, job: JobName, ref: UUID, reason: str, now: datetime, next_at: datetime, state: str
) -> None:
    connection.execute(
        f"""INSERT INTO failed_job ({_COLUMNS}) VALUES (%(job)s, %(ref)s, %(state)s, 1, %(reason)s, %(now)s, %(now)s, %(next)s)
            ON CONFLICT (job, ref) DO UPDATE SET state = excluded.state, attempts = failed_job.attempts + 1,
                reason = excluded.reason, failed_at = excluded.failed_at, next_at = excluded.next_at""".encode(),
        {"job": job, "ref": ref, "state": state, "reason": reason, "now": now, "next": next_at},
    )


def find(connection: Connection, job: JobName, ref: UUID) -> FailedJob | None:
    with connection.cursor(row_factory=class_row(FailedJob)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM failed_job WHERE job = %s AND ref = %s".encode(), (job, ref)
        ).fetchone()


def forget(connection: Connection, job: JobName, ref: UUID) -> bool:
    return bool(connection.execute("DELETE FROM failed_job WHERE job = %s AND ref = %s", (job, ref)).rowcount)


def all_of(connection: Connection, limit: int) -> list[FailedJob]:
    with connection.cursor(row_factory=class_row(FailedJob)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM failed_job ORDER BY first_failed_at, job, ref LIMIT %s".encode(),
            (limit,),
        ).fetchall()


def waiting(connection: Connection, job: JobName, now: datetime) -> list[UUID]:
    rows = connection.execute(
        "SELECT ref FROM failed_job WHERE job = %s AND (state = 'quarantined' OR next_at > %s) ORDER BY ref",
        (job, now),
    )
    return [row[0] for row in rows]


def counts(connection: Connection) -> dict[tuple[str, str], int]:
    rows = connection.execute("SELECT job, state, count(*) FROM failed_job GROUP BY 1, 2")
    return {(job, state): int(count) for job, state, count in rows}
