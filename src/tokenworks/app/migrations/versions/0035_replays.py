"""Usage records of answers that were given again, and the stored answers from which they are given.

A replayed record names the record whose answer it repeats, and the share of that record's charge in percent. A record of another kind
has neither, so its hashed text is what it was. No release before this one writes or reads the new state: a host of an earlier release
takes part in nothing of it, as it stores no answer and asks for none.
"""

from typing import Final

from alembic import op
from psycopg import Connection

revision = "0035"
down_revision = "0034"

COMPATIBLE_FROM = "0026"
LOCKS = {"usage": "AccessExclusiveLock"}
BATCH_MAX: Final = 1

# NOT VALID reads no row while the table is locked; the backfill reads them beside their readers and writers.
USAGE = """
ALTER TABLE usage ADD COLUMN replay_of uuid, ADD COLUMN replay_percent smallint;
ALTER TABLE usage DROP CONSTRAINT usage_state_check;
ALTER TABLE usage ADD CONSTRAINT usage_state_check CHECK (state IN ('complete', 'interrupted', 'replayed')) NOT VALID;
"""

TABLES = """
-- A row is claimed by the first request with its name, and has its answer once that is complete. `body_hash`: of an idempotency key's
-- request. `usage_id`: the record of the answer; the answer is given again only if that record is there and complete. The answer is
-- encrypted under the key of the subscriber.
CREATE TABLE replay_answer (
    account_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('idempotency_key', 'response_cache')),
    name_hash bytea NOT NULL,
    body_hash bytea NOT NULL,
    answer_id uuid NOT NULL,
    person_id uuid,
    member_id uuid NOT NULL,
    journal_id uuid NOT NULL,
    worker_id uuid NOT NULL,
    usage_id uuid,
    media_type text,
    answer_sealed bytea,
    answer_bytes bigint NOT NULL DEFAULT 0 CHECK (answer_bytes >= 0),
    made_at timestamptz NOT NULL,
    claimed_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, kind, name_hash),
    CHECK (answer_sealed IS NULL OR (usage_id IS NOT NULL AND person_id IS NOT NULL AND media_type IS NOT NULL))
);
CREATE INDEX replay_answer_expires ON replay_answer (expires_at);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(USAGE)
    op.get_bind().exec_driver_sql(TABLES)


def _left(connection: Connection) -> list[str]:
    """The tables whose check is not known to hold, those with rows first."""
    rows = connection.execute(
        """SELECT conrelid::regclass::text FROM pg_constraint JOIN pg_class c ON c.oid = conrelid
           WHERE conname = 'usage_state_check' AND NOT convalidated ORDER BY c.relkind = 'p', 1"""
    ).fetchall()
    return [row[0] for row in rows]


def backfill(connection: Connection, _after: str | None) -> str | None:
    """Read one partition."""
    left = _left(connection)
    if not left:
        return None
    connection.execute(f"ALTER TABLE {left[0]} VALIDATE CONSTRAINT usage_state_check".encode())
    return left[0] if len(left) > 1 else None


def backfill_rows(connection: Connection, _after: str | None) -> int:
    """Tables that are left."""
    return len(_left(connection))
