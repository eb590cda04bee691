"""The log of requests and answers of keys whose holders turned it on, encrypted under the key of the account's subscriber.

A host of an earlier release does not read the column: it logs nothing.
"""

from alembic import op

revision = "0041"
down_revision = "0040"

COMPATIBLE_FROM = "0026"
LOCKS = {"api_key": "AccessExclusiveLock"}

# Sizes are those of the whole request and answer; what is stored of them may be less. `stored_bytes`: of the encrypted columns.
TABLES = """
ALTER TABLE api_key ADD COLUMN content_log boolean;
CREATE TABLE content_log (
    account_id uuid NOT NULL,
    content_log_id uuid NOT NULL,
    key_id uuid NOT NULL,
    member_id uuid NOT NULL,
    person_id uuid NOT NULL,
    protocol text NOT NULL,
    model text NOT NULL,
    outcome text NOT NULL,
    request_bytes bigint NOT NULL CHECK (request_bytes >= 0),
    answer_bytes bigint NOT NULL CHECK (answer_bytes >= 0),
    request_sealed bytea NOT NULL,
    answer_sealed bytea NOT NULL,
    stored_bytes bigint NOT NULL CHECK (stored_bytes >= 0),
    made_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, content_log_id)
);
CREATE INDEX content_log_expires ON content_log (expires_at);
"""


def upgrade() -> None:
    op.execute(TABLES)
