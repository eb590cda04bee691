"""A filled installation of the release before: its personal texts are encrypted in batches, and a run that was cut off goes on."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime

import psycopg
import pytest

from tests.app.test_migrations import empty_url, migrate_to  # noqa: F401
from tests.support.people import where
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database import connections, schema
from tokenworks.app.database.sealing import PLACES, seal_existing
from tokenworks.app.sealed import check_sealed
from tokenworks.app.settings import load_settings
from tokenworks.billing.charge_file import FileLine, write_file
from tokenworks.catalog import seed_catalogue
from tokenworks.kernel import ManualClock, Unavailable, uuid7

COUNT = 25
AT = datetime(2026, 11, 1, tzinfo=UTC)


def fill(connection):
    """What the release before kept: everything readable."""
    people = []
    for number in range(COUNT):
        account, subscriber, owner, son = (uuid7() for _ in range(4))
        phone, name = f"+861387654{number:04d}", f"Wilhelmina Xylander {number}"
        people.append((subscriber, account, owner, phone, name))
        connection.execute("INSERT INTO account (account_id) VALUES (%s)", (account,))
        connection.execute(
            "INSERT INTO subscriber (subscriber_id, account_id, phone, name, broadband) VALUES (%s, %s, %s, %s, %s)",
            (
                subscriber,
                account,
                phone,
                name if number else None,
                f"bb-77889{number:03d}" if number % 2 else None,
            ),
        )
        connection.execute(
            """INSERT INTO member (member_id, account_id, subscriber_id, name, role, phone, state) VALUES
               (%s, %s, %s, %s, 'owner', NULL, 'active'), (%s, %s, %s, %s, 'member', %s, %s)""",
            (owner, account, subscriber, name, son, account, subscriber, "Ottoline Quimby", f"+861391111{number:04d}",
             "left" if number == 3 else "active"),
        )  # fmt: skip
        connection.execute(
            """INSERT INTO phone_history (phone_history_id, subscriber_id, phone, reason, changed_at)
               VALUES (%s, %s, %s, 'change', now())""",
            (uuid7(), subscriber, f"+861370000{number:04d}"),
        )
        connection.execute(
            """INSERT INTO audit (audit_id, at, actor, role, action, ref, before, after)
               VALUES (%s, now(), 'li', 'operator', 'subscriber set', %s, NULL, %s)""",
            (uuid7(), str(subscriber) if number % 2 else "+86*******0000", json.dumps({"name": name})),
        )
    subscriber, account, owner, phone, name = people[0]
    connection.execute(
        """INSERT INTO transfer (transfer_id, account_id, from_bucket_id, to_bucket_id, from_member_id, to_member_id, amount,
               reason, made_by, made_at, idempotency_key) VALUES (%s, %s, %s, %s, %s, %s, 1, 'r', %s, now(), 'k')""",
        (uuid7(), account, uuid7(), uuid7(), owner, owner, name),
    )
    bill, file = uuid7(), uuid7()
    connection.execute(
        """INSERT INTO bill (bill_id, subscriber_id, account_id, bill_no, period_start, period_end, issued_at, due_at, currency,
               amount_nano, tax_nano, remaining_nano, state)
           VALUES (%s, %s, %s, 'B-1', now(), now(), now(), now(), 'CNY', 10000000, 0, 10000000, 'sent')""",
        (bill, subscriber, account),
    )
    text, digest = write_file(1, AT, [FileLine("B-1", phone, "2026-11-01", "2026-11-30", 1, 0)])
    connection.execute(
        """INSERT INTO charge_file (charge_file_id, layout, sequence_no, lines, amount_nano, sha256, content, made_at)
           VALUES (%s, 'tokenworks-phone-1', 1, 1, 10000000, %s, %s, now())""",
        (file, digest, text),
    )
    connection.execute(
        "INSERT INTO charge_file_line (charge_file_id, line_no, bill_id, amount_nano) VALUES (%s, 1, %s, 10000000)",
        (file, bill),
    )
    # Work orders without the orders that they are of, which play no part.
    connection.execute(
        "ALTER TABLE work_order DROP CONSTRAINT work_order_order_id_fkey, DROP CONSTRAINT work_order_product_id_fkey"
    )
    for number in (1, 2):
        connection.execute(
            """INSERT INTO work_order (work_order_id, order_id, product_id, subscriber_id, port, offering_id, action, created_at)
               VALUES (%s, %s, %s, %s, 'broadband', 'o', 'deliver', now())""",
            (uuid7(), uuid7(), uuid7(), people[number][0]),
        )
    return people, text


def deliveries(connection, people):
    """What listeners were sent, and are sent still: of an event, of a notice, and of nobody who is known."""
    made = []
    for number, ref in ((0, "event"), (1, "notice"), (2, "unknown")):
        delivery, event = uuid7(), uuid7()
        body = json.dumps({"broadband": f"bb-77889{number:03d}", "name": people[number][4]})
        if ref == "event":
            connection.execute(
                """INSERT INTO hub_event (event_id, at, api, event_type, ref, subscriber_id)
                   VALUES (%s, now(), 'serviceOrdering', 'x', %s, %s)""",
                (event, uuid7(), people[number][0]),
            )
        elif ref == "notice":
            connection.execute(
                """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
                   VALUES (%s, %s, 'spend', '1', '{}', now(), now())""",
                (event, people[number][0]),
            )
        connection.execute(
            """INSERT INTO hub_delivery (delivery_id, event_id, event_type, body, created_at, begun_at, next_at)
               VALUES (%s, %s, 'x', %s, now(), now(), now())""",
            (delivery, event, body),
        )
        made.append((delivery, body))
    return made


class CutOff(Exception):
    pass


def test_what_was_there_is_encrypted_and_a_cut_off_run_goes_on(empty_url, session_dir):  # noqa: F811
    migrate_to(empty_url, "0012")
    with contextlib.closing(connections.connect(empty_url)) as connection:
        people, text = fill(connection)
        migrate_to(empty_url, "0016")
        sent = deliveries(connection, people)
        assert schema.migrate(empty_url) == schema.SCHEMA
        settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
        services = make_works(settings, connection, ManualClock(datetime.now(UTC)))
        with pytest.raises(Unavailable, match="tokenworks init"):
            check_sealed(connection)
        # Plain text is written no more, whatever is left of it.
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("UPDATE member SET name = 'plain'")

        seen = []

        def until(place, rows):
            def progress(at, done, total):
                seen.append((at, done, total))
                if (at, done) == (place, rows):
                    raise CutOff

            return progress

        # Cut off in the middle of a table, at the end of a batch; at the end of another; and then to the end.
        with pytest.raises(CutOff):
            seal_existing(connection, services.vault, until("subscriber", 20), batch=10)
        assert [s for s in seen if s[0] == "subscriber"] == [
            ("subscriber", 0, 25),
            ("subscriber", 10, 25),
            ("subscriber", 20, 25),
        ]
        with pytest.raises(CutOff):
            seal_existing(connection, services.vault, until("member", 50), batch=10)
        assert ("subscriber", 0, 5) in seen
        assert where(connection, "Wilhelmina") == {("audit", "after"), ("hub_delivery", "body")}
        seal_existing(connection, services.vault, until("", 0), batch=10)
        check_sealed(connection)
        assert {place for place, _, _ in seen} == set(PLACES)
        assert seal_existing(connection, services.vault, until("", 0)) == 0

        assert where(
            connection, "8613876", "8613911", "8613700", "Wilhelmina", "Xylander", "Ottoline", "77889"
        ) == set()  # fmt: skip
        not_valid = connection.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall()
        assert not_valid == []
        # Nothing is lost: each is found, with what it had.
        for number, (subscriber, account, owner, phone, name) in enumerate(people):
            found = services.subscriptions.find(phone)
            assert (found.subscriber_id, found.account_id) == (subscriber, account)
            assert found.name == (name if number else None)
            assert found.broadband == (f"bb-77889{number:03d}" if number % 2 else None)
            members = services.members.of(found)
            assert [m.name for m in members] == [name, "Ottoline Quimby"]
            assert members[1].phone == (None if number == 3 else f"+861391111{number:04d}")
            assert members[0].member_id == owner
        assert services.subscriptions.find("xylander 7").subscriber_id == people[7][0]
        assert services.charge_files.file(1) == text
        assert services.charge_files.files()[0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        works_to_do = {work.subscriber_id: work.broadband for work in services.orders.work_orders()}
        assert works_to_do == {people[1][0]: "bb-77889001", people[2][0]: None}
        assert sorted((one.delivery_id, one.body) for one in services.hub.lease(9, own=True)) == sorted(sent)
        trail, count = services.identity.audited(None, 0, 100)
        assert count == COUNT and {row["after"]["name"] for row in trail} == {name for *_, name in people}
        made_by = connection.execute("SELECT made_by FROM transfer").fetchall()
        assert made_by == [(f"member:{people[0][2]}",)]
        # History is history again.
        for table in ("audit", "phone_history", "transfer"):
            with pytest.raises(psycopg.errors.RaiseException, match="history"):
                connection.execute(f"DELETE FROM {table}")
        services.offerings.load(seed_catalogue())
        services.orders.place(services.subscriptions.find(people[1][3]), "ctc-light")


def test_an_empty_installation_has_nothing_to_encrypt(services):
    check_sealed(services.connection)
    assert services.connection.execute("SELECT count(*) FROM sealing").fetchone() == (0,)
