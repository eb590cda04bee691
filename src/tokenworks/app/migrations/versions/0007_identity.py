"""Who asks: staff, one-time codes, sessions, members who sign in; and the audit trail."""

from alembic import op

revision = "0007"
down_revision = "0006"

TABLES = """
CREATE TABLE staff (
    staff_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('operator', 'finance', 'auditor')),
    token_mac bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE TABLE sign_in_code (
    code_id uuid PRIMARY KEY,
    identifier_mac bytea NOT NULL,
    address text NOT NULL,
    code_mac bytea NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX sign_in_code_identifier ON sign_in_code (identifier_mac, created_at);
CREATE INDEX sign_in_code_address ON sign_in_code (address, created_at);
CREATE TABLE session (
    session_id uuid PRIMARY KEY,
    token_mac bytea NOT NULL UNIQUE,
    subscriber_id uuid NOT NULL,
    member_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX session_subscriber ON session (subscriber_id);
ALTER TABLE member DROP CONSTRAINT member_role_check;
ALTER TABLE member ADD CONSTRAINT member_role_check CHECK (role IN ('owner', 'admin', 'member', 'department'));
ALTER TABLE member ADD COLUMN phone text;
ALTER TABLE member ADD COLUMN state text NOT NULL DEFAULT 'active' CHECK (state IN ('invited', 'active', 'left'));
CREATE UNIQUE INDEX member_phone ON member (subscriber_id, phone) WHERE state <> 'left';
CREATE INDEX member_by_phone ON member (phone) WHERE state <> 'left';

-- Who did what to what, with how it was before and after.
CREATE TABLE audit (
    audit_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    role text NOT NULL,
    action text NOT NULL,
    ref text NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX audit_ref ON audit (ref, audit_id);
CREATE TRIGGER audit_is_history BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute(TABLES)
