"""The command's side of a reload: send the signal, and wait for the end of the reload."""

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tokenworks.app.process.served import READY_S, TRIAL_S_MAX, Reload, read_reload, server_of
from tokenworks.kernel import Conflict, NotFound, Unavailable

# Twice the time of a reload: this one may have to wait for the end of another.
RELOAD_WAIT_S: Final = 2 * (TRIAL_S_MAX + READY_S)
_LOOK_S: Final = 0.05


def wait_for_reload(data_dir: Path, on_stage: Callable[[str], None]) -> Reload:
    """Ask the server for a reload and wait for its end. `on_stage` is called with each stage.

    Raises `NotFound` without a server, `Unavailable`, and `Conflict` with the reason of a refusal.
    """
    pid = server_of(data_dir)
    if pid is None:
        raise NotFound(f"no server runs in {data_dir}: start it with `tokenworks serve`")
    run_dir = data_dir / "run"
    before = read_reload(run_dir)
    # A reload that runs now may have read the settings before the change: the next one counts.
    number = before.number + 1
    try:
        alive = os.pidfd_open(pid)
    except ProcessLookupError:
        raise NotFound(f"no server runs in {data_dir}: start it with `tokenworks serve`") from None
    try:
        return _wait(alive, run_dir, number, on_stage)
    finally:
        os.close(alive)


def _wait(alive: int, run_dir: Path, number: int, on_stage: Callable[[str], None]) -> Reload:
    """`alive`: a pidfd of the server."""
    signal.pidfd_send_signal(alive, signal.SIGHUP)
    until_s = time.monotonic() + RELOAD_WAIT_S
    stage = ""
    while True:
        now = read_reload(run_dir)
        if now.number >= number and now.ended:
            break
        if select.select([alive], [], [], _LOOK_S)[0]:
            raise Unavailable("the server ended while it reloaded: its log says why")
        if (run_dir / "leaving").exists():
            raise Conflict("this server is being stopped: nothing is reloaded")
        if now.number >= number and now.said != stage:
            stage = now.said
            on_stage(stage)
        if time.monotonic() > until_s:
            raise Unavailable(
                f"the reload has not ended within {RELOAD_WAIT_S:g} s ({now.state}: {now.said}): the server's log says how it goes on"
            )
    if now.state == "failed":
        raise Conflict(f"not reloaded, the server runs as before: {now.said}")
    return now
