"""Would this release start with these settings, beside the server that runs? (`tokenworks serve --check`)

It makes what a server makes, without listening and without a record: the checks of a start, all processes' code, the control plane's
routes, a worker with the catalogue and the deployments of now. The supervisor runs it in a process of its own before it takes a new
release or new settings, and takes them only where it promises that they fit.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from tokenworks import __version__
from tokenworks.app.database.connections import connect, database
from tokenworks.app.logs import masked
from tokenworks.app.process.handover import FORM, Promise, fixed
from tokenworks.app.process.host_secrets import ProcessSecrets
from tokenworks.app.process.served import TRIAL_S_MAX
from tokenworks.app.process.starting import check_edge, check_start
from tokenworks.app.settings import Settings
from tokenworks.charging import SNAPSHOT, wire
from tokenworks.kernel import SystemClock, shown

SAID_CHARS_MAX: Final = 500
OUTPUT_BYTES_MAX: Final = 65_536
_OURS: Final = "tokenworks: "


def try_start(settings: Settings) -> Promise:
    """Raises what a start of this release with these settings would fail for."""
    check_edge(settings)
    with database(settings) as url:
        found = check_start(settings, url)
        # What runs beside this one is not to wait for what is not needed there.
        from tokenworks.app.process import control, host_metrics, worker  # noqa: PLC0415
        from tokenworks.app.process.recorder import read_snapshot  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            # What a process has of secrets is said of those that serve alone.
            secrets = ProcessSecrets(settings.secrets, Path(folder), "trial", found.peppers, found.vault)
            control.make_control_app(lambda: url, settings, secrets)
        host_metrics.make_admin_app(host_metrics.HostMetrics(settings))
        with contextlib.closing(connect(url)) as connection:
            snapshot = read_snapshot(connection, SystemClock(settings.clock_shift_s))
    asyncio.run(worker.rehearse(settings, SNAPSHOT.decode(SNAPSHOT.encode(snapshot.wire(1)))))
    return Promise(
        release=__version__,
        form=FORM,
        takes_wire=sorted(wire.TAKES),
        fixed=fixed(settings),
        listen=settings.listen,
        admin_listen=settings.admin_listen,
        may_change_history=found.may_change_history,
        cluster=found.cluster,
    )


class Trial:
    """A running `serve --check` with the arguments and the environment of this process; code and settings are read anew."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (they live as long as this does)
        self._failed = tempfile.TemporaryFile()  # noqa: SIM115
        self._until_s = time.monotonic() + TRIAL_S_MAX
        self._process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:], "--check"],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._failed,
            start_new_session=True,
        )

    def result(self) -> Promise | str | None:
        """What it promises, or why it would not start; None while it runs."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._until_s:
                return None
            self.end()
            return f"a trial of the new release or settings did not end within {TRIAL_S_MAX:g} s"
        said, failed = _lines(self._said), _lines(self._failed)
        self.end()
        if code:
            return _why(failed, code)
        try:
            return msgspec.json.decode(said[-1], type=Promise)
        except (IndexError, msgspec.DecodeError) as error:
            return f"a trial of the new release said what this one does not understand: {error}"

    def end(self) -> None:
        """It is not waited for any more."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._said.close()
        self._failed.close()


def _lines(file: BinaryIO) -> list[str]:
    """The last lines of what was said."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - OUTPUT_BYTES_MAX))
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _why(failed: list[str], code: int) -> str:
    """The sentence of a command that was refused, or the last line of what it broke with."""
    ours = [line.removeprefix(_OURS) for line in failed if line.startswith(_OURS)]
    said = ours[-1] if ours else failed[-1] if failed else f"it ended with {code}"
    return shown(masked(said))[:SAID_CHARS_MAX]


__all__ = ["Trial", "try_start"]
