"""A filled installation of an older release is upgraded while two hosts serve, `init` is killed at every step, and hosts go back."""

import contextlib
import sys

import pytest

from tests.app.test_schema import folder  # noqa: F401  # a fixture
from tests.e2e.test_hosts import processes, stopped
from tests.support.databases import on_database
from tests.support.memory import in_memory
from tests.support.releases import OLD, THIS, Host, Traffic, fill, killed_at_each_thing, timed, tree_of
from tests.support.server import until
from tokenworks.app import schema
from tokenworks.app.database import connect
from tokenworks.app.embedded import Embedded
from tokenworks.app.schema import check_schema, plan_steps
from tokenworks.kernel import Unavailable

LOST_RECORDS = 5
REQUESTS = 10
ROWS_NIGHTLY = 10**6
# What a step of the schema may hold a client up: asked of the long run alone, which has the machine to itself.
PAUSE_S_MAX = 1.0
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# What the next release might bring: an index on the largest table and rows that are filled, while this release and the old one serve.
NEXT = f"""
    from alembic import op
    from tokenworks.app.schema import Index
    COMPATIBLE_FROM = "{schema.FIRST_STEP}"
    LOCKS = {{"account": "AccessExclusiveLock"}}
    INDEXES = (Index("usage_by_model", "usage", "(account_id, model)"),)
    BATCH_MAX = 10

    def upgrade():
        op.execute("ALTER TABLE account ADD COLUMN colour text")

    def backfill(connection, after):
        found = connection.execute(
            "UPDATE account SET colour = 'blue' WHERE account_id IN (SELECT account_id FROM account WHERE account_id > "
            "coalesce(%s, '00000000-0000-0000-0000-000000000000')::uuid ORDER BY 1 LIMIT 10) RETURNING account_id", (after,)
        ).fetchall()
        return None if len(found) < BATCH_MAX else str(max(row[0] for row in found))

    def backfill_rows(connection, after):
        return connection.execute("SELECT count(*) FROM account").fetchone()[0]
"""
# The step after it takes away what the old release needs.
CONTRACT = f"""
    COMPATIBLE_FROM = "{schema.SCHEMA}"

    def upgrade():
        pass
"""
MIGRATE = """
import sys
from pathlib import Path
from tokenworks.app.schema import migrate
migrate(sys.argv[1], lambda text: print(text, file=sys.stderr, flush=True), folder=Path(sys.argv[2]))
"""

BILLS = """SELECT b.subscriber_id, b.period_start, b.period_end, b.currency, b.amount_nano, b.tax_nano, array_agg(
        (l.line_no, l.kind, l.description, l.charges, l.charged_nano, l.amount_nano, l.vat_percent, l.tax_nano)::text ORDER BY l.line_no)
    FROM bill b JOIN bill_line l USING (bill_id) WHERE b.subscriber_id = ANY(%s) GROUP BY b.bill_id ORDER BY 1, 2"""
OLD_BILLS = "SELECT b::text FROM bill b WHERE bill_id = ANY(%s) ORDER BY 1"


def one(connection, statement, *args):
    return connection.execute(statement, args).fetchone()[0]


@pytest.mark.parametrize(
    ("rows", "accounts", "kills_max"),
    [(20_000, 40, 3), pytest.param(ROWS_NIGHTLY, 1200, 40, marks=pytest.mark.nightly)],
)
def test_a_filled_installation_is_upgraded_while_it_serves_and_goes_back_until_the_contract_step(
    tmp_path, upstream, folder, rows, accounts, kills_max  # noqa: F811
):  # fmt: skip
    old = tree_of(OLD, tmp_path / "old")
    home, steps = tmp_path / "database", {}
    in_memory(home)
    with contextlib.ExitStack() as stack:
        stack.callback(Embedded(home, QUICK).destroy)
        url = stack.enter_context(Embedded(home, QUICK).use())
        settings = {"database_url": url, "secrets_dir": tmp_path / "secrets", "bill_run_every_h": 0}
        a, b, late = (Host(tmp_path / name, old, **settings) for name in ("a", "b", "late"))

        # The old release fills it. What it would bill for last month is kept from a copy.
        with timed(steps, "fill"):
            a.cli("init")
            filled = fill(a, rows, accounts)
        with timed(steps, "bills of the old release"):
            expected, people = bills_of_a_copy(a, url)
        connection = stack.enter_context(contextlib.closing(connect(url)))
        filled_rows = one(connection, "SELECT count(*) FROM usage")
        known_bills = [row[0] for row in connection.execute("SELECT bill_id FROM bill")]
        billed = connection.execute(OLD_BILLS, (known_bills,)).fetchall()
        assert filled_rows >= rows
        assert len(known_bills) >= accounts
        assert len(expected) >= len(known_bills) + accounts

        # A host of it dies with records in its journal that are nowhere else.
        with late:
            late.cli(
                "deployment",
                "add",
                "--name",
                "stub",
                "--model",
                "stub",
                "--base-url",
                upstream.url,
                "--allow-private",
            )
            key = filled["keys"][0]
            until(
                lambda: late.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=200)[0] == 200,
                what="the deployment",
            )
            with stopped(processes(home)):
                for _ in range(LOST_RECORDS):
                    assert late.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=200)[0] == 200
                late.kill()
        assert one(connection, "SELECT count(*) FROM usage") <= filled_rows + 1

        stack.enter_context(a)
        stack.enter_context(b)
        traffic = stack.enter_context(Traffic((a, b), filled["keys"], filled["staff"]))
        traffic.more(REQUESTS)

        # `init` of this release, while hosts of the old one serve; killed at each thing that it says.
        planned = plan_steps(connection)
        assert planned and planned[-1].revision == schema.SCHEMA
        assert all(step.compatible_from <= schema.FIRST_STEP for step in planned), (
            "the old release may serve meanwhile"
        )
        with timed(steps, "init"):
            killed = killed_at_each_thing(
                a.command("init"), a.environ_of(THIS), kills_max, lambda: no_release_starts_on_what_is_unfinished(connection)
            )  # fmt: skip
        assert f"Schema {schema.SCHEMA}" in killed or len(killed) == kills_max
        assert plan_steps(connection) == []
        check_schema(connection)
        traffic.more(REQUESTS)

        # What hosts of the old release write from now on is complete, too.
        a.cli(
            "key",
            "create",
            "--subscriber",
            filled["family"],
            "--name",
            "of the old release",
            "--cap-tokens",
            "7000",
        )
        a.cli(
            "member",
            "cap",
            "--subscriber",
            filled["family"],
            "--member",
            filled["son"],
            "--cap-tokens",
            "90000",
        )

        # Both releases serve; the host that died comes back with this one, and settles what it had.
        with timed(steps, "a host takes the new release"):
            traffic.restart(a, THIS)
        late.release = THIS
        with late:
            until(
                lambda: late.metrics("recorder_unsettled_records") == [0.0],
                what="the old journal to be settled",
            )
        traffic.more(REQUESTS)

        # The next release's step: an index on usage and rows in batches, killed in the middle of each.
        steps_to_come = folder("9001", NEXT)
        command = [sys.executable, "-c", MIGRATE, url, str(steps_to_come)]
        with timed(steps, "an index on usage and a backfill"):
            killed = killed_at_each_thing(
                command, a.environ_of(THIS), 6, lambda: no_release_starts_on_what_is_unfinished(connection, "9001", steps_to_come)
            )  # fmt: skip
        assert any(" rows" in line for line in killed) and any(
            line.startswith("Index usage_by_model: ") for line in killed
        )
        assert plan_steps(connection, steps_to_come) == []
        white = "SELECT count(*) FROM subscriber JOIN account USING (account_id) WHERE subscriber_id = ANY(%s) AND colour IS NULL"
        assert one(connection, white, people) == 0
        traffic.more(REQUESTS)

        # The way back: the old release serves on the new schema, and its `init` leaves it as it is.
        with timed(steps, "a host goes back to the old release"):
            traffic.restart(a, old)
        a.cli("init")
        traffic.more(REQUESTS)
        with timed(steps, "both hosts take the new release"):
            for host in (a, b):
                traffic.restart(host, THIS)
        traffic.more(REQUESTS)

        # The contract step: this release serves on, the old one does not start.
        folder("9002", CONTRACT, after="9001")
        killed_at_each_thing(command, a.environ_of(THIS), 0, lambda: None)
        traffic.restart(b, THIS)
        traffic.more(REQUESTS)
        refused = late.cli("serve", check=False, release=old)
        assert refused.returncode == 1
        assert f"runs releases from schema {schema.SCHEMA} on" in refused.stderr
        traffic.end()

        assert traffic.refused() == {}
        if rows == ROWS_NIGHTLY:
            for step in ("init", "an index on usage and a backfill"):
                for client, seen in traffic.longest_s(*steps[step]).items():
                    assert max(seen) < PAUSE_S_MAX, (step, client, seen)
        made = filled_rows + 1 + LOST_RECORDS + traffic.served()
        until(lambda: one(connection, "SELECT count(*) FROM usage") == made, 60, what="every record, once")
        with timed(steps, "verify"):
            said = a.cli("ledger", "verify", check=False)
        assert said.returncode == 0, said.stdout
        # Bills that were there are as they were; last month's are the same to the fen.
        assert connection.execute(OLD_BILLS, (known_bills,)).fetchall() == billed
        with timed(steps, "bills of the new release"):
            a.cli("bill", "run")
        assert connection.execute(BILLS, (people,)).fetchall() == expected
        print_figures(steps, traffic, connection)


def print_figures(steps, traffic, connection):
    """How long each step took, and what clients saw meanwhile: seconds, by client (longest answer, longest time between two answers)."""
    for what, (began_s, ended_s) in steps.items():
        seen = {
            client: tuple(round(each, 2) for each in pair)
            for client, pair in traffic.longest_s(began_s, ended_s).items()
            if any(pair)
        }
        print(f"{what}: {ended_s - began_s:.1f} s {seen or ''}")
    size = one(connection, "SELECT pg_size_pretty(pg_database_size(current_database()))")
    print(f"{traffic.served()} requests, {one(connection, 'SELECT count(*) FROM usage')} records, {size}")


def bills_of_a_copy(host, url):
    """(bills up to last month's as the old release makes them, the subscribers)."""
    copy = on_database(url, "copy")
    with contextlib.closing(connect(on_database(url, "postgres"))) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tokenworks'")
        until(lambda: not one(admin, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tokenworks'"))
        admin.execute("CREATE DATABASE copy TEMPLATE tokenworks STRATEGY FILE_COPY")
        there = Host(
            host.data_dir, host.release, database_url=copy, secrets_dir=host.env["TOKENWORKS_SECRETS_DIR"]
        )
        there.cli("bill", "run")
        with contextlib.closing(connect(copy)) as connection:
            people = [row[0] for row in connection.execute("SELECT subscriber_id FROM subscriber")]
            found = connection.execute(BILLS, (people,)).fetchall()
        admin.execute("DROP DATABASE copy WITH (FORCE)")
    return found, people


def no_release_starts_on_what_is_unfinished(connection, mine=schema.SCHEMA, made=schema.MIGRATIONS):
    """After a kill, when the server has ended what that run began: a plan that is not empty and a refused start go together."""
    until(
        lambda: not one(connection, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tokenworks migrate'"),
        600, what="the killed run's statements to end",
    )  # fmt: skip
    left = plan_steps(connection, made)
    if left:
        with pytest.raises(Unavailable):
            check_schema(connection, mine)
    else:
        check_schema(connection, mine)
