"""Commands for who answers for the ledger: grants, frozen accounts, quarantine, the journal."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import Works
from tokenworks.app.cli_base import Context, json_option, pass_context, said
from tokenworks.app.output import print_json, print_table
from tokenworks.catalog import Weights
from tokenworks.charging import JournalCorrupt, RateLookup, inspect_journal


@click.group()
def grant() -> None:
    """What is leased to hosts."""


@grant.command("list")
@click.option("--subscriber", help="Its id or phone number.")
@json_option
@pass_context
def grant_list(context: Context, subscriber: str | None, as_json: bool) -> None:
    """Open grants: host, quantity, until when, and whether in doubt."""
    with context.works() as works:
        account = None if subscriber is None else works.subscriptions.find(subscriber).account_id
        found = works.ledger.grants(account)
    if as_json:
        print_json(found)
    else:
        print_table(
            "Open grants",
            ["grant", "account", "host", "granted", "settled", "spend until", "in doubt"],
            [
                [g["grant_id"], g["account_id"], g["host"], g["amount"], g["used"], g["spend_until"].isoformat(timespec="seconds"),
                 g["in_doubt"]]
                for g in found
            ],
            right=["granted", "settled"],
        )  # fmt: skip


@grant.command("close")
@click.argument("grant_id", type=click.UUID)
@json_option
@pass_context
def grant_close(context: Context, grant_id: UUID, as_json: bool) -> None:
    """Have its host close a grant as soon as nothing runs on it."""
    with context.works() as works:
        works.ledger.ask_grant_back(grant_id)
    said({"grant_id": grant_id}, "Its host is asked to close it.", as_json)


@grant.command("write-off")
@click.argument("grant_id", type=click.UUID)
@json_option
@pass_context
def grant_write_off(context: Context, grant_id: UUID, as_json: bool) -> None:
    """Take a grant in doubt back from a lost host. What that host settles later draws on what is free."""
    with context.works() as works:
        amount = works.ledger.write_off(grant_id)
    said({"grant_id": grant_id, "amount": amount}, f"Written off: {amount} is free again.", as_json)


@click.group()
def account() -> None:
    """Accounts."""


@account.command("freeze")
@click.option("--subscriber", required=True, help="Its id or phone number.")
@click.option("--undo", is_flag=True, help="Let it spend again.")
@json_option
@pass_context
def account_freeze(context: Context, subscriber: str, undo: bool, as_json: bool) -> None:
    """Grant nothing more to an account, and get back what no request holds."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        works.ledger.set_frozen(found.account_id, frozen=not undo)
    said(
        {"account_id": found.account_id, "frozen": not undo},
        "It can spend again." if undo else "Frozen: running requests finish, nothing new is granted.",
        as_json,
    )


@click.group()
def quarantine() -> None:
    """Usage records that the database refused."""


@quarantine.command("list")
@json_option
@pass_context
def quarantine_list(context: Context, as_json: bool) -> None:
    """Records that wait for a decision, and why they were refused."""
    with context.works() as works:
        found = works.ledger.quarantined()
    if as_json:
        print_json(found)
    else:
        print_table(
            "Quarantine",
            ["record", "account", "journal sequence", "since", "reason"],
            [
                [q["quarantine_id"], q["account_id"], q["seq"], q["quarantined_at"].isoformat(timespec="seconds"), q["reason"]]
                for q in found
            ],
        )  # fmt: skip


@quarantine.command("release")
@click.argument("quarantine_id", type=click.UUID)
@json_option
@pass_context
def quarantine_release(context: Context, quarantine_id: UUID, as_json: bool) -> None:
    """Settle a record after all, now that the cause is repaired."""
    with context.works() as works:
        works.ledger.decide_quarantine(quarantine_id, release=True, rates=_rates(works))
    said({"quarantine_id": quarantine_id, "state": "released"}, "Settled.", as_json)


@quarantine.command("drop")
@click.argument("quarantine_id", type=click.UUID)
@json_option
@pass_context
def quarantine_drop(context: Context, quarantine_id: UUID, as_json: bool) -> None:
    """Never charge a record. It stays in the table of quarantine."""
    with context.works() as works:
        works.ledger.decide_quarantine(quarantine_id, release=False, rates=_rates(works))
    said({"quarantine_id": quarantine_id, "state": "dropped"}, "Dropped: it is never charged.", as_json)


def _rates(works: Works) -> RateLookup:
    cards = works.offerings.rate_cards()

    def rate(rate_version: str, model: str) -> tuple[str, Weights] | None:
        card = cards.get(rate_version)
        found = None if card is None else card.rate_for(model)
        return None if found is None else (found.model_class, found.weights())

    return rate


@click.group()
def journal() -> None:
    """The host's journal."""


@journal.command("inspect")
@json_option
@pass_context
def journal_inspect(context: Context, as_json: bool) -> None:
    """Read the journal of this data directory without touching it: segments, frames, damage. Serving or not."""
    found = inspect_journal(context.settings().journal)
    if as_json:
        print_json(found)
    else:
        print_table(
            f"Journal {found['journal_id']}",
            ["segment", "first", "last", "frames", "records", "starts", "bytes", "damage"],
            [
                [s["segment"], s["first"], s["last"], s["frames"], s["records"], s["starts"], s["bytes"], s["damage"]]
                for s in found["segments"]
            ],
            right=["first", "last", "frames", "records", "starts", "bytes"],
        )  # fmt: skip
    if any(segment["damage"] for segment in found["segments"]):
        raise JournalCorrupt("the journal is damaged: see docs/RUNBOOK.md")


GROUPS = (grant, account, quarantine, journal)
