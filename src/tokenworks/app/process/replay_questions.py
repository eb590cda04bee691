"""Answers to give again, for the workers: looked up and stored in the recorder, whose records say which answers count. Keys of contents
that lie with a client are made and opened here, too.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from psycopg import Connection

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.process.account_turns import ACCOUNT_WAITING_MAX, AccountTurns
from tokenworks.charging import (
    ContentKeys,
    ContentKeysAsked,
    HostRecords,
    Recorder,
    ReplayFound,
    ReplayLookup,
    ReplayName,
    ReplayToKeep,
    decode_record,
)
from tokenworks.kernel import Unavailable
from tokenworks.trust import SEALED_KEY_BYTES, new_content_key, open_content_key

log = structlog.get_logger()

# With more records than this waiting for the database, they are not searched: the database hardly answers then.
UNSETTLED_MAX: Final = 20_000
# Calls of an account that may wait before a release of its keys: more than before a question, since a lost one keeps a key claimed.
DROPS_WAITING_MAX: Final = 4 * ACCOUNT_WAITING_MAX


class ReplayQuestions:
    """Runs in the recorder's loop. `turns`: of a database thread of its own, so that key lookups wait for no answer."""

    def __init__(
        self,
        recorder: Recorder,
        turns: AccountTurns,
        make_services: Callable[[Connection], AppServices],
    ) -> None:
        self._recorder = recorder
        self._turns = turns
        self._make_services = make_services
        self._releases: set[asyncio.Task[None]] = set()

    async def find(self, asked: ReplayLookup) -> ReplayFound:
        """Raises `Unavailable`."""

        def make() -> Callable[[Connection], ReplayFound]:
            # The records that are not settled are read before the database, so that a record that settles meanwhile is seen there.
            return partial(self._find, asked=asked, host=self._host(asked.name.account_id))

        return await self._turns.run(asked.name.account_id, make)

    async def keep(self, kept: ReplayToKeep) -> bool:
        """Raises `Unavailable`."""
        return await self._turns.run(kept.name.account_id, lambda: partial(self._keep, kept=kept))

    async def drop(self, name: ReplayName) -> None:
        """Raises `Unavailable`."""
        await self._turns.run(name.account_id, lambda: partial(self._drop, name=name), DROPS_WAITING_MAX)

    async def keys(self, asked: ContentKeysAsked) -> ContentKeys:
        """Raises `Unavailable`."""
        return await self._turns.run(asked.account_id, lambda: partial(self._keys, asked=asked))

    def lost(self, requests: Mapping[str, list[str]]) -> None:
        """The worker of these requests (by account) is gone: free the idempotency keys that they claimed."""
        task = asyncio.get_running_loop().create_task(self._release(requests))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, requests: Mapping[str, list[str]]) -> None:
        stay = 0
        for place, (account_id, request_ids) in enumerate(requests.items()):

            def make(
                account_id: str = account_id, request_ids: list[str] = request_ids
            ) -> Callable[[Connection], int]:
                host = self._host(account_id)
                return partial(self._release_lost, account_id=account_id, request_ids=request_ids, host=host)

            try:
                await self._turns.run(account_id, make, DROPS_WAITING_MAX)
            except Unavailable:
                # This host frees such a key when it is asked for; only another host waits for the end of the claim. That one account has
                # too many calls that wait keeps no key of another one.
                stay += 1
                if self._turns.hangs:
                    stay = len(requests) - place
                    break
        if stay:
            log.warning("recorder.claims_stay", accounts=stay)

    def _host(self, account_id: str) -> HostRecords:
        unsettled = self._recorder.unsettled()
        if len(unsettled) > UNSETTLED_MAX:
            raise Unavailable("too many records wait for the database")
        records = [decode_record(text) for _, account, _, text in unsettled if account == account_id]
        return HostRecords(
            self._recorder.journal.journal_id,
            self._recorder.live_workers(),
            {record.usage_id: record for record in records},
        )

    # In the thread.

    def _find(self, connection: Connection, asked: ReplayLookup, host: HostRecords) -> ReplayFound:
        return self._make_services(connection).replays.find(asked, host)

    def _keep(self, connection: Connection, kept: ReplayToKeep) -> bool:
        services = self._make_services(connection)
        subscriber = services.subscriptions.of_account(UUID(kept.name.account_id))
        return services.replays.keep(kept, subscriber.subscriber_id)

    def _drop(self, connection: Connection, name: ReplayName) -> None:
        self._make_services(connection).replays.drop(name)

    def _keys(self, connection: Connection, asked: ContentKeysAsked) -> ContentKeys:
        services, member_id = self._make_services(connection), UUID(asked.member_id)
        subscriber = services.subscriptions.of_account(UUID(asked.account_id))
        person = services.vault.key(subscriber.subscriber_id)
        if person is None:
            return ContentKeys([b""] * len(asked.sealed), b"", b"")
        opened = [
            (open_content_key(person, member_id, sealed) if len(sealed) == SEALED_KEY_BYTES else None) or b""
            for sealed in asked.sealed
        ]
        key, sealed = new_content_key(person, member_id) if asked.makes else (b"", b"")
        return ContentKeys(opened, key, sealed)

    def _release_lost(
        self, connection: Connection, account_id: str, request_ids: list[str], host: HostRecords
    ) -> int:
        ids = [UUID(request_id) for request_id in request_ids]
        return self._make_services(connection).replays.release_lost(UUID(account_id), ids, host)
