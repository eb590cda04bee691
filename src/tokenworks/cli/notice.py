"""`tokenworks notice`: deliveries of notices, what people chose, and incidents."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result, subscriber_option
from tokenworks.cli.options import limit_option
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import CHANNELS, KINDS, Channel, NoticeState, Person, person_of

_STATES = ("waits", "sent", "failed", "skipped")
member_option = click.option("--member", help="A member by name or id; left out: the owner.")


def _person(services: AppServices, subscriber: str, member: str | None) -> Person:
    found = services.subscriptions.find(subscriber)
    if member is None:
        return Person(found.subscriber_id, found.subscriber_id)
    return person_of(services.members.find(found, member))


def _choices_now(services: AppServices, params: Params) -> object:
    person = _person(services, params["subscriber"], params["member"])
    return [
        f"{choice.kind} {choice.channel}"
        for choice in services.notice_choices.of(person)
        if choice.wanted and choice.kind == params["kind"]
    ]


def _delivery_now(services: AppServices, params: Params) -> object:
    with services.transaction():
        found = services.notices.delivery(params["delivery_id"])
    return {"state": found.state, "resends": found.resends}


@click.command("list")
@click.option("--subscriber", help="Id, phone number, broadband number or name; left out: all.")
@click.option("--state", type=click.Choice(_STATES))
@click.option("--channel", type=click.Choice(CHANNELS))
@limit_option
@json_option
@pass_context
def notice_list(
    context: Context,
    subscriber: str | None,
    state: NoticeState | None,
    channel: Channel | None,
    limit: int,
    as_json: bool,
) -> None:
    """Deliveries of notices, newest first."""
    with context.services() as services:
        of = None if subscriber is None else services.subscriptions.find(subscriber)
        found, count = services.notices.log(of, state, channel, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (one.delivery_id, one.kind, one.channel, one.state, one.attempts, one.cause or "") for one in found
    ]
    columns = ["delivery", "kind", "channel", "state", "attempts", "why not"]
    print_table(f"Notices ({len(found)} of {count})", columns, rows, right=["attempts"])


@click.command("resend")
@audited(_delivery_now)
@click.argument("delivery_id", type=click.UUID)
@json_option
@pass_context
def notice_resend(context: Context, delivery_id: UUID, as_json: bool) -> None:
    """Send a failed or skipped delivery again."""
    with context.services() as services:
        made = services.notices.resend(delivery_id)
    print_result(made, f"Delivery {delivery_id} is sent again within a minute.", as_json)


@click.command("choices")
@subscriber_option
@member_option
@json_option
@pass_context
def notice_choices(context: Context, subscriber: str, member: str | None, as_json: bool) -> None:
    """Which notices a person gets by which channel."""
    with context.services() as services:
        found = services.notice_choices.of(_person(services, subscriber, member))
    if as_json:
        print_json(found)
        return
    by_kind: dict[str, list[str]] = {}
    for choice in found:
        by_kind.setdefault(choice.kind, []).append(
            "" if not choice.wanted else "always" if choice.required else "on"
        )
    print_table("Notices", ["kind", *CHANNELS], [(kind, *row) for kind, row in by_kind.items()])


@click.command("switch")
@audited(_choices_now)
@subscriber_option
@member_option
@click.option("--kind", type=click.Choice(sorted(KINDS)), required=True)
@click.option("--channel", type=click.Choice(CHANNELS), required=True)
@click.option("--on/--off", "wanted", required=True)
@json_option
@pass_context
def notice_switch(
    context: Context,
    subscriber: str,
    member: str | None,
    kind: str,
    channel: Channel,
    wanted: bool,
    as_json: bool,
) -> None:
    """Switch a kind of notice on or off for a person."""
    with context.services() as services:
        services.notice_choices.choose(_person(services, subscriber, member), {(kind, channel): wanted})
    text = f"{kind} by {channel} is {'on' if wanted else 'off'}."
    print_result({"kind": kind, "channel": channel, "wanted": wanted}, text, as_json)


@click.command("incident")
@audited()
@click.option("--ref", required=True, help="The incident's own name: a subscriber is told once for each.")
@click.option("--text", required=True, help="In English; it names no person.")
@click.option("--text-zh", required=True, help="In Chinese.")
@click.option("--subscriber", "subscribers", multiple=True, help="One or several.")
@click.option("--all", "everybody", is_flag=True, help="All subscribers that are not closed.")
@json_option
@pass_context
def notice_incident(
    context: Context,
    ref: str,
    text: str,
    text_zh: str,
    subscribers: tuple[str, ...],
    everybody: bool,
    as_json: bool,
) -> None:
    """Tell subscribers of an incident."""
    if everybody == bool(subscribers):
        raise click.UsageError("--subscriber or --all")
    with context.services() as services:
        told, notices = 0, services.notices
        if everybody:
            last_id: UUID | None = None
            while batch := notices.subscribers_after(last_id):
                told += notices.announce(batch, ref, text, text_zh)
                last_id = batch[-1]
        else:
            ids = sorted({services.subscriptions.find(one).subscriber_id for one in subscribers})
            told = notices.announce(ids, ref, text, text_zh)
    print_result({"ref": ref, "told": told}, f"{told} subscriber(s) are told.", as_json)
