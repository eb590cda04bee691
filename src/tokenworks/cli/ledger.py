"""`tokenworks ledger`: records to reconcile, losses, and the proof of the books."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from uuid import UUID

import click

from tokenworks.app import views
from tokenworks.app.output import on_terminal, print_json, say
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
)
from tokenworks.cli.options import LIST_DEFAULT, since_of
from tokenworks.subscriptions import BILLING_ZONE


@click.command("flagged")
@click.option("--since", help="A time (2026-11-23T08:00) or a span (15m, 24h, 7d).")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@click.option("--before", type=click.UUID, help="The last id of the page before: those older than it.")
@json_option
@pass_context
def ledger_flagged(
    context: Context, since: str | None, limit: int, before: UUID | None, as_json: bool
) -> None:
    """Records to reconcile with a deployment's own figures: usage that was not reported, is inconsistent, late, or waived."""
    with context.services() as services:
        found = services.ledger.flagged(since_of(since), limit, before)
    if as_json:
        print_json(found)
    else:
        views.print_flagged(found)


@click.command("losses")
@click.option(
    "--since", default="7d", show_default=True, help="A time (2026-11-23T08:00) or a span (15m, 24h, 7d)."
)
@click.option("--subscriber", help="Of one alone: its id or phone number.")
@json_option
@pass_context
def ledger_losses(context: Context, since: str, subscriber: str | None, as_json: bool) -> None:
    """Tokens that were produced and not charged, by day (UTC) and cause."""
    with context.services() as services:
        account_id = None if subscriber is None else services.subscriptions.find(subscriber).account_id
        found = services.ledger.losses(since_of(since), account_id, BILLING_ZONE)
    if as_json:
        print_json(found)
    else:
        views.print_losses(found)


@click.command("verify")
@click.option("--full", is_flag=True, help="Check all rows, also those that earlier runs have read.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="How many processes read at once, in one snapshot (default: one per core).",
)
@json_option
@pass_context
def ledger_verify(context: Context, as_json: bool, full: bool, processes: int | None) -> None:
    """Recompute invariants from the tables: for rows since the last run, and for a thirtieth of the accounts (all accounts, where they
    are few); exit 1 with the offending rows where an invariant is broken.
    """
    with context.services() as services, _bar(quiet=as_json) as progress:
        findings, read, counts = services.verify_books(progress, full=full, processes=processes)
    if as_json:
        print_json(
            {
                "ok": not findings,
                "checked": counts,
                "read": read._asdict(),
                "single_role": context.may_change_history,
                "findings": [f._asdict() for f in findings],
            }
        )
    else:
        part = {"new_links": read.links, "accounts": read.accounts, "of_accounts": read.accounts_total}
        views.print_verified(counts or part, findings)
        if context.may_change_history:
            say("The database's role could change history (single_role): see docs/RUNBOOK.md.")
    sys.exit(1 if findings else 0)


@contextlib.contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """On a terminal, a bar of the checks. Yields the callback for progress."""
    if quiet or not on_terminal():
        yield lambda _what, _done, _total: None
        return
    from rich.progress import Progress  # noqa: PLC0415 - shown on a terminal alone

    with Progress(transient=True) as bar:
        task = bar.add_task("Verifying", total=None)
        yield lambda _what, done, total: bar.update(task, completed=done, total=total)
