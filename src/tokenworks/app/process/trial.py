"""A trial start of this release with these settings, beside the server that runs (`tokenworks serve --check`).

The trial makes the parts of a server without listening and without recording: the checks of a start, the code of all processes, the
control plane's routes, a worker with the current catalogue and deployments. The supervisor runs the trial in a separate process before
it takes a new release or new settings, and takes them only where the trial's promise fits.
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

REASON_CHARS_MAX: Final = 500
OUTPUT_BYTES_MAX: Final = 65_536
_OURS: Final = "tokenworks: "


def try_start(settings: Settings) -> Promise:
    """Raises the error with which a start of this release with these settings would fail."""
    check_edge(settings)
    with database(settings) as url:
        facts = check_start(settings, url)
        # Imported after the checks: a trial that fails should fail soon.
        from tokenworks.app.process import control, host_metrics, worker  # noqa: PLC0415
        from tokenworks.app.process.stored_snapshot import read_snapshot  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            # In a folder of its own: the run directory has the reports of serving processes only.
            secrets = ProcessSecrets(settings.secrets, Path(folder), "trial", facts.peppers, facts.vault)
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
        may_change_history=facts.may_change_history,
        cluster=facts.cluster,
        staff_listen=settings.staff_listen,
    )


class Trial:
    """A running `serve --check` with the arguments and the environment of this process; it reads code and settings afresh."""

    def __init__(self) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (`end` closes both)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._until_s = time.monotonic() + TRIAL_S_MAX
        self._process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:], "--check"],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )

    def result(self) -> Promise | str | None:
        """The promise, or why the new program would not start; None while the trial runs."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._until_s:
                return None
            self.end()
            return f"a trial of the new release or settings did not end within {TRIAL_S_MAX:g} s"
        output, errors = _lines(self._output), _lines(self._errors)
        self.end()
        if code:
            return _why(errors, code)
        try:
            return msgspec.json.decode(output[-1], type=Promise)
        except (IndexError, msgspec.DecodeError) as error:
            return f"a trial of the new release said what this one does not understand: {error}"

    def end(self) -> None:
        """Kill the trial where it still runs, and close its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()
        self._errors.close()


def _lines(file: BinaryIO) -> list[str]:
    """The last lines of a file that are not empty."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - OUTPUT_BYTES_MAX))
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _why(errors: list[str], code: int) -> str:
    """The sentence of a refused command, or the last line of a traceback."""
    sentences = [line.removeprefix(_OURS) for line in errors if line.startswith(_OURS)]
    reason = sentences[-1] if sentences else errors[-1] if errors else f"it ended with {code}"
    return shown(masked(reason))[:REASON_CHARS_MAX]


__all__ = ["Trial", "try_start"]
