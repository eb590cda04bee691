"""Questions for answers to give again are bounded, and read what is not settled before the database."""

import asyncio
from types import SimpleNamespace

import pytest

from tests.charging.ledger.test_accounts import IDS, first_attempt
from tokenworks.app.process import replay_questions
from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.app.process.replay_questions import ReplayQuestions
from tokenworks.catalog import Counts
from tokenworks.charging import ReplayFound, ReplayLookup, ReplayName, UsageRecord
from tokenworks.charging.model import encode_record
from tokenworks.kernel import Unavailable, uuid7

ACCOUNT, OTHER = uuid7().hex, uuid7().hex


class Host:
    """A recorder's records, and a thread that calls at once, once it may."""

    hangs = False
    waiting = 0

    def __init__(self):
        self.journal = SimpleNamespace(journal_id=uuid7())
        self.records, self.seen = [], []
        self.free = asyncio.Event()

    def unsettled(self):
        return self.records

    def live_workers(self):
        return frozenset({"w"})

    async def run(self, call):
        await self.free.wait()
        return call(None)

    def services(self, _):
        return SimpleNamespace(replays=SimpleNamespace(find=self.find))

    def find(self, asked, host):
        self.seen.append(host)
        return ReplayFound("none")


def record(account):
    return UsageRecord(
        account, *first_attempt(), *IDS, "chat", "m", "d", "complete", "completed", "provider", 0, 0, None, 0, Counts(), None, [], [], [], None
    )  # fmt: skip


def look():
    return ReplayLookup(
        ReplayName(ACCOUNT, "response_cache", b"n", uuid7().hex), b"", IDS[1], uuid7().hex, 60
    )


def test_the_records_that_are_not_settled_are_those_of_the_account_before_the_question(monkeypatch):
    async def case():
        host = Host()
        ours = record(ACCOUNT)
        host.records = [(1, one.account_id, [], encode_record(one)) for one in (ours, record(OTHER))]
        questions = ReplayQuestions(host, AccountTurns(host), host.services)
        asking = asyncio.ensure_future(questions.find(look()))
        await asyncio.sleep(0)
        host.records = []  # it settles while the question waits for the database
        host.free.set()
        assert (await asking).verdict == "none"
        (seen,) = host.seen
        assert dict(seen.unsettled) == {ours.usage_id: ours}
        assert (seen.journal_id, seen.workers) == (host.journal.journal_id, {"w"})

    asyncio.run(case())


def test_too_many_records_are_not_searched(monkeypatch):
    monkeypatch.setattr(replay_questions, "UNSETTLED_MAX", 1)

    async def case():
        host = Host()
        host.free.set()
        questions = ReplayQuestions(host, AccountTurns(host), host.services)
        await questions.find(look())
        host.records = [(1, OTHER, [], b"")] * 2
        with pytest.raises(Unavailable):
            await questions.find(look())

    asyncio.run(case())


def test_the_keys_of_a_dead_workers_requests_are_freed_account_by_account_until_the_database_is_away():
    async def case():
        host, freed = Host(), []
        host.free.set()

        def release(account_id, request_ids, seen):
            if len(freed) == 2:
                raise Unavailable("away")
            freed.append((account_id.hex, [one.hex for one in request_ids], dict(seen.unsettled)))

        host.services = lambda _: SimpleNamespace(replays=SimpleNamespace(release_lost=release))
        ours = record(ACCOUNT)
        host.records = [(1, ACCOUNT, [], encode_record(ours))]
        questions = ReplayQuestions(host, AccountTurns(host), host.services)
        requests = [uuid7().hex for _ in range(5)]
        questions.lost(
            {
                ACCOUNT: requests[:2],
                OTHER: requests[2:3],
                uuid7().hex: requests[3:4],
                uuid7().hex: requests[4:],
            }
        )
        await asyncio.gather(*questions._releases)
        assert freed == [(ACCOUNT, requests[:2], {ours.usage_id: ours}), (OTHER, requests[2:3], {})]

    asyncio.run(case())


@pytest.mark.parametrize("hangs", [False, True])
def test_an_account_whose_release_is_refused_keeps_no_key_of_another_one_claimed(hangs):
    async def case():
        host, freed = Host(), []
        host.free.set()

        def release(account_id, request_ids, seen):
            if account_id.hex == ACCOUNT:
                host.hangs = hangs
                raise Unavailable("too many wait")
            freed.append(account_id.hex)

        host.services = lambda _: SimpleNamespace(replays=SimpleNamespace(release_lost=release))
        questions = ReplayQuestions(host, AccountTurns(host), host.services)
        questions.lost({ACCOUNT: [uuid7().hex], OTHER: [uuid7().hex]})
        await asyncio.gather(*questions._releases)
        assert freed == ([] if hangs else [OTHER])

    asyncio.run(case())
