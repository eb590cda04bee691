"""Schema steps with rows of the release before them."""

import contextlib

import psycopg
import pytest

from tests.support.auditor import verify
from tests.support.databases import new_database
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database import connections, schema
from tokenworks.app.database.sealing import seal_existing
from tokenworks.app.settings import load_settings
from tokenworks.charging import Ledger
from tokenworks.kernel import SystemClock, uuid7


@pytest.fixture
def empty_url(cluster):
    with new_database(cluster, f"empty_{uuid7().hex}") as url:
        yield url


def migrate_to(url, revision):
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with create_engine(schema.engine_url(url), poolclass=NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_losses_of_before_0011_get_a_cause_and_stay_history(empty_url):
    migrate_to(empty_url, "0010")
    account_id, ids = uuid7(), [uuid7() for _ in range(3)]
    losses = ["[1, [0, 0, 0, 0, 7, 0, 0]]", None, "[0, [2, 0, 0, 0, 0, 0, 0]]"]
    with contextlib.closing(connections.connect(empty_url)) as connection:
        for usage_id, loss in zip(ids, losses, strict=True):
            connection.execute(
                """INSERT INTO usage (account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment,
                       state, reason, counted_by, started_at, ended_at, latency_ms, fresh_input, cached_input, cache_write,
                       audio_input, output, reasoning, audio_output, parts, loss, flags, journal_id, seq, entry_id)
                   VALUES (%(a)s, %(u)s, 'r', 1, %(u)s, %(u)s, 'chat', 'm', 'd', 'complete', 'completed', 'provider', now(), now(), 1,
                       2, 0, 0, 0, 7, 0, 0, '[]', %(loss)s, '{}', %(u)s, 1, %(u)s)""",
                {"a": account_id, "u": usage_id, "loss": loss},
            )
        assert schema.migrate(empty_url) == schema.SCHEMA
        rows = {row["usage_id"]: row for row in Ledger(connection, SystemClock()).usage(account_id)}
        assert rows[ids[0]]["loss"] == [{"cause": "unnamed", "requests": 1, "counts": {"output": 7}}]
        assert rows[ids[1]]["loss"] == []
        assert rows[ids[2]]["loss"] == [{"cause": "unnamed", "requests": 0, "counts": {"fresh_input": 2}}]
        assert all(row["cache_write_1h"] == 0 for row in rows.values())
        # A host of the release before, still running, writes as it did.
        connection.execute("ALTER TABLE usage DISABLE TRIGGER usage_is_history")
        connection.execute("UPDATE usage SET loss = %s WHERE usage_id = %s", (losses[0], ids[0]))
        connection.execute("ALTER TABLE usage ENABLE TRIGGER usage_is_history")
        assert (
            Ledger(connection, SystemClock()).usage_record(account_id, ids[0])["loss"] == rows[ids[0]]["loss"]
        )
        assert {(row["cause"], row["tokens"]) for row in Ledger(connection, SystemClock()).losses()} == {
            ("unnamed", 9)
        }
        with pytest.raises(psycopg.errors.RaiseException, match="history"):
            connection.execute("UPDATE usage SET loss = NULL")


BEFORE_0013 = """
INSERT INTO account (account_id) VALUES (%(a)s);
INSERT INTO subscriber (subscriber_id, account_id, phone, created_at) VALUES (%(s)s, %(a)s, '+8613800000001', now());
INSERT INTO bill (bill_id, subscriber_id, account_id, bill_no, period_start, period_end, issued_at, due_at, currency, amount_nano,
    tax_nano, remaining_nano, state) VALUES
    (%(b1)s, %(s)s, %(a)s, '20270501-000000002', '2027-04-01', '2027-05-01', now(), now(), 'CNY', 10660000000, 600000000, 0, 'settled'),
    (%(b2)s, %(s)s, %(a)s, '20270601-000000004', '2027-05-01', '2027-06-01', now(), now(), 'CNY', 9900000000, 560000000, 9900000000, 'new');
INSERT INTO bill_line (bill_id, line_no, account_id, kind, description, description_zh, charges, charged_nano, amount_nano, vat_percent,
    tax_nano, entry_id) VALUES
    (%(b1)s, 1, %(a)s, 'adjustment', 'x', 'x', 1, 10658877044, 10660000000, 6, 600000000, %(r)s),
    (%(b2)s, 1, %(a)s, 'adjustment', 'x', 'x', 1, 9900000000, 9900000000, 6, 560000000, %(r2)s);
INSERT INTO charge (account_id, charge_id, subscriber_id, kind, number, charged_at, period_start, period_end, description, description_zh,
    price_nano, amount_nano, vat_percent, tax_nano, currency, entry_id, of_charge_id, recognise, credited_nano, refunded_nano, closed_at,
    bill_id, line_no) VALUES
    (%(a)s, %(c1)s, %(s)s, 'adjustment', 1, '2027-04-02', '2027-04-02', NULL, 'x', 'x', 10658877044, 10658877044, 6, 603332663, 'CNY',
        %(c1)s, NULL, 'time', 10658877044, 10055544381, now(), %(b1)s, 1),
    (%(a)s, %(c2)s, %(s)s, 'adjustment', 1, '2027-05-02', '2027-05-02', NULL, 'x', 'x', 9900000000, 9900000000, 6, 560377358, 'CNY',
        %(c2)s, NULL, 'time', 0, 0, NULL, %(b2)s, 1),
    (%(a)s, %(k)s, %(s)s, 'credit', 0, '2027-05-03', '2027-05-03', NULL, 'x', 'x', 10658877044, -10658877044, 6, -603332663, 'CNY',
        %(k)s, %(c1)s, 'none', 0, 0, now(), NULL, NULL);
INSERT INTO entry (account_id, entry_id, kind, ref) VALUES (%(a)s, %(c1)s, 'charge', ''), (%(a)s, %(c2)s, 'charge', ''),
    (%(a)s, %(k)s, 'credit', ''), (%(a)s, %(r)s, 'round', ''), (%(a)s, %(r2)s, 'round', ''), (%(a)s, %(p)s, 'payment', '');
INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, amount) VALUES
    (%(a)s, %(c1)s, 1, 'receivable', 'CNY', 10658877044), (%(a)s, %(c1)s, 2, 'tax', 'CNY', -603332663),
    (%(a)s, %(c1)s, 3, 'customer_liability', 'CNY', -10055544381),
    (%(a)s, %(c2)s, 1, 'receivable', 'CNY', 9900000000), (%(a)s, %(c2)s, 2, 'tax', 'CNY', -560377358),
    (%(a)s, %(c2)s, 3, 'customer_liability', 'CNY', -9339622642),
    (%(a)s, %(k)s, 1, 'receivable', 'CNY', -10658877044), (%(a)s, %(k)s, 2, 'tax', 'CNY', 603332663),
    (%(a)s, %(k)s, 3, 'customer_liability', 'CNY', 10055544381),
    (%(a)s, %(r)s, 1, 'receivable', 'CNY', 1122956), (%(a)s, %(r)s, 2, 'tax', 'CNY', 3332663), (%(a)s, %(r)s, 3, 'rounding', 'CNY', -4455619),
    (%(a)s, %(r2)s, 1, 'tax', 'CNY', 377358), (%(a)s, %(r2)s, 2, 'rounding', 'CNY', -377358),
    (%(a)s, %(p)s, 1, 'paid:cash', 'CNY', 10660000000), (%(a)s, %(p)s, 2, 'receivable', 'CNY', -10660000000);
INSERT INTO payment (payment_id, subscriber_id, account_id, bill_id, method, amount_nano, currency, entry_id, reference, paid_at) VALUES
    (%(p)s, %(s)s, %(a)s, %(b1)s, 'cash', 10660000000, 'CNY', %(p)s, 'r', now());
INSERT INTO credit_note (credit_note_id, credit_note_no, bill_id, account_id, charge_id, amount_nano, tax_nano, reason, issued_at)
VALUES (%(n)s, 'C20270503-000000001', %(b1)s, %(a)s, %(k)s, 10658877044, 603332663, 'wrong', now());
INSERT INTO charge_file (charge_file_id, layout, sequence_no, lines, amount_nano, sha256, content, made_at, acknowledged_at)
VALUES (%(f)s, 'tokenworks-phone-1', 1, 1, 10660000000, '', '', now(), now());
INSERT INTO charge_file_line (charge_file_id, line_no, bill_id, amount_nano, state) VALUES (%(f)s, 1, %(b1)s, 10660000000, 'accepted');
"""


def test_credits_that_wait_at_0013_are_taken_off_their_bills_and_what_was_not_booked_is_a_case(
    empty_url, session_dir
):
    migrate_to(empty_url, "0012")
    ids = {name: uuid7() for name in ("a", "s", "b1", "b2", "c1", "c2", "k", "r", "r2", "p", "n", "f")}
    with contextlib.closing(connections.connect(empty_url)) as connection:
        for statement in BEFORE_0013.split(";\n"):
            if statement.strip():
                connection.execute(statement, ids)
        assert schema.migrate(empty_url) == schema.SCHEMA
        services = make_works(load_settings({"data_dir": str(session_dir / "seed")}).settings, connection)
        seal_existing(connection, services.vault, lambda *_: None)
        first, second = (services.bills.find(str(ids[name])) for name in ("b1", "b2"))
        # Paid and credited in full: the credit is 10.66, as the line says, and pays the other bill.
        assert (first.remaining_nano, second.remaining_nano, second.state) == (0, 0, "settled")
        assert services.charges.receivable(ids["a"]) == -760_000_000
        assert services.bills.credit_notes(first)[0].line_no == 1
        ((case,), _) = services.payments.cases()
        assert (case.kind, case.amount_nano) == ("unbooked", 10_660_000_000)
        gaps = connection.execute("SELECT kind, number FROM document_gap ORDER BY 1, 2").fetchall()
        assert gaps == [("bill", 1), ("bill", 3)]
        # The rows above say what 0013 reads, and no offering, no date and no owner: of that the auditor says much.
        said = ("credit", "bill: its lines add up", "bill: what is open", "account: what is owed", "numbers", "charge file: its lines",
                "payment: it is posted")  # fmt: skip
        assert [
            f
            for f in verify(connection, {})
            if f.invariant.startswith(said) and "credit note: it has" not in f.invariant
        ] == []


def test_products_refunds_and_changes_of_before_0014_go_on(empty_url, session_dir, monkeypatch):
    """Schema 0012 with products, an empty bucket, a change and a refund that wait for grants: 0014 carries all of it."""
    from datetime import UTC, datetime, timedelta

    from bench import crowd

    from tests.support.spend import Spender, balances
    from tokenworks.app.bootstrap import make_works
    from tokenworks.app.settings import load_settings
    from tokenworks.catalog import Offerings, seed_catalogue
    from tokenworks.kernel import ManualClock

    migrate_to(empty_url, "0012")
    begin = datetime(2027, 3, 31, 16, tzinfo=UTC)  # April begins in UTC+8
    lines = [line for line in crowd.SQL.split(";\n") if not line.strip().startswith("UPDATE product")]
    # At that schema everybody has a number and a name, in plain text.
    before = (
        ";\n".join(lines)
        .replace("subscriber (subscriber_id, account_id, created_at) SELECT subscriber_id, account_id, %(at)s",
                 "subscriber (subscriber_id, account_id, created_at, phone) SELECT subscriber_id, account_id, %(at)s, '+86' || 13000000000 + n")
        .replace("subscriber_id, role) SELECT member_id, account_id, subscriber_id, 'owner'",
                 "subscriber_id, role, name) SELECT member_id, account_id, subscriber_id, 'owner', 'owner'")
    )  # fmt: skip
    monkeypatch.setattr(crowd, "SQL", before)
    with contextlib.closing(connections.connect(empty_url)) as connection:
        Offerings(connection, ManualClock(begin)).load(seed_catalogue())
        crowd.seed(connection, 10, begin, begin + timedelta(days=30))
        connection.execute(
            """INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from,
                   valid_until, model_classes, rate_version, charge_id)
               SELECT account_id, gen_random_uuid(), product_id, kind, unit, 0, 0, priority, valid_from, valid_until, model_classes,
                   rate_version, charge_id FROM bucket LIMIT 1"""
        )
        plans = connection.execute(
            """SELECT p.product_id, p.subscriber_id, p.account_id, p.order_id, c.charge_id FROM product p
               JOIN charge c USING (product_id) WHERE c.kind = 'cycle' ORDER BY p.product_id LIMIT 2"""
        ).fetchall()
        changed, refunded = plans
        waiting = uuid7()
        connection.execute(
            """INSERT INTO product_order (order_id, subscriber_id, account_id, offering_id, offering_version, state, ordered_at, action,
                   product_id, asked)
               SELECT %s, subscriber_id, account_id, 'ctc-light', offering_version, 'inProgress', %s, 'modify', product_id,
                   jsonb_build_object('charge_id', %s::text, 'left_s', 1296000, 'length_s', 2592000)
               FROM product WHERE product_id = %s""",
            (waiting, begin, str(changed[4]), changed[0]),
        )
        connection.execute(
            """INSERT INTO refund (refund_id, order_id, account_id, charge_id, part, reason, state, asked_at)
               VALUES (%s, %s, %s, %s, 'unused', 'a reason', 'pending', %s)""",
            (uuid7(), refunded[3], refunded[2], refunded[4], begin),
        )
        # As the release before left it: what is unused is withdrawn already.
        services = make_works(
            load_settings({"data_dir": str(session_dir / "seed")}).settings, connection, ManualClock(begin)
        )
        services.ledger.withdraw_product(refunded[2], refunded[0], "withdraw")
        assert schema.migrate(empty_url) == schema.SCHEMA
        seal_existing(connection, services.vault, lambda *_: None)
        charges = connection.execute("SELECT charge_id FROM product WHERE product_id = %s", (changed[0],))
        assert charges.fetchone()[0] == changed[4]
        assert balances(services)
        assert Spender(services).spend(changed[2], 1_000_000)
        assert services.orders.finish_changes() == 1
        assert services.orders.find(waiting)[0].amount_nano == -4_950_000_000
        assert services.refunds.finish() == 1
        assert services.refunds.of_order(refunded[3])[0].amount_nano == 9_900_000_000
        services.clock.move(timedelta(days=30))
        services.orders.run_cycles()
        assert balances(services)


def test_staff_of_before_0016_keep_their_tokens_for_a_while_and_names_that_look_alike_are_told_apart(
    empty_url,
):
    migrate_to(empty_url, "0015")
    ids = [uuid7() for _ in range(4)]
    with contextlib.closing(connections.connect(empty_url)) as connection:
        for number, (staff_id, name) in enumerate(zip(ids, ("Ann", "Аnn", "Bo", "..."), strict=True)):
            connection.execute(
                "INSERT INTO staff VALUES (%s, %s, 'operator', %s, now(), %s)",
                (staff_id, name, bytes([number]) * 32, "2026-01-01" if name == "Bo" else None),
            )
        connection.execute(
            "INSERT INTO sign_in_code (code_id, identifier_mac, address, code_mac, created_at) VALUES (%s, 'x', 'local', 'y', now())",
            (uuid7(),),
        )
        assert schema.migrate(empty_url) == schema.SCHEMA
        looks = [row[0] for row in connection.execute("SELECT skeleton FROM staff ORDER BY staff_id")]
        assert looks == ["ann", f"ann#{ids[1]}", "bo", f"#{ids[3]}"]
        rows = connection.execute(
            "SELECT staff_id, expires_at > now() + interval '89 days' FROM staff_token ORDER BY staff_id"
        ).fetchall()
        assert rows == [(ids[0], True), (ids[1], True), (ids[3], True)]
        row = connection.execute("SELECT expires_at - created_at, digits, sent FROM sign_in_code").fetchone()
        assert (row[0].total_seconds(), row[1:]) == (300, (6, True))


HISTORY = (
    "audit", "bill_line", "chain_link", "consent", "credit_note", "entry", "offering", "payment", "payment_reversal", "payout", "phone_history", "posting",
    "rate_card", "transfer", "usage",
)  # fmt: skip


def test_history_is_not_emptied_in_any_of_its_partitions(owner_url):
    with contextlib.closing(connections.connect(owner_url)) as connection:
        connection.execute("SELECT ensure_usage_month('2031-02-03')")
        parts = [
            row[0]
            for table in HISTORY
            for row in connection.execute(
                "SELECT %(t)s::text UNION SELECT relid::regclass::text FROM pg_partition_tree(%(t)s::text::regclass)",
                {"t": table},
            )
        ]
        assert {"usage", "usage_203102", "posting_h3"} <= set(parts)
        for part in parts:
            with pytest.raises(psycopg.errors.RaiseException, match="is history"):
                connection.execute(f"TRUNCATE {part} CASCADE")


def test_caps_that_a_release_before_0027_writes_beside_it_are_complete(services, owner):
    """Its hosts serve on: a key's cap has its size, and a member's cap the time at which it was set."""
    connection = services.connection
    subscriber = services.subscriptions.register("+8613800000001")
    member = services.subscriptions.owner_of(subscriber)
    cap = services.ledger.add_cap(subscriber.account_id, 7000)
    connection.execute(
        """INSERT INTO api_key (key_id, account_id, member_id, key_mac, pepper_version, hint, name, models, cap_bucket_id, expires_at, origins)
           VALUES (%s, %s, %s, 'mac', 1, '', 'of before', NULL, %s, NULL, NULL)""",
        (uuid7(), subscriber.account_id, member, cap),
    )
    assert connection.execute("SELECT cap_tokens FROM api_key").fetchall() == [(7000,)]
    son = services.members.add(subscriber, "son", cap_tokens=1000, cap_period="month")
    services.members.caps(son.member_id)
    # Long after the step.
    with owner.transaction():
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute("UPDATE member SET cap_set_at = now() - interval '1 hour'")
    connection.execute(
        "UPDATE member SET cap_tokens = 500, cap_period = 'month' WHERE member_id = %s", (son.member_id,)
    )
    assert verify(connection, services.offerings.rate_cards()) == []
    # What is no cap leaves that as it is.
    before = "SELECT cap_set_at FROM member WHERE member_id = %s"
    found = connection.execute(before, (son.member_id,)).fetchone()
    connection.execute("UPDATE member SET state = 'left' WHERE member_id = %s", (son.member_id,))
    assert connection.execute(before, (son.member_id,)).fetchone() == found
