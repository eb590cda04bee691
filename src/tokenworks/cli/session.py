"""`tokenworks session`: who is signed in."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, said, subscriber_option
from tokenworks.cli.trail import audited


def _sessions_now(services: AppServices, params: Mapping[str, Any]) -> object:
    return len(services.identity.sessions(services.subscriptions.find(params["subscriber"]).subscriber_id))


@click.command("list")
@subscriber_option
@json_option
@pass_context
def session_list(context: Context, subscriber: str, as_json: bool) -> None:
    """A subscriber's live sessions, newest first."""
    with context.services() as services:
        found = services.identity.sessions(services.subscriptions.find(subscriber).subscriber_id)
    if as_json:
        print_json(found)
        return
    rows = [
        (one.session_id, f"{one.created_at:%Y-%m-%d %H:%M}", one.seen_address or "",
         f"{one.seen_at:%Y-%m-%d %H:%M}" if one.seen_at else "", one.client or "")
        for one in found
    ]  # fmt: skip
    print_table("Sessions", ["id", "since", "from", "seen last", "with"], rows)


@click.command("end")
@audited(_sessions_now)
@subscriber_option
@click.option("--session", "session_id", type=click.UUID, help="This one; left out: all of them.")
@json_option
@pass_context
def session_end(context: Context, subscriber: str, session_id: UUID | None, as_json: bool) -> None:
    """Sign a subscriber out."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        live = {one.session_id for one in services.identity.sessions(found.subscriber_id)}
        ended = sorted(live if session_id is None else live & {session_id})
        for one in ended:
            services.identity.end_session(one)
    said({"ended": ended}, f"{len(ended)} session(s) ended.", as_json)
