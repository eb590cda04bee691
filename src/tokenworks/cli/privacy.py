"""The commands of what is a person's by law: find, consent, real name, export, erase; and the keys of the vault."""

import os
import sys
from pathlib import Path
from typing import Final

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from tokenworks.app.edge import read_text
from tokenworks.app.host_secrets import wait_for_hosts
from tokenworks.app.output import console, print_json, print_table, say
from tokenworks.cli.base import Context, json_option, pass_context, said, subscriber_option, wait_option
from tokenworks.cli.shop import dry_run_option
from tokenworks.kernel import Invalid, format_money
from tokenworks.subscriptions import PURPOSES
from tokenworks.trust import add_wrapping_key

FOUND_DEFAULT: Final = 20
ID_NUMBER_LINE_MAX: Final = 100


@click.command("find")
@click.argument("text")
@click.option("--limit", type=click.IntRange(1, 1000), default=FOUND_DEFAULT, show_default=True)
@json_option
@pass_context
def subscriber_find(context: Context, text: str, limit: int, as_json: bool) -> None:
    """Subscribers by id, phone number or its last four digits, broadband number, name or part of one."""
    with context.works() as works:
        found = works.subscriptions.search(text, limit)
    if as_json:
        print_json(found)
    else:
        rows = [(s.subscriber_id, s.phone_masked, s.name, s.state) for s in found]
        print_table("Subscribers", ["id", "phone", "name", "state"], rows)


@click.command("consent")
@subscriber_option
@click.option("--purpose", type=click.Choice(PURPOSES), help="Left out: what was said of each.")
@click.option("--give/--withdraw", "given", default=None, help="As the subscriber said it to you.")
@json_option
@pass_context
def subscriber_consent(
    context: Context, subscriber: str, purpose: str | None, given: bool | None, as_json: bool
) -> None:
    """What a subscriber agreed to; or write down what it says, of the text as it is now."""
    if (purpose is None) != (given is None):
        raise click.UsageError("--purpose goes with --give or --withdraw")
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        if purpose is not None and given is not None:
            if purpose == "spill_over":
                works.payg.control(found, spill_over=given, said_by=context.actor)
            works.subscriptions.consent(found, purpose, given=given, said_by=context.actor)
        states = works.subscriptions.consent_states(found)
    if as_json:
        print_json(
            [
                {
                    "purpose": state.text.purpose,
                    "given": state.given,
                    "said_at": state.said_at,
                    "text_sha256": state.said_sha256,
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
            "" if state.said_at is None else f"{state.said_at:%Y-%m-%d %H:%M}",
            (state.said_sha256 or "")[:12],
        )
        for state in states
    ]
    print_table("Consents", ["purpose", "said", "at", "text"], rows)


@click.command("real-name")
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
    with context.works() as works:
        found = works.privacy.check_real_name(works.subscriptions.find(subscriber), name, number)
    said(
        {"subscriber_id": found.subscriber_id, "real_name": found.real_name},
        f"Subscriber {found.subscriber_id}: {found.real_name}.",
        as_json,
    )


@click.command("export")
@subscriber_option
@click.option("--to", "path", required=True, type=click.Path(dir_okay=False, path_type=Path))
@json_option
@pass_context
def subscriber_export(context: Context, subscriber: str, path: Path, as_json: bool) -> None:
    """All that is stored of a subscriber, as one JSON document in a new file that only you can read."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Invalid(f"{path} is there already: name another file") from None
        count = 0
        with (
            os.fdopen(file, "wb") as out,
            Progress(
                SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True,
                disable=as_json or not console.is_terminal,
            ) as bar,
        ):  # fmt: skip
            task = bar.add_task("Exporting", total=None)
            for piece in works.privacy.export(found):
                out.write(piece)
                count += len(piece)
                bar.update(task, description=f"Exporting, {count // 1024:,} KiB")
    said(
        {"subscriber_id": found.subscriber_id, "file": path, "bytes": count},
        f"{count:,} bytes in {path}.",
        as_json,
    )


@click.command("erase")
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
    with context.works() as works:
        done = works.privacy.erase(
            works.subscriptions.find(subscriber), even_if_owed=even_if_owed, dry_run=dry_run
        )
        if even_if_owed and not dry_run:
            id_ = str(done.subscriber_id)
            works.approvals.check(context.actor, "subscriber.erase", id_, abs(done.owes_nano), id_)
    dry = " (dry run)" if dry_run else ""
    if done.state == "waiting":
        owed = f"what is owed ({format_money(done.owes_nano)} CNY) is settled"
        waits = {
            "owed": owed,
            "work_orders": "its open work orders are answered (`tokenworks order work list`)",
        }
        text = f"is closed, and is erased when {' and '.join(waits[one] for one in done.waits_for)}"
    else:
        text = f"is erased; backups forget by {done.backups_forget_at:%Y-%m-%d}"
    said(done, f"Subscriber {done.subscriber_id} {text}{dry}.", as_json)


@click.group()
def vault() -> None:
    """The keys that personal data is encrypted under."""


@vault.command("new-key")
@json_option
@pass_context
def vault_new_key(context: Context, as_json: bool) -> None:
    """Make the next version of the wrapping key. Copy it to every host, which takes it while it serves; then `vault rewrap`."""
    settings = context.settings()
    version = add_wrapping_key(settings.secrets)
    path = settings.secrets / f"person-wrap-{version}"
    text = f"Version {version} is in {path}: copy it to the secrets of every host, mode 600, then `tokenworks vault rewrap`."
    said({"version": version, "file": path}, text, as_json)


@vault.command("rewrap")
@wait_option
@click.option("--force", is_flag=True, help="Though a host has not loaded the newest version: that host is gone.")  # fmt: skip
@json_option
@pass_context
def vault_rewrap(context: Context, wait_s: int, force: bool, as_json: bool) -> None:
    """Wrap every person's key with the newest version. It can be cut off and run again; older versions can go then. Refused while a
    host of the fleet has not loaded that version: it could read nobody.
    """
    count = 0
    with context.works() as works:
        if works.vault.older():
            hosts = wait_for_hosts(works, works.vault.is_newest_on, 0 if force else wait_s)
            works.vault.check_hosts([] if force else hosts)
        with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
            task = bar.add_task("Wrapping keys", total=works.vault.older())
            while done := works.vault.rewrap():
                count += done
                bar.update(task, completed=count)
    if as_json:
        print_json({"rewrapped": count})
    else:
        say(f"{count:,} keys are wrapped with the newest version.")


@vault.command("erased")
@json_option
@pass_context
def vault_erased(context: Context, as_json: bool) -> None:
    """The ids of who was erased, a line each: to be kept beside the backups, for `vault erase-again` after a restore."""
    with context.works() as works:
        found = list(works.privacy.erased())
    if as_json:
        print_json(found)
    else:
        for subscriber_id in found:
            say(str(subscriber_id))


@vault.command("erase-again")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@pass_context
def vault_erase_again(context: Context, file: Path, as_json: bool) -> None:
    """After a restore: erase whom a list of `vault erased` names and who came back with the backup. It can be run again."""
    ids = read_text(file).split()
    count = 0
    with (
        context.works() as works,
        Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar,
    ):
        task = bar.add_task("Erasing", total=len(ids))
        for number, text in enumerate(ids, 1):
            count += works.privacy.erase_again(text)
            bar.update(task, completed=number)
    said(
        {"erased": count, "named": len(ids)},
        f"{count:,} of {len(ids):,} had come back and are erased.",
        as_json,
    )


GROUPS: Final = (vault,)
SUBSCRIBER: Final = (
    subscriber_find,
    subscriber_consent,
    subscriber_real_name,
    subscriber_export,
    subscriber_erase,
)
