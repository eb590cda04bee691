"""Sign-in of staff on the console: sessions, one-time codes of an authenticator, and accounts at an OpenID provider.

A host of an earlier release does not know these tables: it serves no console, and its API takes staff tokens as before.
"""

from alembic import op

revision = "0044"
down_revision = "0042"

COMPATIBLE_FROM = "0026"
LOCKS = {"staff": "ShareRowExclusiveLock"}

# `email`, `oidc_issuer`, `oidc_subject`: of the member at the OpenID provider. The first sign-in by the email stores the other two.
TABLES = """
CREATE TABLE staff_identity (
    staff_id uuid PRIMARY KEY REFERENCES staff,
    email text NOT NULL UNIQUE,
    oidc_issuer text,
    oidc_subject text,
    linked_at timestamptz,
    CHECK ((oidc_issuer IS NULL) = (oidc_subject IS NULL) AND (oidc_subject IS NULL) = (linked_at IS NULL)),
    UNIQUE (oidc_issuer, oidc_subject)
);
CREATE TABLE staff_session (
    session_id uuid PRIMARY KEY,
    staff_id uuid NOT NULL REFERENCES staff,
    token_mac bytea NOT NULL UNIQUE,
    pepper_version integer NOT NULL,
    listener text NOT NULL CHECK (listener IN ('public', 'staff')),
    method text NOT NULL CHECK (method IN ('token', 'totp', 'recovery_code', 'oidc')),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    address text,
    client text,
    seen_at timestamptz NOT NULL,
    seen_address text,
    ended_at timestamptz
);
CREATE INDEX staff_session_staff ON staff_session (staff_id, session_id);
CREATE INDEX staff_session_expires ON staff_session (expires_at);
-- The secret of an authenticator, sealed under the installation's own key. `used_step`: the newest time step whose code was used.
CREATE TABLE staff_totp (
    totp_id uuid PRIMARY KEY,
    staff_id uuid NOT NULL REFERENCES staff,
    secret_sealed bytea NOT NULL,
    link_mac bytea NOT NULL UNIQUE,
    link_expires_at timestamptz NOT NULL,
    made_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    ended_at timestamptz,
    used_step bigint
);
CREATE UNIQUE INDEX staff_totp_confirmed ON staff_totp (staff_id) WHERE confirmed_at IS NOT NULL AND ended_at IS NULL;
CREATE UNIQUE INDEX staff_totp_begun ON staff_totp (staff_id) WHERE confirmed_at IS NULL AND ended_at IS NULL;
CREATE TABLE staff_recovery_code (
    code_id uuid PRIMARY KEY,
    totp_id uuid NOT NULL REFERENCES staff_totp,
    code_mac bytea NOT NULL UNIQUE,
    used_at timestamptz
);
CREATE INDEX staff_recovery_code_totp ON staff_recovery_code (totp_id);
-- Refused sign-ins. `asker`: an IPv4 address, or the /64 network of an IPv6 address. `staff_id` is NULL where no account is known.
CREATE TABLE staff_attempt (
    attempt_id uuid PRIMARY KEY,
    staff_id uuid,
    asker text NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX staff_attempt_staff ON staff_attempt (staff_id, at) WHERE staff_id IS NOT NULL;
CREATE INDEX staff_attempt_asker ON staff_attempt (asker, at);
CREATE INDEX staff_attempt_at ON staff_attempt (at);
-- Sign-ins at the OpenID provider that came back: each state is used once.
CREATE TABLE staff_oidc_state (
    state_mac bytea PRIMARY KEY,
    used_at timestamptz NOT NULL
);
CREATE INDEX staff_oidc_state_used ON staff_oidc_state (used_at);
"""


def upgrade() -> None:
    op.execute(TABLES)
