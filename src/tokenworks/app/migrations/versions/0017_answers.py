"""Answers under idempotency keys: what a repeated request gets again."""

from alembic import op

revision = "0017"
down_revision = "0012"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE kept_answer (
            asker text NOT NULL,
            idempotency_key text NOT NULL,
            request_hash bytea NOT NULL,
            status int,
            headers jsonb,
            body bytea,
            made_at timestamptz NOT NULL,
            PRIMARY KEY (asker, idempotency_key)
        );
        CREATE INDEX kept_answer_made ON kept_answer (made_at);
        COMMENT ON TABLE kept_answer IS 'The first answer to a request that had an idempotency key';
        """
    )
