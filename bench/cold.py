"""Subscribers that come cold: each has a plan, a key that no worker knows and no open grant, and asks once.

A real recorder with its own PostgreSQL; this process is its worker, and says what a worker says: whose key is this, then: a
hold for that account. Reported: how long each waited from its arrival, and the CPU of the recorder and of PostgreSQL for each,
of opening and (after the idle time) of closing its grant. `recorder_queued`: of a second, how long threads of the recorder could
have run and had no CPU. Where that is much, waits say how busy the machine is, and CPU alone says what a subscriber costs.

Run: python -m bench.cold RATE,RATE… SECONDS [nokeys]
     python -m bench.cold restart RATE SECONDS
"""

import asyncio
import contextlib
import hashlib
import os
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import psutil

from bench.crowd import seed
from bench.targets import Tokenworks, cpu_s
from tokenworks.charging import Verdict, wire
from tokenworks.subscriptions import BILLING_ZONE

IDLE_S = 5
ANSWER_S = 30.0
CLOSED_S = 40.0

_KEYS = """
INSERT INTO api_key (key_id, account_id, member_id, key_mac, pepper_version, hint, name)
SELECT uuidv7(), m.account_id, m.member_id, sha256(uuid_send(m.account_id)), 1, 'bench', 'bench' FROM member m
WHERE NOT EXISTS (SELECT 1 FROM api_key k WHERE k.account_id = m.account_id)
"""


class Crowd(asyncio.Protocol):
    """The worker's end of the recorder's socket. `waits_s` are of those that got a hold; `refused` by verdict."""

    def __init__(self, *, keys):
        self.keys = keys
        self.reader = wire.FrameReader()
        self.out = {wire.REQUEST: [], wire.SLICE_RETURN: [], wire.SLICE_REQUEST: []}
        self.slices = {}
        self.waiting = {}
        self.waits_s = []
        self.refused = {}
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(wire.frame(wire.HELLO, wire.encode([uuid.uuid4().hex, os.getpid()])))

    def data_received(self, data):
        for kind, body in self.reader.feed(data):
            if kind == wire.SLICE_ANSWER:
                for number, verdict in wire.decode(body):
                    self.end(number, verdict)
            elif kind == wire.REPLY:
                number, rows = wire.decode(body)
                if rows:
                    self.say(
                        wire.SLICE_REQUEST, [number, rows[0][2], rows[0][5], "bench", [1, 200, 64], {}, False]
                    )
                else:
                    self.end(number, "no key")
            elif kind == wire.SLICE_GRANT:
                for account_id, grant_id, terms, amount, _ in wire.decode(body):
                    held = self.slices.setdefault(account_id, {})
                    held[terms[0]] = grant_id, held.get(terms[0], (grant_id, 0))[1] + amount
            elif kind == wire.RECALL:
                number, account_id, *_ = wire.decode(body)
                given = self.slices.pop(account_id, {})
                rows = [[bucket, grant_id, amount] for bucket, (grant_id, amount) in given.items()]
                self.say(wire.SLICE_RETURN, [number, account_id, rows])
            elif kind == wire.WELCOME:
                self.transport.write(wire.frame(wire.STATE, wire.encode([])))
                self.ready.set_result(None)

    def end(self, number, verdict):
        arrived_s = self.waiting.pop(number)[1]
        if verdict == Verdict.ENOUGH:
            self.waits_s.append(time.perf_counter() - arrived_s)
        else:
            self.refused[verdict] = self.refused.get(verdict, 0) + 1

    def say(self, kind, row):
        if not any(self.out.values()):
            asyncio.get_running_loop().call_soon(self.flush)
        self.out[kind].append(row)

    def flush(self):
        for kind, rows in self.out.items():
            if rows:
                self.transport.write(wire.frame(kind, wire.encode(rows)))
                rows.clear()

    def arrive(self, number, account_id):
        self.waiting[number] = account_id, time.perf_counter()
        if self.keys:
            mac = hashlib.sha256(account_id.bytes).digest()
            self.say(wire.REQUEST, [number, "keys", [mac]])
        else:
            self.say(wire.SLICE_REQUEST, [number, account_id.hex, [], "bench", [1, 200, 64], {}, False])


def queued_s(processes):
    """How long threads of these could have run and had no CPU: on a machine that others use, too, that is most of a wait."""
    total = 0
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((thread / "schedstat").read_text().split()[1])
    return total / 1e9


async def arrivals(path, accounts, rate, *, keys=True, then=None):
    """Accounts that come at a rate, evenly. Returns the crowd when all are answered or `ANSWER_S` after the last; `then` runs
    before its connection is closed.
    """
    loop = asyncio.get_running_loop()
    _, crowd = await loop.create_unix_connection(lambda: Crowd(keys=keys), path)
    await crowd.ready
    began_s = time.perf_counter()
    for number, account_id in enumerate(accounts, 1):
        late_s = began_s + number / rate - time.perf_counter()
        if late_s > 0.001 or number % 64 == 0:
            await asyncio.sleep(max(0.0, late_s))
        crowd.arrive(number, account_id)
    until_s = time.perf_counter() + ANSWER_S
    while crowd.waiting and time.perf_counter() < until_s:
        await asyncio.sleep(0.02)
    crowd.took_s = time.perf_counter() - began_s
    if then is not None:
        await then()
    crowd.transport.abort()
    return crowd


class ColdWorks:
    """A server with `count` cold subscribers."""

    def __init__(self, count, env=None):
        self.ours = Tokenworks(
            None,
            workers=1,
            url=["http://127.0.0.1:9/v1"],
            env={"TOKENWORKS_GRANT_IDLE_S": str(IDLE_S)} | (env or {}),
        )
        begin = datetime.now(BILLING_ZONE).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        with self.connection() as connection:
            seed(connection, count, begin, (begin + timedelta(days=32)).replace(day=1))
            connection.execute(_KEYS)
            connection.execute("ANALYZE api_key, account, member, product_order")
            rows = connection.execute(
                "SELECT account_id FROM api_key WHERE hint = 'bench' ORDER BY md5(account_id::text)"
            ).fetchall()
        self.accounts = [row[0] for row in rows]
        self.path = f"{self.ours.data_dir}/run/recorder.sock"

    @contextlib.contextmanager
    def connection(self):
        """As the database's owner: it makes temporary tables, and analyses."""
        from tokenworks.app.database.connections import connect, owned_database
        from tokenworks.app.settings import load_settings

        settings = load_settings({"data_dir": self.ours.data_dir}, self.ours.env).settings
        with owned_database(settings) as owned, contextlib.closing(connect(owned.owner_url)) as connection:
            yield connection

    def take(self, count):
        taken, self.accounts = self.accounts[:count], self.accounts[count:]
        return taken

    def measure(self, rate, seconds, *, keys=True):
        """One run: figures of opening, and of closing what it opened."""
        accounts = self.take(int(rate * seconds))
        recorder, postgres = self.ours.role("recorder"), self.ours.postgres()
        before = cpu_s(recorder), cpu_s(postgres)
        queued_before_s, began_s = queued_s(recorder), time.monotonic()
        opened, closed, closed_s, queued = (), (), 0.0, 0.0

        async def close():
            nonlocal opened, closed, closed_s, queued
            queued = (queued_s(recorder) - queued_before_s) / (time.monotonic() - began_s)
            opened = cpu_s(recorder) - before[0], cpu_s(postgres) - before[1]
            closing_s = time.monotonic()
            while self.ours.report()["open_grants"] and time.monotonic() < closing_s + CLOSED_S:
                await asyncio.sleep(0.5)
            closed_s = time.monotonic() - closing_s
            closed = cpu_s(recorder) - before[0] - opened[0], cpu_s(postgres) - before[1] - opened[1]

        crowd = asyncio.run(arrivals(self.path, accounts, rate, keys=keys, then=close))
        waits = sorted(crowd.waits_s)
        at = lambda q: round(1000 * waits[min(len(waits) - 1, int(q * len(waits)))], 1) if waits else None  # noqa: E731
        return {
            "rate": rate,
            "asked": len(accounts),
            "held": len(waits),
            "refused": crowd.refused,
            "unanswered": len(crowd.waiting),
            "per_s": round(len(waits) / crowd.took_s),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "max_ms": at(1.0),
            "recorder_queued": round(queued, 2),
            "recorder_ms_each": round(1000 * opened[0] / len(accounts), 3),
            "postgres_ms_each": round(1000 * opened[1] / len(accounts), 3),
            "closing_recorder_ms_each": round(1000 * closed[0] / len(accounts), 3),
            "closing_postgres_ms_each": round(1000 * closed[1] / len(accounts), 3),
            "closing_s": round(closed_s, 1),
        }


def bench_cold(rates, seconds, *, keys=True):
    """Rows of figures, one a rate; the ledger is verified at the end."""
    rows = []
    services = ColdWorks(int(sum(rates) * seconds) + 1000)
    try:
        asyncio.run(arrivals(services.path, services.take(200), 100, keys=keys))  # warm the processes up
        time.sleep(IDLE_S + 3)
        for rate in rates:
            rows.append(services.measure(rate, seconds, keys=keys))
        found = services.ours.verify()
    finally:
        services.ours.stop()
    return {"rows": rows, "ok": found["ok"], "findings": found["findings"][:3]}


class Flood:
    """New subscribers at a rate whatever happens: those who come while there is no host wait, and all ask when there is one. A wait is
    counted from the arrival. `done`: (arrival, end) in seconds of `time.perf_counter`, of those that got a hold.
    """

    def __init__(self, path, accounts, rate):
        self.path, self.accounts, self.rate = path, accounts, rate
        self.arrived = []
        self.done = {}
        self.lost = {}
        self.crowd = None

    async def keep_connected(self):
        while True:
            try:
                _, crowd = await asyncio.get_running_loop().create_unix_connection(
                    lambda: Crowd(keys=True), self.path
                )
                await asyncio.wait_for(crowd.ready, 5.0)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.02)
                continue
            self.crowd = crowd
            crowd.end = self.end
            for number in range(1, len(self.arrived) + 1):
                if number not in self.done and number not in self.lost:
                    self.ask(number)
            while not crowd.transport.is_closing():
                await asyncio.sleep(0.01)
            self.crowd = None

    def ask(self, number):
        self.crowd.arrive(number, self.accounts[number - 1])

    def end(self, number, verdict):
        if self.crowd is not None:
            self.crowd.waiting.pop(number, None)
        if verdict == Verdict.ENOUGH:
            self.done.setdefault(number, time.perf_counter())
        elif verdict == Verdict.AWAY and self.crowd is not None:
            # A client that is told to come again comes again.
            asyncio.get_running_loop().call_later(0.1, lambda: self.crowd is not None and self.ask(number))
        else:
            self.lost[number] = verdict

    async def run(self, then):
        """All of `accounts`; `then()` is awaited beside them."""
        connecting = asyncio.ensure_future(self.keep_connected())
        beside = asyncio.ensure_future(then())
        began_s = time.perf_counter()
        for number in range(1, len(self.accounts) + 1):
            late_s = began_s + number / self.rate - time.perf_counter()
            if late_s > 0.001 or number % 64 == 0:
                await asyncio.sleep(max(0.0, late_s))
            self.arrived.append(time.perf_counter())
            if self.crowd is not None:
                self.ask(number)
        until_s = time.perf_counter() + ANSWER_S
        while len(self.done) + len(self.lost) < len(self.accounts) and time.perf_counter() < until_s:
            await asyncio.sleep(0.02)
        await beside
        connecting.cancel()

    def p99_s(self, since_s, every_s=1.0):
        """The p99 of those who arrived in each second from a time on: (its begin, p99), every `every_s`."""
        waits = [
            (arrived - since_s, self.done.get(number, float("inf")) - arrived)
            for number, arrived in enumerate(self.arrived, 1)
        ]
        found, at = [], 0.0
        while at + 1.0 <= waits[-1][0]:
            second = sorted(wait for arrived, wait in waits if at <= arrived < at + 1.0)
            if second:
                found.append((round(at, 1), second[min(len(second) - 1, int(0.99 * len(second)))]))
            at += every_s
        return found

    def back_s(self, since_s, limit_s=0.25):
        """Seconds from a time until the first arrival of a second whose p99 is below `limit_s`; None where there is none."""
        return next((at for at, p99_s in self.p99_s(since_s, 0.1) if p99_s < limit_s), None)


# When grants of before are being closed, too.
RESTART_AT_S = IDLE_S + 5.0


def bench_restart(rate, seconds):
    """The host is killed (`kill -9`, the whole of it) under `rate` cold subscribers a second, and started at once. Figures since the kill:
    until it is ready, and until the p99 of a second's arrivals is below 250 ms again.
    """
    services = ColdWorks(int(rate * seconds) + 1000)
    try:
        asyncio.run(arrivals(services.path, services.take(200), 100))
        time.sleep(IDLE_S + 3)
        flood = Flood(services.path, services.take(int(rate * seconds)), rate)
        found = {}

        async def restart():
            await asyncio.sleep(RESTART_AT_S)
            found["killed_s"] = time.perf_counter()
            for process in services.ours.processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            await asyncio.to_thread(services.ours.process.wait)
            await asyncio.to_thread(services.ours._serve, 1)
            found["ready_s"] = time.perf_counter()

        asyncio.run(flood.run(restart))
        before = sorted(
            flood.done[number] - arrived for number, arrived in enumerate(flood.arrived, 1)
            if arrived < found["killed_s"] - 1.0 and number in flood.done
        )  # fmt: skip
        verified = services.ours.verify()
    finally:
        services.ours.stop()
    return {
        "rate": rate,
        "load": round(os.getloadavg()[0], 1),
        "p99_ms_before": round(1000 * before[int(0.99 * len(before))], 1),
        "ready_after_s": round(found["ready_s"] - found["killed_s"], 1),
        "p99_back_after_s": flood.back_s(found["killed_s"]),
        "p99_back_after_ready_s": flood.back_s(found["ready_s"]),
        "p99_ms_by_second_since_kill": [round(1000 * p99_s) for _, p99_s in flood.p99_s(found["killed_s"])],
        "asked": len(flood.arrived),
        "held": len(flood.done),
        "lost": len(flood.lost),
        "ok": verified["ok"],
    }


if __name__ == "__main__":
    import json
    import sys

    if sys.argv[1] == "restart":
        print(json.dumps(bench_restart(int(sys.argv[2]), float(sys.argv[3]))))
        raise SystemExit
    rates = [int(rate) for rate in sys.argv[1].split(",")]
    found = bench_cold(rates, float(sys.argv[2]), keys="nokeys" not in sys.argv)
    for row in found["rows"]:
        print(json.dumps(row))
    print(found["ok"], found["findings"])
