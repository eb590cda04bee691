"""`tokenworks restore`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from tokenworks.app.database.archive import check_apart
from tokenworks.app.database.places import place_of
from tokenworks.app.database.restore import Restore, RestoreReport, choose_backup
from tokenworks.app.edge import read_text
from tokenworks.app.output import print_json, say
from tokenworks.app.restore_checks import check_restorable, put_secrets
from tokenworks.cli.bars import progress_bars
from tokenworks.cli.base import Context, json_option, pass_context


@click.command()
@click.option("--from", "where", help="A folder, or s3://bucket/prefix. Left out: archive_to.")
@click.option(
    "--at", help="A time with its zone (2026-11-28T12:00:00+08:00). Left out: the newest that there is."
)
@click.option("--backup", "backup_id", help="Begin with this one, and not with the newest that fits.")
@click.option("--without-log", is_flag=True, help="The backup alone, as it was when it ended.")
@click.option("--replace", is_flag=True, help="Move a database that is there aside.")
@click.option(
    "--secrets-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of --secrets-to; its newest copy goes into secrets_dir, which has to be empty.",
)
@click.option(
    "--erased",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The list of `vault erased`: they are erased again before anybody is served.",
)
@click.option("--nobody-erased", is_flag=True, help="Nobody was erased since the time that you go back to.")
@json_option
@pass_context
def restore(
    context: Context,
    where: str | None,
    at: str | None,
    backup_id: str | None,
    without_log: bool,
    replace: bool,
    secrets_from: Path | None,
    erased: Path | None,
    nobody_erased: bool,
    as_json: bool,
) -> None:
    """Restore this data directory from a backup: the database up to its newest state or to a time, and the journal; and verify the ledger.

    The server of this host is stopped. What is there is changed at the end, or not at all. Ends with 1 where `ledger verify` finds
    something, or where the journal does not go with the database.
    """
    settings = context.settings()
    check_restorable(settings, erased_named=erased is not None, nobody_erased=nobody_erased)
    moment = None if at is None else _moment(at)
    if moment is not None and without_log:
        raise click.UsageError("--at needs the log, which --without-log leaves out")
    place = place_of(settings, where)
    check_apart(place, settings.data_dir, "data_dir")
    chosen = choose_backup(place, moment, backup_id)
    ids = [] if erased is None else read_text(erased).split()
    with progress_bars(quiet=as_json) as progress:
        restoration = Restore(settings, place, chosen, progress, at=moment, with_log=not without_log)
        if secrets_from is not None:
            put_secrets(secrets_from, settings.secrets)
        report = restoration.run(ids, context.actor, replace=replace)
    bad = bool(report.findings or report.journal_fault)
    if as_json:
        print_json(report._asdict() | {"findings": [f._asdict() for f in report.findings], "ok": not bad})
    else:
        _say_restored(report, moment)
    sys.exit(1 if bad else 0)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{text} is no time: 2026-11-28T12:00:00+08:00") from None
    if found.tzinfo is None:
        raise click.UsageError(f"{text} has no zone: {text}+08:00 is Beijing's, {text}Z is UTC")
    return found


def _say_restored(report: RestoreReport, moment: datetime | None) -> None:
    last = report.last_transaction_at
    until = (
        f"up to the transaction of {last.astimezone(UTC).isoformat(sep=' ', timespec='milliseconds')}"
        if last is not None
        else "as it was at the backup's end (no transaction is known after it)"
    )
    say(
        f"Restored from backup {report.backup_id} (ended {report.backup_ended_at.isoformat(sep=' ', timespec='seconds')}), {until}, "
        f"with {report.wal_files} files of the log."
    )
    if moment is not None:
        say(
            f"What was bought, registered or issued after {moment.isoformat()} is lost and has to be done again."
        )
    else:
        say(
            "What was committed after the last file of the log that was kept is lost and has to be done again."
        )
    if report.erased_again:
        say(f"{report.erased_again} persons had come back and are erased again.")
    journal = {
        "kept": "The journal of this host stays",
        "restored": "The journal is restored",
        "none": "There is no journal: the host begins one",
    }[report.journal]
    if report.journal == "none":
        say(f"{journal}.")
    elif report.journal_fault:
        say(f"{journal}, and does not go with the database: {report.journal_fault}.")
        say(
            "The server does not start on it. Put the missing segments back, or see `tokenworks journal reset`."
        )
    else:
        say(
            f"{journal}: it has {report.journal_records} usage records beyond what this database has settled; they are settled when the "
            "server starts. What they drew on that this database does not know is settled as late."
        )
    if report.other_grants:
        say(
            f"{report.other_grants} grants are of other journals: `tokenworks grant list`, and A lost host in the runbook."
        )
    for path in report.aside:
        say(f"What was there is in {path}.")
    if report.findings:
        say(f"ledger verify: {len(report.findings)} findings; do not serve before they are understood:")
        for finding in report.findings[:20]:
            say(f"  {finding}")
    else:
        say("ledger verify: every invariant holds.")
    say("Next: start the server, then make a backup: this database goes on in a log of its own.")
