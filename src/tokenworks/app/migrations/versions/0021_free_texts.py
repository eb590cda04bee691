"""Deliveries to listeners and kept answers encrypted; free texts about a person that an erasure may overwrite.

Deliveries that are there are encrypted by `tokenworks init` after this (app/database/sealing.py). Answers of before stay readable for the
30 days that they are kept, since a repeat has to get them; new ones are encrypted.
"""

from alembic import op
from sqlalchemy import text

from tokenworks.trust import skeleton

revision = "0021"
down_revision = "0020"

# (table, its column of free text): history, of which an erasure may take out this one text.
FORGETTABLE = (
    ("credit_note", "reason"),
    ("payment", "reason"),
    ("payment_reversal", "reason"),
    ("transfer", "reason"),
)
TABLES = """
-- Whose the delivery is: its body is encrypted under that key, or under the installation's own where the person was erased.
ALTER TABLE hub_delivery ALTER COLUMN body DROP NOT NULL;
ALTER TABLE hub_delivery ADD COLUMN body_sealed bytea;
ALTER TABLE hub_delivery ADD COLUMN subscriber_id uuid;
UPDATE hub_delivery d SET subscriber_id = e.subscriber_id FROM hub_event e WHERE e.event_id = d.event_id;
UPDATE hub_delivery d SET subscriber_id = n.subscriber_id FROM notification n WHERE n.notification_id = d.event_id;
CREATE INDEX hub_delivery_subscriber ON hub_delivery (subscriber_id);
INSERT INTO sealing (place) SELECT 'hub_delivery' WHERE EXISTS (SELECT 1 FROM hub_delivery);
ALTER TABLE hub_delivery ADD CONSTRAINT hub_delivery_is_sealed CHECK (body IS NULL) NOT VALID;

ALTER TABLE kept_answer ADD COLUMN body_sealed bytea;
ALTER TABLE kept_answer ADD COLUMN answer_id uuid;
ALTER TABLE kept_answer ADD COLUMN person_id uuid;
CREATE INDEX kept_answer_person ON kept_answer (person_id) WHERE person_id IS NOT NULL;

-- An erasure that waits, of which the operator gives up what is owed.
ALTER TABLE subscriber ADD COLUMN erasure_gives_up boolean NOT NULL DEFAULT false;
CREATE INDEX work_order_open_of ON work_order (subscriber_id) WHERE state = 'open';

CREATE FUNCTION refuse_change_but_forgetting() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was jsonb := to_jsonb(OLD) - TG_ARGV[0];
BEGIN
    IF TG_OP = 'UPDATE' AND to_jsonb(NEW) - TG_ARGV[0] = was AND to_jsonb(NEW) ->> TG_ARGV[0] = '(erased)' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% is history: it is never changed, only reversed', TG_TABLE_NAME;
END $$;
"""


def _name_looks() -> None:
    """Skeletons know more letters than before. Two names that look alike only now keep what they have: both are there."""
    connection = op.get_bind()
    rows = connection.execute(
        text("SELECT staff_id, name, skeleton FROM staff ORDER BY created_at, staff_id")
    )
    found = rows.fetchall()
    taken = {looks for _, _, looks in found}
    for staff_id, name, before in found:
        looks = skeleton(name)
        if looks and looks not in taken and "#" not in before:
            taken.add(looks)
            connection.execute(
                text("UPDATE staff SET skeleton = :looks WHERE staff_id = :id"),
                {"looks": looks, "id": staff_id},
            )


def upgrade() -> None:
    op.execute(TABLES)
    _name_looks()
    for table, column in FORGETTABLE:
        op.execute(f"""
DROP TRIGGER {table}_is_history ON {table};
CREATE TRIGGER {table}_is_history BEFORE UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION refuse_change_but_forgetting('{column}');""")
