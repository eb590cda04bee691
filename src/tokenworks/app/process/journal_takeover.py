"""How the journal passes from one recorder to the next: the new one waits for its lock, the old one writes and lets go."""

import asyncio
import os
import sys
from collections.abc import Iterable
from typing import Final, NoReturn

import structlog

from tokenworks.app.process.served import write_waiting
from tokenworks.app.settings import Settings
from tokenworks.charging import DatabaseThread, Journal, JournalBusy, Recorder

log = structlog.get_logger()

# How long a recorder waits for a journal that another one has, and how often it tries.
JOURNAL_WAIT_S: Final = 60.0
JOURNAL_POLL_S: Final = 0.005
# For each of two things that a recorder ends before the next one begins: its database calls, its settlement.
HAND_OVER_S: Final = 1.0


async def take_journal(settings: Settings) -> Journal:
    """Open the journal once the recorder that has it has handed it over or has ended. Raises `JournalBusy` after `JOURNAL_WAIT_S`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + JOURNAL_WAIT_S
    announced = False
    while True:
        try:
            return Journal(settings.journal, settings.journal_segment_bytes)
        except JournalBusy:
            if loop.time() > until_s:
                raise
        if not announced:
            write_waiting(settings.run_dir)
            log.info("recorder.waits_for_journal", why="the recorder before this one still has it")
            announced = True
        await asyncio.sleep(JOURNAL_POLL_S)


async def hand_over(recorder: Recorder, threads: Iterable[DatabaseThread]) -> NoReturn:
    """Let go of the journal for the recorder that waits for it. Never returns: this process exits.

    Grants stay open, workers stay alive, and every unsettled record is in the journal. What this process leaves undone is what a kill
    leaves, and the next recorder begins from that.
    """
    try:
        recorder.hand_over()
        # Each database call that runs now has its answer before the next recorder makes one.
        pending = [asyncio.ensure_future(thread.run(lambda _: None)) for thread in threads]
        await asyncio.wait(pending, timeout=HAND_OVER_S)
        settled = await asyncio.get_running_loop().run_in_executor(None, recorder.settler.stop, HAND_OVER_S)
        log.info("recorder.handed_over", all_settled=settled)
    finally:
        sys.stderr.flush()
        os._exit(0)
