"""Entries of the log of content, for the workers: stored in the recorder, if the key's holder still wants them."""

from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.charging import ContentToLog
from tokenworks.kernel import Unavailable

# Entries that wait, in all and of one account: beyond these an entry is refused, since clients wait for the other questions in that thread.
WAITING_MAX: Final = 40
WAITING_OF_ACCOUNT_MAX: Final = 10
# Calls of an account that may wait before its entry: fewer than before an answer, which a client waits for.
ACCOUNT_WAITING_MAX: Final = 50


class ContentQuestions:
    """Runs in the recorder's loop. `turns`: of the database thread of stored answers, so that key lookups wait for no entry."""

    def __init__(self, turns: AccountTurns, make_services: Callable[[Connection], AppServices]) -> None:
        self._turns = turns
        self._make_services = make_services
        self._waiting = 0
        self._waiting_of: dict[str, int] = {}

    async def keep(self, logged: ContentToLog) -> bool:
        """Returns whether the entry is stored. Raises `Unavailable`."""
        account, of_account = logged.account_id, self._waiting_of.get(logged.account_id, 0)
        if self._waiting >= WAITING_MAX or of_account >= WAITING_OF_ACCOUNT_MAX:
            raise Unavailable("too many entries wait to be stored")
        self._waiting += 1
        self._waiting_of[account] = of_account + 1
        try:
            return await self._turns.run(
                logged.account_id, lambda: partial(self._keep, logged=logged), ACCOUNT_WAITING_MAX
            )
        finally:
            self._waiting -= 1
            self._waiting_of[account] -= 1
            if not self._waiting_of[account]:
                del self._waiting_of[account]

    # In the thread.

    def _keep(self, connection: Connection, logged: ContentToLog) -> bool:
        services, key_id = self._make_services(connection), UUID(logged.key_id)
        subscriber = services.subscriptions.of_account(UUID(logged.account_id))
        # A worker may know the key as it was before its holder turned the log off.
        return services.content_log.keep(
            logged, subscriber.subscriber_id, lambda: services.keys.logs_content(key_id)
        )
