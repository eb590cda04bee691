"""`tokenworks database`: the database's address, and psql in it."""

import sys

import click

from tokenworks.app.output import say
from tokenworks.app.psql import run_psql, url_of, without_password
from tokenworks.cli.base import Context, json_option, pass_context, print_result

_owner_option = click.option(
    "--owner", is_flag=True, help="As the owner, who may change history. Not for services."
)


@click.command("url")
@_owner_option
@json_option
@pass_context
def database_url(context: Context, owner: bool, as_json: bool) -> None:
    """The database's URL, as the role that serves. A password is left out of it; the embedded one has none."""
    settings = context.installed()
    url = url_of(settings, owner=owner)
    if owner:
        say(
            "This role may change history, past every check: use it for what no command does, and say so.",
            err=True,
        )
    if not settings.database_url:
        say("The embedded database is up while a server or a command of Tokenworks runs.", err=True)
    print_result({"url": without_password(url), "owner": owner}, without_password(url), as_json)


@click.command("psql")
@_owner_option
@click.option("-c", "statement", help="Run this, and end.")
@pass_context
def database_psql(context: Context, owner: bool, statement: str | None) -> None:
    """Run psql in the database, as the role that serves; starts the embedded server where it does not run."""
    settings = context.installed()
    if owner:
        say(
            "This role may change history, past every check: use it for what no command does, and say so.",
            err=True,
        )
    sys.exit(run_psql(settings, owner=owner, statement=statement))
