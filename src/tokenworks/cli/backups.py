"""`tokenworks backup`: making, listing and deleting backups."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from tokenworks.app.database.archive import configure_archive
from tokenworks.app.database.backup import Backup, find_backups, make_backup, prune
from tokenworks.app.database.places import place_of
from tokenworks.app.output import print_json, print_table, say
from tokenworks.cli.bars import progress_bars
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.kernel import SystemClock


def back_up(context: Context, to: str | None, secrets_to: Path | None, *, as_json: bool) -> None:
    """`tokenworks backup` without a subcommand."""
    settings = context.installed()
    if settings.archive_to:
        # Before the backup, so that the archive has all of the log after it.
        configure_archive(settings)
    with progress_bars(quiet=as_json) as progress:
        made = make_backup(settings, place_of(settings, to), secrets_to, progress)
    where = to or settings.archive_to
    if as_json:
        print_json(made | {"to": where})
        return
    size = sum(file["bytes"] for file in made["files"])
    what = f"the database ({size:,} bytes) and " if made["kind"] == "database" else ""
    say(f"Backup {made['backup_id']} in {where}: {what}the journal, at {made['ended_at'][:19]} UTC.")
    if made["kind"] == "host":
        say("The database is not in it: it is a PostgreSQL of your own, back it up with pg_basebackup.")
    if "secrets" in made:
        say(
            f"{len(made['secrets'])} files of secrets in {secrets_to / made['backup_id'] if secrets_to else ''}."
        )
    else:
        say(
            "No secrets are in it: without them nothing of it can be read. --secrets-to FOLDER copies them, apart."
        )
    if made["kind"] == "database" and settings.archive_to != where:
        say("What is committed from now on is in no backup: set archive_to to keep the log as it grows.")


@click.command("list")
@click.option("--in", "where", help="The place. Left out: archive_to.")
@json_option
@pass_context
def backup_list(context: Context, where: str | None, as_json: bool) -> None:
    """The backups in a place, oldest first, unfinished ones too."""
    settings = context.settings()
    found = find_backups(place_of(settings, where))
    if as_json:
        print_json([_row(backup) for backup in found])
        return
    rows = []
    for backup in found:
        row = _row(backup)
        ended_at = None if row["ended_at"] is None else str(row["ended_at"])[:19]
        rows.append(
            (row["backup_id"], row["state"], row["kind"], ended_at, row["host"], row["release"], row["schema"])
        )  # fmt: skip
    print_table("Backups", ["backup", "state", "of", "ended (UTC)", "host", "release", "schema"], rows)


def _row(backup: Backup) -> dict[str, object]:
    state = backup.fault or ("unfinished" if backup.manifest is None else "whole")
    manifest: Mapping[str, object] = {} if backup.manifest is None else backup.manifest
    files = [] if backup.manifest is None else backup.manifest["files"]
    names = (
        "kind",
        "host",
        "begun_at",
        "ended_at",
        "release",
        "schema",
        "start_lsn",
        "end_lsn",
        "journal",
        "secrets",
    )
    return {
        "backup_id": backup.backup_id,
        "source": backup.source,
        "state": state,
        **{name: manifest.get(name) for name in names},
        "bytes": sum(file["bytes"] for file in files),
    }


@click.command("prune")
@click.option("--in", "where", help="The place. Left out: archive_to.")
@click.option(
    "--days", type=click.IntRange(0, 3650), help="Left out: backup_days, which is what people are told."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@json_option
@pass_context
def backup_prune(context: Context, where: str | None, days: int | None, dry_run: bool, as_json: bool) -> None:
    """Delete backups that are older than backup_days, and files of the log that no backup needs. The newest whole one stays."""
    settings = context.settings()
    keep_days = settings.backup_days if days is None else days
    now = datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC)
    gone = prune(place_of(settings, where), keep_days, now, dry_run=dry_run)
    dry = " (dry run)" if dry_run else ""
    stays = (
        f" {', '.join(gone.overdue)} is as old and stays, being the newest: make another one."
        if gone.overdue
        else ""
    )
    print_result(
        gone._asdict() | {"days": keep_days, "dry_run": dry_run},
        f"Deleted{dry}: {len(gone.backups)} backups older than {keep_days} days, {len(gone.unfinished)} unfinished, "
        f"{gone.wal_files} files of the log, {gone.segments} segments of journals.{stays}",
        as_json,
    )
