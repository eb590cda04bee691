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


def customers(services, count):
    """(subscriber, order) of some who have the light plan."""
    made = []
    for at in range(count):
        who = services.subscriptions.register(f"+861380000{at:04d}")
        made.append((who, services.orders.place(who, "ctc-light")))
    return made


def charged(services, who):
    return [c.amount_nano for c in services.charges.of_subscriber(who.subscriber_id)]


def refuse(owner, table, column, value):
    """From now on the database refuses new rows of a table for one id: a fault of that one's alone."""
    name = f"refuse_{uuid4().hex}"
    owner.execute(
        f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.{column} = '{value}' THEN RAISE EXCEPTION 'no more rows for this one'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"""
    )
    return lambda: owner.execute(f"DROP TRIGGER {name} ON {table}")


def test_a_product_that_raises_does_not_stop_those_behind_it(services, owner, clock):
    made = customers(services, 5)
    bad, order = made[1]
    mend = refuse(owner, "charge", "product_id", order.product_id)
    to(clock, 2027, 5, 1)
    assert services.orders.run_cycles() == 4
    assert [charged(services, who) for who, _ in made] == [
        [LIGHT] if who == bad else [LIGHT] * 2 for who, _ in made
    ]
    (failed,) = services.failed_jobs.all()
    assert (failed.job, failed.ref, failed.state, failed.attempts) == (
        "cycle",
        order.product_id,
        "retrying",
        1,
    )
    assert failed.reason == "RaiseException: no more rows for this one"
    assert balances(services)
    # Not tried again before its time; then after growing waits.
    services.orders.run_cycles()
    assert services.failed_jobs.all() == [failed]
    for attempt in range(2, ATTEMPTS_MAX + 1):
        clock.move(FIRST_WAIT * 2 ** (attempt - 2))
        services.orders.run_cycles()
        assert services.failed_jobs.all()[0].attempts == attempt
    assert services.failed_jobs.counts() == {("cycle", "quarantined"): 1}
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    assert services.failed_jobs.all()[0].attempts == ATTEMPTS_MAX
    # Mended and released it catches up with all of its cycles.
    mend()
    services.failed_jobs.release("cycle", order.product_id)
    with pytest.raises(FailedJobNotFound):
        services.failed_jobs.release("cycle", order.product_id)
    services.orders.run_cycles()
    assert charged(services, bad) == [LIGHT] * 3
    assert services.failed_jobs.all() == []
    assert balances(services)


def test_one_that_comes_right_by_itself_is_forgotten(services, owner, clock):
    ((who, order),) = customers(services, 1)
    mend = refuse(owner, "charge", "product_id", order.product_id)
    to(clock, 2027, 5, 1)
    assert services.orders.run_cycles() == 0
    mend()
    clock.move(FIRST_WAIT)
    assert services.orders.run_cycles() == 1
    assert services.failed_jobs.all() == []
    assert charged(services, who) == [LIGHT] * 2


def test_a_lost_connection_is_nobodys_fault(services, owner, database_url, session_dir, clock):
    customers(services, 2)
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
    assert services.failed_jobs.all() == []
    owner.execute("DROP TRIGGER die ON charge")
    assert services.orders.run_cycles() == 2


def test_a_bill_that_raises_does_not_stop_the_others(services, owner, clock):
    made = customers(services, 21)
    bad = made[7][0]
    mend = refuse(owner, "bill", "subscriber_id", bad.subscriber_id)
    to(clock, 2027, 5, 1, 1)
    run = services.bills.run()
    assert run.bills == 20
    assert [len(services.bills.all(who)[0]) for who, _ in made] == [int(who != bad) for who, _ in made]
    (failed,) = services.failed_jobs.all()
    assert (failed.job, failed.ref, failed.attempts) == ("bill", bad.subscriber_id, 1)
    assert balances(services)
    # Those in front of it and behind it are billed in one run, also where batches are small.
    assert services.bills.run().bills == 0
    assert services.failed_jobs.all() == [failed]
    mend()
    clock.move(FIRST_WAIT)
    assert services.bills.run().bills == 1
    assert services.failed_jobs.all() == []
    assert balances(services)


def test_bills_in_quarantine_wait_for_their_release(services, owner, clock):
    made = customers(services, 3)
    bad = made[0][0]
    mend = refuse(owner, "bill", "subscriber_id", bad.subscriber_id)
    to(clock, 2027, 5, 1, 1)
    for attempt in range(ATTEMPTS_MAX):
        services.bills.run()
        clock.move(FIRST_WAIT * 2**attempt)
    assert services.failed_jobs.counts() == {("bill", "quarantined"): 1}
    mend()
    assert services.bills.run().bills == 0
    services.failed_jobs.release("bill", bad.subscriber_id)
    assert services.bills.run().bills == 1
    assert balances(services)


def test_a_credit_and_a_refund_that_raise_do_not_stop_the_others(services, owner, clock, spender):
    made = customers(services, 4)
    held = []
    for who, _ in made:
        (bucket,) = services.ledger.buckets(who.account_id)
        held.append((who, bucket, spender.open(who.account_id, bucket, 1000)))
    changes = [services.orders.change(order.product_id, "ctc-standard") for _, order in made[:2]]
    refunds = [services.refunds.refund(order.order_id, "unused", "moved away")[0] for _, order in made[2:]]
    for who, _, granted in held:
        spender.close(who.account_id, granted.grant_id)
    mends = [
        refuse(owner, "charge", "subscriber_id", made[0][0].subscriber_id),
        refuse(owner, "charge", "subscriber_id", made[2][0].subscriber_id),
    ]
    assert services.orders.finish_changes() == 1
    assert services.refunds.finish() == 1
    assert {(f.job, f.ref) for f in services.failed_jobs.all()} == {
        ("credit", changes[0].order_id),
        ("refund", refunds[0].refund_id),
    }
    assert balances(services)
    for mend in mends:
        mend()
    clock.move(FIRST_WAIT)
    assert (services.orders.finish_changes(), services.refunds.finish()) == (1, 1)
    assert services.failed_jobs.all() == []
    assert balances(services)


def test_the_metrics_of_every_host_say_how_many_failed(services, database_url, session_dir, tmp_path, clock):
    ((_, order),) = customers(services, 1)
    for _ in range(ATTEMPTS_MAX):
        services.failed_jobs.note("cycle", order.product_id, ValueError("a fault"))
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    host = load_settings({"data_dir": str(tmp_path)}).settings
    host.run_dir.mkdir()
    jobs = Jobs(settings, database_url)
    jobs._settings = host
    # Another host has the jobs: this one says the same.
    services.connection.execute("SELECT pg_advisory_lock(7461002)")
    jobs.run()
    rows = json.loads((host.run_dir / "jobs.json").read_text())
    assert ["cycle", "quarantined", 1] in rows and ["bill", "quarantined", 0] in rows
    (family,) = [f for f in HostMetrics(host).collect() if f.name == "tokenworks_failed_jobs"]
    assert {(s.labels["job"], s.labels["state"]): s.value for s in family.samples}[
        "cycle", "quarantined"
    ] == 1
