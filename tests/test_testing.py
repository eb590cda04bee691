"""What checks from outside this project stand on."""

from datetime import UTC, datetime, timedelta

import psycopg

from tests.support.memory import in_memory
from tokenworks.app import embedded as known_before
from tokenworks.app.database import connect
from tokenworks.charging import verify
from tokenworks.kernel import ManualClock
from tokenworks.testing import FAST, embedded, migrate, works


def answered(text):
    """Every line of a charge file accepted."""
    lines = sum(line.startswith("D|") for line in text.split("\n"))
    return "".join(f"R|{number}|accepted|\n" for number in range(1, lines + 1))


def test_services_on_a_database_of_a_check_s_own(tmp_path):
    folder = tmp_path / "pg"
    in_memory(folder)
    clock = ManualClock(datetime(2027, 4, 1, tzinfo=UTC))
    with embedded(folder) as url:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("CREATE DATABASE of_a_check")
        url = url.replace("/tokenworks?", "/of_a_check?")
        migrate(url)
        migrate(url)
        with works(url, clock) as services:
            subscriber = services.subscriptions.register("+8613800000001", "Ms Wang")
            services.orders.place(subscriber, "ctc-standard", None)
        clock.move(timedelta(days=31))
        with works(url, clock) as services:
            found = services.subscriptions.find(str(subscriber.subscriber_id))
            assert found.name == "Ms Wang", "another block has other secrets"
            services.orders.run_cycles()
            assert len(services.charges.of_subscriber(subscriber.subscriber_id)) == 2
            services.bills.run()
            services.charges.recognise()
            number, text = services.payments.make_file()
            assert services.payments.acknowledge(f"A|tokenworks-phone-1|{number}\n{answered(text)}")[1] == 0
            assert services.payments.run_dunning() is not None
            assert verify(services.connection, services.offerings.rate_cards()) == []
    assert not list(folder.glob("pg/PG_VERSION"))


def test_the_embedded_database_as_checks_knew_it(tmp_path):
    folder = tmp_path / "pg"
    in_memory(folder)
    server = known_before.Embedded(folder, FAST)
    with server.use() as url, connect(url) as connection:
        assert connection.execute(
            "SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone() == (True,)
    server.destroy()
