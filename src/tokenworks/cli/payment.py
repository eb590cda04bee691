"""`tokenworks bill`: payments, reversals, payouts, cases to reconcile and write-offs."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import money_text, print_json, print_table
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.options import dry_run_option, limit_option, reason_option
from tokenworks.cli.states import bill_state, subscriber_state
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import parse_money
from tokenworks.subscriptions import day_of


def _case_now(services: AppServices, params: Params) -> object:
    cases, _ = services.payments.cases(still_open=False)
    return next(case for case in cases if case.case_id == params["case_id"])


def _payment_now(services: AppServices, params: Params) -> object:
    return services.payments.find(params["payment_id"])


@click.command("payments")
@click.option("--subscriber", help="Of this one alone.")
@limit_option
@exact_option
@json_option
@pass_context
def bill_payments(context: Context, subscriber: str | None, limit: int, as_json: bool) -> None:
    """Payments, newest first."""
    with context.services() as services:
        of = None if subscriber is None else services.subscriptions.find(subscriber)
        found, count = services.payments.all(of, 0, limit)
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


@click.command("reverse")
@audited(_payment_now)
@click.argument("payment_id", type=click.UUID)
@reason_option
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_reverse(context: Context, payment_id: UUID, reason: str, dry_run: bool, as_json: bool) -> None:
    """Reverse a payment: a chargeback, or a wrong booking. What it paid is open again."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        made = services.payments.reverse(services.payments.find(payment_id), reason)
        if not dry_run:
            # A payment is reversed once: it is its own key.
            services.approvals.check(
                context.actor, "payment.reverse", str(payment_id), made.amount_nano, str(payment_id)
            )
    dry = " (dry run)" if dry_run else ""
    print_result(
        made, f"Payment {payment_id} over {money_text(made.amount_nano)} CNY is reversed{dry}.", as_json
    )


@click.command("cases")
@click.option("--all", "everything", is_flag=True, help="Closed ones, too.")
@limit_option
@exact_option
@json_option
@pass_context
def bill_cases(context: Context, everything: bool, limit: int, as_json: bool) -> None:
    """Payments that a person has to assign, oldest first."""
    with context.services() as services:
        found, count = services.payments.cases(still_open=not everything, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (c.case_id, day_of(c.opened_at), c.kind, money_text(c.amount_nano), c.resolution or "open")
        for c in found
    ]  # fmt: skip
    columns = ["case", "since", "kind", "CNY", "resolution"]
    print_table(f"Cases to reconcile ({len(found)} of {count})", columns, rows, right=["CNY"])


@click.command("close-case")
@audited(_case_now)
@click.argument("case_id", type=click.UUID)
@click.option("--resolution", required=True, help="Where the money belongs; it is kept.")
@dry_run_option
@json_option
@pass_context
def bill_close_case(context: Context, case_id: UUID, resolution: str, dry_run: bool, as_json: bool) -> None:
    """Close a case with its resolution. No money moves."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        closed = services.payments.close_case(case_id, resolution)
    print_result(closed, f"Case {case_id} is closed{' (dry run)' if dry_run else ''}.", as_json)


@click.command("write-off")
@audited(bill_state)
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
    """Write off the open amount of a bill. Where it is paid after all, it is a debt again."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        found = services.bills.find(bill_no)
        made = services.payments.write_off(found, reason, reference)
        if not dry_run:
            services.approvals.check(
                context.actor, "bill.write_off", str(found.bill_id), made.amount_nano, reference
            )
    dry = " (dry run)" if dry_run else ""
    print_result(made, f"{money_text(made.amount_nano)} CNY of bill {bill_no} are written off{dry}.", as_json)


@click.command("pay")
@audited(bill_state)
@click.argument("bill_no")
@click.option(
    "--reference", required=True, help="The payment's own number: the same again is the same payment."
)
@click.option(
    "--amount",
    help="In yuan; left out: all that is open. What is more than that is credit, and a case to reconcile.",
)
@click.option(
    "--method",
    default="bank_transfer",
    show_default=True,
    help="How it came in; `test` is the test provider.",
)
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_pay(
    context: Context,
    bill_no: str,
    reference: str,
    amount: str | None,
    method: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Book a payment for a bill."""
    amount_nano = None if amount is None else parse_money(amount).amount_nano
    with context.services() as services, services.transaction(dry_run=dry_run):
        found = services.bills.find(bill_no)
        made = services.desk.take(found, method, reference, amount_nano, dry_run=dry_run)
    dry = " (dry run)" if dry_run else ""
    print_result(
        made, f"{money_text(made.amount_nano)} {made.currency} on bill {found.bill_no}{dry}.", as_json
    )


@click.command("pay-out")
@audited(subscriber_state)
@subscriber_option
@click.option(
    "--reference", required=True, help="The transfer's own number: the same again is the same payout."
)
@click.option(
    "--method", type=click.Choice(["bank_transfer", "cash"]), default="bank_transfer", show_default=True
)
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_pay_out(
    context: Context, subscriber: str, reference: str, method: str, dry_run: bool, as_json: bool
) -> None:
    """Book the payout of credits to a closed subscriber."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        made = services.payments.pay_out(services.subscriptions.find(subscriber), method, reference)
        if not dry_run:
            services.approvals.check(
                context.actor, "bill.pay_out", str(made.subscriber_id), made.amount_nano, reference
            )
    dry = " (dry run)" if dry_run else ""
    print_result(
        made, f"{money_text(made.amount_nano)} {made.currency} to {made.subscriber_id}{dry}.", as_json
    )
