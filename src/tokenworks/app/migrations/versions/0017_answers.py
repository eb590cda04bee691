"""Answers under idempotency keys, which a repeated request gets again; offerings that are being drafted."""

from alembic import op

revision = "0017"
down_revision = "0016"


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
        CREATE TABLE offering_draft (
            offering_id text PRIMARY KEY,
            content jsonb NOT NULL,
            drafted_by text NOT NULL,
            drafted_at timestamptz NOT NULL,
            approved_by text CHECK (approved_by <> drafted_by),
            approved_at timestamptz,
            CHECK ((approved_by IS NULL) = (approved_at IS NULL))
        );
        COMMENT ON TABLE kept_answer IS 'The first answer to a request that had an idempotency key';
        """
    )
