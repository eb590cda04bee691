"""Processes that read the ledger together say what one process says, of one snapshot; and one that dies is no clean ledger."""

import os
import signal
from uuid import UUID

import pytest
from bench.filling import Filling

from tokenworks.app import verify_pool
from tokenworks.app.verifier import ACROSS, ONCE, PURE, audit_checks, audit_on
from tokenworks.charging.ledger.verify import rolling
from tokenworks.charging.ledger.verify.pieces import AccountRange, Piece
from tokenworks.kernel import Invalid, SystemClock, Unavailable

SUBSCRIBERS = 60
PER_ENTRY = 4


@pytest.fixture
def clock():
    return SystemClock()


@pytest.fixture
def filled(services, owner, monkeypatch):
    """A ledger that is read in several pieces."""
    monkeypatch.setattr(rolling, "PIECE_ACCOUNTS_MAX", 25)
    monkeypatch.setattr(rolling, "PIECE_LINKS_MAX", 50)
    filling = Filling(owner, services.offerings.rate_cards(), SUBSCRIBERS)
    filling.rounds(2, PER_ENTRY)
    return filling


def read(services, **more):
    return audit_on(services.connection, services.offerings.rate_cards(), **more)


def whole(name):
    return Piece("old", AccountRange(), (name,))


def pooled(services, pieces, step=lambda _name: None):
    """What two processes find in these pieces."""
    with services.connection.transaction():
        services.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        (snapshot,) = services.connection.execute("SELECT pg_export_snapshot()").fetchone()
        return verify_pool.readers(services.connection, 2, timed=True)(snapshot, pieces, step)


def test_the_kinds_of_invariants_are_of_invariants_that_are():
    names = {name for name, _ in audit_checks({})}
    assert names >= ACROSS | PURE | ONCE
    assert not PURE & (ACROSS | ONCE)


def test_what_is_right_is_clean_and_remembered(services, filled):
    said = []
    found, seen = read(services, processes=2, progress=lambda what, done, total: said.append((done, total)))
    assert found == [] and seen == rolling.Coverage(2 * SUBSCRIBERS, SUBSCRIBERS, SUBSCRIBERS, full=True)
    (total,) = {total for _, total in said}
    assert [done for done, _ in said] == list(range(1, total + 1))
    assert read(services, processes=2)[1].links == 0


def test_several_processes_name_what_one_names_in_the_same_order(services, owner, filled, monkeypatch):
    monkeypatch.setattr(rolling, "PART_ACCOUNTS_MIN", 1)
    monkeypatch.setattr(rolling, "PARTS", 2)
    assert read(services, full=True)[0] == []
    filled.rounds(1, PER_ENTRY)
    owner.execute("SET session_replication_role = replica")
    for statement in (
        "UPDATE usage SET latency_ms = 101 WHERE seq % 7 = 0",
        "UPDATE posting SET amount = 2 * amount WHERE ledger_account = 'used' AND account_id = (SELECT max(account_id::text)::uuid FROM account)",
        "UPDATE usage SET output = output + 1 WHERE seq % 91 = 0",
        "UPDATE rate_card SET effective_from = effective_from + interval '1 day'",
    ):
        owner.execute(statement)
    for full in (True, False):
        one, seen = read(services, full=full)
        # The one process, undivided, finds no other rows.
        with monkeypatch.context() as patch:
            patch.setattr(rolling, "PIECE_ACCOUNTS_MAX", 10_000)
            patch.setattr(rolling, "PIECE_LINKS_MAX", 10_000)
            undivided, _ = read(services, full=full)
        many, seen_too = read(services, full=full, processes=2)
        assert len({finding.invariant for finding in one}) > 3
        assert set(many) == set(one) == set(undivided) and seen == seen_too
        assert read(services, full=full, processes=2)[0] == many
        assert seen.full is full


def test_all_processes_read_the_leaders_snapshot(services, owner, filled, monkeypatch):
    real = verify_pool.readers

    def readers(*given, **more):
        def late(snapshot, pieces, step):
            # After the leader looked, and before anybody else does.
            with owner.transaction():
                owner.execute("SET LOCAL session_replication_role = replica")
                owner.execute("DELETE FROM posting WHERE ledger_account = 'used'")
            return real(*given, **more)(snapshot, pieces, step)

        return late

    monkeypatch.setattr(verify_pool, "readers", readers)
    assert read(services, processes=2)[0] == []
    monkeypatch.setattr(verify_pool, "readers", real)
    assert read(services, processes=2)[0] != []


def test_a_process_that_is_killed_is_named_and_nothing_is_remembered(services, owner, filled, monkeypatch):
    killed, real = [], verify_pool._Reader.send

    def send(worker, line):
        real(worker, line)
        # The second line is its first piece.
        if worker.number == 2 and worker.at is not None and not killed:
            killed.append(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(verify_pool._Reader, "send", send)
    with pytest.raises(Unavailable, match=r"process 2 of `ledger verify` \(pid \d+\) ended with status -9"):
        read(services, processes=2)
    assert len(killed) == 1
    assert services.connection.execute("SELECT count(*) FROM verify_run").fetchone() == (0,)
    # Whoever was left is gone, too.
    assert not any(os.path.exists(f"/proc/{pid}") for pid in killed)
    monkeypatch.setattr(verify_pool._Reader, "send", real)
    assert read(services, processes=2)[0] == []


def test_a_process_that_the_database_sends_away_says_why(services, owner, filled):
    def step(_name):
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tokenworks ledger verify'"
        )

    with pytest.raises(Unavailable, match=r"process \d of `ledger verify` \(pid \d+\) (failed|ended)"):
        pooled(services, [whole(name) for name in sorted(PURE)], step)


def test_no_more_processes_than_the_limit(services):
    with pytest.raises(Invalid, match="at most 32"):
        read(services, processes=33)


def test_ranges_are_cut_so_that_each_account_is_in_one(services, filled):
    part = rolling._Part(AccountRange(), SUBSCRIBERS, SUBSCRIBERS)
    for ranges in (
        rolling._ranges(services.connection, part, 2),
        rolling._ranges_of_new_links(services.connection, 2),
    ):
        assert len(ranges) > 2
        assert ranges[0].after == UUID(int=0) and ranges[-1].upto is None
        assert [one.upto for one in ranges[:-1]] == [one.after for one in ranges[1:]]
        sizes = [
            services.connection.execute(
                "SELECT count(*) FROM account WHERE account_id > %s AND (%s::uuid IS NULL OR account_id <= %s)",
                (after, upto, upto),
            ).fetchone()[0]
            for after, upto in ranges
        ]
        assert sum(sizes) == SUBSCRIBERS and max(sizes) <= 25
