"""Conditions of this host that workers have to know: its clock, the space of its journal, blocked keys, deployments that rest."""

import asyncio
import shutil
from typing import Final

import structlog

from tokenworks.app.settings import Settings
from tokenworks.charging import (
    BLOCKED_KEYS,
    CLOCK_OFFSET,
    JOURNAL_SPACE,
    PAUSED_DEPLOYMENTS,
    BlockedKeys,
    ClockOffset,
    JournalSpace,
    PausedDeployments,
    Recorder,
)
from tokenworks.kernel import AnchoredClock

log = structlog.get_logger()

BLOCKED_MAX: Final = 100_000
# Deployments, at once, whose upstream named a time until which it takes nothing.
RESTS_MAX: Final = 10_000


class HostConditions:
    """Checks each condition when it is called, and publishes a condition to the workers when it changes."""

    def __init__(self, recorder: Recorder, settings: Settings, clock: AnchoredClock) -> None:
        self._recorder = recorder
        self._settings = settings
        self._clock = clock
        self._rests: dict[str, float] = {}
        self._blocked: list[str] = []
        self._published_clock: tuple[int, bool] | None = None
        self.clock_off = False
        self.journal_full = False

    @property
    def skew_s(self) -> float:
        """By how much this host's wall clock is ahead of the database's."""
        return self._clock.skew_s

    @property
    def clock_error_s(self) -> float:
        """How far off `skew_s` may be."""
        return self._clock.error_s

    def check_clock(self) -> None:
        """Publish the time, and whether this host's own clock is off. This works while the database is away, too: the boot clock
        carries the database's time on, so a change of the wall clock shows.
        """
        anchored = self._clock.anchored
        if anchored is None:
            return
        off = self._clock.is_off(self._settings.clock_skew_max_s)
        if off != self.clock_off:
            log.critical("recorder.clock_skew", off=off, ahead_seconds=round(self._clock.skew_s, 3))
            self.clock_off = off
        if (anchored[0], off) != self._published_clock:
            self._published_clock = anchored[0], off
            off_s = abs(self._clock.skew_s) if off else None
            self._recorder.publish(CLOCK_OFFSET, ClockOffset(anchored[0], anchored[1], off_s), keep=True)

    def check_blocked_keys(self) -> None:
        """Publish the keys that an operator blocked on this host. They are in a file, so the database is not needed."""
        try:
            ids = self._settings.blocked_keys.read_text(encoding="ascii").split()[:BLOCKED_MAX]
        except FileNotFoundError:
            ids = []
        if ids != self._blocked:
            self._blocked = ids
            log.warning("recorder.keys_blocked", keys=len(ids))
            self._recorder.publish(BLOCKED_KEYS, BlockedKeys(ids), keep=True)

    def check_disk(self) -> int:
        """Returns the free bytes on the journal's disk. Below the reserve workers begin no new request."""
        free = shutil.disk_usage(self._settings.journal).free
        # Records that wait for the database are in memory, too.
        behind = self._recorder.settler.backlog >= self._settings.unsettled_records_max
        full = free < self._settings.journal_reserve_bytes or behind
        if full != self.journal_full:
            log.critical("recorder.journal_full", full=full, free_bytes=free, unsettled_behind=behind)
            self.journal_full = full
            self._recorder.publish(JOURNAL_SPACE, JournalSpace(full), keep=True)
        return free

    def rest_deployment(self, deployment: str, until_s: float) -> None:
        """An upstream named a time to one worker: publish it to all of them, and to workers that connect later."""
        now_s = asyncio.get_running_loop().time()
        resting = {name: at_s for name, at_s in self._rests.items() if at_s > now_s}
        if len(resting) < RESTS_MAX or deployment in resting:
            resting[deployment] = max(until_s, resting.get(deployment, 0.0))
        self._rests = resting
        self._recorder.publish(PAUSED_DEPLOYMENTS, PausedDeployments(resting), keep=True)
