"""`tokenworks serve` and `tokenworks reload`."""

import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from tokenworks.app.output import print_json, say
from tokenworks.app.served import READY_S, TRIAL_S_MAX, Reload, read_reload, server_of
from tokenworks.cli.base import SINGLE_ROLE, Context, json_option, pass_context
from tokenworks.kernel import Conflict, NotFound, Unavailable

# A reload that begins when the one that runs has ended.
RELOAD_WAIT_S: Final = 2 * (TRIAL_S_MAX + READY_S)
_LOOK_S: Final = 0.05


@click.command()
@click.option("--listen", help="The public port, HOST:PORT.")
@click.option("--admin-listen", help="The admin port, HOST:PORT.")
@click.option("--workers", type=int, help="Data-plane processes.")
@click.option("--single-role", is_flag=True, default=None, help=SINGLE_ROLE)
@click.option(
    "--check",
    is_flag=True,
    help="Say whether a server would start so, beside the one that runs; serve nothing.",
)
@pass_context
def serve(
    context: Context,
    listen: str | None,
    admin_listen: str | None,
    workers: int | None,
    single_role: bool | None,
    check: bool,
) -> None:
    """Serve until SIGTERM or Ctrl-C. SIGHUP, or `tokenworks reload`, takes new settings and a new release."""
    from tokenworks.app.archive import configure_archive  # noqa: PLC0415
    from tokenworks.app.logs import configure_logs  # noqa: PLC0415
    from tokenworks.app.supervisor import Supervisor  # noqa: PLC0415
    from tokenworks.app.trial import try_start  # noqa: PLC0415

    options = {} if single_role is None else {"single_role": single_role}
    settings = context.settings(listen=listen, admin_listen=admin_listen, workers=workers, **options)
    configure_logs(settings.log_level, settings.log_format, "supervisor")
    if check:
        say(msgspec.json.encode(try_start(settings)).decode())
        return
    configure_archive(settings)

    def ready(public: str, admin: str) -> None:
        scheme = "https" if settings.tls_key else "http"
        say(f"Serving {scheme}://{public}/v1 with {settings.workers} worker(s); admin http://{admin}/metrics")
        sys.stdout.flush()

    sys.exit(Supervisor(settings).run(ready))


@click.command()
@json_option
@pass_context
def reload(context: Context, as_json: bool) -> None:
    """Have the server of this data directory take its settings and its release anew, without closing its ports.

    Waits until new processes serve. Ends with 1, and the server serves as before, where they would not start.
    """
    done = wait_for_reload(context.data_dir)
    if as_json:
        print_json({"number": done.number, "release": done.release, "finishing": done.retired})
        return
    left = f"; {done.retired} processes of before finish what they serve" if done.retired else ""
    say(f"Reloaded: release {done.release} serves{left}.")


def wait_for_reload(data_dir: Path) -> Reload:
    """Ask the server for a reload and wait for its end. Raises `NotFound`, `Unavailable`, and `Conflict` with why it was refused."""
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
        return _wait(alive, run_dir, number)
    finally:
        os.close(alive)


def _wait(alive: int, run_dir: Path, number: int) -> Reload:
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
            say(f"{said}…", err=True)
        if time.monotonic() > until_s:
            raise Unavailable(
                f"the reload has not ended within {RELOAD_WAIT_S:g} s ({now.state}: {now.said}): the server's log says how it goes on"
            )
    if now.state == "failed":
        raise Conflict(f"not reloaded, the server runs as before: {now.said}")
    return now


__all__ = ["reload", "serve", "wait_for_reload"]
