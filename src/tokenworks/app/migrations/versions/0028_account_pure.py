"""Chains of hashes over entries and usage; hot tables refer to no other table.

A charge names a subscriber, a product and an offering's version; a table that is spread over shards can't have the database look
into tables that are not. The auditor looks instead.
"""

from alembic import op

from tokenworks.app.database.schema import Index

revision = "0028"
down_revision = "0027"

COMPATIBLE_FROM = "0026"
# A foreign key that goes takes its triggers with it, on both of its tables: no row is read.
LOCKS = dict.fromkeys(("charge", "offering", "product", "subscriber"), "AccessExclusiveLock")
INDEXES = (
    # The last entry that names an account's heads is found beside all of its settlements.
    Index("entry_heads", "entry", "(account_id, entry_id) WHERE kind = 'heads'"),
)

HASH_PARTITIONS = 4

TABLES = """
ALTER TABLE charge DROP CONSTRAINT charge_subscriber_id_fkey;
ALTER TABLE charge DROP CONSTRAINT charge_product_id_fkey;
ALTER TABLE charge DROP CONSTRAINT charge_offering_version_fkey;

-- Where each chain ends. That of a journal is moved by its recorder alone, in the transaction that settles.
CREATE TABLE chain_head (
    account_id uuid NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    link_no bigint NOT NULL CHECK (link_no > 0),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, chain_id)
) PARTITION BY HASH (account_id);
CREATE TABLE chain_link (
    account_id uuid NOT NULL,
    chain_id uuid NOT NULL,
    link_no bigint NOT NULL,
    entry_id uuid NOT NULL,
    seq bigint NOT NULL,
    rows bytea NOT NULL CHECK (length(rows) % 48 = 0),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, chain_id, link_no)
) PARTITION BY HASH (account_id);

-- Where the auditor saw chains end when it last found nothing, and which accounts it read whole: those up to `upto`.
CREATE TABLE verify_head (
    account_id uuid NOT NULL,
    chain_id uuid NOT NULL,
    link_no bigint NOT NULL CHECK (link_no > 0),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, chain_id)
) PARTITION BY HASH (account_id);
CREATE TABLE verify_run (
    run_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    upto uuid,
    whole boolean NOT NULL
);

-- The declared shard key: sixteen shards, by an account's last hexadecimal digit, which is random. Who spreads accounts spreads
-- whole shards.
CREATE FUNCTION shard_of(account uuid) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN get_byte(uuid_send(account), 15) & 15;
"""


def upgrade() -> None:
    op.execute(TABLES)
    for table in ("chain_head", "chain_link", "verify_head"):
        for h in range(HASH_PARTITIONS):
            op.execute(
                f"CREATE TABLE {table}_h{h} PARTITION OF {table} "
                f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h})"
            )
    op.execute(
        "CREATE TRIGGER chain_link_is_history BEFORE UPDATE OR DELETE ON chain_link "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute("SELECT refuse_truncate_of('chain_link')")
