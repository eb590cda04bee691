"""How the CLI and the demo show things."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import click

from tokenworks.app.bootstrap import Connection, Works
from tokenworks.app.output import console, plain, print_table
from tokenworks.catalog import SoldOffering
from tokenworks.charging import Bucket, Finding
from tokenworks.kernel import format_money, format_quantity
from tokenworks.subscriptions import BillLine, Product
from tokenworks.trust import ApiKeyInfo

_COUNTED = ("account", "bucket", "grants", "usage", "entry", "posting", "phone_bill_line")


def issue_key(
    works: Works,
    subscriber: str,
    name: str,
    models: Sequence[str],
    cap_tokens: int | None,
    expires_in_days: int | None,
) -> tuple[UUID, str]:
    """A key for a subscriber, with its cap's bucket, in one transaction."""
    found = works.subscriptions.find(subscriber)
    expires_at = None if expires_in_days is None else works.clock.now() + timedelta(days=expires_in_days)
    with works.connection.transaction():
        cap = None if cap_tokens is None else works.ledger.add_cap(found.account_id, cap_tokens)
        return works.keys.issue(
            account_id=found.account_id,
            member_id=works.subscriptions.owner_of(found),
            name=name,
            models=models or None,
            cap_bucket_id=cap,
            expires_at=expires_at,
        )


def keys_of(works: Works, account_id: UUID) -> list[ApiKeyInfo]:
    caps = {
        bucket.bucket_id: bucket.total for bucket in works.ledger.buckets(account_id) if bucket.kind == "cap"
    }
    return works.keys.of_account(account_id, caps)


def bucket_json(bucket: Bucket) -> dict[str, Any]:
    """A bucket with what people ask for: what is left and what is spent, in thousandths of its unit."""
    return {**plain(bucket), "left": bucket.left, "spent": bucket.spent}


def print_buckets(title: str, buckets: Iterable[Bucket]) -> None:
    rows = [
        (
            str(b.bucket_id)[-12:], b.kind, format_quantity(b.total, b.unit), format_quantity(b.left, b.unit), format_quantity(b.spent, b.unit),
            format_quantity(b.granted - b.granted_used, b.unit) if b.granted else "", f"{b.valid_until:%Y-%m-%d}" if b.valid_until else "never",
        )
        for b in buckets
    ]  # fmt: skip
    print_table(
        title,
        ["bucket", "kind", "total", "left", "used", "of it granted", "until"],
        rows,
        right=["total", "left", "used", "of it granted"],
    )


def print_usage(title: str, records: Iterable[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        parts = [part for part in record["parts"] if part[4] == "balance"]
        charged = " + ".join(format_quantity(part[5], part[3]) for part in parts) or "0"
        rows.append(
            (
                str(record["usage_id"])[-12:], f"{record['started_at']:%H:%M:%S}", record["protocol"], record["model"],
                record["state"] if record["state"] == "complete" else f"{record['state']}: {record['reason']}",
                record["fresh_input"], record["cached_input"], record["cache_write"], record["output"], record["reasoning"],
                record["audio_input"] + record["audio_output"], charged, parts[0][2][:13] if parts else "",
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
        "rate",
    ]
    print_table(title, columns, rows, right=columns[5:12])


def print_products(products: Iterable[Product]) -> None:
    rows = [
        (
            p.product_id,
            p.offering_id,
            p.state,
            p.cycle_no,
            f"{p.cycle_end:%Y-%m-%d}" if p.cycle_end else "never",
        )
        for p in products
    ]
    print_table("Products", ["product", "offering", "state", "cycle", "ends"], rows)


def print_bill(lines: Sequence[BillLine]) -> None:
    rows: list[tuple[object, ...]] = [
        (
            f"{line.cycle_start:%Y-%m-%d}",
            line.description,
            line.cycle_no,
            f"{format_money(line.amount_nano)} {line.currency}",
        )
        for line in lines
    ]
    if lines:
        rows.append(
            (
                "",
                "total so far",
                "",
                f"{format_money(sum(line.amount_nano for line in lines))} {lines[0].currency}",
            )
        )
    print_table("Phone bill so far", ["from", "what", "cycle", "amount"], rows, right=["amount"])


def print_keys(keys: Iterable[ApiKeyInfo]) -> None:
    rows = [
        (k.key_id, k.name, k.hint, ", ".join(k.models) if k.models else "all", k.cap_tokens or "none",
         "revoked" if k.revoked_at else "live", f"{k.expires_at:%Y-%m-%d}" if k.expires_at else "never")
        for k in keys
    ]  # fmt: skip
    print_table("Keys", ["id", "name", "key", "models", "cap", "state", "expires"], rows)


def print_offerings(sold: Iterable[SoldOffering]) -> None:
    rows = []
    for item in sold:
        o = item.offering
        buckets = ", ".join(
            f"{b.quantity:,} {b.unit}s{f' per {b.window}' if b.window else ''}" for b in o.buckets
        )
        note = "sample: " + ", ".join(o.samples) if o.samples else ""
        rows.append(
            (o.id, o.name, o.price, o.cycle.replace("_", " "), buckets, o.status.replace("_", " "), note)
        )
    print_table(
        "Offerings", ["id", "name", "CNY", "cycle", "buckets", "state", "our own values"], rows, right=["CNY"]
    )


def ledger_counts(connection: Connection) -> dict[str, int]:
    """How many rows of each table the books have."""
    return {
        table: int(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0])  # type: ignore[index]
        for table in _COUNTED
    }


def print_verified(counts: dict[str, int], findings: Sequence[Finding]) -> None:
    checked = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in counts.items())
    if not findings:
        console.print(f"[green]The ledger balances.[/green] Checked: {checked}.")
        return
    print_table("Broken invariants", ["invariant", "where", "what"], findings)
    click.echo(f"{len(findings)} finding(s). Checked: {checked}.", err=True)
