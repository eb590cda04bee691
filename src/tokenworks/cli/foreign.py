"""`tokenworks import`: what another gateway had."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.edge import read_bytes
from tokenworks.app.importing import litellm, one_api
from tokenworks.app.importing.apply import Choices, Importing, Issued
from tokenworks.app.importing.model import Findings, Foreign
from tokenworks.app.importing.tables import read_tables
from tokenworks.app.output import print_json, say
from tokenworks.cli.base import Command, Context, json_option, pass_context
from tokenworks.cli.options import dry_run_option
from tokenworks.cli.trail import Params, audited

# Lines of each part that are printed for people; --json has all.
LINES_MAX: Final = 60
_TITLES: Final = {
    "taken": "Taken", "there_already": "There already", "approximated": "Approximated", "left_out": "Left out, with the reason",
}  # fmt: skip


def _fleet_now(services: AppServices, params: Params) -> object:
    """Counts: the deployments and the keys may be thousands."""
    found: dict[str, object] = {
        "deployments": len(services.deployments.all()), "aliases": len(services.deployments.aliases()),
    }  # fmt: skip
    if params.get("subscriber"):
        subscriber = services.subscriptions.find(params["subscriber"])
        found |= {
            "members": len(services.members.of(subscriber)),
            "keys": services.keys.count(subscriber.account_id),
        }
    return found


def _choices(function: Command) -> Command:
    """The options of every import, from the last to the first."""
    options: tuple[Callable[[Command], Command], ...] = (
        json_option,
        dry_run_option,
        click.option("--yes", is_flag=True, help="Don't ask."),
        click.option("--reissue-to", type=click.Path(dir_okay=False, path_type=Path), help="Give the keys new texts, and write them into this new file, mode 600. Without it the keys work as they are."),
        click.option("--allow-private", is_flag=True, help="Deployments may be on loopback or private addresses."),
        click.option("--without-budgets", is_flag=True, help="Take what has a budget without it: it may spend all that the account has."),
        click.option("--tokens-per-usd", type=click.IntRange(1, 10**12), help="The tokens that a dollar of a budget becomes. Without it, what has a budget is left out."),
        click.option("--subscriber", help="Who pays for the teams, users and keys: its id, phone number or name. Without it they are left out."),
    )  # fmt: skip
    for option in options:
        function = option(function)
    return function


@click.command("litellm")
@audited(_fleet_now)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--database", help="Its tables: a postgresql:// URL, a folder of CSV files, or a JSON file of tables."
)
@_choices
@pass_context
def import_litellm(
    context: Context, config: Path, database: str | None, subscriber: str | None, tokens_per_usd: int | None, without_budgets: bool,
    allow_private: bool, reissue_to: Path | None, yes: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import what LiteLLM had: its config.yaml, and with --database its teams, users and keys. What would be made is shown first."""
    content = read_bytes(config)
    tables = None if database is None else read_tables(database, litellm.TABLES)

    def read() -> Foreign:
        foreign = litellm.read_config(content)
        if tables is not None:
            litellm.read_tables(foreign, tables)
        return foreign

    choices = Choices(subscriber, tokens_per_usd, without_budgets, allow_private, reissue_to is not None)
    _import(context, read, choices, reissue_to, yes=yes, dry_run=dry_run, as_json=as_json)


@click.command("new-api")
@audited(_fleet_now)
@click.argument("source")
@_choices
@pass_context
def import_new_api(
    context: Context, source: str, subscriber: str | None, tokens_per_usd: int | None, without_budgets: bool, allow_private: bool,
    reissue_to: Path | None, yes: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import what new-api had: its SQLite file, a postgresql:// URL, a JSON file of tables or a folder of CSV files. What would be made is shown first."""
    choices = Choices(subscriber, tokens_per_usd, without_budgets, allow_private, reissue_to is not None)
    _import_one_api(
        context, "new-api", source, choices, reissue_to, yes=yes, dry_run=dry_run, as_json=as_json
    )


@click.command("one-api")
@audited(_fleet_now)
@click.argument("source")
@_choices
@pass_context
def import_one_api(
    context: Context, source: str, subscriber: str | None, tokens_per_usd: int | None, without_budgets: bool, allow_private: bool,
    reissue_to: Path | None, yes: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import what one-api had: its SQLite file, a postgresql:// URL, a JSON file of tables or a folder of CSV files. What would be made is shown first."""
    choices = Choices(subscriber, tokens_per_usd, without_budgets, allow_private, reissue_to is not None)
    _import_one_api(
        context, "one-api", source, choices, reissue_to, yes=yes, dry_run=dry_run, as_json=as_json
    )


def _import_one_api(
    context: Context, system: one_api.System, source: str, choices: Choices, reissue_to: Path | None, *, yes: bool, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Import what one of the two systems had, whose tables are alike. `system`: new-api or one-api."""
    tables = read_tables(source, one_api.TABLES)

    def read() -> Foreign:
        return one_api.read_tables(system, tables)

    _import(context, read, choices, reissue_to, yes=yes, dry_run=dry_run, as_json=as_json)


def _import(
    context: Context, read: Callable[[], Foreign], choices: Choices, reissue_to: Path | None, *, yes: bool, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Show what an import makes, ask, and make it in one transaction."""
    if as_json and not yes and not dry_run:
        raise click.UsageError("--json asks nothing: add --yes or --dry-run")
    if choices.without_budgets and choices.tokens_per_usd is not None:
        raise click.UsageError("--without-budgets and --tokens-per-usd exclude each other")
    if reissue_to is not None and reissue_to.exists():
        raise click.UsageError(f"{reissue_to} is there already: name a new file")
    secrets_dir = context.settings().secrets
    with context.services() as services:
        trial = Importing(services, read(), choices, secrets_dir)
        with services.transaction(dry_run=True):
            trial.run()
        findings = trial.findings
        if not as_json:
            _show(findings)
        done = not dry_run and findings.counts["taken"] > 0
        if done:
            if not yes:
                click.confirm("Import this?", abort=True)
            findings = _make(services, Importing(services, read(), choices, secrets_dir), reissue_to)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "counts": findings.counts,
                "findings": [finding._asdict() for finding in findings.found],
            }
        )
    else:
        made = "is made" if done else "would be made" if dry_run else "is made: nothing is new"
        say(
            f"{findings.counts['taken']} taken, {findings.counts['there_already']} there already, {findings.counts['left_out']} left out. What is taken {made}."
        )


def _make(services: AppServices, run: Importing, reissue_to: Path | None) -> Findings:
    """Make everything, with the files of secrets and of new keys. If anything fails, none of it is there."""
    made: list[Path] = []
    try:
        with services.transaction():
            run.run()
            made += run.write_secrets()
            if reissue_to is not None and run.issued:
                made.append(reissue_to)
                _write_keys(reissue_to, run.issued)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return run.findings


def _write_keys(path: Path, issued: list[Issued]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.writelines(f"{key.key_id}\t{key.text}\t{key.name}\n" for key in issued)
        out.flush()
        os.fsync(out.fileno())


def _show(findings: Findings) -> None:
    for outcome, title in _TITLES.items():
        lines = [
            f"  {finding.what}{f': {finding.reason}' if finding.reason else ''}"
            for finding in findings.found
            if finding.outcome == outcome
        ]
        if lines:
            say("\n".join([f"{title}:", *lines[:LINES_MAX]]))
            if len(lines) > LINES_MAX:
                say(f"  ... and {len(lines) - LINES_MAX} more: --json shows them.")
