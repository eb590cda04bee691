"""`tokenworks audit`: the audit trail."""

import click

from tokenworks.app.output import json_text, print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context
from tokenworks.cli.options import LIST_DEFAULT


@click.command()
@click.option("--ref", help="Of this subscriber, product, order, bill … alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def audit(context: Context, ref: str | None, limit: int, as_json: bool) -> None:
    """Who did what to what, newest first."""
    with context.services() as services:
        found, count = services.identity.audited(ref, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (f"{row['at']:%Y-%m-%d %H:%M:%S}", row["actor"], row["role"], row["address"] or "", row["action"], row["ref"], json_text(row["after"], None))
        for row in found
    ]  # fmt: skip
    print_table(
        f"Audit trail ({len(found)} of {count})", ["at", "who", "role", "from", "did", "to", "with"], rows
    )
