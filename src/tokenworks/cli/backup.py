"""The commands of backup and restore, and of the embedded database's address."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import click
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tokenworks.app.archive import check_apart, configure_archive
from tokenworks.app.backup import Backup, find_backups, make_backup, prune
from tokenworks.app.backup import Progress as Told
from tokenworks.app.database import database, embedded_of
from tokenworks.app.edge import read_text
from tokenworks.app.embedded import APP_ROLE
from tokenworks.app.output import console, print_json, print_table, say
from tokenworks.app.places import Damaged, Folder, Place, open_place, sha256
from tokenworks.app.restore import Report, Restore, choose
from tokenworks.app.settings import Settings
from tokenworks.cli.base import Context, json_option, pass_context, said
from tokenworks.kernel import Invalid, NotFound, SystemClock, Unavailable

CONNECT_S: Final = "5"


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Told]:
    """A bar for each thing that is done, on a terminal; in a log a line on stderr when it begins."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None)
                if not console.is_terminal:
                    say(what, err=True)
            bar.update(tasks[what], completed=done, total=total or None)

        yield told


def _place(settings: Settings, named: str | None) -> Place:
    where = named or settings.archive_to
    if not where:
        raise Invalid("name a place: a folder or s3://bucket/prefix, or set archive_to")
    return open_place(where, settings)


@click.group(invoke_without_command=True)
@click.option("--to", help="A folder, or s3://bucket/prefix. Left out: archive_to.")
@click.option(
    "--secrets-to",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for a copy of secrets_dir, apart from --to. Left out: none is made.",
)
@json_option
@click.pass_context
def backup(click_context: click.Context, to: str | None, secrets_to: Path | None, as_json: bool) -> None:
    """Back up this host while it serves: the embedded database, and the journal.

    With a PostgreSQL of your own: the journal alone; back up the database with its own tools.
    """
    if click_context.invoked_subcommand is not None:
        if to is not None or secrets_to is not None:
            raise click.UsageError(
                "--to and --secrets-to are of `backup` alone: name the place after the command"
            )
        return
    context: Context = click_context.obj
    settings = _of_a_works(context)
    if settings.archive_to:
        # From now on, so that the log goes on where the backup ends.
        configure_archive(settings)
    with _progress(quiet=as_json) as told:
        made = make_backup(settings, _place(settings, to), secrets_to, told)
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


def _of_a_works(context: Context) -> Settings:
    settings = context.settings()
    if not settings.database_url and not settings.data_dir.exists():
        raise Invalid(f"there is nothing in {settings.data_dir} yet: run `tokenworks init` first")
    return settings


@backup.command("list")
@click.option("--in", "where", help="The place. Left out: archive_to.")
@json_option
@pass_context
def backup_list(context: Context, where: str | None, as_json: bool) -> None:
    """The backups in a place, oldest first; those that were cut off, too."""
    settings = context.settings()
    found = find_backups(_place(settings, where))
    if as_json:
        print_json([_row(one) for one in found])
        return
    rows = []
    for one in found:
        row = _row(one)
        rows.append(
            (row["backup_id"], row["state"], row["kind"], row["ended_at"] and row["ended_at"][:19], row["host"], row["release"], row["schema"])
        )  # fmt: skip
    print_table("Backups", ["backup", "state", "of", "ended (UTC)", "host", "release", "schema"], rows)


def _row(one: Backup) -> dict[str, Any]:
    state = one.fault or ("unfinished" if one.manifest is None else "whole")
    manifest = one.manifest or {}
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
        "backup_id": one.backup_id,
        "source": one.source,
        "state": state,
        **{name: manifest.get(name) for name in names},
        "bytes": sum(file["bytes"] for file in manifest.get("files", ())),
    }


@backup.command("prune")
@click.option("--in", "where", help="The place. Left out: archive_to.")
@click.option(
    "--days", type=click.IntRange(0, 3650), help="Left out: backup_days, which is what people are told."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@json_option
@pass_context
def backup_prune(context: Context, where: str | None, days: int | None, dry_run: bool, as_json: bool) -> None:
    """Delete backups that are older than backup_days, and what of the log no backup needs. The newest whole one stays."""
    settings = context.settings()
    keep_days = settings.backup_days if days is None else days
    now = datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC)
    gone = prune(_place(settings, where), keep_days, now, dry_run=dry_run)
    dry = " (dry run)" if dry_run else ""
    stays = (
        f" {', '.join(gone.overdue)} is as old and stays, being the newest: make another one."
        if gone.overdue
        else ""
    )
    said(
        gone._asdict() | {"days": keep_days, "dry_run": dry_run},
        f"Deleted{dry}: {len(gone.backups)} backups older than {keep_days} days, {len(gone.unfinished)} unfinished, "
        f"{gone.wal_files} files of the log, {gone.segments} segments of journals.{stays}",
        as_json,
    )


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
    """Make this data directory from a backup: the database up to its newest or to a time, and the journal; and verify it.

    The server of this host is stopped. What is there is changed at the end, or not at all. Ends with 1 where `ledger verify` finds
    something, or where the journal does not go with the database.
    """
    settings = context.settings()
    if settings.database_url:
        raise Invalid(
            "the database is a PostgreSQL of your own (database_url): restore it with its own tools; `restore` is for the embedded one"
        )
    if (erased is None) == (not nobody_erased):
        raise Invalid(
            "a restore brings back whom a younger list has erased: give the newest list of `tokenworks vault erased` with --erased FILE, "
            "or say --nobody-erased"
        )
    moment = None if at is None else _moment(at)
    if moment is not None and without_log:
        raise click.UsageError("--at needs the log, which --without-log leaves out")
    place = _place(settings, where)
    check_apart(place, settings.data_dir, "data_dir")
    chosen = choose(place, moment, backup_id)
    ids = [] if erased is None else read_text(erased).split()
    with _progress(quiet=as_json) as told:
        making = Restore(settings, place, chosen, told, at=moment, with_log=not without_log)
        if secrets_from is not None:
            _put_secrets(secrets_from, settings.secrets)
        report = making.run(ids, context.actor, replace=replace)
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


def _put_secrets(copies: Path, to: Path) -> None:
    """The newest copy of a folder of `--secrets-to`, or the copy that the folder is."""
    found = sorted(path.parent for path in copies.glob("*/manifest.json"))
    folder = copies if (copies / "manifest.json").exists() else found[-1] if found else None
    if folder is None:
        raise NotFound(f"{copies} has no copy of secrets (a manifest.json)")
    if to.exists() and any(to.iterdir()):
        raise Invalid(f"there are secrets in {to}: leave --secrets-from out to use them, or move them aside")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    contents = {name: (folder / name).read_bytes() for name in files}
    for name, content in contents.items():
        if sha256(content) != files[name] or "/" in name:
            raise Damaged(f"{folder / name} is damaged: its SHA-256 is not the manifest's")
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half = Folder(to.with_name(f"{to.name}.restoring"))
    shutil.rmtree(half.root, ignore_errors=True)
    half.make()
    for name, content in contents.items():
        half.put(name, content)
    if to.exists():
        to.rmdir()
    half.root.chmod(0o700)
    half.root.rename(to)


def _say_restored(report: Report, moment: datetime | None) -> None:
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


@click.group("database")
def database_group() -> None:
    """The database's address, and a session in it."""


_owner_option = click.option(
    "--owner", is_flag=True, help="As the owner, who may change history. Not for services."
)


@database_group.command("url")
@_owner_option
@json_option
@pass_context
def database_url(context: Context, owner: bool, as_json: bool) -> None:
    """The database's URL, as the role that serves. A password is left out of it; the embedded one has none."""
    settings = _of_a_works(context)
    url = _url(settings, owner=owner)
    if owner:
        say(
            "This role may change history, past every check: use it for what no command does, and say so.",
            err=True,
        )
    if not settings.database_url:
        say("The embedded database is up while a server or a command of Tokenworks runs.", err=True)
    said({"url": _without_password(url), "owner": owner}, _without_password(url), as_json)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(
        pair for pair in parts.query.split("&") if pair.partition("=")[0] not in {"password", "sslpassword"}
    )
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}{'?' if query else ''}{query}"


def _url(settings: Settings, *, owner: bool) -> str:
    if settings.database_url:
        if owner and not settings.database_owner_url:
            raise Invalid("no owner's URL is known: set database_owner_url for this command")
        return str(settings.database_owner_url if owner else settings.database_url)
    embedded = embedded_of(settings)
    return embedded.owner_url if owner else embedded.url


@database_group.command("psql")
@_owner_option
@click.option("-c", "statement", help="Run this, and end.")
@pass_context
def database_psql(context: Context, owner: bool, statement: str | None) -> None:
    """Psql in the database, as the role that serves; the embedded server is started where it is not up."""
    settings = _of_a_works(context)
    if owner:
        say(
            "This role may change history, past every check: use it for what no command does, and say so.",
            err=True,
        )
    program = shutil.which("psql") if settings.database_url else None
    with database(settings):
        try:
            program = program or embedded_of(settings).program("psql")
        except Unavailable as error:
            raise Unavailable(f"there is no psql: {error}") from error
        arguments = ["-X", "-v", "ON_ERROR_STOP=1", *(("-c", statement) if statement else ())]
        done = subprocess.run(
            [program, *arguments], env=_environment(_url(settings, owner=owner)), check=False
        )
    sys.exit(done.returncode)


def _environment(url: str) -> dict[str, str]:
    """The address in variables, so that no password is in the list of processes."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    said = {
        "PGHOST": query.get("host") or parts.hostname or "",
        "PGPORT": query.get("port") or str(parts.port or ""),
        "PGUSER": query.get("user") or unquote(parts.username or "") or APP_ROLE,
        "PGPASSWORD": query.get("password") or unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/") or query.get("dbname", ""),
        "PGSSLMODE": query.get("sslmode", ""),
        "PGSSLROOTCERT": query.get("sslrootcert", ""),
        "PGCONNECT_TIMEOUT": CONNECT_S,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TOKENWORKS_"))}
    return kept | {name: value for name, value in said.items() if value}


GROUPS: Final = (backup, restore, database_group)
