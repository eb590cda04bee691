"""`tokenworks serve` and `tokenworks reload`."""

import sys

import click
import msgspec

from tokenworks.app.output import print_json, say
from tokenworks.app.process.reload_wait import wait_for_reload
from tokenworks.cli.base import SINGLE_ROLE, Context, json_option, pass_context


@click.command()
@click.option("--listen", help="The public port, HOST:PORT.")
@click.option("--admin-listen", help="The admin port, HOST:PORT.")
@click.option("--staff-listen", help="The staff port, HOST:PORT, for /ops.")
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
    staff_listen: str | None,
    workers: int | None,
    single_role: bool | None,
    check: bool,
) -> None:
    """Serve until SIGTERM or Ctrl-C. SIGHUP, or `tokenworks reload`, takes new settings and a new release."""
    from tokenworks.app.database.archive import configure_archive  # noqa: PLC0415
    from tokenworks.app.logs import configure_logs  # noqa: PLC0415
    from tokenworks.app.process.supervisor import Supervisor  # noqa: PLC0415
    from tokenworks.app.process.trial import try_start  # noqa: PLC0415

    options = {} if single_role is None else {"single_role": single_role}
    settings = context.settings(
        listen=listen, admin_listen=admin_listen, staff_listen=staff_listen, workers=workers, **options
    )
    configure_logs(settings.log_level, settings.log_format, "supervisor")
    if check:
        say(msgspec.json.encode(try_start(settings)).decode())
        return
    configure_archive(settings)

    def ready(public: str, admin: str, staff: str | None) -> None:
        scheme = "https" if settings.tls_key else "http"
        say(f"Serving {scheme}://{public}/v1 with {settings.workers} worker(s); admin http://{admin}/metrics")
        if staff is not None:
            say(f"Serving staff {scheme}://{staff}/ops")
        sys.stdout.flush()

    sys.exit(Supervisor(settings).run(ready))


@click.command()
@json_option
@pass_context
def reload(context: Context, as_json: bool) -> None:
    """Reload the server of this data directory: it takes new settings and a new release without closing its ports.

    Waits until new processes serve. Ends with 1, and the server serves as before, where they would not start.
    """
    done = wait_for_reload(context.data_dir, lambda stage: say(f"{stage}…", err=True))
    if as_json:
        print_json({"number": done.number, "release": done.release, "finishing": done.retired})
        return
    left = f"; {done.retired} processes of before finish what they serve" if done.retired else ""
    say(f"Reloaded: release {done.release} serves{left}.")
