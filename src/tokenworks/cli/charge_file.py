"""`tokenworks bill`: the phone bill's charge files, and the channel that collects a bill."""

from pathlib import Path
from typing import Literal

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.edge import read_bytes
from tokenworks.app.output import money_text, print_json, print_table
from tokenworks.cli.base import (
    Context,
    exact_option,
    json_option,
    pass_context,
    print_result,
)
from tokenworks.cli.options import dry_run_option, limit_option, reason_option
from tokenworks.cli.states import bill_state
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import day_of


def _files_now(services: AppServices, _params: Params) -> object:
    return services.charge_files.files(1)


@click.command("direct")
@limit_option
@exact_option
@json_option
@pass_context
def bill_direct(context: Context, limit: int, as_json: bool) -> None:
    """Open bills that are collected from subscribers directly: bills of closed subscribers, and bills that were moved to this channel. Oldest first."""
    with context.services() as services:
        found, count = services.payments.direct(0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (b.bill_no, b.subscriber_id, money_text(b.remaining_nano), day_of(b.due_at))
        for b in found
    ]  # fmt: skip
    print_table(
        f"Collected directly ({len(found)} of {count})",
        ["bill", "subscriber", "open", "due"],
        rows,
        right=["open"],
    )


@click.command("resend")
@audited(bill_state)
@click.argument("bill_no")
@reason_option
@dry_run_option
@json_option
@pass_context
def bill_resend(context: Context, bill_no: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Send a bill to the carrier again after it was rejected too often."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        made = services.payments.resend(services.bills.find(bill_no), reason)
    print_result(
        made, f"Bill {bill_no} is on the next charge file{' (dry run)' if dry_run else ''}.", as_json
    )


@click.command("channel")
@audited(bill_state)
@click.argument("bill_no")
@click.option("--to", type=click.Choice(["phone", "direct"]), required=True)
@reason_option
@dry_run_option
@json_option
@pass_context
def bill_channel(
    context: Context, bill_no: str, to: Literal["phone", "direct"], reason: str, dry_run: bool, as_json: bool
) -> None:
    """Collect a bill on the phone bill, or from the subscriber itself."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        made = services.payments.set_channel(services.bills.find(bill_no), to, reason)
    how = "by the phone bill" if made.channel == "phone" else "from the subscriber"
    print_result(made, f"Bill {bill_no} is collected {how}{' (dry run)' if dry_run else ''}.", as_json)


@click.command("lapse")
@audited(_files_now)
@click.argument("sequence", type=int)
@reason_option
@dry_run_option
@json_option
@pass_context
def bill_lapse(context: Context, sequence: int, reason: str, dry_run: bool, as_json: bool) -> None:
    """Stop waiting for the carrier's answer to a charge file: its bills may be sent again."""
    with context.services() as services, services.transaction(dry_run=dry_run):
        lines = services.charge_files.lapse(sequence, reason)
    dry = " (dry run)" if dry_run else ""
    print_result(
        {"sequence_no": sequence, "lines": lines}, f"{lines} line(s) are not waited for{dry}.", as_json
    )


@click.command("file")
@audited(_files_now)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where it goes, mode 0600."
)
@click.option("--again", type=int, help="An earlier file, by its sequence, byte for byte.")
@json_option
@pass_context
def bill_file(context: Context, out: Path, again: int | None, as_json: bool) -> None:
    """Make the next charge file for the phone bill: all bills that are on no file yet. It names phone numbers."""
    with context.services() as services:
        if again is not None:
            sequence, text = again, services.charge_files.file(again)
        else:
            made = services.charge_files.make_file()
            if made is None:
                print_result({"sequence_no": None}, "There is nothing to send.", as_json)
                return
            sequence, text = made
    out.touch(0o600)
    out.chmod(0o600)  # also where there was one
    out.write_text(text, encoding="utf-8")
    lines = text.count("\n") - 2
    print_result(
        {"sequence_no": sequence, "lines": lines, "path": out},
        f"{out}: file {sequence}, {lines} line(s).",
        as_json,
    )


@click.command("files")
@exact_option
@json_option
@pass_context
def bill_files(context: Context, as_json: bool) -> None:
    """Charge files, newest first."""
    with context.services() as services:
        found = services.charge_files.files()
    if as_json:
        print_json(found)
        return
    rows = [
        (f["sequence_no"], f["layout"], f["made_at"], f["lines"], money_text(int(str(f["amount_nano"]))),
         f["acknowledged_at"] or "waits", f["rejected"])
        for f in found
    ]  # fmt: skip
    columns = ["file", "layout", "made", "lines", "CNY", "answered", "rejected"]
    print_table("Charge files", columns, rows, right=["lines", "CNY", "rejected"])


@click.command("acknowledge")
@audited(_files_now)
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dry_run_option
@json_option
@pass_context
def bill_acknowledge(context: Context, path: Path, dry_run: bool, as_json: bool) -> None:
    """Take the carrier's answer to a charge file: all of it, or nothing. Another answer to the same file corrects the first."""
    with context.services() as services:
        accepted, rejected = services.charge_files.acknowledge(read_bytes(path), dry_run=dry_run)
    dry = " (dry run)" if dry_run else ""
    print_result(
        {"accepted": accepted, "rejected": rejected, "dry_run": dry_run},
        f"{accepted} line(s) accepted and paid, {rejected} rejected{dry}.",
        as_json,
    )
