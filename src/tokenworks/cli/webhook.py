"""`tokenworks webhook`: systems that are told of events, deliveries, secrets."""

from datetime import timedelta
from typing import Final, Literal, cast, get_args
from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.app.settings import without_secrets
from tokenworks.app.webhook_secrets import rotate_webhook_secret
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.options import LIST_DEFAULT
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import Api
from tokenworks.trust import WEBHOOK, WEBHOOK_OLD

_SHOWN_ONCE: Final = "It is shown this once"


def _webhook_now(services: AppServices, params: Params) -> object:
    if params.get("listener_id") is not None:
        return services.hub.listener(params["listener_id"])
    return None


def _delivery_now(services: AppServices, params: Params) -> object:
    """The delivery without its body, which has personal data."""
    found, _ = services.hub.log(limit=1000)
    made = next(delivery for delivery in found if delivery.delivery_id == params["delivery_id"])
    return {"state": made.state, "replays": made.replays}


@click.command("list")
@json_option
@pass_context
def webhook_list(context: Context, as_json: bool) -> None:
    """The systems that get events, and their events."""
    with context.services() as services:
        found = services.hub.listeners()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            listener.listener_id,
            listener.api,
            without_secrets(listener.callback),
            listener.query or "all",
            listener.made_by,
        )
        for listener in found
    ]
    print_table("Webhooks", ["id", "api", "goes to", "events", "made by"], rows)


@click.command("add")
@audited(_webhook_now)
@click.option("--api", type=click.Choice(get_args(Api)), required=True)
@click.option("--callback", required=True, help="Where events are POSTed.")
@click.option("--query", default="", help="eventType=…, one or several; left out: all of the API.")
@json_option
@pass_context
def webhook_add(context: Context, api: str, callback: str, query: str, as_json: bool) -> None:
    """Send events to a system. Its secret is shown this once."""
    with context.services() as services:
        made, secret = services.hub.subscribe(cast("Api", api), callback, query, context.actor)
    text = f"Webhook {made.listener_id}. Its secret, shown this once:\n{secret}"
    print_result({"listener_id": made.listener_id, "secret": secret}, text, as_json)


@click.command("remove")
@audited(_webhook_now)
@click.argument("listener_id", type=click.UUID)
@json_option
@pass_context
def webhook_remove(context: Context, listener_id: UUID, as_json: bool) -> None:
    """Remove a webhook; its waiting deliveries are given up."""
    with context.services() as services:
        services.hub.unsubscribe(listener_id)
    print_result({"listener_id": listener_id, "removed": True}, f"Webhook {listener_id} is removed.", as_json)


@click.command("rotate")
@audited(_webhook_now)
@click.option("--listener", "listener_id", type=click.UUID, help="Left out: the operator's own secret, a file of secrets_dir.")  # fmt: skip
@click.option("--overlap-h", type=click.IntRange(0, 720), default=24, show_default=True, help="For a listener: how long the old secret signs, too.")  # fmt: skip
@click.option(
    "--force", is_flag=True, help="Even if the secret before the current one still signs: it ends now."
)
@json_option
@pass_context
def webhook_rotate(
    context: Context, listener_id: UUID | None, overlap_h: int, force: bool, as_json: bool
) -> None:
    """Make a new secret; it is shown only once. For a while what is sent is signed with both."""
    settings = context.settings()
    with context.services() as services:
        if listener_id is None:
            secret = rotate_webhook_secret(settings, services.clock.now(), force=force)
            more = (
                f" The old one signs beside it for {settings.webhook_secret_overlap_h} h. Copy both files to the other hosts, which use"
                f" them at once: {settings.secrets}/{WEBHOOK} and {WEBHOOK_OLD}. When `tokenworks doctor` says that all hosts sign"
                " alike, give the new one to the receivers"
            )
        else:
            secret = services.hub.rotate(listener_id, timedelta(hours=overlap_h), force=force)
            more = f" The old one signs beside it for {overlap_h} h."
    print_result({"listener_id": listener_id, "secret": secret}, f"{secret}\n{_SHOWN_ONCE}.{more}", as_json)


@click.command("log")
@click.option("--state", type=click.Choice(["waits", "delivered", "given_up"]))
@click.option("--listener", "listener_id", type=click.UUID)
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def webhook_log(
    context: Context,
    state: Literal["waits", "delivered", "given_up"] | None,
    listener_id: UUID | None,
    limit: int,
    as_json: bool,
) -> None:
    """The deliveries of events, newest first."""
    with context.services() as services:
        found, count = services.hub.log(state, listener_id, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            delivery.delivery_id,
            delivery.event_type,
            delivery.state,
            delivery.attempts,
            delivery.status or "",
            delivery.error or "",
        )
        for delivery in found
    ]
    columns = ["delivery", "event", "state", "attempts", "status", "why not"]
    print_table(f"Deliveries ({len(found)} of {count})", columns, rows, right=["attempts"])


@click.command("replay")
@audited(_delivery_now)
@click.argument("delivery_id", type=click.UUID)
@json_option
@pass_context
def webhook_replay(context: Context, delivery_id: UUID, as_json: bool) -> None:
    """Send a delivery again: the same bytes under the same id."""
    with context.services() as services:
        made = services.hub.replay(delivery_id)
    print_result(made, f"Delivery {delivery_id} is sent again within a minute.", as_json)
