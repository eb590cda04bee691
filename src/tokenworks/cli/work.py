"""`tokenworks order work`: what other systems deliver."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
    said,
)
from tokenworks.cli.trail import audited
from tokenworks.subscriptions import WorkOrder


def _work_now(services: AppServices, params: Mapping[str, Any]) -> object:
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
    """Whether the delivering system has it, where it is sent there."""
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
    """A delivery is done, or refused: then its whole order fails, and what it charged is credited."""
    with context.services() as services:
        state = services.orders.answer(work_order_id, done=done, reason=reason, again=again)
    said({"work_order_id": work_order_id, "state": state}, f"The work order is {state}.", as_json)
