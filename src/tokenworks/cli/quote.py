"""`tokenworks order quote`: what an operation would cost."""

from uuid import UUID

import click

from tokenworks.app import views
from tokenworks.cli.base import Context, exact_option, json_option, pass_context, print_result
from tokenworks.cli.options import second_option, when_option
from tokenworks.subscriptions import ChangeTiming


@click.command("quote")
@click.option(
    "--action",
    type=click.Choice(["place", "change", "resume", "cancel"]),
    default="place",
    show_default=True,
)
@click.option("--subscriber", help="Who would order: subscriber id, or phone number (+86…).")
@click.option("--product", type=click.UUID, help="What would be changed, resumed or cancelled.")
@click.option("--offering", help="What would be ordered, or changed to.")
@click.option("--delivery", help="How an add-on is delivered, where there is a choice.")
@when_option
@second_option
@exact_option
@json_option
@pass_context
def order_quote(
    context: Context,
    action: str,
    subscriber: str | None,
    product: UUID | None,
    offering: str | None,
    delivery: str | None,
    when: ChangeTiming,
    confirm: bool,
    as_json: bool,
) -> None:
    """What an order, a change, a resume or a cancellation would cost now, the period that this pays for, and the next renewal."""
    with context.services() as services:
        if action == "place" and subscriber is not None and offering is not None:
            found = services.subscriptions.find(subscriber)
            made = services.quotes.place(found, offering, delivery=delivery, confirm=confirm)
        elif action == "change" and product is not None and offering is not None:
            made = services.quotes.change(product, offering, when, confirm=confirm)
        elif action == "resume" and product is not None:
            made = services.quotes.resume(product)
        elif action == "cancel" and product is not None:
            made = services.quotes.cancel(product, when)
        else:
            raise click.UsageError(
                "place goes with --subscriber and --offering; change with --product and --offering; resume and cancel with --product"
            )
    print_result(made, views.quote_text(made), as_json)
