"""A bill run that is killed goes on: no bill missing, none doubled, and the ledger balances."""

import signal
import subprocess
import sys
from datetime import UTC, datetime

import psycopg
import pytest
from bench.crowd import seed

from tests.support.auditor import verify
from tests.support.environ import without_settings
from tests.support.server import ROOT, until
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions.model import add_months, month_start

CROWD = 1500


@pytest.fixture
def clock():
    """At the first instant of this month: the command that is run looks at the system's clock."""
    return ManualClock(month_start(datetime.now(UTC)).astimezone(UTC))


def test_killed_again_and_again_every_subscriber_has_one_bill(
    services, owner, database_url, session_dir, clock
):
    end = month_start(clock.now())
    seed(owner, CROWD, add_months(end, -1), end)
    assert verify(services.connection, services.offerings.rate_cards()) == []
    environ = without_settings() | {
        "TOKENWORKS_DATABASE_URL": database_url, "TOKENWORKS_DATA_DIR": str(session_dir / "seed"),
        "TOKENWORKS_BILL_RUN_BATCH": "25",
    }  # fmt: skip
    command = [sys.executable, "-m", "tokenworks", "bill", "run", "--json"]

    def bills():
        return services.connection.execute("SELECT count(*) FROM bill").fetchone()[0]

    killed = 0
    for target in (50, 300, 700):
        process = subprocess.Popen(
            command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        until(lambda target=target: bills() >= target or process.poll() is not None, what="some bills")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        # A whole number of batches: nothing is half done.
        until(lambda: not _running(database_url), what="the last transaction to end")
        assert bills() % 25 == 0
    assert killed >= 2
    # Two at once, as two hosts' jobs would.
    last = [
        subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in last:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out
    rows = services.connection.execute(
        "SELECT count(*), count(DISTINCT subscriber_id), count(DISTINCT bill_no), sum(amount_nano)::bigint FROM bill"
    ).fetchone()
    assert rows == (CROWD, CROWD, CROWD, CROWD * 9_900_000_000 + CROWD // 10 * 3_000_000_000)
    assert services.connection.execute("SELECT count(*) FROM charge WHERE bill_id IS NULL").fetchone()[0] == 0
    assert verify(services.connection, services.offerings.rate_cards()) == []


def _running(url):
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
        ).fetchone()[0]
