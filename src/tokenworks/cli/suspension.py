"""`tokenworks subscriber suspend | resume | suspensions`."""

from collections.abc import Callable

import click

from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Command, Context, json_option, pass_context, print_result, subscriber_option
from tokenworks.cli.states import subscriber_state
from tokenworks.cli.trail import audited
from tokenworks.subscriptions import BILLING_ZONE, SUSPENSIONS, Subscriber, SuspensionCause

_cause_option: Callable[[Command], Command] = click.option(
    "--cause",
    type=click.Choice([cause for cause in SUSPENSIONS if cause != "payment"]),
    default="operator",
    show_default=True,
    help="Each cause is lifted by itself; by payment dunning alone suspends, and paying lifts it.",
)


_why_option: Callable[[Command], Command] = click.option("--reason", required=True, help="Why; it is kept.")


@click.command("suspend")
@audited(subscriber_state)
@subscriber_option
@_cause_option
@_why_option
@json_option
@pass_context
def subscriber_suspend(
    context: Context, subscriber: str, cause: SuspensionCause, reason: str, as_json: bool
) -> None:
    """Suspend a subscriber: no requests are served; nothing new is charged meanwhile, except where a phone is lost."""
    with context.services() as services:
        found = services.subscriptions.suspend(services.subscriptions.find(subscriber), cause, reason)
    print_result(found, f"Subscriber {found.subscriber_id} is suspended by {_by(found)}.", as_json)


@click.command("resume")
@audited(subscriber_state)
@subscriber_option
@_cause_option
@_why_option
@json_option
@pass_context
def subscriber_resume(
    context: Context, subscriber: str, cause: SuspensionCause, reason: str, as_json: bool
) -> None:
    """End the suspension for one cause. Where nothing else suspends it, plans that waited begin their next cycle now."""
    with context.services() as services:
        found = services.subscriptions.lift(services.subscriptions.find(subscriber), cause, reason)
    text = f"still suspended by {_by(found)}" if found.suspended_by else "active"
    print_result(found, f"Subscriber {found.subscriber_id} is {text}.", as_json)


def _by(found: Subscriber) -> str:
    return ", ".join(cause.replace("_", " ") for cause in found.suspended_by)


@click.command("suspensions")
@subscriber_option
@json_option
@pass_context
def subscriber_suspensions(context: Context, subscriber: str, as_json: bool) -> None:
    """The suspensions of a subscriber, newest first."""
    with context.services() as services:
        found = services.subscriptions.suspensions(services.subscriptions.find(subscriber))
    if as_json:
        print_json(found)
        return
    rows = [
        (s.cause.replace("_", " "), f"{s.began_at.astimezone(BILLING_ZONE):%Y-%m-%d %H:%M}",
         "" if s.ended_at is None else f"{s.ended_at.astimezone(BILLING_ZONE):%Y-%m-%d %H:%M}", s.reason or "")
        for s in found
    ]  # fmt: skip
    print_table("Suspensions", ["cause", "from", "until", "why"], rows)
