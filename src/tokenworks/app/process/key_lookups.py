"""Keys that workers ask the recorder for: all that wait are looked up together, a few statements for however many."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from psycopg import Connection

from tokenworks.app.bootstrap import AppServices
from tokenworks.charging import GATHER_S, DatabaseThread, EndedKey, LiveKey, ScopedLimit
from tokenworks.kernel import TokenworksError, Unavailable
from tokenworks.subscriptions import OfferingVersions

if TYPE_CHECKING:
    from tokenworks.charging import KeyEnd

# Of one turn; and that wait for the next ones. One more is told to come again.
TOGETHER_MAX: Final = 256
WAITING_MAX: Final = 20_000


KeyRows = list[LiveKey | EndedKey]


def key_rows(
    services: AppServices, macs: Sequence[bytes], versions: OfferingVersions
) -> dict[bytes, LiveKey]:
    """What a worker has to know of the live keys among these, by MAC."""
    rows: dict[bytes, LiveKey] = {}
    for mac, served in services.served.by_mac(macs, versions).items():
        key, one = served.key, served.holder
        rows[mac] = LiveKey(
            mac=mac,
            key_id=key.key_id.hex,
            account_id=key.account_id.hex,
            member_id=key.member_id.hex,
            models=None if key.models is None else tuple(sorted(key.models)),
            cap_ids=tuple(cap.hex for cap in served.cap_ids),
            caps_end_ms=None if one.caps_end is None else int(one.caps_end.timestamp() * 1000),
            expires_ms=key.expires_at_ms,
            policy=one.policy,
            counts_prompts=served.counts_prompts,
            limits=tuple(ScopedLimit(scope, limit) for scope, limit in served.limits),
            regions=None if one.regions is None else tuple(one.regions),
            home_region=one.home_region,
            service=one.service,
            origins=None if key.origins is None else tuple(sorted(key.origins)),
            suspended_by=tuple(one.suspended_by),
            payg=one.payg,
            refused_by=one.refused_by,
        )
    return rows


class KeyLookups:
    """In the recorder's loop: gathers what is asked, and asks the database one turn after the other."""

    def __init__(self, thread: DatabaseThread, make: Callable[[Connection], AppServices]) -> None:
        self._thread = thread
        self._make = make
        self._versions = OfferingVersions()
        self._waiting: deque[tuple[list[bytes], asyncio.Future[KeyRows]]] = deque()
        self._turning: asyncio.Task[None] | None = None

    async def find(self, macs: list[bytes]) -> KeyRows:
        """Rows of the live keys among these. Raises `Unavailable`."""
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("too many keys are asked for: come again")
        answer: asyncio.Future[KeyRows] = asyncio.get_running_loop().create_future()
        self._waiting.append((macs, answer))
        if self._turning is None:
            self._turning = asyncio.get_running_loop().create_task(self._turn())
        return await answer

    async def _turn(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(TOGETHER_MAX, len(self._waiting)))]
                asked = [macs for macs, _ in taken]
                answers: list[KeyRows | Exception]
                try:
                    answers = await self._thread.run(partial(self._find, asked=asked))
                except Exception as error:  # each of them hears it, and tells its worker
                    answers = [error] * len(taken)
                    if self._thread.hangs:
                        # Those who would be next have waited as long.
                        taken += self._waiting
                        answers += [error] * len(self._waiting)
                        self._waiting.clear()
                for (_, future), answer in zip(taken, answers, strict=True):
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                if len(taken) > 1:
                    await asyncio.sleep(GATHER_S)
        finally:
            self._turning = None

    def _find(self, connection: Connection, asked: list[list[bytes]]) -> list[KeyRows | Exception]:
        """Where one of them can't be read, each is looked up by itself."""
        services = self._make(connection)
        try:
            rows = key_rows(services, [mac for macs in asked for mac in macs], self._versions)
        except TokenworksError as error:
            if len(asked) == 1:
                return [error]
            return [answer for one in asked for answer in self._find(connection, [one])]
        unknown = [mac for macs in asked if not any(mac in rows for mac in macs) for mac in macs]
        ended = services.keys.ended(unknown) if unknown else {}
        known: dict[bytes, LiveKey | EndedKey] = {
            **rows,
            **{mac: EndedKey(mac, cast("KeyEnd", why)) for mac, why in ended.items()},
        }
        return [[known[mac] for mac in macs if mac in known] for macs in asked]
