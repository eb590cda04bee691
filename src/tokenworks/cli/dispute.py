"""`tokenworks bill dispute`: questions about bill lines."""

from typing import Literal
from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table, say
from tokenworks.billing import Dispute
from tokenworks.charging import FEN_NANO
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.options import LIST_DEFAULT
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import format_money
from tokenworks.subscriptions import BILLING_ZONE


def _dispute_now(services: AppServices, params: Params) -> object:
    if "dispute_id" in params:
        return services.disputes.find(params["dispute_id"])
    return services.disputes.of_bills([services.bills.find(params["bill_no"])])


@click.command("list")
@click.option("--state", type=click.Choice(["open", "answered", "all"]), default="open", show_default=True)
@click.option("--subscriber", help="Of this one alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def bill_dispute_list(
    context: Context,
    state: Literal["open", "answered", "all"],
    subscriber: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Questions about bill lines, oldest first."""
    with context.services() as services:
        of = None if subscriber is None else services.subscriptions.find(subscriber)
        found, count = services.disputes.all(of, None if state == "all" else state, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (d.dispute_id, f"{d.bill_no} / {d.line_no}", _money(d), _day(d), d.state, d.question.replace("\n", " "))
        for d in found
    ]  # fmt: skip
    columns = ["dispute", "bill / line", "CNY", "asked", "state", "question"]
    print_table(f"Disputes ({len(found)} of {count})", columns, rows, right=["CNY"])


@click.command("show")
@click.argument("dispute_id", type=click.UUID)
@json_option
@pass_context
def bill_dispute_show(context: Context, dispute_id: UUID, as_json: bool) -> None:
    """A question with its bill line and its answer."""
    with context.services() as services:
        found = services.disputes.find(dispute_id)
    if as_json:
        print_json(found)
        return
    say(f"Bill {found.bill_no}, line {found.line_no}: {found.description}, {_money(found)} CNY.")
    say(f"Asked on {_day(found)}: {found.question}")
    say(f"Answered by {found.answered_by}: {found.answer}" if found.answer else "Not answered yet.")


@click.command("ask")
@audited(_dispute_now)
@click.argument("bill_no")
@click.option("--line", "line_no", type=click.IntRange(1), required=True)
@click.option("--text", required=True, help="What the subscriber questions, in its own words.")
@json_option
@pass_context
def bill_dispute_ask(context: Context, bill_no: str, line_no: int, text: str, as_json: bool) -> None:
    """Enter a question for a subscriber who calls."""
    with context.services() as services:
        made = services.disputes.ask(services.bills.find(bill_no), line_no, text)
    print_result(made, f"Dispute {made.dispute_id}: line {line_no} of bill {made.bill_no}.", as_json)


@click.command("answer")
@audited(_dispute_now)
@click.argument("dispute_id", type=click.UUID)
@click.option("--text", required=True, help="What the subscriber is told.")
@json_option
@pass_context
def bill_dispute_answer(context: Context, dispute_id: UUID, text: str, as_json: bool) -> None:
    """Answer a question; the subscriber is told, and reads it on the bill page. `bill correct` gives money back."""
    with context.services() as services:
        made = services.disputes.answer(dispute_id, text, context.actor)
    print_result(made, f"Line {made.line_no} of bill {made.bill_no} is answered.", as_json)


def _money(dispute: Dispute) -> str:
    """A line's amount: whole fen, as billed."""
    assert not dispute.amount_nano % FEN_NANO
    return format_money(dispute.amount_nano)


def _day(dispute: Dispute) -> str:
    return f"{dispute.asked_at.astimezone(BILLING_ZONE):%Y-%m-%d}"
