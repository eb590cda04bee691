"""`tokenworks bill`: the bill run, bills and credit notes."""

from pathlib import Path
from typing import Literal

import click
from rich.progress import Progress

from tokenworks.app import views
from tokenworks.app.output import money_text, print_json, print_table, say
from tokenworks.app.tables import console
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
)
from tokenworks.cli.options import LIST_DEFAULT, dry_run_option, idempotency_option
from tokenworks.cli.states import bill_state
from tokenworks.cli.trail import audited
from tokenworks.kernel import parse_money
from tokenworks.subscriptions import day_of, last_day


@click.command("run")
@audited()
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_run(context: Context, dry_run: bool, as_json: bool) -> None:
    """Bill all subscribers whose period has ended. It can be stopped and run again: no subscriber is billed twice."""
    with context.services() as services:
        count, amount = services.bills.due()
        if dry_run:
            text = f"{count} bill(s) over about {money_text(amount)} CNY would be made."
            print_result({"bills": count, "amount_nano": amount, "dry_run": True}, text, as_json)
            return
        with Progress(console=console, transient=True, disable=as_json) as bar:
            task = bar.add_task("Bills", total=count)
            made = services.bills.run_by_hand(lambda done: bar.update(task, completed=done))
    print_result(
        made,
        f"{made.bills} bill(s) with {made.lines} line(s) over {money_text(made.amount_nano)} CNY.",
        as_json,
    )


@click.command("list")
@click.option("--subscriber", help="Of this one alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@exact_option
@json_option
@pass_context
def bill_list(context: Context, subscriber: str | None, limit: int, as_json: bool) -> None:
    """Bills, newest first."""
    with context.services() as services:
        of = None if subscriber is None else services.subscriptions.find(subscriber)
        found, count = services.bills.all(of, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (b.bill_no, last_day(b.period_end), money_text(b.amount_nano), money_text(b.remaining_nano), b.state, day_of(b.due_at))
        for b in found
    ]  # fmt: skip
    columns = ["bill", "until", "CNY", "open", "state", "due"]
    print_table(f"Bills ({len(found)} of {count})", columns, rows, right=["CNY", "open"])


@click.command("show")
@click.argument("bill_no")
@exact_option
@json_option
@pass_context
def bill_show(context: Context, bill_no: str, as_json: bool) -> None:
    """A bill with its lines and corrections."""
    with context.services() as services:
        found = services.bills.find(bill_no)
        lines, notes = services.bills.lines(found), services.bills.credit_notes(found)
    if as_json:
        print_json({"bill": found, "lines": lines, "credit_notes": notes})
    else:
        views.print_issued_bill(found, lines, notes)


@click.command("export")
@click.argument("bill_no")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the PDF goes."
)
@click.option("--language", type=click.Choice(["zh", "en"]), help="Instead of the subscriber's own.")
@pass_context
def bill_export(context: Context, bill_no: str, out: Path, language: Literal["zh", "en"] | None) -> None:
    """A bill as a PDF."""
    with context.services() as services:
        pdf = services.documents.pdf(services.bills.find(bill_no), language)
    out.write_bytes(pdf)
    say(f"{out}: {len(pdf):,} bytes.")


@click.command("correct")
@audited(bill_state)
@click.argument("bill_no")
@click.option("--line", "line_no", type=int, required=True)
@click.option("--amount", required=True, help="In yuan.")
@click.option("--reason", required=True, help="Why; it is on the credit note.")
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_correct(
    context: Context, bill_no: str, line_no: int, amount: str, reason: str, idempotency_key: str | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Credit a part of a bill line with a credit note. The bill stays as it is; the note is taken off what is open on it."""
    amount_nano = parse_money(amount).amount_nano
    with context.services() as services, services.transaction(dry_run=dry_run):
        found = services.bills.find(bill_no)
        note = services.bills.correct(found, line_no, amount_nano, reason, idempotency_key)
        if not dry_run:
            services.approvals.check(
                context.actor, "bill.correct", str(found.bill_id), note.amount_nano, idempotency_key
            )
    dry = " (dry run)" if dry_run else ""
    print_result(
        note, f"Credit note {note.credit_note_no} over {money_text(note.amount_nano)} CNY{dry}.", as_json
    )
