"""Key lookups of the workers, in the recorder: all waiting lookups share one turn, which is a few statements whatever their number."""

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

# Lookups of one turn, and lookups that wait for the next turns; further lookups are refused.
TURN_MAX: Final = 256
WAITING_MAX: Final = 20_000


KeyRows = list[LiveKey | EndedKey]


def key_rows(
    services: AppServices, macs: Sequence[bytes], versions: OfferingVersions
) -> dict[bytes, LiveKey]:
    """The live keys among these, with all that a worker needs to know of them, by MAC."""
    rows: dict[bytes, LiveKey] = {}
    for mac, served in services.served.by_mac(macs, versions).items():
        key, holder = served.key, served.holder
        rows[mac] = LiveKey(
            mac=mac,
            key_id=key.key_id.hex,
            account_id=key.account_id.hex,
            member_id=key.member_id.hex,
            models=None if key.models is None else tuple(sorted(key.models)),
            cap_ids=tuple(cap.hex for cap in served.cap_ids),
            caps_end_ms=None if holder.caps_end is None else int(holder.caps_end.timestamp() * 1000),
            expires_ms=key.expires_at_ms,
            policy=holder.policy,
            counts_prompts=served.counts_prompts,
            limits=tuple(ScopedLimit(scope, limit) for scope, limit in served.limits),
            regions=None if holder.regions is None else tuple(holder.regions),
            home_region=holder.home_region,
            service=holder.service,
            origins=None if key.origins is None else tuple(sorted(key.origins)),
            suspended_by=tuple(holder.suspended_by),
            payg=holder.payg,
            refused_by=holder.refused_by,
            rates=holder.rates,
            fallbacks=key.fallbacks,
            content_log=key.content_log,
            response_cache=key.response_cache,
        )
    return rows


class KeyLookups:
    """Runs in the recorder's loop: gathers lookups and makes one turn after the other."""

    def __init__(self, thread: DatabaseThread, make_services: Callable[[Connection], AppServices]) -> None:
        self._thread = thread
        self._make_services = make_services
        self._versions = OfferingVersions()
        self._waiting: deque[tuple[list[bytes], asyncio.Future[KeyRows]]] = deque()
        self._turning: asyncio.Task[None] | None = None

    async def find(self, macs: list[bytes]) -> KeyRows:
        """Rows of the keys among these that are live or ended. Raises `Unavailable`."""
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
                taken = [self._waiting.popleft() for _ in range(min(TURN_MAX, len(self._waiting)))]
                lookups = [macs for macs, _ in taken]
                answers: list[KeyRows | Exception]
                try:
                    answers = await self._thread.run(partial(self._find, lookups=lookups))
                except Exception as error:  # every lookup of the turn fails with it
                    answers = [error] * len(taken)
                    if self._thread.hangs:
                        # Lookups of the next turns have waited nearly as long: they fail as well.
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

    def _find(self, connection: Connection, lookups: list[list[bytes]]) -> list[KeyRows | Exception]:
        """An answer for each lookup. Where one can't be read, each is made by itself."""
        services = self._make_services(connection)
        try:
            rows = key_rows(services, [mac for macs in lookups for mac in macs], self._versions)
        except TokenworksError as error:
            if len(lookups) == 1:
                return [error]
            return [answer for macs in lookups for answer in self._find(connection, [macs])]
        unknown = [mac for macs in lookups if not any(mac in rows for mac in macs) for mac in macs]
        ended = services.keys.ended(unknown) if unknown else {}
        known: dict[bytes, LiveKey | EndedKey] = {
            **rows,
            **{mac: EndedKey(mac, cast("KeyEnd", why)) for mac, why in ended.items()},
        }
        return [[known[mac] for mac in macs if mac in known] for macs in lookups]
