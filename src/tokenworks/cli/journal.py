"""`tokenworks journal`: the journals of hosts, and giving up a lost one."""

import contextlib
from datetime import UTC, datetime
from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.database.locks import lock_out_server
from tokenworks.app.output import print_json, print_table, say
from tokenworks.charging import (
    PER_UNIT,
    check_confirmed,
    check_undamaged,
    inspect_journal,
    journal_locked,
    journal_to_reset,
    put_journal_aside,
    why_lost,
)
from tokenworks.cli.base import Context, json_option, pass_context
from tokenworks.cli.trail import Params, audited
from tokenworks.kernel import SystemClock
from tokenworks.subscriptions import second_of


def _journal_now(services: AppServices, params: Params) -> object:
    """The open grants of the journal, which `journal reset` writes off."""
    return {"reserved": _reserved(services, params["journal_id"])}


@click.command("inspect")
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
    check_undamaged(found)


@click.command("list")
@json_option
@pass_context
def journal_list(context: Context, as_json: bool) -> None:
    """The journals that the database knows: host, settled sequence, and the grants of the host."""
    with context.services() as services:
        found = services.ledger.journals()
        reserved = {row.journal_id: _reserved(services, row.journal_id) for row in found}
        words = {row.journal_id: _reserved_words(services, row.journal_id) for row in found}
    if as_json:
        print_json([row._asdict() | {"reserved": reserved[row.journal_id]} for row in found])
        return
    rows = [
        [row.journal_id, row.host, row.settled_seq, second_of(row.settled_at) if row.settled_at else "", words[row.journal_id]]
        for row in found
    ]  # fmt: skip
    print_table(
        "Journals", ["journal", "host", "settled up to", "at", "reserved"], rows, right=["settled up to"]
    )


def _reserved(services: AppServices, journal_id: UUID) -> list[dict[str, object]]:
    """What the journal's host has been granted and has not settled, for JSON."""
    return [row._asdict() for row in services.ledger.reserved(journal_id)]


def _reserved_words(services: AppServices, journal_id: UUID) -> str:
    """The same for people."""
    return "; ".join(
        f"{row.quantity // PER_UNIT:,} {row.unit}s in {row.grants} grants of {row.accounts} accounts"
        for row in services.ledger.reserved(journal_id)
    )


@click.command("reset")
@audited(_journal_now)
@click.option(
    "--journal",
    "journal_id",
    type=click.UUID,
    help="Of another host that is lost: `journal list`. Left out: this host's.",
)
@click.option("--confirm", type=click.UUID, help="The journal's id, once more. Without it nothing is done.")
@json_option
@pass_context
def journal_reset(context: Context, journal_id: UUID | None, confirm: UUID | None, as_json: bool) -> None:
    """Give up a journal that is lost, damaged or older than the database: its host starts an empty journal with a new id.

    What the old one reserved is written off and free again. Shows first what that means.
    """
    settings = context.settings()
    wanted, ours = journal_to_reset(settings.journal, journal_id)
    # The audit trail reads the journal's id from the parameters.
    click.get_current_context().params["journal_id"] = wanted
    with contextlib.ExitStack() as stack:
        if ours:
            stack.enter_context(lock_out_server(settings.data_dir))
            stack.enter_context(journal_locked(settings.journal))
        with context.services() as services:
            known = services.ledger.journals(wanted)
            settled = known[0].settled_seq if known else 0
            why = why_lost(settings.journal, settled) if ours else "its host, or its disk, is taken for lost"
            words = _reserved_words(services, wanted)
            shown: dict[str, object] = {
                "journal_id": wanted,
                "host": known[0].host if known else None,
                "settled_seq": settled,
                "why": why,
                "reserved": _reserved(services, wanted),
            }
            if confirm != wanted:
                _show(shown, words, as_json=as_json)
            check_confirmed(wanted, confirm)
            count = services.ledger.give_up_journal(wanted, ended=ours)
        # After the commit: where the command is interrupted here, running it again goes on.
        mark = f"{datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC):%Y%m%dT%H%M%SZ}"
        aside = put_journal_aside(settings.journal, mark) if ours else None
    if as_json:
        print_json(shown | {"written_off": count, "aside": aside})
        return
    say(f"{count} grants are written off: {words or 'nothing was reserved'}.")
    if aside is not None:
        say(f"What there was is in {aside}. The host begins an empty journal when it starts.")
    say("Records that turn up later are settled as late when a host starts on their journal (journal_dir).")


def _show(shown: dict[str, object], reserved_words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    say(
        f"Journal {shown['journal_id']} of {shown['host'] or 'a host that this database does not know'}: {shown['why']}."
    )
    say(f"The database has settled it up to {shown['settled_seq']}.")
    say(f"Reserved and not settled: {reserved_words or 'nothing'}.")
    say(
        "Nobody can know what of that was served: records that were only in the missing part are charged to nobody, at most so much. "
        "Given up, it is free for the subscribers again. If the missing part turns up, its records are settled as late: they draw on "
        "what is free then, and the rest is operator loss. Nothing is settled twice."
    )
