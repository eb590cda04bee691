"""Deliveries of notices by channel, what each person chose, and the addresses that a person gave for them; marks of plans that run low.

A trigger marks a bucket in the transaction that settles its use: whichever release settles it, and without a search over all buckets.

A host of an earlier release sends the notices that it finds by text message alone, and marks them; it reads none of these tables.
"""

from alembic import op

from tokenworks.app.database.schema import Index

revision = "0045"
down_revision = "0044"

COMPATIBLE_FROM = "0026"
# A trigger is made beside readers; settlement waits for the statement that makes it.
LOCKS = {"bucket": "ShareRowExclusiveLock"}
# For the deletion of old notices.
INDEXES = (Index("notification_created", "notification", "(created_at)"),)

# `person_id`: the subscriber for the owner of the account, else the member. A delivery of the console is sent when it is made.
TABLES = """
CREATE TABLE notice_delivery (
    notice_delivery_id uuid PRIMARY KEY,
    notification_id uuid NOT NULL,
    subscriber_id uuid NOT NULL,
    person_id uuid NOT NULL,
    kind text NOT NULL,
    channel text NOT NULL CHECK (channel IN ('console', 'sms', 'email', 'webhook')),
    state text NOT NULL CHECK (state IN ('waits', 'sent', 'failed', 'skipped')),
    cause text CHECK (length(cause) <= 200),
    created_at timestamptz NOT NULL,
    begun_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    resends integer NOT NULL DEFAULT 0 CHECK (resends >= 0),
    ended_at timestamptz,
    read_at timestamptz,
    CHECK ((state = 'waits') = (ended_at IS NULL)),
    CHECK (state IN ('waits', 'sent') OR cause IS NOT NULL),
    CHECK (read_at IS NULL OR channel = 'console'),
    UNIQUE (notification_id, person_id, channel)
);
CREATE INDEX notice_delivery_due ON notice_delivery (channel, next_at) WHERE state = 'waits';
CREATE INDEX notice_delivery_failed ON notice_delivery (ended_at) WHERE state = 'failed';
CREATE INDEX notice_delivery_console ON notice_delivery (person_id, notice_delivery_id)
    WHERE channel = 'console' AND state = 'sent';
CREATE INDEX notice_delivery_unread ON notice_delivery (person_id)
    WHERE channel = 'console' AND state = 'sent' AND read_at IS NULL;
CREATE INDEX notice_delivery_person ON notice_delivery (person_id, created_at);
CREATE INDEX notice_delivery_subscriber ON notice_delivery (subscriber_id, notice_delivery_id);
CREATE INDEX notice_delivery_created ON notice_delivery (created_at);

CREATE TABLE notice_choice (
    person_id uuid NOT NULL,
    subscriber_id uuid NOT NULL,
    kind text NOT NULL,
    channel text NOT NULL CHECK (channel IN ('console', 'sms', 'email', 'webhook')),
    wanted boolean NOT NULL,
    chosen_at timestamptz NOT NULL,
    PRIMARY KEY (person_id, kind, channel)
);
CREATE INDEX notice_choice_subscriber ON notice_choice (subscriber_id);

-- An e-mail address is used for notices after its confirmation; a webhook has a secret that is derived and not stored.
CREATE TABLE notice_address (
    notice_address_id uuid PRIMARY KEY,
    person_id uuid NOT NULL,
    subscriber_id uuid NOT NULL,
    channel text NOT NULL CHECK (channel IN ('email', 'webhook')),
    address_sealed bytea NOT NULL,
    generation integer NOT NULL DEFAULT 1 CHECK (generation >= 1),
    pepper_version integer NOT NULL,
    made_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    overlap_until timestamptz,
    overlap_version integer,
    UNIQUE (person_id, channel)
);
CREATE INDEX notice_address_subscriber ON notice_address (subscriber_id);

-- Requests to confirm an e-mail address, for their limits. The hash is keyed, as the hash of a phone number is.
CREATE TABLE notice_request (
    notice_request_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL,
    person_id uuid NOT NULL,
    address_hash bytea NOT NULL,
    asked_at timestamptz NOT NULL
);
CREATE INDEX notice_request_address ON notice_request (address_hash, asked_at);
CREATE INDEX notice_request_subscriber ON notice_request (subscriber_id, asked_at);
CREATE INDEX notice_request_asked ON notice_request (asked_at);
"""

# For a row that passes no threshold, the database compares numbers that it has at hand and calls nothing. `total - total / 5` is 80 %
# without an overflow.
MARKS = """
CREATE TABLE balance_mark (
    account_id uuid NOT NULL,
    bucket_id uuid NOT NULL,
    percent smallint NOT NULL CHECK (percent IN (80, 100)),
    marked_at timestamptz NOT NULL,
    PRIMARY KEY (bucket_id, percent)
);
CREATE INDEX balance_mark_marked ON balance_mark (marked_at);
CREATE FUNCTION bucket_is_marked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO balance_mark (account_id, bucket_id, percent, marked_at)
    VALUES (NEW.account_id, NEW.bucket_id, CASE WHEN NEW.used >= NEW.total THEN 100 ELSE 80 END, now()) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER bucket_is_marked AFTER UPDATE ON bucket FOR EACH ROW
    WHEN (NEW.kind = 'balance' AND NEW.product_id IS NOT NULL AND NEW.used > OLD.used
          AND (OLD.used < OLD.total - OLD.total / 5 AND NEW.used >= NEW.total - NEW.total / 5
               OR OLD.used < OLD.total AND NEW.used >= NEW.total))
    EXECUTE FUNCTION bucket_is_marked();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(MARKS)
