"""Questions about lines of bills, and their answers."""

from alembic import op

revision = "0018"
down_revision = "0017"

TABLES = """
CREATE TABLE dispute (
    dispute_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    bill_id uuid NOT NULL,
    line_no integer NOT NULL,
    question text NOT NULL CHECK (question <> ''),
    asked_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'answered')),
    answer text,
    answered_by text,
    answered_at timestamptz,
    FOREIGN KEY (bill_id, line_no) REFERENCES bill_line,
    CHECK ((state = 'answered') = (answer IS NOT NULL AND answered_by IS NOT NULL AND answered_at IS NOT NULL))
);
-- A line has one open question at a time.
CREATE UNIQUE INDEX dispute_open ON dispute (bill_id, line_no) WHERE state = 'open';
CREATE INDEX dispute_line ON dispute (bill_id, line_no);
CREATE INDEX dispute_subscriber ON dispute (subscriber_id, dispute_id);
CREATE INDEX dispute_state ON dispute (state, dispute_id);
"""


def upgrade() -> None:
    op.execute(TABLES)
