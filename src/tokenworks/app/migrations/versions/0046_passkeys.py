"""Passkeys (WebAuthn) of members, the challenges that were answered, and when the person of a session last proved who they are.

A host of an earlier release opens sessions without that time: with them no passkey is added or removed. It ends the sessions of a
person, and not its passkeys: the next host that does the same removes them.
"""

from alembic import op

revision = "0046"
down_revision = "0045"

COMPATIBLE_FROM = "0026"
LOCKS = {"session": "AccessExclusiveLock"}

# `rp_id`: the relying party for which the passkey was made; browsers use it on that party's pages alone. `cloned_at`: when its counter
# went back, so that two authenticators have its key.
TABLES = """
ALTER TABLE session ADD COLUMN proved_at timestamptz;
CREATE TABLE passkey (
    passkey_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL,
    member_id uuid NOT NULL,
    credential_id bytea NOT NULL UNIQUE CHECK (length(credential_id) BETWEEN 1 AND 1023),
    public_key bytea NOT NULL CHECK (length(public_key) <= 1024),
    rp_id text NOT NULL,
    sign_count bigint NOT NULL CHECK (sign_count >= 0),
    transports text[] NOT NULL,
    is_synced boolean NOT NULL,
    name_sealed bytea,
    created_at timestamptz NOT NULL,
    used_at timestamptz,
    cloned_at timestamptz
);
CREATE INDEX passkey_member ON passkey (member_id);
CREATE INDEX passkey_subscriber ON passkey (subscriber_id);
CREATE TABLE passkey_challenge (
    challenge_mac bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX passkey_challenge_expires ON passkey_challenge (expires_at);
"""


def upgrade() -> None:
    op.execute(TABLES)
