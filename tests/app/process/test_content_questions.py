"""Entries of the log of content are stored if the holder still wants them, and few wait at a time."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from tokenworks.app.process import account_turns, content_questions
from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.app.process.content_questions import ContentQuestions
from tokenworks.charging import ContentToLog, DatabaseThread
from tokenworks.charging.host import port
from tokenworks.kernel import Unavailable, uuid7

ENTRY = ContentToLog(
    uuid7().hex, uuid7().hex, uuid7().hex, uuid7().hex, "chat", "m", "complete", 1, 1, b"a", b"b"
)


class Host:
    """A thread that calls at once, once it may, and services that note what they are asked."""

    hangs = False

    def __init__(self, *, on):
        self.on, self.kept, self.free, self.waiting = on, [], asyncio.Event(), 0

    async def run(self, call):
        self.waiting += 1
        await self.free.wait()
        self.waiting -= 1
        return call(None)

    def services(self, _):
        return SimpleNamespace(
            keys=SimpleNamespace(logs_content=lambda key_id: self.on and key_id.hex == ENTRY.key_id),
            subscriptions=SimpleNamespace(of_account=lambda _: SimpleNamespace(subscriber_id="person")),
            content_log=SimpleNamespace(keep=self.keep),
        )

    def keep(self, entry, person, is_on):
        return is_on() and not self.kept.append((entry, person))


def test_a_worker_that_does_not_know_yet_that_the_log_is_off_stores_nothing():
    async def case():
        for on, stored in ((True, [(ENTRY, "person")]), (False, [])):
            host = Host(on=on)
            host.free.set()
            assert await ContentQuestions(AccountTurns(host), host.services).keep(ENTRY) is on
            assert host.kept == stored

    asyncio.run(case())


@pytest.mark.parametrize("limit", ["WAITING_MAX", "WAITING_OF_ACCOUNT_MAX"])
def test_more_than_may_wait_are_refused(monkeypatch, limit):
    monkeypatch.setattr(content_questions, limit, 2)

    async def case():
        host = Host(on=True)
        questions = ContentQuestions(AccountTurns(host), host.services)
        waiting = [asyncio.create_task(questions.keep(ENTRY)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await questions.keep(ENTRY)
        host.free.set()
        assert await asyncio.gather(*waiting) == [True, True] and await questions.keep(ENTRY)

    asyncio.run(case())


def test_an_account_that_logs_much_leaves_room_for_others():
    async def case():
        host = Host(on=True)
        questions = ContentQuestions(AccountTurns(host), host.services)
        waiting = [asyncio.create_task(questions.keep(ENTRY)) for _ in range(100)]
        await asyncio.sleep(0)
        assert questions._waiting_of == {ENTRY.account_id: content_questions.WAITING_OF_ACCOUNT_MAX}
        waiting.append(asyncio.create_task(questions.keep(replace(ENTRY, account_id=uuid7().hex))))
        await asyncio.sleep(0)
        host.free.set()
        assert (await asyncio.gather(*waiting, return_exceptions=True))[-1] is True
        assert questions._waiting_of == {}

    asyncio.run(case())


def test_calls_that_nobody_waits_for_any_more_do_not_pile_up(monkeypatch):
    """The database hangs: what was given up is still in the thread's queue, with its content."""
    monkeypatch.setattr(port, "ANSWER_S", 0.01)
    ends = threading.Event()

    async def case():
        thread = DatabaseThread(lambda: SimpleNamespace(closed=False, close=lambda: None), "test")
        questions = ContentQuestions(AccountTurns(thread), lambda _: ends.wait(5))
        for _ in range(account_turns.GIVEN_UP_MAX + 2):
            with pytest.raises(Unavailable):
                await questions.keep(replace(ENTRY, account_id=uuid7().hex))
        assert thread.waiting == account_turns.GIVEN_UP_MAX
        ends.set()
        thread.close()
        await asyncio.sleep(0.01)
        assert thread.waiting == 0

    asyncio.run(case())
