"""`tokenworks subscriber`: who a subscriber is."""

from typing import Final, get_args

import click

from tokenworks.app import views
from tokenworks.app.output import money_text, print_json, print_table, say
from tokenworks.billing import raise_nano
from tokenworks.catalog import Audience
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.options import dry_run_option
from tokenworks.cli.states import subscriber_state
from tokenworks.cli.trail import audited
from tokenworks.kernel import parse_money
from tokenworks.subscriptions import day_of
from tokenworks.texts import Language

FOUND_DEFAULT: Final = 20


@click.command("find")
@click.argument("text")
@click.option("--limit", type=click.IntRange(1, 1000), default=FOUND_DEFAULT, show_default=True)
@json_option
@pass_context
def subscriber_find(context: Context, text: str, limit: int, as_json: bool) -> None:
    """Subscribers by id, phone number or its last four digits, broadband number, name or part of one."""
    with context.services() as services:
        found = services.subscriptions.search(text, limit)
    if as_json:
        print_json(found)
    else:
        rows = [(s.subscriber_id, s.phone_masked, s.name, s.state) for s in found]
        print_table("Subscribers", ["id", "phone", "name", "state"], rows)


@click.command("owner")
@audited(subscriber_state)
@subscriber_option
@click.option("--name", help="The new holder's.")
@click.option("--language", type=click.Choice(["zh", "en"]), default="zh", show_default=True)
@dry_run_option
@json_option
@pass_context
def subscriber_owner(
    context: Context, subscriber: str, name: str | None, language: Language, dry_run: bool, as_json: bool
) -> None:
    """Give a phone number to a new owner: its subscriber is closed and keeps its debts, and a new subscriber is registered."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        found = services.subscriptions.find(subscriber)
        made = services.subscriptions.change_owner(found, name, language=language)
        services.identity.end_sessions(found.subscriber_id)
    dry = " (dry run)" if dry_run else ""
    text = (
        f"Subscriber {made.subscriber_id} has {made.phone_masked} now; {found.subscriber_id} is closed{dry}."
    )
    print_result(made, text, as_json)


@click.command("set")
@audited(subscriber_state)
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
    """Set a subscriber's profile and spending limits."""
    limit_nano = None if credit_limit is None else parse_money(credit_limit).amount_nano
    profile = {
        "name": name,
        "audiences": audiences or None,
        "language": language,
        "broadband": broadband,
        "bill_day": bill_day,
        "real_name": real_name,
        "credit_limit_nano": limit_nano,
    }
    if regions and anywhere:
        raise click.UsageError("--region and --anywhere exclude each other")
    fields: dict[str, object] = {name: value for name, value in profile.items() if value is not None}
    fields |= {"regions": list(regions) or None} if regions or anywhere else {}
    fields |= {} if home_region is None else {"home_region": None if home_region == "-" else home_region}
    cap_nano = None if cap is None else parse_money(cap).amount_nano
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        raised = raise_nano(found.credit_limit_nano, limit_nano)
        services.subscriptions.set_profile(found, **fields)
        services.approvals.check(context.actor, "subscriber.credit_limit", str(found.subscriber_id), raised)
        found = services.payg.control(
            found, cap_nano=cap_nano, locked=lock, spill_over=spill_over, said_by=context.actor
        )
    print_result(found, f"Subscriber {found.subscriber_id} is set.", as_json)


@click.command("phone")
@audited(subscriber_state)
@subscriber_option
@click.option("--to", required=True, help="The new number, E.164.")
@json_option
@pass_context
def subscriber_phone(context: Context, subscriber: str, to: str, as_json: bool) -> None:
    """Change the phone number; account, products and keys stay."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        found = services.subscriptions.change_phone(found, to)
        services.identity.end_sessions(found.subscriber_id)
    print_result(found, f"Subscriber {found.subscriber_id} has {found.phone_masked} now.", as_json)


@click.command("close")
@audited(subscriber_state)
@subscriber_option
@dry_run_option
@exact_option
@json_option
@pass_context
def subscriber_close(context: Context, subscriber: str, dry_run: bool, as_json: bool) -> None:
    """Close a subscriber with all its products. What is owed comes on a last bill."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        owed = services.charges.receivable(found.account_id)
        with services.transaction(dry_run=dry_run):
            services.subscriptions.close(found)
            services.identity.end_sessions(found.subscriber_id)
    dry = " would be" if dry_run else " is"
    print_result(
        {"subscriber_id": found.subscriber_id, "owes_nano": owed, "dry_run": dry_run},
        f"Subscriber {found.subscriber_id}{dry} closed and owes {money_text(owed)} CNY.",
        as_json,
    )


@click.command("create")
@audited(subscriber_state)
@click.option("--phone", required=True, help="E.164, such as +8613800000001.")
@click.option("--name")
@json_option
@pass_context
def subscriber_create(context: Context, phone: str, name: str | None, as_json: bool) -> None:
    """Register a subscriber by phone number."""
    with context.services() as services:
        made = services.subscriptions.register(phone, name)
    print_result(made, f"Subscriber {made.subscriber_id} ({made.phone_masked}).", as_json)


@click.command("list")
@json_option
@pass_context
def subscriber_list(context: Context, as_json: bool) -> None:
    """All subscribers."""
    with context.services() as services:
        found = services.subscriptions.all()
    if as_json:
        print_json(found)
    else:
        rows = [(s.subscriber_id, s.phone_masked, s.name, day_of(s.created_at)) for s in found]
        print_table("Subscribers", ["id", "phone", "name", "since"], rows)


@click.command("show")
@subscriber_option
@exact_option
@json_option
@pass_context
def subscriber_show(context: Context, subscriber: str, as_json: bool) -> None:
    """A subscriber with products and phone-bill lines."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        products = services.orders.products(found)
        lines = services.charges.of_subscriber(found.subscriber_id, unbilled=True)
    if as_json:
        print_json({"subscriber": found, "products": products, "bill_lines": lines})
    else:
        say(f"{found.subscriber_id}  {found.phone_masked}  {found.name or ''}")
        views.print_products(products)
        views.print_bill(lines)
