"""`tokenworks config`: the settings in effect."""

import click

from tokenworks.app.output import print_json, print_table
from tokenworks.app.settings import Settings, shown
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
)


@click.command("show")
@json_option
@pass_context
def config_show(context: Context, as_json: bool) -> None:
    """The effective settings and where each came from; secrets are masked."""
    effective = context.effective()
    rows = [
        {
            "name": name,
            "value": shown(name, getattr(effective.settings, name)),
            "from": effective.origins[name],
        }
        for name in Settings.model_fields
    ]
    if as_json:
        print_json(rows)
    else:
        print_table("Settings", ["name", "value", "from"], [(r["name"], r["value"], r["from"]) for r in rows])
