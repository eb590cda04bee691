"""A product, an order, a refund or a subscriber whose job raises keeps no other from its turn: it is tried again, and in the end
put in quarantine, with an alarm, until it is released.
"""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from tests.support.spend import balances
from tokenworks.app.database.connections import connect
from tokenworks.app.process.host_metrics import HostMetrics
from tokenworks.app.process.jobs import Jobs
from tokenworks.app.settings import load_settings
from tokenworks.charging import FailedJobNotFound
from tokenworks.charging.ledger.failures import ATTEMPTS_MAX, FIRST_WAIT
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE

LIGHT = 9_900_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def customers(works, count):
    """(subscriber, order) of some who have the light plan."""
    made = []
    for at in range(count):
        who = works.subscriptions.register(f"+861380000{at:04d}")
        made.append((who, works.orders.place(who, "ctc-light")))
    return made


def charged(works, who):
    return [c.amount_nano for c in works.charges.of_subscriber(who.subscriber_id)]


def refuse(owner, table, column, value):
    """From now on the database refuses new rows of a table for one id: a fault of that one's alone."""
    name = f"refuse_{uuid4().hex}"
    owner.execute(
        f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.{column} = '{value}' THEN RAISE EXCEPTION 'no more rows for this one'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"""
    )
    return lambda: owner.execute(f"DROP TRIGGER {name} ON {table}")


def test_a_product_that_raises_does_not_stop_those_behind_it(works, owner, clock):
    made = customers(works, 5)
    bad, order = made[1]
    mend = refuse(owner, "charge", "product_id", order.product_id)
    to(clock, 2027, 5, 1)
    assert works.orders.run_cycles() == 4
    assert [charged(works, who) for who, _ in made] == [
        [LIGHT] if who == bad else [LIGHT] * 2 for who, _ in made
    ]
    (failed,) = works.failed_jobs.all()
    assert (failed.job, failed.ref, failed.state, failed.attempts) == (
        "cycle",
        order.product_id,
        "retrying",
        1,
    )
    assert failed.reason == "RaiseException: no more rows for this one"
    assert balances(works)
    # Not tried again before its time; then after growing waits.
    works.orders.run_cycles()
    assert works.failed_jobs.all() == [failed]
    for attempt in range(2, ATTEMPTS_MAX + 1):
        clock.move(FIRST_WAIT * 2 ** (attempt - 2))
        works.orders.run_cycles()
        assert works.failed_jobs.all()[0].attempts == attempt
    assert works.failed_jobs.counts() == {("cycle", "quarantined"): 1}
    clock.move(timedelta(days=40))
    works.orders.run_cycles()
    assert works.failed_jobs.all()[0].attempts == ATTEMPTS_MAX
    # Mended and released it catches up with all of its cycles.
    mend()
    works.failed_jobs.release("cycle", order.product_id)
    with pytest.raises(FailedJobNotFound):
        works.failed_jobs.release("cycle", order.product_id)
    works.orders.run_cycles()
    assert charged(works, bad) == [LIGHT] * 3
    assert works.failed_jobs.all() == []
    assert balances(works)


def test_one_that_comes_right_by_itself_is_forgotten(works, owner, clock):
    ((who, order),) = customers(works, 1)
    mend = refuse(owner, "charge", "product_id", order.product_id)
    to(clock, 2027, 5, 1)
    assert works.orders.run_cycles() == 0
    mend()
    clock.move(FIRST_WAIT)
    assert works.orders.run_cycles() == 1
    assert works.failed_jobs.all() == []
    assert charged(works, who) == [LIGHT] * 2


def test_a_lost_connection_is_nobodys_fault(works, owner, database_url, session_dir, clock):
    customers(works, 2)
    to(clock, 2027, 5, 1)
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    from tokenworks.app.bootstrap import make_works

    other = make_works(settings, connect(database_url), clock)
    owner.execute(
        """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NEW; END $$;
           CREATE TRIGGER die BEFORE INSERT ON charge FOR EACH ROW EXECUTE FUNCTION die()"""
    )
    with pytest.raises(psycopg.OperationalError):
        other.orders.run_cycles()
    assert works.failed_jobs.all() == []
    owner.execute("DROP TRIGGER die ON charge")
    assert works.orders.run_cycles() == 2


def test_a_bill_that_raises_does_not_stop_the_others(works, owner, clock):
    made = customers(works, 21)
    bad = made[7][0]
    mend = refuse(owner, "bill", "subscriber_id", bad.subscriber_id)
    to(clock, 2027, 5, 1, 1)
    run = works.bills.run()
    assert run.bills == 20
    assert [len(works.bills.all(who)[0]) for who, _ in made] == [int(who != bad) for who, _ in made]
    (failed,) = works.failed_jobs.all()
    assert (failed.job, failed.ref, failed.attempts) == ("bill", bad.subscriber_id, 1)
    assert balances(works)
    # Those in front of it and behind it are billed in one run, also where batches are small.
    assert works.bills.run().bills == 0
    assert works.failed_jobs.all() == [failed]
    mend()
    clock.move(FIRST_WAIT)
    assert works.bills.run().bills == 1
    assert works.failed_jobs.all() == []
    assert balances(works)


def test_bills_in_quarantine_wait_for_their_release(works, owner, clock):
    made = customers(works, 3)
    bad = made[0][0]
    mend = refuse(owner, "bill", "subscriber_id", bad.subscriber_id)
    to(clock, 2027, 5, 1, 1)
    for attempt in range(ATTEMPTS_MAX):
        works.bills.run()
        clock.move(FIRST_WAIT * 2**attempt)
    assert works.failed_jobs.counts() == {("bill", "quarantined"): 1}
    mend()
    assert works.bills.run().bills == 0
    works.failed_jobs.release("bill", bad.subscriber_id)
    assert works.bills.run().bills == 1
    assert balances(works)


def test_a_credit_and_a_refund_that_raise_do_not_stop_the_others(works, owner, clock, spender):
    made = customers(works, 4)
    held = []
    for who, _ in made:
        (bucket,) = works.ledger.buckets(who.account_id)
        held.append((who, bucket, spender.open(who.account_id, bucket, 1000)))
    changes = [works.orders.change(order.product_id, "ctc-standard") for _, order in made[:2]]
    refunds = [works.refunds.refund(order.order_id, "unused", "moved away")[0] for _, order in made[2:]]
    for who, _, granted in held:
        spender.close(who.account_id, granted.grant_id)
    mends = [
        refuse(owner, "charge", "subscriber_id", made[0][0].subscriber_id),
        refuse(owner, "charge", "subscriber_id", made[2][0].subscriber_id),
    ]
    assert works.orders.finish_changes() == 1
    assert works.refunds.finish() == 1
    assert {(f.job, f.ref) for f in works.failed_jobs.all()} == {
        ("credit", changes[0].order_id),
        ("refund", refunds[0].refund_id),
    }
    assert balances(works)
    for mend in mends:
        mend()
    clock.move(FIRST_WAIT)
    assert (works.orders.finish_changes(), works.refunds.finish()) == (1, 1)
    assert works.failed_jobs.all() == []
    assert balances(works)


def test_the_metrics_of_every_host_say_how_many_failed(works, database_url, session_dir, tmp_path, clock):
    ((_, order),) = customers(works, 1)
    for _ in range(ATTEMPTS_MAX):
        works.failed_jobs.note("cycle", order.product_id, ValueError("a fault"))
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    host = load_settings({"data_dir": str(tmp_path)}).settings
    host.run_dir.mkdir()
    jobs = Jobs(settings, database_url)
    jobs._settings = host
    # Another host has the jobs: this one says the same.
    works.connection.execute("SELECT pg_advisory_lock(7461002)")
    jobs.run()
    rows = json.loads((host.run_dir / "jobs.json").read_text())
    assert ["cycle", "quarantined", 1] in rows and ["bill", "quarantined", 0] in rows
    (family,) = [f for f in HostMetrics(host).collect() if f.name == "tokenworks_failed_jobs"]
    assert {(s.labels["job"], s.labels["state"]): s.value for s in family.samples}[
        "cycle", "quarantined"
    ] == 1
