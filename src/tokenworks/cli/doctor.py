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
    failed = [finding.check for finding in found if finding.state == "failed"]
    if as_json:
        print_json({"fit": not failed, "checks": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            say(f"{finding.state:8} {finding.check}: {finding.said}")
            if finding.todo:
                say(f"         {finding.todo}")
        say(f"Not fit to serve: {', '.join(failed)}." if failed else "Fit to serve.")
    sys.exit(1 if failed else 0)
