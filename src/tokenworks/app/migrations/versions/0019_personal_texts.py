"""Personal texts encrypted under a key of the person's own; consents with the text that was shown; identity and erasure.

This adds what the encrypted texts need and forbids new plain ones. The texts that are there are encrypted by `tokenworks init`
after this (app/database/sealing.py), in batches: it needs the keys outside the database. `sealing` says what is left to do.
"""

from alembic import op

revision = "0019"
down_revision = "0018"

TABLES = """
-- A person is a subscriber, a member who is not its owner, or (the nil id) nobody in particular. Erasing destroys the key.
CREATE TABLE person_key (
    person_id uuid PRIMARY KEY,
    wrapped bytea,
    wrap_version integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);
CREATE INDEX person_key_version ON person_key (wrap_version, person_id) WHERE wrapped IS NOT NULL;
CREATE TABLE vault_secret (
    name text PRIMARY KEY,
    fingerprint bytea NOT NULL
);
CREATE TABLE sealing (
    place text PRIMARY KEY,
    after uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    done_at timestamptz
);

ALTER TABLE subscriber ALTER COLUMN phone DROP NOT NULL;
ALTER TABLE subscriber ADD COLUMN phone_sealed bytea;
ALTER TABLE subscriber ADD COLUMN phone_hash bytea;
ALTER TABLE subscriber ADD COLUMN phone_tail_hash bytea;
ALTER TABLE subscriber ADD COLUMN name_sealed bytea;
ALTER TABLE subscriber ADD COLUMN name_hashes bytea[] NOT NULL DEFAULT '{}' CHECK (cardinality(name_hashes) <= 64);
ALTER TABLE subscriber ADD COLUMN broadband_sealed bytea;
ALTER TABLE subscriber ADD COLUMN broadband_hash bytea;
ALTER TABLE subscriber ADD COLUMN identity_kept_until timestamptz;
ALTER TABLE subscriber ADD COLUMN erasure_asked_at timestamptz;
ALTER TABLE subscriber ADD COLUMN erased_at timestamptz;
CREATE UNIQUE INDEX subscriber_phone_hash ON subscriber (phone_hash) WHERE state <> 'closed';
CREATE INDEX subscriber_phone_tail ON subscriber (phone_tail_hash);
CREATE INDEX subscriber_name_hashes ON subscriber USING gin (name_hashes);
CREATE UNIQUE INDEX subscriber_broadband_hash ON subscriber (broadband_hash);
CREATE INDEX subscriber_erasure ON subscriber (erasure_asked_at) WHERE erasure_asked_at IS NOT NULL AND erased_at IS NULL;
CREATE INDEX subscriber_identity_until ON subscriber (identity_kept_until) WHERE identity_kept_until IS NOT NULL;

ALTER TABLE member ALTER COLUMN name DROP NOT NULL;
ALTER TABLE member ADD COLUMN name_sealed bytea;
ALTER TABLE member ADD COLUMN name_hash bytea;
ALTER TABLE member ADD COLUMN phone_sealed bytea;
ALTER TABLE member ADD COLUMN phone_hash bytea;
CREATE UNIQUE INDEX member_name_hash ON member (subscriber_id, name_hash);
CREATE UNIQUE INDEX member_phone_hash ON member (subscriber_id, phone_hash) WHERE state <> 'left';
CREATE INDEX member_by_phone_hash ON member (phone_hash) WHERE state <> 'left';

ALTER TABLE phone_history ALTER COLUMN phone DROP NOT NULL;
ALTER TABLE phone_history ADD COLUMN phone_sealed bytea;
-- The numbers of a file are beside its text, a line each, so that one can be forgotten alone.
ALTER TABLE charge_file_line ADD COLUMN phone_sealed bytea;
ALTER TABLE charge_file ADD COLUMN phones_apart boolean NOT NULL DEFAULT false;
ALTER TABLE charge_file ALTER COLUMN sha256 DROP NOT NULL;
ALTER TABLE charge_file ADD COLUMN sha256_sealed bytea;
ALTER TABLE work_order ADD COLUMN broadband_sealed bytea;
ALTER TABLE audit ADD COLUMN person_id uuid;
ALTER TABLE audit ADD COLUMN details bytea;

-- What was shown and agreed to, by its hash; texts are never changed.
CREATE TABLE consent_text (
    text_sha256 text PRIMARY KEY CHECK (text_sha256 ~ '^[0-9a-f]{64}$'),
    purpose text NOT NULL,
    language text NOT NULL,
    text text NOT NULL,
    first_shown_at timestamptz NOT NULL
);
ALTER TABLE consent ADD COLUMN text_sha256 text REFERENCES consent_text;
ALTER TABLE consent ADD COLUMN said_by text;

-- The carrier's answers; the document's number is not kept, only its keyed hash at the subscriber.
CREATE TABLE real_name_check (
    check_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    state text NOT NULL CHECK (state IN ('asked', 'pending', 'verified', 'refused')),
    asked_at timestamptz NOT NULL
);
CREATE INDEX real_name_check_subscriber ON real_name_check (subscriber_id, asked_at);

INSERT INTO sealing (place)
SELECT place FROM (VALUES ('subscriber'), ('member'), ('phone_history'), ('work_order'),
                            ('charge_file'), ('audit')) AS p (place)
WHERE CASE place WHEN 'subscriber' THEN EXISTS (SELECT 1 FROM subscriber) WHEN 'member' THEN EXISTS (SELECT 1 FROM member)
    WHEN 'phone_history' THEN EXISTS (SELECT 1 FROM phone_history) WHEN 'work_order' THEN EXISTS (SELECT 1 FROM work_order)
    WHEN 'charge_file' THEN EXISTS (SELECT 1 FROM charge_file)
    ELSE EXISTS (SELECT 1 FROM audit) END;

-- Who made a transfer is named by the member's id, not by its name.
ALTER TABLE transfer DISABLE TRIGGER transfer_is_history;
UPDATE transfer t SET made_by = 'member:' || m.member_id FROM member m WHERE m.account_id = t.account_id AND m.name = t.made_by;
ALTER TABLE transfer ENABLE TRIGGER transfer_is_history;

-- From now on nothing writes plain text here; rows of before are checked when they are encrypted (VALIDATE in app/database/sealing.py).
ALTER TABLE subscriber ADD CONSTRAINT subscriber_is_sealed
    CHECK (phone IS NULL AND name IS NULL AND broadband IS NULL) NOT VALID;
ALTER TABLE member ADD CONSTRAINT member_is_sealed CHECK (phone IS NULL AND name IS NULL) NOT VALID;
ALTER TABLE phone_history ADD CONSTRAINT phone_history_is_sealed CHECK (phone IS NULL) NOT VALID;
ALTER TABLE work_order ADD CONSTRAINT work_order_is_sealed CHECK (broadband IS NULL) NOT VALID;
ALTER TABLE charge_file ADD CONSTRAINT charge_file_is_sealed CHECK (phones_apart AND sha256 IS NULL) NOT VALID;
ALTER TABLE audit ADD CONSTRAINT audit_is_sealed CHECK (before IS NULL AND after IS NULL) NOT VALID;
"""


def upgrade() -> None:
    op.execute(TABLES)
