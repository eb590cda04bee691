"""`tokenworks usage`: usage records."""

import click

from tokenworks import charging
from tokenworks.app import views
from tokenworks.app.output import print_json
from tokenworks.cli.base import Context, json_option
from tokenworks.cli.lazy import Noun
from tokenworks.cli.options import LIST_DEFAULT, since_of


@click.group(cls=Noun, path="usage", invoke_without_command=True)
@click.option(
    "--subscriber",
    help="Required: its id, phone number (+8613800000001, or 13800000001), its last four digits, broadband number, name or a part of it.",
)
@click.option("--since", help="A time (2026-11-23T08:00) or a span (15m, 24h, 7d).")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@click.option("--by-member", is_flag=True, help="Who spent how much, in place of the records.")
@click.option(
    "--by",
    multiple=True,
    help="Exact sums by day, model, member, key, protocol or tag:<name> (again for more), in place of the records.",
)
@click.option(
    "--tag", "tags", multiple=True, help="Sum only records with this tag, name=value (again for more)."
)
@json_option
@click.pass_context
def usage(
    ctx: click.Context,
    subscriber: str | None,
    since: str | None,
    limit: int,
    by_member: bool,
    by: tuple[str, ...],
    tags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Usage records, newest first; or the usage of each member, or sums by day, model or tag. `usage show` follows one request."""
    if ctx.invoked_subcommand is not None:
        return
    if subscriber is None:
        named = next(param for param in ctx.command.params if param.name == "subscriber")
        raise click.MissingParameter(ctx=ctx, param=named)
    at = since_of(since)
    with ctx.find_object(Context).services() as services:  # type: ignore[union-attr]  # the program's own
        found = services.subscriptions.find(subscriber)
        if by or tags:
            sums = services.ledger.usage_sums(
                found.account_id, by or ("model",), at, tags=charging.tags_of_texts(tags), limit=limit
            )
            if as_json:
                print_json(sums)
            else:
                views.print_usage_sums(sums)
            return
        names = {member.member_id: member.name for member in services.members.of(found)}
        if by_member:
            rows = services.ledger.usage_by_member(found.account_id, at)
        else:
            rows = services.ledger.usage(found.account_id, at, limit)
    for row in rows:
        row["member"] = names.get(row["member_id"])
    if as_json:
        print_json(rows)
    elif by_member:
        views.print_usage_by_member(rows)
    else:
        views.print_usage("Usage", rows)
