"""The loss budget: exact on one host at once, between hosts once settled, over restarts and midnight."""

import asyncio
from types import SimpleNamespace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tests.charging.ledger.test_accounts import IDS, first_attempt, settle
from tests.sim.test_recorder import Transport
from tests.support.builds import on_sources
from tokenworks.catalog import Counts
from tokenworks.charging import Journal, Recorder, WorkerConnection, wire
from tokenworks.charging.host.losses import DAY_MS, HostLosses
from tokenworks.charging.messages import Loss, UsageRecord
from tokenworks.kernel import uuid7

BUDGET = 1000
DAY = 20_000
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 1), st.sampled_from("abc"), st.integers(1, 700)),
        st.tuples(st.just("settle"), st.integers(0, 1), st.integers(0, 3), st.none()),
        st.tuples(st.just("read"), st.integers(0, 1), st.none(), st.none()),
        st.tuples(st.just("midnight"), st.none(), st.none(), st.none()),
    ),
    max_size=40,
)


class Database:
    """What is settled, of all hosts."""

    def __init__(self):
        self.rows = {}
        self.seq = [0, 0]
        self.day = DAY

    def read(self, host):
        today = [
            (account, n) for (account, day), n in self.rows.items() if day == self.day and n > BUDGET // 2
        ]
        return self.day, self.seq[host], today


@given(steps, st.booleans())
def test_it_agrees_with_a_naive_sum(steps, alone):
    database, said = Database(), [[], []]
    hosts = [HostLosses(BUDGET, said[n].append) for n in (0, 1)]
    journals = [[], []]
    truth = {}

    def read_all():
        for n, host in enumerate(hosts):
            host.read(*database.read(n))

    def settle_some(n, count):
        for seq, account, day, tokens in journals[n][database.seq[n] :][:count]:
            database.rows[account, day] = database.rows.get((account, day), 0) + tokens
            database.seq[n] = seq

    def expected():
        return {account for (account, day), n in truth.items() if day == database.day and n > BUDGET}

    read_all()
    for kind, n, what, tokens in steps:
        n = 0 if alone else n
        if kind == "add":
            seq = len(journals[n]) + 1
            journals[n].append((seq, what, database.day, tokens))
            truth[what, database.day] = truth.get((what, database.day), 0) + tokens
            hosts[n].add(seq, what, database.day * DAY_MS + 5, tokens)
        elif kind == "settle":
            settle_some(n, what)
        elif kind == "read":
            hosts[n].read(*database.read(n))
        else:
            database.day += 1
            read_all()
        if alone:
            assert hosts[0].over == expected()
        else:  # nobody is throttled for what was not lost
            assert all(host.over <= expected() for host in hosts)
    for n in (0, 1):
        settle_some(n, len(journals[n]))
    read_all()
    assert all(host.over == expected() for host in hosts)
    for n, host in enumerate(hosts):
        assert (said[n][-1] if said[n] else frozenset()) == host.over


def test_without_a_budget_nobody_is_over_it():
    losses = HostLosses(0)
    losses.read(DAY, 0, [])
    losses.add(1, "a", DAY * DAY_MS, 10**9)
    assert losses.over == frozenset()


def lossy_record(account_id, ended_ms, tokens):
    counts = Counts(output=tokens)
    return UsageRecord(
        account_id.hex, *first_attempt(), *IDS, "chat", "m", "d", "interrupted", "client_gone", "progress",
        ended_ms, ended_ms, 100, 500, counts, None, [], [Loss("client_gone", 1, counts)], [], None, risk_tokens=tokens,
    )  # fmt: skip


def test_the_database_sums_what_all_hosts_settled_once(services):
    hosts = [uuid7(), uuid7()]
    for journal_id in hosts:
        services.ledger.register_journal(journal_id, "test")
    account_id, other = services.ledger.open_account(), services.ledger.open_account()
    now_ms = services.connection.execute("SELECT (extract(epoch FROM now()) * 1000)::bigint").fetchone()[0]
    records = [(1, lossy_record(account_id, now_ms, 300)), (2, lossy_record(account_id, now_ms, 400))]
    yesterday = (3, lossy_record(account_id, now_ms - DAY_MS, 5000))
    for _ in range(2):
        settle(services.connection, hosts[0], 3, [*records, yesterday])
        settle(services.connection, hosts[1], 1, [(1, lossy_record(account_id, now_ms, 350))])
        settle(services.connection, hosts[1], 2, [(2, lossy_record(other, now_ms, 500))])
    day, settled_seq, found = services.ledger.losses_of_today(hosts[0], 500)
    assert (day, settled_seq, found) == (now_ms // DAY_MS, 3, [(account_id.hex, 1050)])
    services.connection.execute("UPDATE account_loss SET day = day - 40 WHERE risk_tokens = 5000")
    services.ledger.delete_old_account_losses()
    assert services.connection.execute("SELECT count(*) FROM account_loss").fetchone()[0] == 2


def make_recorder(folder):
    made = Recorder(
        Journal(folder / "journal", 65_536), folder, None, on_fatal=print, loss_budget_tokens=BUDGET
    )
    made.grants = SimpleNamespace(
        open=True, record_used=lambda *_: None, worker_lost=lambda _: None, adopt_slice=lambda *_: True
    )
    made.limits = made.queues = SimpleNamespace(worker_lost=lambda _: None)
    made.settler = SimpleNamespace(put=lambda _: None, advance=lambda _: None)
    return made


def join(recorder, worker_id):
    """A worker's connection, and what the recorder published to it as it came."""
    heard = []

    def received(data):
        for kind, body in reader.feed(data):
            if kind == wire.PUBLISH:
                heard.append(wire.decode(body))

    reader = wire.FrameReader()
    connection = WorkerConnection(recorder)
    connection.connection_made(Transport(received))
    connection.data_received(wire.frame(wire.HELLO, wire.encode([worker_id, 1])))
    connection.data_received(wire.frame(wire.STATE, wire.encode([])))
    return connection, heard


@on_sources
def test_workers_hear_at_once_of_an_account_over_its_budget_and_so_does_the_next_recorder(tmp_path):
    account, day_ms = UUID(int=7).hex, DAY * DAY_MS

    def finish(number, tokens):
        op = [wire.FINISH, uuid7().hex, account, [], b"{}"]
        ops = [[*op, day_ms, tokens] if tokens else op]
        return wire.frame(wire.JOURNAL, wire.encode([number, ops]))

    async def first():
        recorder = make_recorder(tmp_path)
        recorder.recover(0)
        recorder.begin()
        recorder.losses.read(DAY, 0, [(account, 600)])  # another host's
        connection, heard = join(recorder, "a" * 32)
        for number, tokens in enumerate((300, 0, 100), 1):
            connection.data_received(finish(number, tokens))
            await asyncio.sleep(0)
        assert heard == []
        connection.data_received(finish(4, 1))
        await asyncio.sleep(0)
        assert heard == [["lossy", {"accounts": [account]}]]
        _, later = join(recorder, "b" * 32)
        await asyncio.sleep(0)
        assert later == heard
        while recorder._uncommitted:
            await asyncio.sleep(0.001)
        recorder.journal.close()

    async def second():
        recorder = make_recorder(tmp_path)
        recorder.recover(
            2
        )  # the checkpoint and the first record are settled; the others are summed from the journal
        recorder.losses.read(DAY, 2, [(account, 900)])
        assert recorder.losses.over == {account}
        recorder.losses.read(DAY, 2, [(account, 899)])
        assert recorder.losses.over == frozenset()
        recorder.losses.read(DAY + 1, 2, [])
        assert recorder.losses.over == frozenset()
        recorder.journal.close()

    asyncio.run(first())
    asyncio.run(second())
