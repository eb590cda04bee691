"""`tokenworks order work`: what other systems deliver."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
    print_result,
)
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import WorkOrder


def _work_now(services: AppServices, params: Params) -> object:
    return next(w for w in services.orders.work_orders(None) if w.work_order_id == params["work_order_id"])


@click.command("list")
@json_option
@pass_context
def order_work_list(context: Context, as_json: bool) -> None:
    """Open work orders, oldest first."""
    with context.services() as services:
        found = services.orders.work_orders()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            w.work_order_id,
            w.port,
            w.action,
            w.offering_id,
            w.delivery or "",
            w.attempts,
            w.reason or "",
            _pushed(w),
        )
        for w in found
    ]
    columns = ["work order", "port", "action", "offering", "as", "attempt", "said last", "sent"]
    print_table("Work orders", columns, rows, right=["attempt"])


def _pushed(work: WorkOrder) -> str:
    """When the work order was sent to the delivering system, or the error; empty where it is not sent."""
    return work.push_error or ("" if work.pushed_at is None else f"{work.pushed_at:%Y-%m-%d %H:%M}")


@click.command("answer")
@audited(_work_now)
@click.argument("work_order_id", type=click.UUID)
@click.option("--done/--refused", required=True, default=None, help="What the delivering system says.")
@click.option("--reason")
@click.option("--again", is_flag=True, help="Refused for now: it is asked for again, three times in all.")
@json_option
@pass_context
def order_work_answer(
    context: Context, work_order_id: UUID, done: bool, reason: str | None, again: bool, as_json: bool
) -> None:
    """Enter that a delivery is done or refused; with a refusal the whole order fails, and its charges are credited."""
    with context.services() as services:
        state = services.orders.answer(work_order_id, done=done, reason=reason, again=again)
    print_result({"work_order_id": work_order_id, "state": state}, f"The work order is {state}.", as_json)
