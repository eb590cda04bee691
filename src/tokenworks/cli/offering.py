"""`tokenworks offering`: what is on sale, what a file changes, and which versions products have."""

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from tokenworks.app import views
from tokenworks.app.bootstrap import AppServices
from tokenworks.app.edge import read_regular
from tokenworks.app.output import print_json, print_table, say
from tokenworks.catalog import (
    Catalogue,
    OfferingChange,
    card_differences,
    offering_differences,
    read_catalogue,
)
from tokenworks.cli.base import Context, exact_option, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import day_of, minute_of

NOTICE_DAYS_DEFAULT: Final = 30


HOLDERS_DEFAULT: Final = 50


def _offerings_now(services: AppServices, _params: Params) -> object:
    return {sold.offering.id: sold.offering_version for sold in services.offerings.all()}


@click.command("list")
@exact_option
@json_option
@pass_context
def offering_list(context: Context, as_json: bool) -> None:
    """All offerings: price, buckets, state."""
    with context.services() as services:
        found = services.offerings.all()
    if as_json:
        print_json(
            [
                {
                    "offering_version": s.offering_version,
                    "rate_version": s.rate_version,
                    **s.offering.model_dump(mode="json"),
                }
                for s in found
            ]
        )
    else:
        views.print_offerings(found)


@click.command("show")
@click.argument("offering_id")
@exact_option
@json_option
@pass_context
def offering_show(context: Context, offering_id: str, as_json: bool) -> None:
    """An offering, with its charging policy for requests that do not end as usual."""
    with context.services() as services:
        found = services.offerings.known(offering_id)
    if as_json:
        print_json(
            {"offering_version": found.offering_version, "rate_version": found.rate_version}
            | found.offering.model_dump(mode="json")
        )
    else:
        views.print_offerings([found])
        say(f"A part of a cycle: {views.PRORATION[found.offering.proration]}.")
        views.print_policy(found.offering.policy)


@click.command("load")
@audited(_offerings_now)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what is faulty and what would change, and do nothing.")
@json_option
@pass_context
def offering_load(context: Context, file: Path, dry_run: bool, as_json: bool) -> None:
    """Load a catalogue file. A faulty one is refused as a whole: every fault with its line and its reason."""
    content = _read(file)
    with context.services() as services:
        changes = services.offerings.compare(content)
        new = sum(change.kind != "same" for change in changes)
        if not dry_run:
            new = services.offerings.load(content)
    if dry_run:
        if as_json:
            print_json({"offerings": len(content.offerings), "dry_run": True, "changes": changes})
        else:
            say("\n".join(_words(changes)) or "Nothing would change.")
        return
    print_result(
        {"offerings": len(content.offerings), "new_versions": new},
        f"{len(content.offerings)} offerings, {new} new versions.",
        as_json,
    )


@click.command("diff")
@click.argument("old")
@click.argument("new", required=False)
@json_option
@pass_context
def offering_diff(context: Context, old: str, new: str | None, as_json: bool) -> None:
    """The differences, in words, between the catalogue on sale and a file (OLD alone), or between two versions or two files."""
    with context.services() as services:
        if new is None:
            changes = services.offerings.compare(_read(Path(old)))
            value: object = changes
            words = _words(changes)
        elif old.startswith("offering-") and new.startswith("offering-"):
            words = _version_words(services, old, new)
            value = words
        else:
            words = _file_words(_read(Path(old)), _read(Path(new)))
            value = words
    print_result(value, "\n".join(words) or "Nothing is different.", as_json)


def _read(file: Path) -> Catalogue:
    return read_catalogue(read_regular(file), str(file))


def _words(changes: list[OfferingChange]) -> list[str]:
    lines = []
    for change in changes:
        if change.kind == "same":
            continue
        at = f", from {minute_of(change.begins_at)}" if change.begins_at else ""
        lines += [f"{change.offering_id} ({change.kind}{at}):", *(f"  {word}" for word in change.words)]
    return lines


def _version_words(services: AppServices, old: str, new: str) -> list[str]:
    before, after = services.offerings.sold(old), services.offerings.sold(new)
    return offering_differences(before.offering, after.offering) + card_differences(
        services.offerings.rate_card(before.rate_version), services.offerings.rate_card(after.rate_version)
    )


def _file_words(before: Catalogue, after: Catalogue) -> list[str]:
    """The differences of two files, by offering id, and by begin where an offering has several versions."""
    lines = []
    cards = [{card.id: card for card in catalogue.rate_cards} for catalogue in (before, after)]
    old, new = ({(o.id, o.begins): o for o in catalogue.offerings} for catalogue in (before, after))
    for key in dict.fromkeys((*old, *new)):
        if key not in new:
            lines.append(f"{key[0]}: it is not in the second file; what is on sale stays so")
            continue
        words = offering_differences(old.get(key), new[key])
        if key in old:
            words += card_differences(cards[0][old[key].rate_card], cards[1][new[key].rate_card])
        if words:
            lines += [f"{key[0]}:", *(f"  {word}" for word in words)]
    return lines


@click.command("sold")
@click.option("--offering", "offering_id", help="Of this one alone.")
@click.option("--version", help="List the products of this version.")
@click.option("--limit", type=click.IntRange(1, 1000), default=HOLDERS_DEFAULT, show_default=True)
@json_option
@pass_context
def offering_sold(
    context: Context, offering_id: str | None, version: str | None, limit: int, as_json: bool
) -> None:
    """The versions of live products, with the number of products; with --version, the products and their subscribers."""
    with context.services() as services:
        if version is not None:
            held = services.moves.holders(services.offerings.sold(version).offering_version, limit)
        else:
            found = services.moves.sold(offering_id)
    if version is not None:
        if as_json:
            print_json(held)
            return
        rows = [
            (h.product_id, h.subscriber_id, h.state, _day(h.cycle_end), "yes" if h.next_version else "")
            for h in held
        ]
        print_table(f"Products of {version}", ["product", "subscriber", "state", "until", "moves"], rows)
        return
    if as_json:
        print_json(found)
        return
    versions = [
        (s.offering_id, s.offering_version, "yes" if s.on_sale else "", s.products, s.moving, _day(s.first_at), _day(s.last_at))
        for s in found
    ]  # fmt: skip
    columns = ["offering", "version", "on sale", "products", "of which move", "first sold", "last sold"]
    print_table("Versions in use", columns, versions, right=["products", "of which move"])


def _day(at: object) -> str:
    return day_of(at) if isinstance(at, datetime) else ""


@click.command("move")
@audited()
@click.option("--offering", "offering_id", required=True, help="Its products get the version on sale.")
@click.option(
    "--from", "from_version", help="Move only products of this version; left out: of every other version."
)
@click.option(
    "--notice-days",
    type=click.IntRange(0, 366),
    default=NOTICE_DAYS_DEFAULT,
    show_default=True,
    help="A product whose cycle ends sooner is not moved this time.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
@pass_context
def offering_move(
    context: Context,
    offering_id: str,
    from_version: str | None,
    notice_days: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move live products to the version on sale from their next cycle on, and notify their subscribers now."""
    with context.services() as services, contextlib.ExitStack() as stack:
        # Each product is a transaction of its own; a dry run is one, which is rolled back.
        if dry_run:
            stack.enter_context(services.transaction(dry_run=True))
        moved = services.moves.move(offering_id, notice_days=notice_days, from_version=from_version)
    dry = " (dry run)" if dry_run else ""
    text = (
        f"{moved.moved} product(s) get {moved.offering_version} with their next cycle and are told; {moved.too_soon} renew "
        f"within {notice_days} days: run it again after that; {moved.left_alone} end, or change, and are left alone{dry}."
    )
    print_result(moved, text, as_json)
