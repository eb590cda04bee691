"""Tables and sentences of the CLI and of the demo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tokenworks import charging
from tokenworks.app.output import (
    in_mtok,
    money_text,
    plain_fields,
    print_json,
    print_marked,
    print_table,
    say,
)
from tokenworks.kernel import format_quantity, parse_money
from tokenworks.subscriptions import day_of, last_day, minute_of, second_of

if TYPE_CHECKING:
    from tokenworks.billing import Bill, CreditNote
    from tokenworks.catalog import ChargingPolicy, Offering, SoldOffering
    from tokenworks.charging import BillLine, Bucket, Charge, Finding, UsageSum
    from tokenworks.subscriptions import Member, Product, Quote
    from tokenworks.trust import ApiKeyInfo

BUCKET_QUANTITIES: Final = (
    "total", "remaining", "granted", "granted_used", "used", "expired", "withdrawn", "window_quantity", "left", "spent",
)  # fmt: skip
LedgerRow = Mapping[str, Any]
"""A row of the ledger's history as `Ledger` returns it, by column."""
# How many of a key's models a table shows.
NAMES_SHOWN: Final = 3
NAMES_CHARS_SHOWN: Final = 80


def bucket_json(bucket: Bucket) -> dict[str, object]:
    """A bucket with two more quantities: what is left and what is spent. Quantities are in thousandths of the bucket's unit; their
    names say so.
    """
    return in_mtok({**plain_fields(bucket), "left": bucket.left, "spent": bucket.spent}, *BUCKET_QUANTITIES)


def _bucket_kind(bucket: Bucket) -> str:
    """The kind of a bucket; for a window, its length."""
    if bucket.window_s is None:
        return bucket.kind
    days, hours = divmod(bucket.window_s // 3600, 24)
    return f"any {days} days" if days else f"any {hours} h"


def print_buckets(title: str, buckets: Iterable[Bucket]) -> None:
    rows = [
        (
            str(b.bucket_id)[-12:], _bucket_kind(b), format_quantity(b.window_quantity or b.total, b.unit), format_quantity(b.left, b.unit), format_quantity(b.spent, b.unit),
            format_quantity(b.granted - b.granted_used, b.unit) if b.granted else "", last_day(b.valid_until) if b.valid_until else "never",
        )
        for b in buckets
    ]  # fmt: skip
    print_table(
        title,
        ["bucket", "kind", "total", "left", "used", "of it granted", "until"],
        rows,
        right=["total", "left", "used", "of it granted"],
    )


def lost_tokens(losses: Iterable[LedgerRow]) -> int:
    """Tokens of a record that the operator bears, over all causes."""
    return sum(sum(loss["counts"].values()) for loss in losses)


def print_losses(rows: Iterable[LedgerRow]) -> None:
    shown = [
        (
            row["day"], row["cause"], row["records"], row["requests"], f"{row['tokens']:,}",
            ", ".join(f"{count:,} {name}" for name, count in row["counts"].items()), charging.LOSS_CAUSES.get(row["cause"], ""),
        )
        for row in rows
    ]  # fmt: skip
    columns = ["day", "cause", "records", "requests", "tokens", "of them", "what it means"]
    print_table("The operator's losses", columns, shown, right=columns[2:5])


def print_flagged(rows: Iterable[LedgerRow]) -> None:
    columns = [
        "usage",
        "at",
        "deployment",
        "upstream's id",
        "flags",
        "counted by",
        "reported",
        "input",
        "output",
        "lost",
    ]
    shown = [
        (
            str(row["usage_id"])[-12:], minute_of(row["started_at"]), row["deployment"], row["upstream_id"], ", ".join(row["flags"]),
            row["counted_by"], row["provider_total"], row["input_tokens"], row["output_tokens"], lost_tokens(row["loss"]),
        )
        for row in rows
    ]  # fmt: skip
    print_table("Records to reconcile", columns, shown, right=columns[6:])


def print_usage_by_member(rows: Iterable[LedgerRow]) -> None:
    columns = ["member", "records", "input", "output", "charged"]
    shown = [
        (
            row["member"] or row["member_id"], row["records"], row["input_tokens"], row["output_tokens"],
            " + ".join(format_quantity(amount, unit) for unit, amount in row["charged"].items()) or "0",
        )
        for row in rows
    ]  # fmt: skip
    print_table("Usage by member", columns, shown, right=columns[1:])


def print_usage_sums(sums: Sequence[UsageSum]) -> None:
    """Print sums of usage, a line for each group."""
    groups = list(sums[0].group) if sums else ["group"]
    columns = [*groups, "records", "tokens", "drawn"]
    shown = [
        (
            *found.group.values(), found.records, sum(found.tokens.values()),
            " + ".join(format_quantity(amount, unit) for unit, amount in found.drawn.items()) or "0",
        )
        for found in sums
    ]  # fmt: skip
    print_table("Usage", columns, shown, right=columns[-3:])


def print_members(members: Sequence[Member], used: dict[UUID, int], *, as_json: bool) -> None:
    """Print members as an indented tree, with the settled usage of each cap in its current period."""
    if as_json:
        print_json(
            [
                {name: getattr(member, name) for name in member.__dataclass_fields__}
                | {"cap_used_mtok": used.get(member.member_id, 0)}
                for member in members
            ]
        )
        return
    by_id = {member.member_id: member for member in members}

    def line(member: Member) -> list[str]:
        above = by_id.get(member.parent_id) if member.parent_id is not None else None
        return [*(line(above) if above is not None else []), member.name]

    rows = []
    for member in sorted(members, key=line):
        cap = (
            ""
            if member.cap_tokens is None
            else f"{format_quantity(member.cap_tokens * 1000, 'token')} ({member.cap_period})"
        )
        spent = format_quantity(used.get(member.member_id, 0), "token") if cap else ""
        rows.append(("  " * (len(line(member)) - 1) + member.name, member.role, cap, spent, member.member_id))
    print_table("Members", ["member", "role", "cap", "used of it", "id"], rows, right=["cap", "used of it"])


def print_usage(title: str, records: Iterable[LedgerRow]) -> None:
    rows = []
    for record in records:
        parts = [part for part in record["parts"] if part[4] == "balance"]
        charged = " + ".join(format_quantity(part[5], part[3]) for part in parts) or "0"
        rows.append(
            (
                str(record["usage_id"])[-12:], second_of(record["started_at"]), record["protocol"], record["model"],
                record["state"] if record["state"] == "complete" else f"{record['state']}: {record['reason']}",
                record["fresh_input"], record["cached_input"], record["cache_write"] + record["cache_write_1h"],
                record["output"], record["reasoning"], record["audio_input"] + record["audio_output"], charged,
                lost_tokens(record["loss"]) or "", parts[0][2][:13] if parts else "",
            )
        )  # fmt: skip
    columns = [
        "usage",
        "at",
        "protocol",
        "model",
        "state",
        "input",
        "cached",
        "written",
        "output",
        "reasoning",
        "audio",
        "charged",
        "lost",
        "rate",
    ]
    print_table(title, columns, rows, right=columns[5:13])


def print_products(products: Iterable[Product]) -> None:
    rows = [
        (
            p.product_id,
            p.offering_id,
            p.state,
            p.cycle_no,
            last_day(p.cycle_end) if p.cycle_end else "never",
        )
        for p in products
    ]
    print_table("Products", ["product", "offering", "state", "cycle", "last day"], rows)


def print_bill(lines: Sequence[Charge]) -> None:
    """Print the charges that are not billed yet."""
    rows: list[tuple[object, ...]] = [
        (
            day_of(line.period_start),
            line.description,
            line.number or "",
            f"{money_text(line.amount_nano)} {line.currency}",
        )
        for line in lines
    ]
    if lines:
        rows.append(
            (
                "",
                "total so far",
                "",
                f"{money_text(sum(line.amount_nano for line in lines))} {lines[0].currency}",
            )
        )
    print_table("Phone bill so far", ["from", "what", "number", "amount"], rows, right=["amount"])


def print_issued_bill(bill: Bill, lines: Sequence[BillLine], notes: Sequence[CreditNote]) -> None:
    """Print a bill as it was issued, with its corrections."""
    rows: list[tuple[object, ...]] = [
        (line.line_no, line.description, line.kind, line.charges, money_text(line.tax_nano), money_text(line.amount_nano))
        for line in lines
    ]  # fmt: skip
    rows.append(("", "total", "", "", money_text(bill.tax_nano), money_text(bill.amount_nano)))
    title = f"Bill {bill.bill_no}, {day_of(bill.period_start)} to {last_day(bill.period_end)}, {bill.state}"
    columns = ["line", "what", "kind", "times", "VAT in it", bill.currency]
    print_table(title, columns, rows, right=columns[3:])
    if bill.remaining_nano:
        say(f"{money_text(bill.remaining_nano)} {bill.currency} to pay until {day_of(bill.due_at)}.")
    for note in notes:
        say(f"Corrected by {note.credit_note_no}: {money_text(note.amount_nano)}, {note.reason}.")


def print_keys(keys: Sequence[ApiKeyInfo], count: int | None = None) -> None:
    """`count`: the number of all keys, where `keys` is a page of them."""
    rows = [
        (k.key_id, k.name, k.hint, _few(k.models) if k.models else "all", "none" if k.cap_tokens is None else f"{k.cap_tokens:,} tokens",
         "revoked" if k.revoked_at else "live", last_day(k.expires_at) if k.expires_at else "never")
        for k in keys
    ]  # fmt: skip
    title = "Keys" if count is None else f"Keys ({len(keys)} of {count})"
    print_table(title, ["id", "name", "key", "models", "cap", "state", "expires"], rows)


def _few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more it has. `--json` has all of them."""
    more = len(names) - NAMES_SHOWN
    text = ", ".join(names[:NAMES_SHOWN])
    text = text if len(text) <= NAMES_CHARS_SHOWN else f"{text[:NAMES_CHARS_SHOWN]}…"
    return f"{text} and {more} more" if more > 0 else text


_POLICY_WORDS: Final = {
    "client_gone_before_content": "the client leaves before content",
    "client_gone_in_content": "the client leaves while content comes",
    "client_gone_after_content": "the client leaves after the last content",
    "upstream_timeout": "the deployment falls silent after content",
    "upstream_error": "the deployment breaks off after content",
    "empty_answer": "an answer without content",
    "content_filtered": "an answer that the provider's filter ended",
    "retried_attempt": "an attempt that another one replaced",
    "cache_hit": "input that the provider had cached",
}
_FINAL_UNIT_WORDS: Final = {
    "terminate": "the request ends",
    "redirect": "the request ends, and says where to top up",
    "restrict": "the following requests go to a cheaper model",
}


PRORATION: Final = {
    "prorate": "its share by time; what is not earned comes back when it is changed or cancelled",
    "full": "all of it; nothing comes back when it is changed or cancelled",
    "free_until_next_cycle": "nothing before the next cycle; a change begins there",
}


def quote_text(quote: Quote) -> str:
    """What an operation costs, for people. A last day is inclusive."""
    amount = f"{money_text(abs(quote.amount_nano))} {quote.currency}"
    parts = [
        f"{amount} {'come back' if quote.amount_nano < 0 else 'now'}{', at most' if quote.at_most else ''}"
    ]
    if quote.action != "delete" and quote.begins_at == quote.ends_at:
        parts.append(f"it begins on {day_of(quote.begins_at)}")
    elif quote.ends_at is not None and quote.action == "delete":
        parts.append(f"it ends at {second_of(quote.ends_at)}")
    elif quote.ends_at is not None:
        parts.append(f"to the end of {last_day(quote.ends_at)}")
    if quote.renews_at is not None and quote.renewal_nano is not None:
        renewal = f"{money_text(quote.renewal_nano)} {quote.currency}"
        parts.append(f"then {renewal} a cycle from {day_of(quote.renews_at)} on")
    waits = ""
    if quote.waits_for is not None:
        rest = "it is delivered" if quote.waits_for == "delivery" else "nothing of it is used any more"
        waits = f" Of that {money_text(quote.now_nano)} {quote.currency} at once, the rest when {rest}."
    return f"{'; '.join(parts)}.{waits} A part of a cycle: {PRORATION[quote.proration]}."


def print_policy(policy: ChargingPolicy) -> None:
    """Print what is charged for requests that do not end as usual."""
    rows = [(words, getattr(policy, name)) for name, words in _POLICY_WORDS.items()]
    words = {"produced": "what was produced", "nothing": "nothing"}
    print_table(
        "Charging policy", ["when", "the subscriber pays"], [[when, words[charge]] for when, charge in rows]
    )
    more = policy.top_up_url or policy.restrict_to
    say(f"When nothing is left: {_FINAL_UNIT_WORDS[policy.final_unit]}{f' ({more})' if more else ''}.")


def _state(offering: Offering) -> str:
    return (
        "dev alone"
        if offering.is_sample and offering.status == "active"
        else offering.status.replace("_", " ")
    )


def print_offerings(sold: Iterable[SoldOffering]) -> None:
    rows = []
    for item in sold:
        o = item.offering
        buckets = ", ".join(
            f"{b.quantity:,} {b.unit}s{f' per {b.window}' if b.window else ''}" for b in o.buckets
        )
        note = "sample: " + ", ".join(o.samples) if o.samples else ""
        rows.append(
            (
                o.id,
                o.name,
                money_text(parse_money(o.price, o.currency).amount_nano),
                o.cycle.replace("_", " "),
                buckets,
                _state(o),
                note,
            )
        )
    print_table(
        "Offerings", ["id", "name", "CNY", "cycle", "buckets", "state", "our own values"], rows, right=["CNY"]
    )


def print_verified(counts: dict[str, int], findings: Sequence[Finding]) -> None:
    checked = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in counts.items())
    if not findings:
        print_marked(f"[green]The ledger balances.[/green] Checked: {checked}.")
        return
    print_table("Broken invariants", ["invariant", "where", "what"], findings)
    say(f"{len(findings)} finding(s). Checked: {checked}.", err=True)
