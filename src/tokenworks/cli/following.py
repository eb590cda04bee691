"""`tokenworks usage show`: follows one request from its id to its postings."""

from collections.abc import Iterable, Sequence

import click

from tokenworks.app.output import money_text, print_json, print_table, say
from tokenworks.app.views import LedgerRow
from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.cli.base import Context, json_option, pass_context
from tokenworks.cli.options import since_of
from tokenworks.kernel import format_quantity
from tokenworks.subscriptions import second_of


@click.command("show")
@click.argument("request_id")
@click.option("--subscriber", help="Whose request it is, where that is known: its id, phone number or name.")
@click.option(
    "--since",
    help="How far back a client's or an upstream's id is looked for: a time or a span (default: 7d).",
)
@json_option
@pass_context
def usage_show(
    context: Context, request_id: str, subscriber: str | None, since: str | None, as_json: bool
) -> None:
    """Follow one request: its records, how it came to its deployment, what it drew, its postings and log lines.

    REQUEST_ID is our x-request-id, the id of a record, the client's own id, or the upstream's id of the answer. Log lines are those
    of the host on which the command runs.
    """
    at = since_of(since)
    with context.services() as services:
        account_id = None if subscriber is None else services.subscriptions.find(subscriber).account_id
        found = services.following.follow(request_id, account_id, at)
    if as_json:
        print_json(found)
    else:
        _print_followed(found)


def _print_followed(found: LedgerRow) -> None:
    records = found["records"]
    if found["account_id"] is not None:
        say(f"Account {found['account_id']}")
    if found["quarantine"]:
        print_table(
            "In quarantine: the database refused its record",
            ["quarantine", "record", "state", "since", "reason"],
            [
                (q["quarantine_id"], q["usage_id"], q["state"], second_of(q["quarantined_at"]), q["reason"])
                for q in found["quarantine"]
            ],
        )
    if not records:
        say("No record of it is settled: it was refused or left, gave nothing, or waits for the database.")
    else:
        _print_records(records)
        _print_draws(found["draws"])
        _print_losses(records)
        _print_entries(found["entries"])
    _print_lines(found["log"])


def _print_records(records: Sequence[LedgerRow]) -> None:
    columns = [
        "record", "request", "attempt", "client's id", "protocol", "asked", "model", "why", "deployment", "tried before", "state", "begun", "first byte ms",
        "ms", "tokens", "counted by", "flags", "upstream's id", "key", "member", "recorded by",
    ]  # fmt: skip
    rows = [
        (
            r["usage_id"], r["request_id"], r["attempt_no"], r["client_request_id"], r["protocol"], r["asked"], r["model"], r["choice"], r["deployment"],
            ", ".join(f"{attempt['deployment']}: {attempt['cause']}" for attempt in r["tried"]),
            r["state"] if r["state"] == "complete" else f"{r['state']}: {r['reason']}", second_of(r["started_at"]), r["first_byte_ms"], r["latency_ms"],
            ", ".join(f"{r[name]:,} {name}" for name in TOKEN_CLASSES if r[name]), r["counted_by"], ", ".join(r["flags"]), r["upstream_id"],
            r["key_id"], r["member_id"], r["host"],
        )
        for r in records
    ]  # fmt: skip
    print_table("Records", columns, rows)


def _print_draws(draws: Iterable[LedgerRow]) -> None:
    rows = []
    for draw in draws:
        grant, charge, rate = draw["grant"], draw["charge"], draw["rate"]
        rows.append(
            (
                f"{draw['kind']} {draw['bucket_id']}", format_quantity(draw["amount"], draw["unit"]),
                "" if grant is None else f"{grant['grant_id']} ({grant['state']}: {format_quantity(grant['used'], draw['unit'])} of "
                f"{format_quantity(grant['amount'], draw['unit'])} settled)",
                f"{rate['rate_version']}{'' if rate['model_class'] is None else ', class ' + rate['model_class']}",
                "" if charge is None else f"{charge['description']}, {money_text(charge['amount_nano'])} {charge['currency']}",
            )
        )  # fmt: skip
    print_table("What it drew", ["bucket", "amount", "grant", "rate", "charge"], rows)


def _print_losses(records: Iterable[LedgerRow]) -> None:
    rows = [
        (
            loss["cause"],
            ", ".join(f"{count:,} {name}" for name, count in loss["counts"].items()),
            loss["meaning"],
        )
        for record in records
        for loss in record["loss"]
    ]
    if rows:
        print_table("The operator's losses", ["cause", "tokens", "what it means"], rows)


def _print_entries(entries: Iterable[LedgerRow]) -> None:
    entries = {entry["entry_id"]: entry for entry in entries}.values()
    rows = [
        (entry["entry_id"], second_of(entry["posted_at"]) if entry["posted_at"] else "", p["ledger_account"], format_quantity(p["amount"], p["unit"]), p["bucket_id"])
        for entry in entries
        for p in entry["postings"]
    ]  # fmt: skip
    print_table(
        "Postings, of all that its batch settled for the account",
        ["entry", "posted", "ledger account", "amount", "bucket"],
        rows,
    )
    links = [
        (entry["entry_id"], link["chain_id"], link["link_no"], "yes" if link["intact"] else "NO: it was changed", link["hash"])
        for entry in entries
        if (link := entry["link"]) is not None
    ]  # fmt: skip
    print_table("Chain links", ["entry", "chain", "link", "as it was chained", "hash"], links)


def _print_lines(lines: Iterable[LedgerRow]) -> None:
    rows = [
        (
            line["time"], line.get("outcome"), line.get("status"), line.get("cause"), line.get("model"), line.get("deployment"), line.get("attempts"),
            ", ".join(f"{name}: {cause}" for name, cause in line.get("tried") or ()), line.get("queued_ms"), line.get("first_byte_ms"),
            line.get("latency_ms"), line.get("added_us"),
        )
        for line in lines
    ]  # fmt: skip
    columns = [
        "time", "outcome", "status", "cause", "model", "deployment", "attempts", "tried before", "queued ms", "first byte ms", "ms", "added µs",
    ]  # fmt: skip
    print_table("Log lines of this host", columns, rows)
