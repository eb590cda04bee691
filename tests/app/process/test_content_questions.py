"""Entries of the log of content are stored if the holder still wants them, and few wait at a time."""

import asyncio
from types import SimpleNamespace

import pytest

from tokenworks.app.process import content_questions
from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.app.process.content_questions import ContentQuestions
from tokenworks.charging import ContentToLog
from tokenworks.kernel import Unavailable, uuid7

ENTRY = ContentToLog(
    uuid7().hex, uuid7().hex, uuid7().hex, uuid7().hex, "chat", "m", "complete", 1, 1, b"a", b"b"
)


class Host:
    """A thread that calls at once, once it may, and services that note what they are asked."""

    hangs = False

    def __init__(self, *, on):
        self.on, self.kept, self.free = on, [], asyncio.Event()

    async def run(self, call):
        await self.free.wait()
        return call(None)

    def services(self, _):
        return SimpleNamespace(
            keys=SimpleNamespace(logs_content=lambda key_id: self.on and key_id.hex == ENTRY.key_id),
            subscriptions=SimpleNamespace(of_account=lambda _: SimpleNamespace(subscriber_id="person")),
            content_log=SimpleNamespace(keep=lambda entry, person: not self.kept.append((entry, person))),
        )


def test_a_worker_that_does_not_know_yet_that_the_log_is_off_stores_nothing():
    async def case():
        for on, stored in ((True, [(ENTRY, "person")]), (False, [])):
            host = Host(on=on)
            host.free.set()
            assert await ContentQuestions(AccountTurns(host), host.services).keep(ENTRY) is on
            assert host.kept == stored

    asyncio.run(case())


def test_more_than_may_wait_are_refused(monkeypatch):
    monkeypatch.setattr(content_questions, "WAITING_MAX", 2)

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
