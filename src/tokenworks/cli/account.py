"""`tokenworks account`: frozen accounts."""

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited


def _frozen_now(services: AppServices, params: Params) -> object:
    found = services.subscriptions.find(params["subscriber"])
    return {"account": services.ledger.account_state(found.account_id), "subscriber": found.state}


@click.command("freeze")
@audited(_frozen_now)
@click.option("--subscriber", required=True, help="Its id or phone number.")
@click.option("--undo", is_flag=True, help="Let it spend again.")
@json_option
@pass_context
def account_freeze(context: Context, subscriber: str, undo: bool, as_json: bool) -> None:
    """Suspend a subscriber on behalf of the operator: no new grants and charges; tokens that no request holds are released."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        services.subscriptions.set_state(found, "active" if undo else "suspended")
        found = services.subscriptions.find(str(found.subscriber_id))
    frozen = found.state == "suspended"
    text = "Frozen: running requests finish, nothing new is granted." if frozen else "It can spend again."
    if undo and frozen:
        text = f"It stays suspended: {', '.join(found.suspended_by)}."
    print_result({"account_id": found.account_id, "frozen": frozen}, text, as_json)
