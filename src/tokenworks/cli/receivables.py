"""The commands for money that did not go its usual way: reversals, cases to reconcile, bills the carrier does not collect."""

from typing import Final, Literal
from uuid import UUID

import click

from tokenworks.app.output import money_text, print_json, print_table
from tokenworks.cli.base import Context, exact_option, json_option, pass_context, said, subscriber_option
from tokenworks.cli.shop import LIST_DEFAULT, bill, dry_run_option
from tokenworks.subscriptions import day_of

limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
reason_option = click.option("--reason", required=True, help="Why; it is kept.")


@bill.command("payments")
@click.option("--subscriber", help="Of this one alone.")
@limit_option
@exact_option
@json_option
@pass_context
def bill_payments(context: Context, subscriber: str | None, limit: int, as_json: bool) -> None:
    """Payments, newest first."""
    with context.works() as works:
        of = None if subscriber is None else works.subscriptions.find(subscriber)
        found, count = works.payments.all(of, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (p.payment_id, day_of(p.paid_at), p.method, p.reference, money_text(p.amount_nano),
         day_of(p.reversed_at) if p.reversed_at else "")
        for p in found
    ]  # fmt: skip
    columns = ["payment", "at", "by", "reference", "CNY", "reversed"]
    print_table(f"Payments ({len(found)} of {count})", columns, rows, right=["CNY"])


@bill.command("reverse")
@click.argument("payment_id", type=click.UUID)
@reason_option
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_reverse(context: Context, payment_id: UUID, reason: str, dry_run: bool, as_json: bool) -> None:
    """Take a payment back: a chargeback, or a booking by mistake. What it paid is open again."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        made = works.payments.reverse(works.payments.find(payment_id), reason)
        if not dry_run:
            # A payment is reversed once: it is its own key.
            works.approvals.check(
                context.actor, "payment.reverse", str(payment_id), made.amount_nano, str(payment_id)
            )
    dry = " (dry run)" if dry_run else ""
    said(made, f"Payment {payment_id} over {money_text(made.amount_nano)} CNY is reversed{dry}.", as_json)


@bill.command("cases")
@click.option("--all", "everything", is_flag=True, help="Closed ones, too.")
@limit_option
@exact_option
@json_option
@pass_context
def bill_cases(context: Context, everything: bool, limit: int, as_json: bool) -> None:
    """Money whose place a person has to find, oldest first."""
    with context.works() as works:
        found, count = works.payments.cases(still_open=not everything, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (c.case_id, day_of(c.opened_at), c.kind, money_text(c.amount_nano), c.resolution or "open")
        for c in found
    ]  # fmt: skip
    columns = ["case", "since", "kind", "CNY", "resolution"]
    print_table(f"Cases to reconcile ({len(found)} of {count})", columns, rows, right=["CNY"])


@bill.command("close-case")
@click.argument("case_id", type=click.UUID)
@click.option("--resolution", required=True, help="Where the money belongs; it is kept.")
@dry_run_option
@json_option
@pass_context
def bill_close_case(context: Context, case_id: UUID, resolution: str, dry_run: bool, as_json: bool) -> None:
    """Say what became of a case, and close it. No money moves."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        closed = works.payments.close_case(case_id, resolution)
    said(closed, f"Case {case_id} is closed{' (dry run)' if dry_run else ''}.", as_json)


@bill.command("direct")
@limit_option
@exact_option
@json_option
@pass_context
def bill_direct(context: Context, limit: int, as_json: bool) -> None:
    """Open bills that are collected from subscribers themselves: of closed ones, and what was moved. Oldest first."""
    with context.works() as works:
        found, count = works.payments.direct(0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (b.bill_no, b.subscriber_id, money_text(b.remaining_nano), day_of(b.due_at))
        for b in found
    ]  # fmt: skip
    print_table(
        f"Collected directly ({len(found)} of {count})",
        ["bill", "subscriber", "open", "due"],
        rows,
        right=["open"],
    )


@bill.command("resend")
@click.argument("bill_no")
@reason_option
@dry_run_option
@json_option
@pass_context
def bill_resend(context: Context, bill_no: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Send a bill to the carrier again that was rejected too often."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        made = works.payments.resend(works.bills.find(bill_no), reason)
    said(made, f"Bill {bill_no} is on the next charge file{' (dry run)' if dry_run else ''}.", as_json)


@bill.command("channel")
@click.argument("bill_no")
@click.option("--to", type=click.Choice(["phone", "direct"]), required=True)
@reason_option
@dry_run_option
@json_option
@pass_context
def bill_channel(
    context: Context, bill_no: str, to: Literal["phone", "direct"], reason: str, dry_run: bool, as_json: bool
) -> None:
    """Collect a bill on the phone bill, or from the subscriber itself."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        made = works.payments.set_channel(works.bills.find(bill_no), to, reason)
    how = "by the phone bill" if made.channel == "phone" else "from the subscriber"
    said(made, f"Bill {bill_no} is collected {how}{' (dry run)' if dry_run else ''}.", as_json)


@bill.command("write-off")
@click.argument("bill_no")
@click.option("--reference", required=True, help="The decision's own number: the same again is the same.")
@reason_option
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_write_off(
    context: Context, bill_no: str, reference: str, reason: str, dry_run: bool, as_json: bool
) -> None:
    """Give up what is open on a bill. Where it is paid after all, it is a debt again."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        found = works.bills.find(bill_no)
        made = works.payments.write_off(found, reason, reference)
        if not dry_run:
            works.approvals.check(
                context.actor, "bill.write_off", str(found.bill_id), made.amount_nano, reference
            )
    dry = " (dry run)" if dry_run else ""
    said(made, f"{money_text(made.amount_nano)} CNY of bill {bill_no} are written off{dry}.", as_json)


@bill.command("lapse")
@click.argument("sequence", type=int)
@reason_option
@dry_run_option
@json_option
@pass_context
def bill_lapse(context: Context, sequence: int, reason: str, dry_run: bool, as_json: bool) -> None:
    """Wait no longer for the carrier's answer to a charge file: its bills may be sent again."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        lines = works.payments.lapse(sequence, reason)
    dry = " (dry run)" if dry_run else ""
    said({"sequence_no": sequence, "lines": lines}, f"{lines} line(s) are not waited for{dry}.", as_json)


@click.command("owner")
@subscriber_option
@click.option("--name", help="The new holder's.")
@click.option("--language", type=click.Choice(["zh", "en"]), default="zh", show_default=True)
@dry_run_option
@json_option
@pass_context
def subscriber_owner(
    context: Context, subscriber: str, name: str | None, language: str, dry_run: bool, as_json: bool
) -> None:
    """A number goes to somebody else: its subscriber is closed and keeps what it owes, a new one is registered."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        found = works.subscriptions.find(subscriber)
        made = works.subscriptions.change_owner(found, name, language=language)
        works.identity.end_sessions(found.subscriber_id)
    dry = " (dry run)" if dry_run else ""
    text = (
        f"Subscriber {made.subscriber_id} has {made.phone_masked} now; {found.subscriber_id} is closed{dry}."
    )
    said(made, text, as_json)


SUBSCRIBER: Final = (subscriber_owner,)
