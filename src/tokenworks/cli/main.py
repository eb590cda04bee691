"""The command line. An error is one sentence on stderr with exit code 1, a usage error has exit code 2; no traceback is printed.

`tokenworks --help` loads this module and its imports only: see `lazy.py`.
"""

import io
import sys

import click

from tokenworks import __version__, compiled
from tokenworks.app.edge import guard
from tokenworks.app.output import say
from tokenworks.cli.base import SINGLE_ROLE, Context
from tokenworks.cli.lazy import Noun
from tokenworks.kernel import TokenworksError


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        say(f"tokenworks, version {__version__} ({compiled.state()})")
        context.exit()


@click.group(cls=Noun, path="", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, and whether it is compiled, and exit.",
)
@click.option("--data-dir", help="Where everything lives (default: ./data, or TOKENWORKS_DATA_DIR).")
@click.option("--single-role", is_flag=True, help=SINGLE_ROLE)
@click.pass_context
def cli(context: click.Context, data_dir: str | None, single_role: bool) -> None:
    """Tokenworks sells AI tokens, meters them and charges them exactly."""
    context.obj = Context(data_dir, single_role=single_role)


guard(cli)


def main() -> None:
    """The entry point: an error of Tokenworks is printed as one sentence."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        # The message quotes arguments, which may have characters that act in a terminal.
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip("\n"), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except TokenworksError as error:
        say(f"tokenworks: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        say(
            f"tokenworks: {error.strerror or error}{f': {error.filename}' if error.filename else ''}",
            err=True,
        )
        sys.exit(1)
    except Exception as error:
        if not _is_database_error(error):
            raise
        say(f"tokenworks: the database refused: {str(error).splitlines()[0]}", err=True)
        sys.exit(1)


def _is_database_error(error: Exception) -> bool:
    """True for an error of the database driver. A driver that is not imported has raised no error."""
    driver = sys.modules.get("psycopg")
    return driver is not None and isinstance(error, driver.Error)
