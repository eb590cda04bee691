"""Runs cases against a real server: `python -m tests.edge.run [FOLDER] [--only ID,ID] [--verbose]`.

Every case has a model and deployments of its own, and where it says so a subscriber of its own. Cases run beside each other;
what they expect is looked at once all are recorded and settled.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.edge import check
from tests.edge.forms import CASES, answers_of, load
from tests.edge.stub import Seen, Stub
from tests.edge.wire import ask
from tests.support.server import Server, until
from tokenworks.factory import make_deployment
from tokenworks.gateway.stats import WorkerStats

# What the cases are written for, and a look at the deployments so rarely that no case sees it.
SETTINGS = {
    "upstream_first_byte_timeout_s": 4,
    "attempts_max": 3,
    "health_check_s": 60,
    "retries_per_s": 1000,
}
FLAT = "ctc-flagship"
OFFERINGS = {"shared": FLAT, "fresh": FLAT, "none": None}
AT_ONCE = 24
# Longer than the longest that a gateway drains an answer whose client is gone, and a usage that comes late.
SETTLED_S = 50
RECORDS_MAX = 1000


@dataclass
class Case:
    spec: dict
    model: str
    subscriber: object
    key: str
    stubs: list
    seen: Seen
    answers: list = field(default_factory=list)
    before_ids: set = field(default_factory=set)
    rows: list = field(default_factory=list)
    wrong: list = field(default_factory=list)


class Bench:
    """A server, and a loop in a thread in which the upstreams and the clients of the cases live."""

    def __init__(self, folder, **settings):
        self.server = Server(folder, workers=1, **(SETTINGS | settings))
        self.numbers = itertools.count()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="edge", daemon=True)

    def __enter__(self):
        self.thread.start()
        self.server.__enter__()
        self.shared = self.server.subscriber(FLAT)
        self.left_open = {}
        return self

    def __exit__(self, *_):
        self.await_(self._end_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.server.__exit__(*_)

    async def _end_all(self):
        """Upstreams in the middle of an answer and idle connections to them end with the bench."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def await_(self, work, timeout_s=120):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def results(self, specs):
        """id -> findings, of all the specs run beside each other."""
        return {case.spec["id"]: case.wrong for case in self.ran(specs)}

    def ran(self, specs):
        """A `Case` of each spec, run beside each other, recorded, settled and looked at."""
        cases = [self.prepared(spec) for spec in specs]
        self.visible([case.model for case in cases if case.stubs])
        self.await_(self._run_all(cases), timeout_s=300)
        self.settled()
        for subscriber, those in self._by_subscriber(cases):
            rows = self.usage(subscriber)
            for case in those:
                self._look(case, rows)
        for case in cases:
            for stub in case.stubs:
                self.server.services.deployments.remove(f"{case.model}-{stub.place}")
                self.loop.call_soon_threadsafe(stub.close)
        return cases

    def prepared(self, spec):
        """A `Case` with its deployments declared and its upstreams listening."""
        model = f"case-{next(self.numbers)}"
        account = spec.get("account", "shared")
        subscriber, key = (
            self.shared if account == "shared" else self.server.subscriber(OFFERINGS.get(account, account))
        )
        deployment = spec.get("deployment") or {}
        case = Case(spec, model, subscriber, key, [], Seen())
        for place in range(deployment.get("count", 1)):
            stub = Stub(place, model, spec["protocol"], answers_of(spec.get("upstream")), case.seen)
            self.await_(stub.open())
            said = self.declare(f"{model}-{place}", model, stub.port, deployment, spec["protocol"])
            if said:
                case.wrong.append(f"deployment add: {said}")
                return case
            case.stubs.append(stub)
        return case

    def declare(self, name, model, port, deployment, protocol):
        """Declare a deployment, by the command where it has options. Returns what was said against it, if anything."""
        base = f"http://127.0.0.1:{port}{deployment.get('base', '/v1')}"
        spoken = deployment.get("protocols", [protocol])
        if not deployment.get("settings"):
            made = make_deployment(
                name=name,
                model=model,
                upstream_model=model,
                base_url=base,
                protocols=tuple(spoken),
                allow_private=True,
            )
            self.server.services.deployments.add(made)
            return None
        options = ["--name", name, "--model", model, "--base-url", base, "--allow-private"]
        for each in spoken:
            options += ["--protocol", each]
        for option, value in deployment["settings"].items():
            options += [f"--{option}"] if value is True else [f"--{option}", str(value)]
        done = self.server.cli("deployment", "add", *options, check=False)
        return done.stderr.strip().splitlines()[-1] if done.returncode else None

    def visible(self, models):
        """Wait until the worker's snapshot has the models."""
        wanted = set(models)

        def listed():
            status, body, _ = self.server.get("/v1/models", self.shared[1])
            return status == 200 and wanted <= {model["id"] for model in json.loads(body)["data"]}

        until(listed, what=f"{len(wanted)} models")

    async def _run_all(self, cases):
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(case):
            async with gate:
                try:
                    await self._run(case)
                except Exception as error:  # of a case alone: the others go on
                    case.wrong.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(one(case) for case in cases if not case.wrong))

    async def _run(self, case):
        spec, protocol, port = case.spec, case.spec["protocol"], self.server.port
        for first in spec.get("before") or []:
            for stub in case.stubs:
                stub.answers = answers_of(first.get("upstream", spec.get("upstream")))
            for _ in range(first.get("times", 1)):
                answer = await ask(
                    port, first["request"], case.key, case.model, protocol, first.get("client", "all")
                )
                case.before_ids.add(answer.headers.get("x-request-id"))
                if first.get("status", answer.status) != answer.status:
                    case.wrong.append(f"before: status {answer.status}: {answer.text[:120]!r}")
            await asyncio.sleep(first.get("pause_ms", 300) / 1000)  # a pause that the case's client makes
        for stub in case.stubs:
            stub.answers = answers_of(spec.get("upstream"))
        case.seen.hits.clear()
        case.seen.asked.clear()
        asked = (
            ask(
                port,
                spec["request"],
                case.key,
                case.model,
                protocol,
                spec.get("client", "all"),
                case.seen.asked,
            )
            for _ in range(spec.get("at_once", 1))
        )
        case.answers = await asyncio.gather(*asked)

    def settled(self):
        """Wait until no worker serves or drains anything and the recorder says that nothing is open or unsettled.

        What is still open after `SETTLED_S` is a leak; it is kept in `left_open`, so that it is one finding and not everybody's.
        """
        run_dir = self.server.settings.run_dir
        self.left_open = {}

        def quiet():
            counters = [WorkerStats(path).counters for path in run_dir.glob("worker-*.stats")]
            self.left_open = {
                name: sum(each[name] for each in counters) for name in ("requests_open", "unacknowledged")
            }
            return not any(self.left_open.values())

        def settled():
            path = run_dir / "recorder.json"
            if not path.exists() or path.stat().st_mtime <= since_s:
                return False
            report = json.loads(path.read_text())
            self.left_open = {name: report[name] for name in ("open_attempts", "unsettled_records")}
            return not any(self.left_open.values())

        with contextlib.suppress(AssertionError):
            until(quiet, SETTLED_S, what="the workers to be done")
        left, since_s = self.left_open, time.time()
        with contextlib.suppress(AssertionError):
            until(settled, SETTLED_S, what="everything to be settled")
        self.left_open = {name: count for name, count in (left | self.left_open).items() if count}

    def usage(self, subscriber):
        """A subscriber's records as the command says them, newest first."""
        done = self.server.cli(
            "usage", "--subscriber", str(subscriber.subscriber_id), "--limit", str(RECORDS_MAX), "--json"
        )
        return json.loads(done.stdout)

    def _by_subscriber(self, cases):
        found = {}
        for case in cases:
            found.setdefault(case.subscriber.subscriber_id, (case.subscriber, []))[1].append(case)
        return found.values()

    def _look(self, case, rows):
        if not case.answers:
            return
        case.rows = [
            row for row in rows if row["model"] == case.model and row["request_id"] not in case.before_ids
        ]
        case.wrong += check.findings(case.spec, case.answers, case.seen.hits, case.rows)


def main():
    parser = argparse.ArgumentParser(prog="tests.edge.run")
    parser.add_argument("folder", nargs="?", type=Path, default=CASES)
    parser.add_argument("--only", default="", help="ids of cases or names of kinds, with commas between them")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    specs = [spec for spec in load(options.folder).values() if not only or {spec["id"], spec["kind"]} & only]
    with tempfile.TemporaryDirectory() as folder, Bench(folder) as bench:
        found = bench.results(specs)
        unbalanced = bench.server.findings()
        left_open = bench.left_open
    for spec in specs:
        wrong = found[spec["id"]]
        if wrong or options.verbose:
            print(f"{spec['kind']}/{spec['id']}: " + ("; ".join(wrong) or "ok"))
    for finding in unbalanced:
        print(f"ledger verify: {finding}")
    if left_open:
        print(f"left open: {left_open}")
    print(f"{sum(not wrong for wrong in found.values())} of {len(specs)} cases")
    return 1 if unbalanced or left_open or any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
