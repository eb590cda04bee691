"""What workers ask the recorder that only the database or the whole host knows: keys, owners of stored responses, rests of deployments,
answers to give again, keys of contents; and entries of the log of content, which only the database keeps.
"""

from functools import partial

from msgspec import Raw
from psycopg import Connection

from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.app.process.content_questions import ContentQuestions
from tokenworks.app.process.host_conditions import HostConditions
from tokenworks.app.process.key_lookups import KeyLookups
from tokenworks.app.process.replay_questions import ReplayQuestions
from tokenworks.charging import (
    CONTENT_KEYS,
    CONTENT_LOG,
    DEPLOYMENT_PAUSE,
    KEYS,
    OBJECT_OWNER,
    REPLAY_DROP,
    REPLAY_KEEP,
    REPLAY_LOOKUP,
    Ledger,
    ObjectOwner,
    Recorder,
    decode_record,
)
from tokenworks.kernel import Clock, Unavailable


class WorkerQuestions:
    """Answers the questions of `charging.questions`. `turns`: of the database thread of stored answers, so that key lookups wait for
    no owner of an object.
    """

    def __init__(
        self,
        recorder: Recorder,
        conditions: HostConditions,
        key_lookups: KeyLookups,
        replays: ReplayQuestions,
        content: ContentQuestions,
        turns: AccountTurns,
        clock: Clock,
    ) -> None:
        self._recorder = recorder
        self._conditions = conditions
        self._key_lookups = key_lookups
        self._replays = replays
        self._content = content
        self._turns = turns
        self._clock = clock

    async def answer(self, name: str, argument: Raw) -> Raw:
        """Raises `Unavailable` for an unknown question, and where the database does not answer."""
        if name == KEYS.name:
            return KEYS.answer(await self._key_lookups.find(KEYS.decode_argument(argument)))
        if name == OBJECT_OWNER.name:
            object_ = OBJECT_OWNER.decode_argument(argument)
            return OBJECT_OWNER.answer(await self._owner(object_.account_id, object_.upstream_id))
        if name == REPLAY_LOOKUP.name:
            return REPLAY_LOOKUP.answer(await self._replays.find(REPLAY_LOOKUP.decode_argument(argument)))
        if name == REPLAY_KEEP.name:
            return REPLAY_KEEP.answer(await self._replays.keep(REPLAY_KEEP.decode_argument(argument)))
        if name == REPLAY_DROP.name:
            await self._replays.drop(REPLAY_DROP.decode_argument(argument))
            return REPLAY_DROP.answer(None)
        if name == CONTENT_KEYS.name:
            return CONTENT_KEYS.answer(await self._replays.keys(CONTENT_KEYS.decode_argument(argument)))
        if name == CONTENT_LOG.name:
            return CONTENT_LOG.answer(await self._content.keep(CONTENT_LOG.decode_argument(argument)))
        if name == DEPLOYMENT_PAUSE.name:
            rest = DEPLOYMENT_PAUSE.decode_argument(argument)
            self._conditions.rest_deployment(rest.deployment, rest.until_s)
            return DEPLOYMENT_PAUSE.answer(None)
        raise Unavailable(f"nothing answers {name}")

    async def _owner(self, account_id: str, upstream_id: str) -> ObjectOwner:
        """The deployment that made a stored response: by the records that are not settled yet, then by the database."""
        for _, account, _, text in self._recorder.unsettled():
            if account == account_id and upstream_id.encode() in text:
                record = decode_record(text)
                if record.upstream_id == upstream_id and record.protocol == "responses":
                    return ObjectOwner(record.deployment, sum(record.c))
        owner = await self._turns.run(
            account_id,
            lambda: partial(self._owner_in_database, account_id=account_id, upstream_id=upstream_id),
        )
        return ObjectOwner(*(owner or ("", 0)))

    # In the thread.

    def _owner_in_database(
        self, connection: Connection, account_id: str, upstream_id: str
    ) -> tuple[str, int] | None:
        return Ledger(connection, self._clock).owns_upstream_id(account_id, upstream_id)
