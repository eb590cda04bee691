"""Challenges of one-time codes, sessions that are seen."""

from alembic import op

revision = "0016"
down_revision = "0012"

SIGN_IN = """
-- A code goes with a challenge, which its asker alone has: attempts count there. `address` is who asked: an IPv4 address, or the
-- /64 network of an IPv6 one.
ALTER TABLE sign_in_code ADD COLUMN challenge_mac bytea UNIQUE;
ALTER TABLE sign_in_code ADD COLUMN asker_attempts integer NOT NULL DEFAULT 0;
ALTER TABLE sign_in_code ADD COLUMN digits integer NOT NULL DEFAULT 6;
ALTER TABLE sign_in_code ADD COLUMN sent boolean NOT NULL DEFAULT true;
ALTER TABLE sign_in_code ADD COLUMN expires_at timestamptz;
UPDATE sign_in_code SET expires_at = created_at + interval '5 minutes';
ALTER TABLE sign_in_code ALTER COLUMN expires_at SET NOT NULL;
-- A host of the release before writes none.
ALTER TABLE sign_in_code ALTER COLUMN expires_at SET DEFAULT now() + interval '5 minutes';

ALTER TABLE session ADD COLUMN address text;
ALTER TABLE session ADD COLUMN client text;
ALTER TABLE session ADD COLUMN seen_at timestamptz;
ALTER TABLE session ADD COLUMN seen_address text;
"""


def upgrade() -> None:
    op.execute(SIGN_IN)
