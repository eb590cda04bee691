"""Schema 0015 with subscribers of the release before it: what was suspended has a cause."""

import contextlib

from tests.app.test_migrations import empty_url, migrate_to  # noqa: F401  (a fixture)
from tests.support.auditor import verify
from tokenworks.app.database import connections, schema
from tokenworks.kernel import uuid7

BEFORE = "0014"


def test_what_was_suspended_has_a_cause(empty_url):  # noqa: F811
    migrate_to(empty_url, BEFORE)
    ids = {name: (uuid7(), uuid7()) for name in ("active", "dunned", "operators", "frozen", "closed")}
    with contextlib.closing(connections.connect(empty_url)) as connection:
        for number, (name, (subscriber_id, account_id)) in enumerate(ids.items()):
            state = {"active": "active", "frozen": "active", "closed": "closed"}.get(name, "suspended")
            frozen = "closed" if name == "closed" else "open" if name == "active" else "frozen"
            connection.execute(
                "INSERT INTO account (account_id, state) VALUES (%s, %s)", (account_id, frozen)
            )
            connection.execute(
                "INSERT INTO subscriber (subscriber_id, account_id, phone, state, created_at) VALUES (%s, %s, %s, %s, now())",
                (subscriber_id, account_id, f"+86138000000{number:02d}", state),
            )
        bill_id, (dunned, account_id) = uuid7(), ids["dunned"]
        connection.execute(
            """INSERT INTO bill (bill_id, subscriber_id, account_id, bill_no, period_start, period_end, issued_at, due_at, currency,
                                 amount_nano, tax_nano, remaining_nano, state)
               VALUES (%s, %s, %s, 'B20270501-000000001', now() - interval '3 months', now() - interval '2 months', now(), now(), 'CNY', 0, 0, 0,
                       'settled')""",
            (bill_id, dunned, account_id),
        )
        connection.execute(
            "INSERT INTO dunning (bill_id, step, subscriber_id, taken_at) VALUES (%s, 'suspend', %s, now())",
            (bill_id, dunned),
        )
        assert schema.migrate(empty_url) == schema.SCHEMA
        found = dict(
            connection.execute(
                "SELECT subscriber_id, (state, suspended_by::text)::text FROM subscriber"
            ).fetchall()
        )
        assert {name: found[subscriber_id] for name, (subscriber_id, _) in ids.items()} == {
            "active": "(active,{})", "dunned": "(suspended,{payment})", "operators": "(suspended,{operator})",
            "frozen": "(suspended,{operator})", "closed": "(closed,{})",
        }  # fmt: skip
        assert [f for f in verify(connection, {}) if "suspend" in f.invariant] == []
