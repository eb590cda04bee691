"""Answers to give again, for the workers: looked up and stored in the recorder, whose records say which answers count. Keys of contents
that lie with a client are made and opened here, too.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from psycopg import Connection

from tokenworks.app.bootstrap import AppServices
from tokenworks.charging import (
    ContentKeys,
    ContentKeysAsked,
    DatabaseThread,
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

Result = TypeVar("Result")

# Questions that wait for the thread; further ones are refused.
WAITING_MAX: Final = 1000
# With more records than this waiting for the database, they are not searched: the database hardly answers then.
UNSETTLED_MAX: Final = 20_000


class ReplayQuestions:
    """Runs in the recorder's loop. `thread`: a database thread of its own, so that key lookups wait for no answer."""

    def __init__(
        self,
        recorder: Recorder,
        thread: DatabaseThread,
        make_services: Callable[[Connection], AppServices],
    ) -> None:
        self._recorder = recorder
        self._thread = thread
        self._make_services = make_services
        self._waiting = 0

    async def find(self, asked: ReplayLookup) -> ReplayFound:
        """Raises `Unavailable`."""
        # The records that are not settled are read before the database, so that a record that settles meanwhile is seen there.
        host = self._host(asked.name.account_id)
        return await self._run(partial(self._find, asked=asked, host=host))

    async def keep(self, kept: ReplayToKeep) -> bool:
        """Raises `Unavailable`."""
        return await self._run(partial(self._keep, kept=kept))

    async def drop(self, name: ReplayName) -> None:
        """Raises `Unavailable`."""
        await self._run(partial(self._drop, name=name))

    async def keys(self, asked: ContentKeysAsked) -> ContentKeys:
        """Raises `Unavailable`."""
        return await self._run(partial(self._keys, asked=asked))

    async def _run(self, call: Callable[[Connection], Result]) -> Result:
        if self._waiting >= WAITING_MAX:
            raise Unavailable("too many answers are asked for: come again")
        self._waiting += 1
        try:
            return await self._thread.run(call)
        finally:
            self._waiting -= 1

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
