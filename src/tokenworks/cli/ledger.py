"""Commands for who answers for the ledger: grants, frozen accounts, quarantine, limits; `cli_journal.py` has the journal's."""

from typing import Any
from uuid import UUID

import click

from tokenworks.app.bootstrap import Works
from tokenworks.app.output import in_mtok, print_json, print_table
from tokenworks.catalog import Weights
from tokenworks.charging import RateLookup
from tokenworks.cli.base import Context, json_option, pass_context, said
from tokenworks.cli.journal import journal
from tokenworks.kernel import MTOK_PER_TOKEN, NotFound, format_quantity
from tokenworks.subscriptions import second_of


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
        print_json([_grant_json(one) for one in found])
    else:
        print_table(
            "Open grants",
            ["grant", "account", "host", "granted", "settled", "spend until", "in doubt"],
            [
                [g["grant_id"], g["account_id"], g["host"], _quantity(g, "amount"), _quantity(g, "used"), g["spend_until"].isoformat(timespec="seconds"),
                 g["in_doubt"]]
                for g in found
            ],
            right=["granted", "settled"],
        )  # fmt: skip


def _quantity(grant: dict[str, Any], name: str) -> str:
    return format_quantity(grant[name], grant["unit"])


def _grant_json(grant: dict[str, Any]) -> dict[str, Any]:
    names = {"amount": "granted", "used": "settled"}
    return in_mtok({names.get(name, name): value for name, value in grant.items()}, *names.values())


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
        found = works.ledger.find_grant(grant_id)
        unit = "token" if found is None else str(found["unit"])
        amount = works.ledger.write_off(grant_id)
    text = f"Written off: {format_quantity(amount, unit)} {'is' if amount == MTOK_PER_TOKEN else 'are'} free again."
    said({"grant_id": grant_id, "freed_mtok": amount, "unit": unit}, text, as_json)


@click.group()
def account() -> None:
    """Accounts."""


@account.command("freeze")
@click.option("--subscriber", required=True, help="Its id or phone number.")
@click.option("--undo", is_flag=True, help="Let it spend again.")
@json_option
@pass_context
def account_freeze(context: Context, subscriber: str, undo: bool, as_json: bool) -> None:
    """Suspend a subscriber by the operator: nothing more is granted or charged, and what no request holds comes back."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        works.subscriptions.set_state(found, "active" if undo else "suspended")
        found = works.subscriptions.find(str(found.subscriber_id))
    frozen = found.state == "suspended"
    text = "Frozen: running requests finish, nothing new is granted." if frozen else "It can spend again."
    if undo and frozen:
        text = f"It stays suspended: {', '.join(found.suspended_by)}."
    said({"account_id": found.account_id, "frozen": frozen}, text, as_json)


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
                [q["quarantine_id"], q["account_id"], q["seq"], second_of(q["quarantined_at"]), q["reason"]]
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
def limit() -> None:
    """Protective limits: requests and tokens a minute, requests at once."""


@limit.command("set")
@click.option("--subscriber", help="Its id or phone number: the limit of all that it spends.")
@click.option("--member", help="Of the subscriber: a member's or department's id or name.")
@click.option("--key", type=click.UUID, help="Of the subscriber: a key's id.")
@click.option("--deployment", help="A deployment's name: what it can take.")
@click.option("--requests-per-min", type=int)
@click.option("--tokens-per-min", type=int, help="Input and output together.")
@click.option("--streams", type=int, help="Requests in flight at once.")
@json_option
@pass_context
def limit_set(
    context: Context,
    subscriber: str | None,
    member: str | None,
    key: UUID | None,
    deployment: str | None,
    requests_per_min: int | None,
    tokens_per_min: int | None,
    streams: int | None,
    as_json: bool,
) -> None:
    """Limit a subscriber, one of its members or keys, or a deployment. Replaces the limit that was there."""
    if (subscriber is None) == (deployment is None) or (deployment is not None and (member or key)):
        raise click.UsageError("name a --subscriber (and one of its members or keys), or a --deployment")
    if member is not None and key is not None:
        raise click.UsageError("a limit is of a --member or of a --key")
    with context.works() as works:
        if deployment is not None:
            scope, ref, account_id = "deployment", deployment, None
            if deployment not in {found.name for found in works.deployments.all()}:
                raise NotFound(f"there is no deployment {deployment}: tokenworks deployment list")
        else:
            assert subscriber is not None
            found = works.subscriptions.find(subscriber)
            account_id = found.account_id
            scope, ref = "subscriber", str(account_id)
            if member is not None:
                scope, ref = "member", str(works.subscriptions.member(found, member).member_id)
            elif key is not None:
                scope, ref = "key", str(key)
                if key not in {info.key_id for info in works.keys.of_account(account_id, {})}:
                    raise NotFound(f"this subscriber has no key {key}: tokenworks key list")
        limit_id = works.ledger.set_limit(
            scope,
            ref,
            account_id,
            requests_per_min=requests_per_min,
            tokens_per_min=tokens_per_min,
            streams_max=streams,
        )
    said({"limit_id": limit_id, "scope": scope}, f"Limited. Limit id {limit_id}.", as_json)


@limit.command("list")
@json_option
@pass_context
def limit_list(context: Context, as_json: bool) -> None:
    """All limits."""
    with context.works() as works:
        found = works.ledger.limits()
    if as_json:
        print_json(found)
    else:
        columns = ["requests_per_min", "tokens_per_min", "streams_max"]
        print_table(
            "Limits",
            ["limit", "of", "which", "requests/min", "tokens/min", "at once"],
            [
                [
                    row["limit_id"],
                    row["scope"],
                    row["ref"],
                    *("" if row[name] is None else f"{row[name]:,}" for name in columns),
                ]
                for row in found
            ],
            right=["requests/min", "tokens/min", "at once"],
        )


@limit.command("remove")
@click.argument("limit_id", type=click.UUID)
@json_option
@pass_context
def limit_remove(context: Context, limit_id: UUID, as_json: bool) -> None:
    """Take a limit away."""
    with context.works() as works:
        works.ledger.remove_limit(limit_id)
    said({"limit_id": limit_id, "removed": True}, "It is not limited any more.", as_json)


GROUPS = (grant, account, quarantine, journal, limit)
