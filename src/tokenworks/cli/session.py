"""`tokenworks session`: who is signed in."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result, subscriber_option
from tokenworks.cli.trail import Params, audited


def _sessions_now(services: AppServices, params: Params) -> object:
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
        (session.session_id, f"{session.created_at:%Y-%m-%d %H:%M}", session.seen_address or "",
         f"{session.seen_at:%Y-%m-%d %H:%M}" if session.seen_at else "", session.client or "")
        for session in found
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
        live = {session.session_id for session in services.identity.sessions(found.subscriber_id)}
        ended = sorted(live if session_id is None else live & {session_id})
        for id_ in ended:
            services.identity.end_session(id_)
    print_result({"ended": ended}, f"{len(ended)} session(s) ended.", as_json)
