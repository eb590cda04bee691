"""Calls of many accounts made together: each gets what it would get alone, and what one can't get is no other's matter."""

import asyncio
import contextlib
import threading
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tokenworks.app.database.connections import connect, connect_planned
from tokenworks.charging import DatabaseThread, RecorderLedger, wire
from tokenworks.charging.errors import GrantStillOpen
from tokenworks.charging.host.account import PendingSliceRequest
from tokenworks.charging.host.grants import ACCOUNTS_SERVED_MAX, HostGrants
from tokenworks.charging.ledger import turn_store
from tokenworks.charging.ledger.turn_store import CloseRequest, GrantRequest
from tokenworks.charging.messages import Need, SliceAnswer, Verdict
from tokenworks.kernel import Unavailable, uuid7

JOURNAL = uuid7()
TOTAL = 10_000_000


class Settled:
    settled_seq = 0

    def hurry(self):
        pass


@pytest.fixture
def accounts(services):
    """Twelve accounts with a bucket each: (account, bucket) in hex."""
    services.ledger.register_journal(JOURNAL, "here")
    return [plan(services) for _ in range(12)]


def plan(services, **more):
    from tokenworks.charging.ledger import bucket_store

    account_id = services.ledger.open_account()
    bucket_id = bucket_store.add_bucket(
        services.connection, account_id=account_id, product_id=more.pop("product_id", None), kind="balance", unit="token", total=TOTAL,
        priority=1, valid_from=services.clock.now(), valid_until=more.pop("valid_until", None), model_classes=["*"], rate_version="r", **more,
    )  # fmt: skip
    return account_id.hex, bucket_id.hex


@pytest.fixture
def port(database_url, services):
    threads = [DatabaseThread(lambda: connect_planned(database_url), name) for name in ("turns", "alone")]
    yield RecorderLedger(threads[0], Settled(), services.clock, JOURNAL, lambda: 0, alone=threads[1])
    for thread in threads:
        thread.close()


def bucket(services, account_id):
    return services.ledger.buckets(UUID(account_id))[0]


def gather(*calls):
    async def run():
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


def test_what_waits_together_is_granted_in_one_turn_and_closed_in_one(services, port, accounts):
    granted = gather(
        *(
            port.grant(account, bucket_id, None, 1000 + at, 30.0)
            for at, (account, bucket_id) in enumerate(accounts)
        )
    )
    assert [one.added for one in granted] == [1000 + at for at in range(12)]
    assert port.turns == 1
    assert [bucket(services, account).granted for account, _ in accounts] == [1000 + at for at in range(12)]
    more = gather(
        *(
            port.grant(account, bucket_id, one.grant_id, 10, 30.0)
            for (account, bucket_id), one in zip(accounts, granted, strict=True)
        )
    )
    assert [(one.grant_id, one.added, one.remaining) for one in more] == [
        (one.grant_id, 10, TOTAL - 1010 - at) for at, one in enumerate(granted)
    ]
    assert (
        gather(
            *(
                port.close_grant(account, one.grant_id)
                for (account, _), one in zip(accounts, granted, strict=True)
            )
        )
        == [None] * 12
    )
    assert port.turns == 3
    assert {
        (bucket(services, account).remaining, bucket(services, account).granted) for account, _ in accounts
    } == {(TOTAL, 0)}
    assert services.ledger.grants() == []


def test_what_comes_after_a_turn_of_many_is_gathered(services, port, accounts, monkeypatch):
    """One after the other, each a moment later: one turn more, not one for each."""
    monkeypatch.setattr("tokenworks.charging.host.port.GATHER_S", 0.5)

    async def run():
        await asyncio.gather(*(port.load_terms(account) for account, _ in accounts[:6]))
        later = []
        for account, _ in accounts[6:]:
            later.append(asyncio.ensure_future(port.load_terms(account)))
            await asyncio.sleep(0)
        return await asyncio.gather(*later)

    assert len(asyncio.run(run())) == 6
    assert port.turns == 2


def test_one_that_comes_alone_never_waits_for_others(services, port, accounts, monkeypatch):
    monkeypatch.setattr("tokenworks.charging.host.port.GATHER_S", 3600.0)

    async def run():
        for account, bucket_id in accounts[:3]:
            await port.load_terms(account)
            await port.grant(account, bucket_id, None, 10, 30.0)

    asyncio.run(run())
    assert port.turns == 6


def test_terms_that_are_loaded_together_are_those_of_each_alone(services, port, accounts):
    found = gather(*(port.load_terms(account) for account, _ in accounts))
    assert found == [services.ledger.load_terms(account) for account, _ in accounts]
    assert port.turns == 1


def test_an_account_whose_row_is_locked_keeps_no_other_waiting(services, database_url, port, accounts):
    """The others are answered while its row is held; it is answered when the row is free."""
    (held, held_bucket), others = accounts[0], accounts[1:]

    async def run():
        with contextlib.closing(connect(database_url)) as other:
            with other.transaction():
                other.execute("SELECT 1 FROM bucket WHERE account_id = %s FOR UPDATE", (UUID(held),))
                waits = asyncio.ensure_future(port.grant(held, held_bucket, None, 5, 30.0))
                answered = await asyncio.gather(
                    *(port.grant(account, b, None, 7, 30.0) for account, b in others)
                )
                again = await port.grant(*others[0], answered[0].grant_id, 1, 30.0)
                assert not waits.done()
            return answered, again, await waits

    answered, again, late = asyncio.run(run())
    assert [one.added for one in answered] == [7] * 11
    assert (again.added, late.added) == (1, 5)


def test_nothing_is_overdrawn_and_what_cannot_be_spent_is_refused_beside_what_can(services, port, accounts):
    frozen, paused, ended = (
        accounts[0][0],
        plan(services, product_id=uuid7()),
        plan(services, valid_until=services.clock.now() + timedelta(seconds=1)),
    )
    services.ledger.set_frozen(UUID(frozen), frozen=True)
    services.connection.execute("UPDATE bucket SET paused = true WHERE account_id = %s", (UUID(paused[0]),))
    services.clock.move(timedelta(seconds=2))
    asked = [*accounts, paused, ended]
    granted = gather(*(port.grant(account, b, None, 3 * TOTAL, 30.0) for account, b in asked))
    assert [None if one is None else one.added for one in granted] == [None] + [TOTAL] * 11 + [None, None]
    # The same bucket twice in one turn: what there is, once.
    twice = plan(services)
    first, second = gather(port.grant(*twice, None, TOTAL, 30.0), port.grant(*twice, None, TOTAL, 30.0))
    assert [one.added for one in (first, second) if one is not None] == [TOTAL]
    assert bucket(services, twice[0]).remaining == 0
    assert services.ledger.turn(
        JOURNAL, [], [CloseRequest(UUID(twice[0]), UUID((first or second).grant_id), 0)] * 2
    )[1] == [False, False]
    assert bucket(services, twice[0]).granted == TOTAL, "a turn that would close a grant twice is undone"


def test_a_grant_of_another_host_or_with_unsettled_records_is_not_closed(services, port, accounts):
    (account, bucket_id), (other, other_bucket) = accounts[:2]
    mine = services.ledger.grant(
        account_id=account, bucket_id=bucket_id, journal_id=JOURNAL, grant_id=None, amount=5, spend_for_s=9
    )
    theirs = uuid7()
    services.ledger.register_journal(theirs, "there")
    foreign = services.ledger.grant(
        account_id=other, bucket_id=other_bucket, journal_id=theirs, grant_id=None, amount=5, spend_for_s=9
    )
    closed = services.ledger.turn(
        JOURNAL,
        [],
        [
            CloseRequest(UUID(account), UUID(mine.grant_id), 1),
            CloseRequest(UUID(other), UUID(foreign.grant_id), 0),
        ],
    )[1]
    assert closed == [False, False]
    with pytest.raises(GrantStillOpen):
        services.ledger.close_grant(account, mine.grant_id, JOURNAL, 1)
    extended = services.ledger.turn(
        JOURNAL, [GrantRequest(UUID(other), UUID(other_bucket), UUID(foreign.grant_id), 5, 9.0)], []
    )[0]
    assert extended == [None]
    assert bucket(services, other).granted == 5


def test_a_bucket_that_ended_is_closed_by_itself_and_expires(services, port, accounts):
    account, bucket_id = plan(services, valid_until=services.clock.now() + timedelta(seconds=60))
    granted = gather(port.grant(account, bucket_id, None, 100, 30.0))[0]
    services.clock.move(timedelta(seconds=61))
    assert gather(port.close_grant(account, granted.grant_id)) == [None]
    assert (bucket(services, account).granted, bucket(services, account).expired) == (0, TOTAL)


def test_a_turn_that_the_database_refuses_is_undone_and_each_is_asked_for_alone(
    services, port, accounts, monkeypatch
):
    monkeypatch.setattr(turn_store, "_EXTEND", "SELECT 1/0 WHERE %(account)s IS NOT NULL")
    first = gather(*(port.grant(account, b, None, 10, 30.0) for account, b in accounts))
    mixed = gather(
        *(
            port.grant(account, b, one.grant_id if at % 2 else None, 10, 30.0)
            for at, ((account, b), one) in enumerate(zip(accounts, first, strict=True))
        )
    )
    assert [one.added for one in mixed] == [10] * 12
    assert [bucket(services, account).granted for account, _ in accounts] == [20] * 12


def test_a_database_that_is_gone_is_unavailable_for_each_and_the_next_turn_is_served(
    services, database_url, port, accounts
):
    gather(port.load_terms(accounts[0][0]))
    services.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    found = gather(*(port.grant(account, b, None, 10, 30.0) for account, b in accounts))
    assert all(isinstance(one, Unavailable) for one in found)
    again = gather(*(port.grant(account, b, None, 10, 30.0) for account, b in accounts))
    assert [one.added for one in again] == [10] * 12


def test_a_window_that_has_to_be_refilled_is_loaded_by_itself(services, port, accounts):
    from tokenworks.charging.ledger import bucket_store

    account = UUID(accounts[0][0])
    window = bucket_store.add_bucket(
        services.connection, account_id=account, product_id=None, kind="window", unit="token", total=100, priority=1,
        valid_from=services.clock.now(), valid_until=None, model_classes=["*"], rate_version="r", window_s=10,
    )  # fmt: skip
    services.connection.execute(
        "INSERT INTO window_use (account_id, bucket_id, usage_id, used_at, amount) VALUES (%s, %s, %s, %s, 7)",
        (account, window, uuid7(), services.clock.now()),
    )
    services.connection.execute(
        "UPDATE bucket SET remaining = remaining - 7, used = used + 7 WHERE bucket_id = %s", (window,)
    )
    services.clock.move(timedelta(seconds=11))
    found = gather(*(port.load_terms(one) for one, _ in accounts))
    assert {terms.kind: left for terms, left in found[0]} == {"balance": TOTAL, "window": 100}


class Silent:
    """A ledger that does not answer."""

    async def load_terms(self, account_id):
        await asyncio.Event().wait()


def test_accounts_that_wait_are_bounded_and_one_more_is_told_to_come_again(services):
    sent = []

    async def run():
        grants = HostGrants(
            Silent(), lambda version, model: None, lambda worker, kind, content: sent.append((kind, content)) or True, services.clock,
            spend_for_s=30, idle_s=60, on_fatal=lambda error: None,
        )  # fmt: skip
        grants.start()
        for at in range(ACCOUNTS_SERVED_MAX + 1):
            grants.request(f"account-{at}", PendingSliceRequest("w", at, (), "m", Need(1, 1, 1), {}))
        assert grants.requests_refused == 1
        assert f"account-{ACCOUNTS_SERVED_MAX}" not in grants.accounts
        # An account that is being served may ask on: it waits in its own queue.
        grants.request("account-0", PendingSliceRequest("w", -1, (), "m", Need(1, 1, 1), {}))
        assert grants.requests_refused == 1
        for task in list(grants._tasks):
            task.cancel()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert sent == [(wire.SLICE_ANSWER, [SliceAnswer(ACCOUNTS_SERVED_MAX, Verdict.AWAY)])]


def test_two_hosts_that_open_the_same_accounts_at_once_share_what_there_is(services, database_url, accounts):
    """Turns of two journals over the same buckets, many times: sums stay exact and nobody waits for ever."""
    journals = [JOURNAL, uuid7()]
    services.ledger.register_journal(journals[1], "there")
    got = dict.fromkeys(journals, 0)
    errors = []

    def host(journal):
        async def run():
            threads = [
                DatabaseThread(lambda: connect_planned(database_url), name) for name in ("turns", "alone")
            ]
            port = RecorderLedger(threads[0], Settled(), services.clock, journal, lambda: 0, alone=threads[1])
            for _ in range(20):
                for one in await asyncio.gather(
                    *(port.grant(account, b, None, TOTAL // 30, 30.0) for account, b in accounts)
                ):
                    got[journal] += 0 if one is None else one.added
            for thread in threads:
                thread.close()

        try:
            asyncio.run(run())
        except (psycopg.Error, AssertionError, Unavailable) as error:
            errors.append(error)

    hosts = [threading.Thread(target=host, args=(journal,)) for journal in journals]
    for one in hosts:
        one.start()
    for one in hosts:
        one.join()
    assert not errors
    assert sum(got.values()) == sum(bucket(services, account).granted for account, _ in accounts)
    assert all(
        bucket(services, account).remaining == TOTAL - bucket(services, account).granted
        for account, _ in accounts
    )
    assert {bucket(services, account).remaining for account, _ in accounts} == {0}


def test_a_window_that_is_used_up_is_named_by_its_balance_and_refilled(services, port):
    """It has nothing left, so it is no term of its own: the balance says that there is one."""
    from tokenworks.charging.ledger import bucket_store

    services.ledger.register_journal(JOURNAL, "here")
    product_id = uuid7()
    account, _ = plan(services, product_id=product_id)
    window = bucket_store.add_bucket(
        services.connection, account_id=UUID(account), product_id=product_id, kind="window", unit="token", total=7, priority=1,
        valid_from=services.clock.now(), valid_until=None, model_classes=["*"], rate_version="r", window_s=10,
    )  # fmt: skip
    services.connection.execute(
        "INSERT INTO window_use (account_id, bucket_id, usage_id, used_at, amount) VALUES (%s, %s, %s, %s, 7)",
        (UUID(account), window, uuid7(), services.clock.now()),
    )
    services.connection.execute(
        "UPDATE bucket SET remaining = 0, total = 0 WHERE account_id = %s AND bucket_id = %s",
        (UUID(account), window),
    )
    (before,) = gather(port.load_terms(account))
    assert [(terms.kind, terms.windows) for terms, _ in before] == [("balance", (window.hex,))]
    services.clock.move(timedelta(seconds=11))
    (after,) = gather(port.load_terms(account))
    assert {terms.kind: left for terms, left in after} == {"balance": TOTAL, "window": 7}


def test_a_turn_gives_nothing_ahead_of_a_host_that_waits(services, port, accounts):
    """Another host asked for one account of the turn before; the other accounts are nobody's matter."""
    other = uuid7()
    services.ledger.register_journal(other, "there")
    services.ledger.request_recall(accounts[0][0], other)
    granted = gather(*(port.grant(account, b, None, 10, 30.0) for account, b in accounts))
    assert granted[0] is None or (granted[0].added, granted[0].behind) == (0, True)
    assert [(one.added, one.behind) for one in granted[1:]] == [(10, False)] * 11
    assert services.ledger.grants(UUID(accounts[0][0])) == []
