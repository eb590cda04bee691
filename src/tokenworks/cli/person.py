"""`tokenworks subscriber`: consent, real name, identity document, export and erasure of personal data."""

import sys
from pathlib import Path
from typing import Final, get_args

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.edge import open_new
from tokenworks.app.output import print_json, print_table
from tokenworks.app.tables import console
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.options import dry_run_option
from tokenworks.cli.states import subscriber_state
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import format_money
from tokenworks.subscriptions import PURPOSES
from tokenworks.trust import Document

ID_NUMBER_LINE_MAX: Final = 100


def _consents_now(services: AppServices, params: Params) -> object:
    return services.consents.latest_answers(services.subscriptions.find(params["subscriber"]))


@click.command("consent")
@audited(_consents_now)
@subscriber_option
@click.option("--purpose", type=click.Choice(PURPOSES), help="Left out: what was said of each.")
@click.option("--give/--withdraw", "given", default=None, help="As the subscriber said it to you.")
@json_option
@pass_context
def subscriber_consent(
    context: Context, subscriber: str, purpose: str | None, given: bool | None, as_json: bool
) -> None:
    """The consents of a subscriber; or enter an answer of the subscriber to the current text."""
    if (purpose is None) != (given is None):
        raise click.UsageError("--purpose goes with --give or --withdraw")
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        if purpose is not None and given is not None:
            if purpose == "spill_over":
                services.payg.control(found, spill_over=given, said_by=context.actor)
            services.consents.keep(found, purpose, given=given, said_by=context.actor)
        states = services.consents.states(found)
    if as_json:
        print_json(
            [
                {
                    "purpose": state.text.purpose,
                    "given": state.given,
                    "said_at": state.answered_at,
                    "text_sha256": state.answered_sha256,
                    "text_changed": state.text_changed,
                }
                for state in states
            ]
        )
        return
    words = {True: "given", False: "withdrawn", None: "not said"}
    rows = [
        (
            state.text.purpose,
            words[state.given],
            "" if state.answered_at is None else f"{state.answered_at:%Y-%m-%d %H:%M}",
            (state.answered_sha256 or "")[:12],
        )
        for state in states
    ]
    print_table("Consents", ["purpose", "print_result", "at", "text"], rows)


@click.command("real-name")
@audited(subscriber_state)
@subscriber_option
@click.option("--name", required=True, help="As on the identity document.")
@json_option
@pass_context
def subscriber_real_name(context: Context, subscriber: str, name: str, as_json: bool) -> None:
    """Have the carrier check a real name. The document's number is read from the terminal or standard input, and not kept."""
    if sys.stdin.isatty():
        number = str(click.prompt("Document number", hide_input=True))
    else:
        number = sys.stdin.readline(ID_NUMBER_LINE_MAX).strip()
    with context.services() as services:
        found = services.privacy.check_real_name(services.subscriptions.find(subscriber), name, number)
    print_result(
        {"subscriber_id": found.subscriber_id, "real_name": found.real_name},
        f"Subscriber {found.subscriber_id}: {found.real_name}.",
        as_json,
    )


@click.command("export")
@audited()
@subscriber_option
@click.option("--to", "path", required=True, type=click.Path(dir_okay=False, path_type=Path))
@json_option
@pass_context
def subscriber_export(context: Context, subscriber: str, path: Path, as_json: bool) -> None:
    """Export all stored data of a subscriber, as one JSON document in a new file that only you can read."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        count = 0
        with (
            open_new(path) as out,
            Progress(
                SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True,
                disable=as_json or not console.is_terminal,
            ) as bar,
        ):  # fmt: skip
            task = bar.add_task("Exporting", total=None)
            for piece in services.privacy.export(found):
                out.write(piece)
                count += len(piece)
                bar.update(task, description=f"Exporting, {count // 1024:,} KiB")
    print_result(
        {"subscriber_id": found.subscriber_id, "file": path, "bytes": count},
        f"{count:,} bytes in {path}.",
        as_json,
    )


@click.command("erase")
@audited(subscriber_state)
@subscriber_option
@click.option(
    "--even-if-owed", is_flag=True, help="Erase now, though something is owed: it can't be collected then."
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@dry_run_option
@json_option
@pass_context
def subscriber_erase(
    context: Context, subscriber: str, even_if_owed: bool, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Close a subscriber and destroy the key of its personal data. It can't be undone. Bills stay, without the person."""
    if not yes and not dry_run:
        click.confirm(f"Erase {subscriber}? This can't be undone", abort=True)
    with context.services() as services:
        done = services.privacy.erase(
            services.subscriptions.find(subscriber), even_if_owed=even_if_owed, dry_run=dry_run
        )
        if even_if_owed and not dry_run:
            id_ = str(done.subscriber_id)
            services.approvals.check(context.actor, "subscriber.erase", id_, abs(done.owes_nano), id_)
    dry = " (dry run)" if dry_run else ""
    if done.state == "waiting":
        owed = f"what is owed ({format_money(done.owes_nano)} CNY) is settled"
        waits = {
            "owed": owed,
            "work_orders": "its open work orders are answered (`tokenworks order work list`)",
        }
        text = f"is closed, and is erased when {' and '.join(waits[cause] for cause in done.waits_for)}"
    else:
        text = f"is erased; backups forget by {done.backups_forget_at:%Y-%m-%d}"
    print_result(done, f"Subscriber {done.subscriber_id} {text}{dry}.", as_json)


@click.command("identify")
@audited(subscriber_state)
@subscriber_option
@click.option("--document", type=click.Choice(get_args(Document)), default="resident_id", show_default=True)
@json_option
@pass_context
def subscriber_identify(context: Context, subscriber: str, document: Document, as_json: bool) -> None:
    """Store the identity of a subscriber. The number is asked for, or read from standard input; a keyed hash of it is kept, no more."""
    hidden = sys.stdin.isatty()
    number = click.prompt("Number", hide_input=hidden, err=True, prompt_suffix=": " if hidden else "")
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        services.subscriptions.identify(found, document, number)
    print_result(
        {"subscriber_id": found.subscriber_id, "document": document},
        f"Subscriber {found.subscriber_id} is identified.",
        as_json,
    )
