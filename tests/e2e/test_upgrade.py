"""A filled installation of an older release is upgraded while two hosts serve, `init` is killed at every step, and hosts go back."""

import contextlib
import sys

import pytest

from tests.app.database.test_schema import folder  # noqa: F401  # a fixture
from tests.e2e.test_hosts import processes, stopped
from tests.support.databases import on_database
from tests.support.memory import in_memory
from tests.support.releases import OLD, THIS, Host, Traffic, fill, killed_at_each_thing, timed, tree_of
from tests.support.server import until
from tokenworks.app.database import schema
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.schema import check_schema, plan_steps
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
    from tokenworks.app.database.schema import Index
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
from tokenworks.app.database.schema import migrate
migrate(sys.argv[1], lambda text: print(text, file=sys.stderr, flush=True), folder=Path(sys.argv[2]))
"""

BILLS = """SELECT b.subscriber_id, b.period_start, b.period_end, b.currency, b.amount_nano, b.tax_nano, array_agg(
        (l.line_no, l.kind, l.description, l.charges, l.charged_nano, l.amount_nano, l.vat_percent, l.tax_nano)::text ORDER BY l.line_no)
    FROM bill b JOIN bill_line l USING (bill_id) WHERE b.subscriber_id = ANY(%s) GROUP BY b.bill_id ORDER BY 1, 2"""
OLD_BILLS = "SELECT b::text FROM bill b WHERE bill_id = ANY(%s) ORDER BY 1"


def one(connection, statement, *args):
    return connection.execute(statement, args).fetchone()[0]


@pytest.fixture(params=[5_040, pytest.param(ROWS_NIGHTLY, marks=pytest.mark.nightly)])
def upgrade(request, tmp_path, upstream, folder):  # noqa: F811
    """A filled installation of the old release, on which no host serves yet."""
    rows = request.param
    old = tree_of(OLD, tmp_path / "old")
    home = tmp_path / "database"
    in_memory(home)
    with contextlib.ExitStack() as stack:
        stack.callback(Embedded(home, QUICK).destroy)
        embedded = Embedded(home, QUICK)
        stack.enter_context(embedded.use())
        # The old release serves as the owner of everything; this one's `init` makes the role that it serves as.
        url = embedded.owner_url
        made = Upgrade(stack, tmp_path, old, url, folder, long=rows == ROWS_NIGHTLY)
        made.fill(rows, accounts=1250 if made.long else 40)
        made.lose_a_host(home, upstream)
        yield made


class Upgrade:
    """Hosts `a` and `b` under traffic, and `late`, which died with unsettled records and comes back with the new release."""

    def __init__(self, stack, tmp_path, old, url, folder, *, long):  # noqa: F811
        self.stack, self.old, self.url, self.folder, self.long = stack, old, url, folder, long
        self.steps = {}
        settings = {"database_url": url, "secrets_dir": tmp_path / "secrets", "bill_run_every_h": 0}
        self.a, self.b, self.late = (Host(tmp_path / name, old, **settings) for name in ("a", "b", "late"))

    def fill(self, rows, accounts):
        """The old release fills it. What it would bill for last month is kept from a copy."""
        with timed(self.steps, "fill"):
            self.a.cli("init")
            self.filled = fill(self.a, rows, accounts)
        with timed(self.steps, "bills of the old release"):
            self.bills, self.people = bills_of_a_copy(self.a, self.url)
        self.connection = self.stack.enter_context(contextlib.closing(connect(self.url)))
        self.filled_rows = self.one("SELECT count(*) FROM usage")
        known = [row[0] for row in self.connection.execute("SELECT bill_id FROM bill")]
        self.known_bills = (known, self.connection.execute(OLD_BILLS, (known,)).fetchall())
        assert self.filled_rows >= rows
        assert len(known) >= accounts
        assert len(self.bills) >= len(known) + accounts, "last month's are still to be made"

    def lose_a_host(self, home, upstream):
        """It dies with records in its journal that are nowhere else."""
        late, key = self.late, self.filled["keys"][0]
        with late:
            late.add_deployment("stub", "stub", upstream.url, wait=False)
            until(
                lambda: late.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=200)[0] == 200,
                what="the deployment",
            )
            with stopped(processes(home)):
                for _ in range(LOST_RECORDS):
                    assert late.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=200)[0] == 200
                late.kill()
        assert self.one("SELECT count(*) FROM usage") <= self.filled_rows + 1

    def serve(self):
        """Both hosts with the old release, and clients that ask from now on."""
        for host in (self.a, self.b):
            self.stack.enter_context(host)
        self.traffic = self.stack.enter_context(
            Traffic((self.a, self.b), self.filled["keys"], self.filled["staff"])
        )
        self.traffic.more(REQUESTS)

    def expand(self):
        """`init` of this release, while hosts of the old one serve; killed at each thing that it says."""
        planned = plan_steps(self.connection)
        assert planned
        assert planned[-1].revision == schema.SCHEMA
        assert all(step.compatible_from <= schema.FIRST_STEP for step in planned), (
            "the old release may serve on"
        )
        kills_max = 40 if self.long else 2
        with timed(self.steps, "init"):
            killed = killed_at_each_thing(
                self.a.command("init"), self.a.environ_of(THIS, init=True), kills_max, self.no_release_starts_on_what_is_unfinished
            )  # fmt: skip
        assert killed
        assert plan_steps(self.connection) == []
        check_schema(self.connection)
        self.traffic.more(REQUESTS)

    def write_beside(self):
        """What the old release writes from now on is complete, too."""
        family = ("--subscriber", self.filled["family"])
        self.a.cli("key", "create", *family, "--name", "of the old release", "--cap-tokens", "7000")
        self.a.cli("member", "cap", *family, "--member", self.filled["son"], "--cap-tokens", "90000")

    def take_turns(self):
        """A host takes this release, and the lost one comes back with it and settles what it had."""
        with timed(self.steps, "a host takes the new release"):
            self.traffic.restart(self.a, THIS)
        self.late.release = THIS
        with self.late:
            until(
                lambda: self.late.metrics("recorder_unsettled_records") == [0.0],
                what="the old journal to be settled",
            )
        self.traffic.more(REQUESTS)

    def next_step(self):
        """The next release's: an index on usage and rows in batches, killed in the middle of each while both releases serve."""
        made = self.folder("9001", NEXT)
        self.migrate = [sys.executable, "-c", MIGRATE, self.url, str(made)]
        with timed(self.steps, "an index on usage and a backfill"):
            killed = killed_at_each_thing(
                self.migrate, self.a.environ_of(THIS), 10,
                lambda: self.no_release_starts_on_what_is_unfinished("9001", made), within=not self.long,
            )  # fmt: skip
        assert any(" rows" in line for line in killed)
        assert any(line.startswith("Index usage_by_model: ") for line in killed)
        assert plan_steps(self.connection, made) == []
        white = "SELECT count(*) FROM subscriber JOIN account USING (account_id) WHERE subscriber_id = ANY(%s) AND colour IS NULL"
        assert self.one(white, self.people) == 0
        self.traffic.more(REQUESTS)

    def go_back(self):
        """The old release serves on the new schema, and its `init` leaves it as it is."""
        with timed(self.steps, "a host goes back to the old release"):
            self.traffic.restart(self.a, self.old)
        there = schema.current_revision(self.connection)
        self.a.cli("init")
        assert schema.current_revision(self.connection) == there
        self.traffic.more(REQUESTS)

    def contract(self):
        """All hosts have this release. After the contract step it serves on, and the old one does not start."""
        with timed(self.steps, "both hosts take the new release"):
            for host in (self.a, self.b):
                self.traffic.restart(host, THIS)
        self.folder("9002", CONTRACT, after="9001")
        assert killed_at_each_thing(self.migrate, self.a.environ_of(THIS), 0, lambda: None) == []
        check_schema(self.connection)
        self.traffic.more(REQUESTS)
        refused = self.late.cli("serve", check=False, release=self.old)
        assert refused.returncode == 1
        assert f"runs releases from schema {schema.SCHEMA} on" in refused.stderr

    def nobody_was_refused(self):
        self.traffic.end()
        assert self.traffic.refused() == {}
        if self.long:
            for step in ("init", "an index on usage and a backfill"):
                for client, seen in self.traffic.longest_s(*self.steps[step]).items():
                    assert max(seen) < PAUSE_S_MAX, (step, client, seen)

    def nothing_is_lost(self):
        """Every record is there once, the auditor finds nothing, bills are what they were and would have been."""
        made = self.filled_rows + 1 + LOST_RECORDS + self.traffic.served()
        until(lambda: self.one("SELECT count(*) FROM usage") == made, 60, what="every record, once")
        with timed(self.steps, "verify"):
            said = self.a.cli("ledger", "verify", check=False)
        assert said.returncode == 0, said.stdout
        known, rows = self.known_bills
        assert self.connection.execute(OLD_BILLS, (known,)).fetchall() == rows
        with timed(self.steps, "bills of the new release"):
            self.a.cli("bill", "run")
        assert self.connection.execute(BILLS, (self.people,)).fetchall() == self.bills

    def no_release_starts_on_what_is_unfinished(self, mine=schema.SCHEMA, made=schema.MIGRATIONS):
        """After a kill, when the server has ended what that run began: a plan that is not empty and a refused start go together."""
        running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        until(
            lambda: not self.one(running, schema.APPLICATION_NAME),
            600,
            what="the killed run's statements to end",
        )
        if plan_steps(self.connection, made):
            with pytest.raises(Unavailable):
                check_schema(self.connection, mine)
        else:
            check_schema(self.connection, mine)

    def one(self, statement, *args):
        return one(self.connection, statement, *args)


def test_a_filled_installation_is_upgraded_while_it_serves_and_goes_back_until_the_contract_step(upgrade):
    upgrade.serve()
    upgrade.expand()
    upgrade.write_beside()
    upgrade.take_turns()
    upgrade.next_step()
    upgrade.go_back()
    upgrade.contract()
    upgrade.nobody_was_refused()
    upgrade.nothing_is_lost()
    print_figures(upgrade.steps, upgrade.traffic, upgrade.connection)


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
