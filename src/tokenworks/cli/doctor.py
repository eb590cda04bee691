"""`tokenworks doctor`: is this host fit to serve?"""

import sys

import click

from tokenworks.app.output import print_json, say
from tokenworks.cli.base import Context, json_option, pass_context


@click.command()
@json_option
@pass_context
def doctor(context: Context, as_json: bool) -> None:
    """Check this host: secrets, database, clock, disk, limits, ports, certificate, fleet. Changes nothing.

    Ends with 1 where a check failed; a warning is none.
    """
    from tokenworks.app.doctor import examine  # noqa: PLC0415

    found = list(examine(context.settings()))
    failed = [one.check for one in found if one.state == "failed"]
    if as_json:
        print_json({"fit": not failed, "checks": [one._asdict() for one in found]})
    else:
        for one in found:
            say(f"{one.state:8} {one.check}: {one.said}")
            if one.todo:
                say(f"         {one.todo}")
        say(f"Not fit to serve: {', '.join(failed)}." if failed else "Fit to serve.")
    sys.exit(1 if failed else 0)
