"""The proof of the demo: no record is lost, the ledger balances, and its tokens equal the provider's own count."""

import re
import tempfile
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

from tokenworks.app import views
from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.demo.processes import Demo, wait_for
from tokenworks.app.output import print_table
from tokenworks.app.settings import load_settings
from tokenworks.app.tables import console
from tokenworks.app.verifier import audit, ledger_counts
from tokenworks.charging import Bucket
from tokenworks.kernel import ManualClock, Unavailable, format_money, format_quantity
from tokenworks.subscriptions import Subscriber, next_month


def prove(
    demo: Demo,
    services: AppServices,
    subscriber: Subscriber,
    before: list[Bucket],
    witness_before: dict[str, int],
) -> bool:
    """Print the tables and make the three checks. Returns True where all of them hold."""
    account_id = subscriber.account_id
    expected = len(demo.finished) + demo.interrupted

    def recorded() -> list[views.LedgerRow]:
        return [
            r
            for r in services.ledger.usage(account_id, limit=1000)
            if r["deployment"] == "demo" and r["started_at"].timestamp() >= demo_start
        ]

    demo_start = witness_before["at_s"]
    wait_for("the records to be settled", lambda: len(recorded()) >= expected)
    records = recorded()
    console.rule("3. What was used, and what it cost")
    views.print_usage("Usage records", records)
    after = services.ledger.buckets(account_id)
    old = {bucket.bucket_id: bucket for bucket in before}
    print_table(
        "Buckets before and after",
        ["bucket", "total", "left before", "left after", "used by this run"],
        [
            (str(b.bucket_id)[-12:], format_quantity(b.total, b.unit), format_quantity(old[b.bucket_id].left, b.unit),
             format_quantity(b.left, b.unit), format_quantity(b.spent - old[b.bucket_id].spent, b.unit))
            for b in after if b.bucket_id in old
        ],
        right=["total", "left before", "left after", "used by this run"],
    )  # fmt: skip
    views.print_bill(services.charges.of_subscriber(subscriber.subscriber_id, unbilled=True))
    _bill(demo, services, subscriber)
    console.rule("5. The proof")
    lost = [
        request_id for request_id in demo.finished if request_id not in {r["request_id"] for r in records}
    ]
    console.print(f"{'[red]LOST[/red]' if lost else '[green]Nothing lost[/green]'}: {len(demo.finished)} responses seen finished, "
                  f"{len(demo.finished) - len(lost)} of them in the ledger, {demo.interrupted} cancelled.")  # fmt: skip
    # Without the checks of time: the bill was dated by a clock that is ahead of the clock that made its id.
    findings = audit(services.connection, services.offerings.rate_cards(), timed=False)
    views.print_verified(ledger_counts(services.connection), findings)
    agrees = _compare(demo, records, witness_before)
    return not lost and not findings and agrees


def _bill(demo: Demo, services: AppServices, subscriber: Subscriber) -> None:
    """Make the bill of the month's end: the bill run gets a clock that is there already."""
    console.rule("4. A month's end: the bill")
    services.charges.recognise([subscriber.account_id])
    end = next_month(services.clock.now())
    settings = load_settings({"data_dir": str(demo.data_dir)}).settings
    later = make_works(settings, services.connection, ManualClock(end + timedelta(hours=1)))
    later.bills.run()
    bill = later.bills.all(subscriber)[0][0]
    views.print_issued_bill(bill, later.bills.lines(bill), later.bills.credit_notes(bill))
    path = Path(tempfile.gettempdir(), f"tokenworks-bill-{bill.bill_no}.pdf")
    try:
        pdf = later.documents.pdf(bill, "zh")
    except Unavailable as error:
        # Without a Chinese font the rest of the demo works.
        console.print(f"[yellow]No PDF of it[/yellow]: {error} (or pip install mplfonts).")
    else:
        path.write_bytes(pdf)
        console.print(f"The same for people, in Chinese: {path} ({len(pdf):,} bytes).")
    charges = services.charges.of_subscriber(subscriber.subscriber_id)
    earned = sum(charge.recognised_nano for charge in charges)
    owed = sum(charge.owed_nano for charge in charges)
    tax = sum(charge.tax_nano for charge in charges)
    console.print(f"Of it {format_money(tax)} are VAT, {format_money(earned)} are earned with what was used, {format_money(owed)} are owed to "
                  "the subscriber still.")  # fmt: skip


def _compare(demo: Demo, records: list[views.LedgerRow], witness_before: dict[str, int]) -> bool:
    """llama.cpp counts every token that it processed, for every client: an independent witness."""
    witness = {
        name: value - witness_before[name] for name, value in witness_counts(demo).items() if name != "at_s"
    }
    complete = [r for r in records if r["state"] == "complete"]
    cut = [r for r in records if r["state"] != "complete"]

    def total(rows: list[views.LedgerRow], *names: str) -> int:
        return sum(int(row[name]) for row in rows for name in names)

    table = []
    ok = True
    for label, names, key in (
        ("input, fresh", ("fresh_input", "cache_write", "cache_write_1h"), "prompt"),
        ("input, cached", ("cached_input",), "cached"),
        ("output", ("output", "reasoning"), "predicted"),
    ):
        full, part, theirs = total(complete, *names), total(cut, *names), witness[key]
        loss = theirs - full - part
        # Tokens of the cancelled attempt beyond its record are the operator's loss. Without a cancelled attempt no token may differ.
        ok = ok and (loss >= 0 if cut else loss == 0)
        table.append((label, f"{full:,}", f"{part:,}", f"{theirs:,}", f"{loss:,}"))
    print_table(
        "The ledger against the provider's own count",
        ["tokens", "complete", "interrupted", "llama.cpp counted", "operator's loss (cancelled)"],
        table,
        right=["complete", "interrupted", "llama.cpp counted", "operator's loss (cancelled)"],
    )
    verdict = "[green]Exact[/green]: what was complete is in the ledger token by token; a cancelled attempt is never charged above the count."
    console.print(verdict if ok else "[red]The counts disagree.[/red]")
    return ok


def witness_counts(demo: Demo) -> dict[str, int]:
    names = {
        "prompt": "prompt_tokens_total",
        "cached": "prompt_tokens_cached_total",
        "predicted": "tokens_predicted_total",
    }
    with urllib.request.urlopen(f"{demo.model_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts = {}
    for name, metric in names.items():
        match = re.search(rf"^llamacpp:{metric} (\d+)", text, re.MULTILINE)
        counts[name] = int(match.group(1)) if match else 0
    return counts | {"at_s": int(time.time()) - 1}
