"""The commands of the shop and the bill: order, bill, refund, and what is set of a subscriber."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args
from uuid import UUID

import click
from rich.progress import Progress

from tokenworks.app import views
from tokenworks.app.edge import read_bytes
from tokenworks.app.output import console, in_mtok, money_text, plain, print_json, print_table, say
from tokenworks.billing import Part, TestProvider, discount_nano, raise_nano
from tokenworks.catalog import Audience
from tokenworks.cli.base import (
    Command,
    Context,
    exact_option,
    json_option,
    pass_context,
    said,
    subscriber_option,
)
from tokenworks.cli.disputes import dispute
from tokenworks.kernel import Invalid, format_quantity, parse_money
from tokenworks.subscriptions import When, WorkOrder, day_of, end_of_day, last_day

idempotency_option: Callable[[Command], Command] = click.option(
    "--idempotency-key", help="The same key again does nothing more."
)
when_option: Callable[[Command], Command] = click.option(
    "--when", type=click.Choice(["now", "cycle_end"]), default="now", show_default=True
)
dry_run_option: Callable[[Command], Command] = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and do nothing."
)
second_option: Callable[[Command], Command] = click.option(
    "--confirm", is_flag=True, help="Have it although it is there already: twice, at twice the price."
)
product_option: Callable[[Command], Command] = click.option("--product", required=True, type=click.UUID)
LIST_DEFAULT: Final = 50


@click.group()
def order() -> None:
    """Orders and products."""


@order.command("place")
@subscriber_option
@click.option("--offering", required=True, help="An id from `tokenworks offering list`.")
@click.option("--delivery", help="How an add-on is delivered, where there is a choice.")
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%d"]),
    help="A later day on which it begins, in the seller's zone; nothing is charged before.",
)
@second_option
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def order_place(
    context: Context,
    subscriber: str,
    offering: str,
    delivery: str | None,
    start: datetime | None,
    confirm: bool,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Order an offering onto the phone bill, to begin now or on a later day."""
    day = None if start is None else start.date()
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        quoted = ""
        with works.connection.transaction(force_rollback=dry_run):
            made = works.orders.place(
                found, offering, idempotency_key, delivery=delivery, confirm=confirm, start=day
            )
        if dry_run and made.new and made.starts_at is None:
            quoted = f" {views.quote_text(works.quotes.place(found, offering, delivery=delivery, confirm=confirm))}"
    again = "" if made.new else " (ordered before with this key)"
    state = "" if made.state == "completed" else f", {made.state}: another system delivers a part of it"
    text = f"product {made.product_id}, {money_text(made.amount_nano)} {made.currency}{state}{again}."
    if made.starts_at is not None:
        text = (
            f"{offering} begins on {day_of(made.starts_at)} ({made.state}); nothing is charged before{again}."
        )
    said(made, f"It would be {text}{quoted}" if dry_run else f"Order {made.order_id}: {text}", as_json)


@order.command("change")
@product_option
@click.option("--offering", required=True, help="The plan to go on with.")
@when_option
@second_option
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def order_change(
    context: Context,
    product: UUID,
    offering: str,
    when: When,
    confirm: bool,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Another plan for a product, now or from the next cycle on. What a part of a cycle costs: `tokenworks order quote`."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        made = works.orders.change(product, offering, when, idempotency_key, confirm=confirm)
    amount = f"{money_text(made.amount_nano)} {made.currency}"
    text = {
        "completed": f"is {offering} now: {amount} in all, what was unused of the old plan taken off",
        "inProgress": f"is {offering} now: {amount}; the old plan is credited when nothing of it is granted any more",
        "pending": f"is {offering} from its next cycle on",
    }[made.state]
    said(made, f"Product {product} {text}{' (dry run)' if dry_run else ''}.", as_json)


@order.command("cancel")
@product_option
@when_option
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def order_cancel(
    context: Context, product: UUID, when: When, idempotency_key: str | None, dry_run: bool, as_json: bool
) -> None:
    """End a product, now or with its cycle; what is unused is withdrawn. What comes back says its offering's proration."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        made = works.orders.cancel(product, when, idempotency_key)
        account_id = works.subscriptions.find(str(works.orders.find(made.order_id)[1])).account_id
        pending = [
            bucket.bucket_id
            for bucket in works.ledger.buckets(account_id)
            if bucket.product_id == product and bucket.closing and bucket.granted
        ]
    more = f"; {len(pending)} bucket(s) follow when their grants close" if pending else ""
    ends = "is cancelled" if when == "now" else "ends with its cycle"
    if made.amount_nano:
        ends += f": {money_text(-made.amount_nano)} {made.currency} come back"
    elif made.state == "inProgress":
        ends += ": what comes back is known when nothing of it is granted any more"
    dry = " (dry run)" if dry_run else ""
    said({**plain(made), "pending_buckets": pending}, f"Product {product} {ends}{more}{dry}.", as_json)


@order.command("suspend")
@product_option
@json_option
@pass_context
def order_suspend(context: Context, product: UUID, as_json: bool) -> None:
    """Nothing more is spent of a product, and it does not renew, until it is resumed."""
    with context.works() as works:
        works.orders.suspend(product)
    said({"product_id": product, "state": "suspended"}, f"Product {product} is suspended.", as_json)


@order.command("resume")
@product_option
@json_option
@pass_context
def order_resume(context: Context, product: UUID, as_json: bool) -> None:
    """Go on with a suspended product; where its cycle has ended meanwhile, one begins now, for the rest of the month."""
    with context.works() as works:
        works.orders.resume(product)
    said({"product_id": product, "state": "active"}, f"Product {product} is active.", as_json)


@order.command("list")
@click.option("--subscriber", help="Of this one alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@exact_option
@json_option
@pass_context
def order_list(context: Context, subscriber: str | None, limit: int, as_json: bool) -> None:
    """Orders, newest first."""
    with context.works() as works:
        of = None if subscriber is None else works.subscriptions.find(subscriber)
        found, count = works.orders.all(of, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (o.order_id, o.ordered_at, o.action, o.offering_id, o.state, "" if o.starts_at is None else day_of(o.starts_at),
         money_text(o.amount_nano), o.reason or "")
        for o in found
    ]  # fmt: skip
    columns = ["order", "at", "action", "offering", "state", "begins", "CNY", "why"]
    print_table(f"Orders ({len(found)} of {count})", columns, rows, right=["CNY"])


@order.command("withdraw")
@click.argument("order_id", type=click.UUID)
@click.option("--reason", help="Why; it is kept.")
@json_option
@pass_context
def order_withdraw(context: Context, order_id: UUID, reason: str | None, as_json: bool) -> None:
    """Take an order back that has not begun, or waits for a cycle's end or its delivery. Nothing is charged for it."""
    with context.works() as works:
        works.orders.withdraw(order_id, reason)
        made, _ = works.orders.find(order_id)
    said(made, f"Order {order_id} is {made.state}.", as_json)


@order.group("work")
def work() -> None:
    """What other systems deliver."""


@work.command("list")
@json_option
@pass_context
def work_list(context: Context, as_json: bool) -> None:
    """Open work orders, oldest first."""
    with context.works() as works:
        found = works.orders.work_orders()
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


@work.command("answer")
@click.argument("work_order_id", type=click.UUID)
@click.option("--done/--refused", required=True, default=None, help="What the delivering system says.")
@click.option("--reason")
@click.option("--again", is_flag=True, help="Refused for now: it is asked for again, three times in all.")
@json_option
@pass_context
def work_answer(
    context: Context, work_order_id: UUID, done: bool, reason: str | None, again: bool, as_json: bool
) -> None:
    """A delivery is done, or refused: then its whole order fails, and what it charged is credited."""
    with context.works() as works:
        state = works.orders.answer(work_order_id, done=done, reason=reason, again=again)
    said({"work_order_id": work_order_id, "state": state}, f"The work order is {state}.", as_json)


@click.command()
@click.option("--order", "order_id", required=True, type=click.UUID)
@click.option(
    "--part",
    type=click.Choice(["whole", "unused", "amount"]),
    required=True,
    help="All of it; what was not used; or --amount, with which the product goes on.",
)
@click.option("--amount", help="In yuan, with --part amount.")
@click.option("--reason", required=True, help="Why; it is kept.")
@idempotency_option
@dry_run_option
@exact_option
@json_option
@pass_context
def refund(
    context: Context,
    order_id: UUID,
    part: Part,
    amount: str | None,
    reason: str,
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give back what an order cost, by a credit: on the bill that has it, or on the next one."""
    amount_nano = None if amount is None else parse_money(amount).amount_nano
    with context.works() as works:
        made = works.refunds.refund(
            order_id, part, reason, amount_nano=amount_nano, idempotency_key=idempotency_key, dry_run=dry_run
        )
        if not dry_run:
            works.approvals.check(
                context.actor, "refund", str(order_id), works.refunds.at_most(made), idempotency_key
            )
    total = sum(refund.amount_nano or 0 for refund in made)
    waits = sum(refund.state == "pending" for refund in made)
    text = f"{money_text(total)} CNY {'would be' if dry_run else 'are'} credited"
    if waits:
        text += f"; {waits} refund(s) wait until nothing of what they take back is granted any more"
    said(made, f"{text}.", as_json)


@click.group()
def bill() -> None:
    """Bills, their payment, and the phone bill's charge files."""


@bill.command("run")
@dry_run_option
@exact_option
@json_option
@pass_context
def bill_run(context: Context, dry_run: bool, as_json: bool) -> None:
    """Bill everybody whose period has ended. It can be stopped and run again: nobody is billed twice."""
    with context.works() as works:
        count, amount = works.bills.due()
        if dry_run:
            text = f"{count} bill(s) over about {money_text(amount)} CNY would be made."
            said({"bills": count, "amount_nano": amount, "dry_run": True}, text, as_json)
            return
        with Progress(console=console, transient=True, disable=as_json) as bar:
            works.charges.recognise()
            task = bar.add_task("Bills", total=count)
            made = works.bills.run(lambda done: bar.update(task, completed=done))
    said(
        made,
        f"{made.bills} bill(s) with {made.lines} line(s) over {money_text(made.amount_nano)} CNY.",
        as_json,
    )


@bill.command("list")
@click.option("--subscriber", help="Of this one alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@exact_option
@json_option
@pass_context
def bill_list(context: Context, subscriber: str | None, limit: int, as_json: bool) -> None:
    """Bills, newest first."""
    with context.works() as works:
        of = None if subscriber is None else works.subscriptions.find(subscriber)
        found, count = works.bills.all(of, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (b.bill_no, last_day(b.period_end), money_text(b.amount_nano), money_text(b.remaining_nano), b.state, day_of(b.due_at))
        for b in found
    ]  # fmt: skip
    columns = ["bill", "until", "CNY", "open", "state", "due"]
    print_table(f"Bills ({len(found)} of {count})", columns, rows, right=["CNY", "open"])


@bill.command("show")
@click.argument("bill_no")
@exact_option
@json_option
@pass_context
def bill_show(context: Context, bill_no: str, as_json: bool) -> None:
    """A bill with its lines and corrections."""
    with context.works() as works:
        found = works.bills.find(bill_no)
        lines, notes = works.bills.lines(found), works.bills.credit_notes(found)
    if as_json:
        print_json({"bill": found, "lines": lines, "credit_notes": notes})
    else:
        views.print_issued_bill(found, lines, notes)


@bill.command("export")
@click.argument("bill_no")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the PDF goes."
)
@click.option("--language", type=click.Choice(["zh", "en"]), help="Instead of the subscriber's own.")
@pass_context
def bill_export(context: Context, bill_no: str, out: Path, language: Literal["zh", "en"] | None) -> None:
    """A bill as a PDF."""
    from tokenworks.console import bill_pdf  # noqa: PLC0415 - no other command needs the web framework

    with context.works() as works:
        pdf = bill_pdf(works, works.bills.find(bill_no), language)
    out.write_bytes(pdf)
    say(f"{out}: {len(pdf):,} bytes.")


@bill.command("correct")
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
    """Give back a part of a line by a credit note. The bill stays as it is; the note is taken off what is open on it."""
    amount_nano = parse_money(amount).amount_nano
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        found = works.bills.find(bill_no)
        note = works.bills.correct(found, line_no, amount_nano, reason, idempotency_key)
        if not dry_run:
            works.approvals.check(
                context.actor, "bill.correct", str(found.bill_id), note.amount_nano, idempotency_key
            )
    dry = " (dry run)" if dry_run else ""
    said(note, f"Credit note {note.credit_note_no} over {money_text(note.amount_nano)} CNY{dry}.", as_json)


@bill.command("pay")
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
    """Book money that came in for a bill."""
    if method not in {"bank_transfer", "cash", "test"}:
        raise Invalid(
            "a payment comes in by bank_transfer, cash or test; the phone bill by `bill acknowledge`"
        )
    amount_nano = None if amount is None else parse_money(amount).amount_nano
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        found = works.bills.find(bill_no)
        if method == "test":
            if context.settings().environment != "dev":
                raise Invalid('the test provider takes money only where environment = "dev"')
            made = works.payments.collect(found, TestProvider(), reference, dry_run=dry_run)
        else:
            made = works.payments.pay(found, method, reference, amount_nano)
    dry = " (dry run)" if dry_run else ""
    said(made, f"{money_text(made.amount_nano)} {made.currency} on bill {found.bill_no}{dry}.", as_json)


@bill.command("pay-out")
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
    """Book what a closed subscriber was owed and has got: credits that no bill will take up."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        made = works.payments.pay_out(works.subscriptions.find(subscriber), method, reference)
        if not dry_run:
            works.approvals.check(
                context.actor, "bill.pay_out", str(made.subscriber_id), made.amount_nano, reference
            )
    dry = " (dry run)" if dry_run else ""
    said(made, f"{money_text(made.amount_nano)} {made.currency} to {made.subscriber_id}{dry}.", as_json)


@bill.command("file")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where it goes, mode 0600."
)
@click.option("--again", type=int, help="An earlier file, by its sequence, byte for byte.")
@json_option
@pass_context
def bill_file(context: Context, out: Path, again: int | None, as_json: bool) -> None:
    """The next phone-bill charge file: what no file has yet. It names phone numbers."""
    with context.works() as works:
        if again is not None:
            sequence, text = again, works.payments.file(again)
        else:
            made = works.payments.make_file()
            if made is None:
                said({"sequence_no": None}, "There is nothing to send.", as_json)
                return
            sequence, text = made
    out.touch(0o600)
    out.chmod(0o600)  # also where there was one
    out.write_text(text, encoding="utf-8")
    lines = text.count("\n") - 2
    said(
        {"sequence_no": sequence, "lines": lines, "path": out},
        f"{out}: file {sequence}, {lines} line(s).",
        as_json,
    )


@bill.command("files")
@exact_option
@json_option
@pass_context
def bill_files(context: Context, as_json: bool) -> None:
    """Charge files, newest first."""
    with context.works() as works:
        found = works.payments.files()
    if as_json:
        print_json(found)
        return
    rows = [
        (f["sequence_no"], f["layout"], f["made_at"], f["lines"], money_text(int(str(f["amount_nano"]))),
         f["acknowledged_at"] or "waits", f["rejected"])
        for f in found
    ]  # fmt: skip
    columns = ["file", "layout", "made", "lines", "CNY", "answered", "rejected"]
    print_table("Charge files", columns, rows, right=["lines", "CNY", "rejected"])


@bill.command("acknowledge")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dry_run_option
@json_option
@pass_context
def bill_acknowledge(context: Context, path: Path, dry_run: bool, as_json: bool) -> None:
    """Take the carrier's answer to a charge file: all of it, or nothing. Another answer to the same file corrects the first."""
    with context.works() as works:
        accepted, rejected = works.payments.acknowledge(read_bytes(path), dry_run=dry_run)
    dry = " (dry run)" if dry_run else ""
    said(
        {"accepted": accepted, "rejected": rejected, "dry_run": dry_run},
        f"{accepted} line(s) accepted and paid, {rejected} rejected{dry}.",
        as_json,
    )


@click.command("set")
@subscriber_option
@click.option("--name")
@click.option(
    "--audience", "audiences", multiple=True, help=f"One of {', '.join(get_args(Audience))}; more than one."
)
@click.option("--language", type=click.Choice(["zh", "en"]))
@click.option("--broadband", help="The broadband account number.")
@click.option("--bill-day", type=int, help="The day of the month on which the bill's period begins.")
@click.option("--credit-limit", help="In yuan.")
@click.option("--real-name", type=click.Choice(["unknown", "pending", "verified", "refused"]))
@click.option(
    "--region",
    "regions",
    multiple=True,
    help="Its data may go to this region only, such as cn or cn-sh; more than one.",
)
@click.option("--anywhere", is_flag=True, help="Its data may go anywhere.")
@click.option(
    "--home-region", help="Where it is, such as cn-sh: an edge box near it serves it first; '-': not said."
)
@click.option("--cap", help="At most so much pay-as-you-go a month, in yuan.")
@click.option("--lock/--unlock", default=None, help="No pay-as-you-go at all.")
@click.option(
    "--spill-over/--no-spill-over", default=None, help="Consent to go on from a plan to pay-as-you-go."
)
@json_option
@pass_context
def subscriber_set(
    context: Context, subscriber: str, name: str | None, audiences: tuple[str, ...], language: str | None,
    broadband: str | None, bill_day: int | None, real_name: str | None, credit_limit: str | None, cap: str | None, lock: bool | None,
    spill_over: bool | None, regions: tuple[str, ...], anywhere: bool, home_region: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Set what is known of a subscriber, and what it may spend."""
    profile: dict[str, Any] = {
        "name": name,
        "audiences": audiences or None,
        "language": language,
        "broadband": broadband,
        "bill_day": bill_day,
        "real_name": real_name,
        "credit_limit_nano": None if credit_limit is None else parse_money(credit_limit).amount_nano,
    }
    if regions and anywhere:
        raise click.UsageError("--region and --anywhere exclude each other")
    fields: dict[str, object] = {name: value for name, value in profile.items() if value is not None}
    fields |= {"regions": list(regions) or None} if regions or anywhere else {}
    fields |= {} if home_region is None else {"home_region": None if home_region == "-" else home_region}
    cap_nano = None if cap is None else parse_money(cap).amount_nano
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        raised = raise_nano(found.credit_limit_nano, profile["credit_limit_nano"])
        works.subscriptions.set_profile(found, **fields)
        works.approvals.check(context.actor, "subscriber.credit_limit", str(found.subscriber_id), raised)
        found = works.payg.control(
            found, cap_nano=cap_nano, locked=lock, spill_over=spill_over, said_by=context.actor
        )
    said(found, f"Subscriber {found.subscriber_id} is set.", as_json)


@click.command("contract")
@subscriber_option
@click.option("--offering", required=True)
@click.option("--price", required=True, help="A month, or a step, in yuan.")
@click.option("--contract", "contract_no", required=True, help="The contract's number.")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The last day on which it holds; left out: it has none.",
)
@json_option
@pass_context
def subscriber_contract(
    context: Context, subscriber: str, offering: str, price: str, contract_no: str, until: datetime | None, as_json: bool
) -> None:  # fmt: skip
    """A price of a subscriber's own, from now on. Charges that are made stay."""
    end = None if until is None else end_of_day(until)
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        works.subscriptions.set_contract_price(found, offering, price, contract_no, valid_until=end)
        works.approvals.check(
            context.actor, "subscriber.contract", f"{found.subscriber_id} {offering}",
            discount_nano(works.offerings, offering, price), contract_no,
        )  # fmt: skip
    said(
        {"subscriber_id": found.subscriber_id, "offering": offering, "price": price, "until": end},
        f"{offering} costs {price} yuan for {found.subscriber_id}.",
        as_json,
    )


@click.command("top-up")
@subscriber_option
@click.option("--amount", required=True, help="In yuan: a whole number of steps.")
@click.option("--idempotency-key", required=True, help="The same key again is the same top-up.")
@dry_run_option
@exact_option
@json_option
@pass_context
def subscriber_top_up(
    context: Context, subscriber: str, amount: str, idempotency_key: str, dry_run: bool, as_json: bool
) -> None:
    """Buy pay-as-you-go steps by hand, onto the phone bill."""
    amount_nano = parse_money(amount).amount_nano
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        found = works.subscriptions.find(subscriber)
        made = works.payg.top_up(found, amount_nano, idempotency_key)
        if not dry_run:
            works.approvals.check(
                context.actor, "balance.topup", str(found.subscriber_id), amount_nano, idempotency_key
            )
    dry = " (dry run)" if dry_run else ""
    said(made, f"{made.steps} step(s) for {money_text(made.amount_nano)} CNY{dry}.", as_json)


@click.command("history")
@subscriber_option
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def subscriber_history(context: Context, subscriber: str, limit: int, as_json: bool) -> None:
    """What came to a subscriber's balances and what went, but for usage, newest first."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        moves, count = works.transfers.history(found.account_id, 0, limit)
    if as_json:
        print_json([in_mtok(move, "amount") for move in moves])
        return
    rows = [
        (m.at, m.kind, f"{'+' if m.amount > 0 else ''}{format_quantity(m.amount, m.unit)}", m.bucket_id)
        for m in moves
    ]  # fmt: skip
    print_table(
        f"Balances ({len(moves)} of {count})",
        ["at", "what", "how much", "bucket"],
        rows,
        right=["how much"],
    )


@click.command("phone")
@subscriber_option
@click.option("--to", required=True, help="The new number, E.164.")
@json_option
@pass_context
def subscriber_phone(context: Context, subscriber: str, to: str, as_json: bool) -> None:
    """Another phone number; account, products and keys stay."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        found = works.subscriptions.change_phone(found, to)
        works.identity.end_sessions(found.subscriber_id)
    said(found, f"Subscriber {found.subscriber_id} has {found.phone_masked} now.", as_json)


@click.command("close")
@subscriber_option
@dry_run_option
@exact_option
@json_option
@pass_context
def subscriber_close(context: Context, subscriber: str, dry_run: bool, as_json: bool) -> None:
    """End everything of a subscriber. What is owed comes on a last bill."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        owed = works.charges.receivable(found.account_id)
        with works.connection.transaction(force_rollback=dry_run):
            works.subscriptions.close(found)
            works.identity.end_sessions(found.subscriber_id)
    dry = " would be" if dry_run else " is"
    said(
        {"subscriber_id": found.subscriber_id, "owes_nano": owed, "dry_run": dry_run},
        f"Subscriber {found.subscriber_id}{dry} closed and owes {money_text(owed)} CNY.",
        as_json,
    )


bill.add_command(dispute)
GROUPS: Final = (order, bill, refund)
SUBSCRIBER: Final = (
    subscriber_set,
    subscriber_contract,
    subscriber_top_up,
    subscriber_history,
    subscriber_phone,
    subscriber_close,
)
