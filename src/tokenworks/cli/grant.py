"""`tokenworks grant`: what is leased to hosts."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import in_mtok, print_json, print_table
from tokenworks.app.views import LedgerRow
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import MTOK_PER_TOKEN, format_quantity


def _grant_now(services: AppServices, params: Params) -> object:
    return services.ledger.find_grant(params["grant_id"])


@click.command("list")
@click.option("--subscriber", help="Its id or phone number.")
@json_option
@pass_context
def grant_list(context: Context, subscriber: str | None, as_json: bool) -> None:
    """Open grants: host, quantity, until when, and whether in doubt."""
    with context.services() as services:
        account = None if subscriber is None else services.subscriptions.find(subscriber).account_id
        found = services.ledger.grants(account)
    if as_json:
        print_json([_grant_json(grant) for grant in found])
    else:
        print_table(
            "Open grants",
            ["grant", "account", "host", "granted", "settled", "spend until", "in doubt"],
            [
                [g["grant_id"], g["account_id"], g["host"], _quantity(g, "amount"), _quantity(g, "used"), g["spend_until"].isoformat(timespec="seconds"),
                 g["in_doubt"]]
                for g in found
            ],
            right=["granted", "settled"],
        )  # fmt: skip


def _quantity(grant: LedgerRow, name: str) -> str:
    return format_quantity(grant[name], grant["unit"])


def _grant_json(grant: LedgerRow) -> dict[str, object]:
    names = {"amount": "granted", "used": "settled"}
    return in_mtok({names.get(name, name): value for name, value in grant.items()}, *names.values())


@click.command("close")
@audited(_grant_now)
@click.argument("grant_id", type=click.UUID)
@json_option
@pass_context
def grant_close(context: Context, grant_id: UUID, as_json: bool) -> None:
    """Ask the host of a grant to close it as soon as no request uses it."""
    with context.services() as services:
        services.ledger.request_grant_close(grant_id)
    print_result({"grant_id": grant_id}, "Its host is asked to close it.", as_json)


@click.command("write-off")
@audited(_grant_now)
@click.argument("grant_id", type=click.UUID)
@json_option
@pass_context
def grant_write_off(context: Context, grant_id: UUID, as_json: bool) -> None:
    """Write off a grant in doubt of a lost host. What that host settles later draws on what is free."""
    with context.services() as services:
        found = services.ledger.find_grant(grant_id)
        unit = "token" if found is None else str(found["unit"])
        amount = services.ledger.write_off(grant_id)
    text = f"Written off: {format_quantity(amount, unit)} {'is' if amount == MTOK_PER_TOKEN else 'are'} free again."
    print_result({"grant_id": grant_id, "freed_mtok": amount, "unit": unit}, text, as_json)
