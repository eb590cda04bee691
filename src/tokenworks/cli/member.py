"""`tokenworks member`: people and departments that spend from an account."""

import click

from tokenworks.app import views
from tokenworks.app.bootstrap import AppServices
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.options import dry_run_option
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import CapPeriod

_cap_tokens = click.option("--cap-tokens", type=int, help="The most that it may use in a period.")


_cap_period = click.option(
    "--cap-period", type=click.Choice(["day", "month", "total"]), default="month", show_default=True
)


def _member_now(services: AppServices, params: Params) -> object:
    found = services.subscriptions.find(params["subscriber"])
    names = [params[name] for name in ("reference", "giver", "taker", "name") if params.get(name)]
    members = [member for name in names for member in [services.members.find(found, name)]]
    caps = {
        b.cap_of: b.left for b in services.ledger.buckets(found.account_id) if b.cap_of and b.closing is None
    }
    return {
        m.name: {"role": m.role, "cap_tokens": m.cap_tokens, "cap_period": m.cap_period, "left": caps.get(m.member_id)}
        for m in members
    }  # fmt: skip


@click.command("add")
@audited(_member_now)
@subscriber_option
@click.option("--name", required=True)
@click.option("--department", is_flag=True, help="A department, which others can be under.")
@click.option("--under", help="The department that it is under: its id or name.")
@_cap_tokens
@_cap_period
@json_option
@pass_context
def member_add(
    context: Context,
    subscriber: str,
    name: str,
    department: bool,
    under: str | None,
    cap_tokens: int | None,
    cap_period: CapPeriod,
    as_json: bool,
) -> None:
    """Add a person, or a department (two levels deep)."""
    with context.services() as services:
        made = services.members.add(
            services.subscriptions.find(subscriber),
            name,
            department=department,
            parent=under,
            cap_tokens=cap_tokens,
            cap_period=cap_period,
        )
    print_result(
        {"member_id": made.member_id, "name": made.name}, f"{made.name}: member {made.member_id}.", as_json
    )


@click.command("cap")
@audited(_member_now)
@subscriber_option
@click.option("--member", "reference", required=True, help="Its id or name.")
@_cap_tokens
@_cap_period
@json_option
@pass_context
def member_cap(
    context: Context,
    subscriber: str,
    reference: str,
    cap_tokens: int | None,
    cap_period: CapPeriod,
    as_json: bool,
) -> None:
    """Set a member's cap; without --cap-tokens it has none."""
    with context.services() as services:
        found = services.members.find(services.subscriptions.find(subscriber), reference)
        services.members.set_cap(found, cap_tokens, cap_period)
    text = "no cap" if cap_tokens is None else f"{cap_tokens} tokens ({cap_period})"
    print_result({"member_id": found.member_id, "cap_tokens": cap_tokens}, f"{found.name}: {text}.", as_json)


@click.command("transfer")
@audited(_member_now)
@subscriber_option
@click.option("--from", "giver", required=True, help="A member's or department's id or name.")
@click.option("--to", "taker", required=True, help="As --from.")
@click.option("--tokens", type=click.IntRange(min=1), required=True)
@click.option("--reason", required=True, help="Why; it is kept.")
@click.option("--idempotency-key", required=True, help="The same key again is the same transfer.")
@dry_run_option
@json_option
@pass_context
def member_transfer(
    context: Context,
    subscriber: str,
    giver: str,
    taker: str,
    tokens: int,
    reason: str,
    idempotency_key: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Transfer a part of a member's cap to another member, in the current periods. The pool's balance stays."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        found = services.subscriptions.find(subscriber)
        made = services.members.transfer(
            found,
            services.members.find(found, giver),
            services.members.find(found, taker),
            tokens,
            reason,
            made_by=context.actor,
            idempotency_key=idempotency_key,
        )
    dry = " (dry run)" if dry_run else ""
    print_result(made, f"{tokens:,} tokens from {giver} to {taker}{dry}.", as_json)


@click.command("list")
@subscriber_option
@json_option
@pass_context
def member_list(context: Context, subscriber: str, as_json: bool) -> None:
    """Members with their caps and the usage of each cap in the current period."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        members = services.members.of(found)
        used = services.ledger.used_of_caps(found.account_id, services.clock.now())
    views.print_members(members, used, as_json=as_json)
