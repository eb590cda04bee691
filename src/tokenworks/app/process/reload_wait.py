"""A reload as the command that asks for it sees it: the signal, and the wait for its end."""

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tokenworks.app.process.served import READY_S, TRIAL_S_MAX, Reload, read_reload, server_of
from tokenworks.kernel import Conflict, NotFound, Unavailable

# A reload that begins when the one that runs has ended.
RELOAD_WAIT_S: Final = 2 * (TRIAL_S_MAX + READY_S)
_LOOK_S: Final = 0.05


def wait_for_reload(data_dir: Path, told: Callable[[str], None]) -> Reload:
    """Ask the server for a reload and wait for its end. `told` gets each of its stages. Raises `NotFound`, `Unavailable`, and `Conflict` with why it was refused."""
    pid = server_of(data_dir)
    if pid is None:
        raise NotFound(f"no server runs in {data_dir}: start it with `tokenworks serve`")
    run_dir = data_dir / "run"
    before = read_reload(run_dir)
    # One that runs may have read its settings before they were changed: the next one counts.
    number = before.number + 1
    try:
        alive = os.pidfd_open(pid)
    except ProcessLookupError:
        raise NotFound(f"no server runs in {data_dir}: start it with `tokenworks serve`") from None
    try:
        return _wait(alive, run_dir, number, told)
    finally:
        os.close(alive)


def _wait(alive: int, run_dir: Path, number: int, told: Callable[[str], None]) -> Reload:
    signal.pidfd_send_signal(alive, signal.SIGHUP)
    until_s = time.monotonic() + RELOAD_WAIT_S
    said = ""
    while True:
        now = read_reload(run_dir)
        if now.number >= number and now.ended:
            break
        if select.select([alive], [], [], _LOOK_S)[0]:
            raise Unavailable("the server ended while it reloaded: its log says why")
        if (run_dir / "leaving").exists():
            raise Conflict("this server is being stopped: nothing is reloaded")
        if now.number >= number and now.said != said:
            said = now.said
            told(said)
        if time.monotonic() > until_s:
            raise Unavailable(
                f"the reload has not ended within {RELOAD_WAIT_S:g} s ({now.state}: {now.said}): the server's log says how it goes on"
            )
    if now.state == "failed":
        raise Conflict(f"not reloaded, the server runs as before: {now.said}")
    return now
