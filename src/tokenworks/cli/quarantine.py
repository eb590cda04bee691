"""`tokenworks quarantine`: usage records that the database refused."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.catalog import Weights
from tokenworks.charging import RateLookup
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import second_of


def _quarantine_now(services: AppServices, params: Params) -> object:
    """The row without its record, which the table of quarantine keeps."""
    found = next(q for q in services.ledger.quarantined() if q["quarantine_id"] == params["quarantine_id"])
    return {name: value for name, value in found.items() if name != "record"}


@click.command("list")
@json_option
@pass_context
def quarantine_list(context: Context, as_json: bool) -> None:
    """Refused records that wait for a decision, with the reason."""
    with context.services() as services:
        found = services.ledger.quarantined()
    if as_json:
        print_json(found)
    else:
        print_table(
            "Quarantine",
            ["record", "account", "journal sequence", "since", "reason"],
            [
                [q["quarantine_id"], q["account_id"], q["seq"], second_of(q["quarantined_at"]), q["reason"]]
                for q in found
            ],
        )  # fmt: skip


@click.command("release")
@audited(_quarantine_now)
@click.argument("quarantine_id", type=click.UUID)
@json_option
@pass_context
def quarantine_release(context: Context, quarantine_id: UUID, as_json: bool) -> None:
    """Settle a record after its cause is repaired."""
    with context.services() as services:
        services.ledger.decide_quarantine(quarantine_id, release=True, rates=_rates(services))
    print_result({"quarantine_id": quarantine_id, "state": "released"}, "Settled.", as_json)


@click.command("drop")
@audited(_quarantine_now)
@click.argument("quarantine_id", type=click.UUID)
@json_option
@pass_context
def quarantine_drop(context: Context, quarantine_id: UUID, as_json: bool) -> None:
    """Drop a record: it is never charged. It stays in the table of quarantine."""
    with context.services() as services:
        services.ledger.decide_quarantine(quarantine_id, release=False, rates=_rates(services))
    print_result(
        {"quarantine_id": quarantine_id, "state": "dropped"}, "Dropped: it is never charged.", as_json
    )


def _rates(services: AppServices) -> RateLookup:
    cards = services.offerings.rate_cards()

    def rate(rate_version: str, model: str) -> tuple[str, Weights] | None:
        card = cards.get(rate_version)
        found = None if card is None else card.rate_for(model)
        return None if found is None else (found.model_class, found.weights())

    return rate
