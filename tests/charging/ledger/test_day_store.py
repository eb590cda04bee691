"""Usage by day is the sum of its records, whatever settles them; a read of it does not read the records."""

import contextlib
import random
import threading
from datetime import UTC, date, datetime, timedelta

import pytest

from tokenworks.app.database import schema
from tokenworks.app.database.connections import connect
from tokenworks.charging.ledger import usage as ledger_module
from tokenworks.charging.ledger.verify.usage import CHECKS
from tokenworks.kernel import uuid7, uuid7_floor

SQL = """INSERT INTO usage (account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state, reason,
        counted_by, started_at, ended_at, latency_ms, fresh_input, cached_input, cache_write, audio_input, output, reasoning,
        audio_output, cache_write_1h, parts, flags, journal_id, seq, entry_id, choice)
    VALUES (%(account)s, %(id)s, 'r', 1, %(key)s, %(member)s, 'chat', %(model)s, 'd', 'complete', 'completed', 'provider', %(at)s, %(at)s,
        1, %(n)s, 1, 2, 3, %(n)s, 4, 5, 6, %(parts)s::jsonb, '{}', %(journal)s, %(n)s, %(id)s, %(choice)s)"""


def unequal_days(connection):
    """What the auditor says of days that are not the sum of their records."""
    return connection.execute(CHECKS["usage by day: it is the sum of its records"].encode()).fetchall()


def add(
    connection,
    account_id,
    member_id,
    at,
    n,
    *,
    model="m",
    journal_id=None,
    unit="token",
    parts=None,
    choice=None,
):
    usage_id = uuid7_floor(int(at.timestamp() * 1000))
    usage_id = type(usage_id)(int=usage_id.int | random.getrandbits(62))
    parts = (
        parts
        or f'[["{usage_id}", "{usage_id}", "r", "{unit}", "balance", {1000 * n}, 1], ["{usage_id}", "{usage_id}", "r", "token", "cap", 9, 1]]'
    )
    connection.execute(
        SQL,
        {"account": account_id, "id": usage_id, "key": member_id, "member": member_id, "model": model, "at": at, "n": n, "parts": parts,
         "journal": journal_id or member_id, "choice": choice},
    )  # fmt: skip


@pytest.fixture
def month(services):
    return services.clock.now()


def test_usage_by_day_and_member_is_the_sum_of_the_records(services, month):
    account, other, ann, bob = (uuid7() for _ in range(4))
    noon = month + timedelta(days=2, hours=12)
    for n, (member, at, unit) in enumerate(
        [(ann, noon, "token"), (ann, noon + timedelta(hours=11, minutes=59), "token"), (ann, noon + timedelta(hours=12), "prompt"),
         (bob, noon, "token")], 1,
    ):  # fmt: skip
        add(services.connection, account, member, at, n, unit=unit)
        add(services.connection, other, member, at, 10 * n)
    # A day is one of UTC+8, as the month is: 16:00 UTC begins it.
    day = (month + timedelta(days=2, hours=8)).date()
    assert services.ledger.usage_by_day(account, month) == {
        f"{day:%Y-%m-%d}": 3 * 21 + 2 * (1 + 2 + 4),
        f"{day + timedelta(days=1):%Y-%m-%d}": 21 + 2 * 3,
    }
    rows = {row["member_id"]: row for row in services.ledger.usage_by_member(account)}
    assert rows[ann] == {
        "member_id": ann, "records": 3, "input_tokens": 36 + 6, "output_tokens": 27 + 6, "charged": {"token": 3000, "prompt": 3000},
    }  # fmt: skip
    assert rows[bob]["charged"] == {"token": 4000}
    # From within a day: the rest of it record by record, whole days from their sums.
    rows = services.ledger.usage_by_member(account, noon + timedelta(seconds=1))
    assert [(row["member_id"], row["records"], row["charged"]) for row in rows] == [
        (ann, 2, {"token": 2000, "prompt": 3000})
    ]
    assert unequal_days(services.connection) == []


def test_a_day_that_is_not_the_sum_of_its_records_is_found(services, owner, month):
    account, member = uuid7(), uuid7()
    add(services.connection, account, member, month + timedelta(days=1), 3, unit="prompt")
    assert unequal_days(services.connection) == []
    services.connection.execute(
        "UPDATE usage_day SET output_tokens = output_tokens + 1 WHERE account_id = %s", (account,)
    )
    ((row, text),) = unequal_days(services.connection)
    assert row == f"{(month + timedelta(days=1, hours=8)).date()} of member {member} of account {account}"
    assert text == "1 records, 15 + 13 tokens, 3000 prompt; its records are 1, 15 + 12 tokens, 3000"
    owner.execute("DELETE FROM usage_day WHERE account_id = %s", (account,))
    assert len(unequal_days(services.connection)) == 1
    services.connection.execute(
        "INSERT INTO usage_day VALUES (%s, %s, %s, %s, 'token', 1, 1, 1, 1)",
        (uuid7(), member, member, date(2026, 1, 1)),
    )
    assert len(unequal_days(services.connection)) == 2


def test_a_record_of_several_balances_or_of_none_is_counted_once(services, month):
    account, member = uuid7(), uuid7()
    at = month + timedelta(days=1)
    for n, parts in enumerate(
        (
            '[["b", "g", "r", "token", "balance", 7, 1], ["b", "g", "r", "prompt", "balance", 2000, 1]]',
            '[["b", "g", "r", "token", "window", 9, 1], ["b", "g", "r", "token", "balance", 11, 1]]',
            '[["b", "g", "r", "token", "cap", 9, 1]]',
            "[]",
        ),
        1,
    ):
        add(services.connection, account, member, at, n, parts=parts)
    (row,) = services.ledger.usage_by_member(account)
    assert (row["records"], row["output_tokens"]) == (4, 4 * 9 + 1 + 2 + 3 + 4)
    assert row["charged"] == {"token": 18, "prompt": 2000}
    assert unequal_days(services.connection) == []


def test_days_of_before_are_filled_in_batches_beside_what_is_settled(services, owner, month, monkeypatch):
    """Rows of before the trigger, some after it, and a batch that is done twice: each record is counted once."""
    step = next(s for s in schema._steps(schema.MIGRATIONS) if s.revision == "0029").module
    monkeypatch.setattr(step, "ACCOUNTS_IN_BATCH_MAX", 2)
    connection, member = services.connection, uuid7()
    accounts = [services.ledger.open_account() for _ in range(5)]
    owner.execute("ALTER TABLE usage DISABLE TRIGGER usage_rolls_up")
    for n, account in enumerate(accounts[:4], 1):
        add(connection, account, member, month + timedelta(days=1), n)
        add(connection, account, member, month + timedelta(days=2), n)
    owner.execute("ALTER TABLE usage ENABLE TRIGGER usage_rolls_up")
    for account in accounts[1:]:
        add(connection, account, member, month + timedelta(days=2), 9)
    assert len(unequal_days(connection)) == 8
    after, batches = None, 0
    while batches == 0 or after is not None:
        step.backfill(owner, after)
        add(connection, accounts[2], member, month + timedelta(days=2), 5)
        after = step.backfill(owner, after)
        batches += 1
    assert batches == 3
    assert unequal_days(connection) == []
    add(connection, accounts[0], member, month + timedelta(days=2), 2)
    assert step.backfill(owner, None) is not None
    assert unequal_days(connection) == []


def test_what_is_undone_is_not_counted_and_hosts_that_settle_at_once_are(services, database_url, month):
    """Two hosts add to the same account, member and day, many times, with some of it undone: sums stay exact."""
    account, member = uuid7(), uuid7()
    at = month + timedelta(days=3)

    def host(journal_id, seed):
        chance = random.Random(seed)
        with contextlib.closing(connect(database_url)) as connection:
            for _ in range(40):
                with connection.transaction() as transaction:
                    for n in range(1, chance.randint(2, 5)):
                        add(
                            connection,
                            account,
                            member,
                            at + timedelta(hours=chance.randint(0, 40)),
                            n,
                            journal_id=journal_id,
                        )
                    if chance.random() < 0.3:
                        from psycopg import Rollback

                        raise Rollback(transaction)

    hosts = [threading.Thread(target=host, args=(uuid7(), seed)) for seed in (1, 2)]
    for one in hosts:
        one.start()
    for one in hosts:
        one.join()
    assert unequal_days(services.connection) == []
    (row,) = services.ledger.usage_by_member(account)
    counted = services.connection.execute(
        "SELECT count(*) FROM usage WHERE account_id = %s", (account,)
    ).fetchone()[0]
    assert row["records"] == counted > 40


def test_what_is_settled_is_in_its_day(services, spender):
    """Through settlement, as the data plane does it; late and unpaid ones, too."""
    subscriber = services.subscriptions.register("+8613900000001")
    services.orders.place(subscriber, "ctc-light")
    spender.spend(subscriber.account_id, 1000)
    assert unequal_days(services.connection) == []
    rows = services.ledger.usage_by_member(subscriber.account_id)
    assert sum(row["input_tokens"] + row["output_tokens"] for row in rows) == sum(
        services.ledger.usage_by_day(subscriber.account_id, datetime(1970, 1, 2, tzinfo=UTC)).values()
    )
    assert rows[0]["records"] >= 1


def test_a_day_begins_in_the_zone_of_bills(services):
    assert ledger_module.DAY_ZONE.utcoffset(None) == timedelta(hours=8)
    from tokenworks.subscriptions import BILLING_ZONE

    for at in (datetime(2026, 1, 31, 15, 59, tzinfo=UTC), datetime(2026, 1, 31, 16, tzinfo=UTC)):
        assert at.astimezone(BILLING_ZONE).date() == at.astimezone(ledger_module.DAY_ZONE).date()
