"""`make bench`: ratios against peers in one run, the same upstream, the same load; then the ledger is held against the
upstream's own count. Absolute figures are of this machine and this minute; the ratios are what is meant.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import load, startup
from bench.targets import Direct, Envoy, Relay, Sglang, Tokenworks, Upstream, cpu_s, rss
from bench.verify import bench_verify
from tokenworks import compiled

console = Console(width=150)
# Records, subscribers, records an entry; where it is quick.
VERIFY = {False: (300_000, 6000, 5), True: (30_000, 1500, 5)}
# What a bill run writes, for the reference: a bare COPY of the same rows.
BILLED = ("bill", "bill_line")
SIZES = {"0.3 kB": 300, "10 kB": 10_000, "100 kB": 100_000}
BARS = {"0.3 kB": 1.1, "10 kB": 1.3, "100 kB": 1.6}


def measure(target, run):
    """(result, CPU of its processes in s, of PostgreSQL)."""
    processes = target.processes()
    postgres = target.postgres() if isinstance(target, Tokenworks) else []
    before, before_pg = cpu_s(processes), cpu_s(postgres)
    result = uvloop.run(run())
    if isinstance(target, Tokenworks):
        target.settled()  # settlement is part of the price
    return result, cpu_s(processes) - before, cpu_s(postgres) - before_pg


def per_request(target, data, seconds):
    (count, failed), cpu, pg = measure(target, lambda: load.closed_loop(target.port, data, 32, seconds))
    if failed:
        raise SystemExit(f"{failed} of {count} requests failed at {target.name}")
    return cpu / count * 1e6, pg / count * 1e6, count


def table(title, columns, rows):
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(*map(str, row))
    console.print(made)


def bench_requests(ours, envoy, relay, sglang, rounds, seconds, bar):
    rows, ratios = [], {}
    for label, size in SIZES.items():
        body = load.plain_body(size)
        mine, theirs, pgs, other, floors = [], [], [], [], []
        for _ in range(rounds):
            theirs.append(per_request(envoy, load.request(envoy.key, body), seconds)[0])
            cost, pg, _ = per_request(ours, load.request(ours.key, body), seconds)
            mine.append(cost)
            pgs.append(pg)
            floors.append(per_request(relay, load.request(relay.key, body), seconds)[0])
            if sglang is not None and len(other) < 1:
                other.append(per_request(sglang, load.request(sglang.key, body), seconds)[0])
            bar()
        ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        ratios[label] = ratio
        peer = f"{statistics.median(mine) / other[0]:.2f}" if other else "-"
        rows.append((label, f"{statistics.median(floors):.0f}", f"{statistics.median(theirs):.0f}", f"{statistics.median(mine):.0f}", f"{statistics.median(pgs):.0f}",
                     f"{other[0]:.0f}" if other else "-", f"{ratio:.2f}", f"{BARS[label]:.1f}", peer))  # fmt: skip
    table(
        "CPU per request, 32 connections, µs",
        [
            "body",
            "bare relay",
            "Envoy",
            "tokenworks",
            "its PostgreSQL",
            "sglang-router",
            "× Envoy",
            "bar",
            "× sglang",
        ],
        rows,
    )
    return ratios


# Of the relay's own CPU per request, by how many deployments there are.
PLACING_BARS = {8: 0.5, 64: 1.0}


def bench_placing(ours, rounds, seconds, bar):
    """Placing a 50 kB prompt against relaying it, in turns."""
    from bench.placing import PROMPT_BYTES, cost_us

    body = load.plain_body(PROMPT_BYTES)
    relayed, placed = [], {count: [] for count in PLACING_BARS}
    for at in range(rounds):
        relayed.append(per_request(ours, load.request(ours.key, body), seconds)[0])
        for count, costs in placed.items():
            costs.append(cost_us(count, at))
        bar()
    ratios = {
        count: statistics.median(a / b for a, b in zip(costs, relayed, strict=True))
        for count, costs in placed.items()
    }
    table(
        "Placing a 50 kB prompt, CPU µs",
        ["deployments", "placing", "relaying", "× relaying", "bar"],
        [
            (count, f"{statistics.median(placed[count]):.0f}", f"{statistics.median(relayed):.0f}", f"{ratio:.2f}", f"{PLACING_BARS[count]:.1f}")
            for count, ratio in ratios.items()
        ],
    )  # fmt: skip
    return ratios


def bench_chunks(ours, envoy, counts, rounds, bar):
    rows, ratios = [], {}
    for count in counts:
        body = load.stream_body(250, 20)
        pairs = []
        for _ in range(rounds):
            costs = []
            for target in (envoy, ours):
                (chunks, failed), cpu, _ = measure(
                    target, lambda t=target: load.streams(t.port, load.request(t.key, body), count)
                )
                if failed:
                    raise SystemExit(f"{failed} of {count} streams failed at {target.name}")
                costs.append(cpu / chunks * 1e6)
            pairs.append(costs)
            bar()
        ratio = statistics.median(b / a for a, b in pairs)
        ratios[count] = ratio
        rows.append(
            (
                count,
                f"{statistics.median(a for a, _ in pairs):.1f}",
                f"{statistics.median(b for _, b in pairs):.1f}",
                f"{ratio:.2f}",
                "1.0",
            )
        )
    table(
        "CPU per streamed chunk, 20 ms apart, µs", ["streams", "Envoy", "tokenworks", "× Envoy", "bar"], rows
    )
    return ratios


def bench_low_rate(ours, envoy, upstream, seconds, bar):
    rows = []
    body = load.plain_body(300)
    costs = {}
    for target in (envoy, ours):
        (times, failed), cpu, _ = measure(
            target, lambda t=target: load.paced(t.port, load.request(t.key, body), 200, seconds)
        )
        assert not failed
        costs[target.name] = cpu / len(times) * 1e6
        bar()
    rows.append(
        (f"{costs['Envoy']:.0f}", f"{costs['tokenworks']:.0f}", f"{costs['tokenworks'] / costs['Envoy']:.2f}")
    )
    table(
        "CPU per request at 200 requests/s, 0.3 kB, µs (all idle work included)",
        ["Envoy", "tokenworks", "× Envoy"],
        rows,
    )

    body = load.stream_body(5, 2)
    found = {}
    for target in (Direct(upstream), envoy, ours, Direct(upstream), envoy, ours):
        times, failed = uvloop.run(load.paced(target.port, load.request(target.key, body), 50, seconds))
        assert not failed
        found.setdefault(target.name, []).extend(times)
        bar()

    def ms(name, at, q):
        values = sorted(row[at] for row in found[name])
        return values[min(len(values) - 1, int(q * len(values)))] * 1000

    rows = []
    for name in ("direct", "Envoy", "tokenworks"):
        rows.append((name, *(f"{ms(name, at, q):.2f}" for at in (0, 2) for q in (0.5, 0.99))))
    rows.append(
        (
            "tokenworks adds",
            *(f"{ms('tokenworks', at, q) - ms('direct', at, q):+.2f}" for at in (0, 2) for q in (0.5, 0.99)),
        )
    )
    table("Latency of streams at 50/s, ms", ["", "first byte p50", "p99", "end p50", "p99"], rows)
    sync = fdatasync_ms(Path(ours.data_dir))
    console.print(
        f"A bare fdatasync of 4 kB on this disk: p50 {sync[0]:.2f} ms, p99 {sync[1]:.2f} ms. The end of a response waits for one such commit.\n"
    )
    return ms("tokenworks", 0, 0.5) - ms("direct", 0, 0.5)


def fdatasync_ms(folder):
    path = folder / "sync.probe"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(1 << 20))
    os.fsync(file)
    times = []
    for n in range(200):
        os.pwrite(file, os.urandom(4096), 4096 * (n % 256))
        began = time.perf_counter()
        os.fdatasync(file)
        times.append((time.perf_counter() - began) * 1000)
    os.close(file)
    path.unlink()
    times.sort()
    return times[100], times[198]


def bench_memory(ours, envoy, bar):
    rows, result = [], {}
    body = load.stream_body(3, 6000)
    for target in (envoy, ours):
        processes = target.role("worker") if isinstance(target, Tokenworks) else target.processes()
        idle = rss(processes)
        seen = {}
        (_, failed) = uvloop.run(
            load.streams(
                target.port, load.request(target.key, body), 2000, lambda: seen.update(open=rss(processes))
            )
        )
        assert not failed
        each = (seen["open"] - idle) / 2000 / 1024
        result[target.name] = (idle / 2**20, each)
        rows.append((target.name, f"{idle / 2**20:.0f}", f"{seen['open'] / 2**20:.0f}", f"{each:.1f}"))
        bar()
    table(
        "Memory with 2000 open streams (of one worker; proportional set size)",
        ["", "idle MB", "open MB", "kB per stream"],
        rows,
    )
    return result["tokenworks"]


def bench_tls(rounds, seconds, bar):
    """Upstream TLS, kept alive; a certificate made for this run."""
    import trustme

    with tempfile.TemporaryDirectory() as folder:
        ca = trustme.CA()
        cert = ca.issue_cert("localhost", "127.0.0.1")
        ca.cert_pem.write_to_path(f"{folder}/ca.pem")
        cert.cert_chain_pems[0].write_to_path(f"{folder}/cert.pem")
        cert.private_key_pem.write_to_path(f"{folder}/key.pem")
        upstream = Upstream(f"{folder}/cert.pem", f"{folder}/key.pem")
        envoy = Envoy(upstream, tls=True)
        ours = Tokenworks(
            upstream, url=f"https://localhost:{upstream.port}/v1", env={"SSL_CERT_FILE": f"{folder}/ca.pem"}
        )
        try:
            body = load.plain_body(300)
            pairs = []
            for _ in range(rounds):
                theirs = per_request(envoy, load.request(envoy.key, body), seconds)[0]
                pairs.append((theirs, per_request(ours, load.request(ours.key, body), seconds)[0]))
                bar()
        finally:
            ours.stop()
            envoy.stop()
            upstream.stop()
    ratio = statistics.median(b / a for a, b in pairs)
    table("CPU per request with upstream TLS, 0.3 kB, 32 connections, µs", ["Envoy", "tokenworks", "× Envoy"],
          [(f"{statistics.median(a for a, _ in pairs):.0f}", f"{statistics.median(b for _, b in pairs):.0f}", f"{ratio:.2f}")])  # fmt: skip
    return ratio


def bench_settlement(ours, seconds):
    """How fast the journal becomes the ledger: a burst, then the backlog's drain."""
    before = ours.report()
    began = time.monotonic()
    uvloop.run(load.closed_loop(ours.port, load.request(ours.key, load.plain_body(300)), 64, seconds))
    after = ours.settled()
    records = after["settled_records"] - before["settled_records"]
    cpu = after["settle_cpu_seconds"] - before["settle_cpu_seconds"]
    commits = after["journal_commits"] - before["journal_commits"]
    table("Settlement, while serving", ["records", "records/s", "CPU per record µs", "records per journal commit", "records per transaction"],
          [(records, f"{records / (time.monotonic() - began - 1.2):.0f}", f"{cpu / records * 1e6:.1f}", f"{records / max(1, commits):.1f}",
            f"{records / max(1, after['settle_batches'] - before['settle_batches']):.0f}")])  # fmt: skip


def bench_settling(batches):
    """Settlement by itself, against a bare COPY of the rows that it writes."""
    from bench.settle import PER_ACCOUNT, against_copy

    rows, result = [], {}
    for per in PER_ACCOUNT:
        records, written, busy, bare = against_copy(per, batches)
        result[f"{per} an account"] = round(busy / bare, 2)
        rows.append((per, f"{records:,}", f"{written:,}", f"{busy / records * 1e6:.0f}", f"{bare / records * 1e6:.0f}", f"{busy / bare:.2f}"))  # fmt: skip
    table(
        "Settlement, ours and PostgreSQL's CPU a record, µs, against a bare COPY of the rows that it writes",
        ["records an account", "records", "rows", "settling", "COPY", "× COPY"],
        rows,
    )
    return result


def bench_hot_account(upstream, streams, bar):
    """One account, two hosts with two workers each, one database: how long a hold waits for its grant."""
    from tokenworks.app.database.embedded import Embedded

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "database")
        with Embedded(home).use() as url:
            env = {
                "TOKENWORKS_DATABASE_URL": url,
                "TOKENWORKS_DATABASE_OWNER_URL": Embedded(home).owner_url,
                "TOKENWORKS_SECRETS_DIR": f"{folder}/secrets",
            }
            a = Tokenworks(upstream, workers=2, env=env)
            b = Tokenworks(upstream, workers=2, env=env, beside=a)
            try:
                data = load.request(a.key, load.stream_body(100, 20))

                async def both():
                    return await asyncio.gather(
                        load.streams(a.port, data, streams // 2), load.streams(b.port, data, streams // 2)
                    )

                began = time.monotonic()
                results = uvloop.run(both())
                took = time.monotonic() - began
                bar()
                waits = [
                    (
                        host.report()["grant_wait_p50_seconds"] * 1000,
                        host.report()["grant_wait_p99_seconds"] * 1000,
                    )
                    for host in (a, b)
                ]
                a.settled()
                b.settled()
                found = a.verify()
                failed = sum(failed for _, failed in results)
            finally:
                b.stop()
                a.stop()
        Embedded(home).destroy()
    table(
        f"One account, {streams} streams, 4 workers of 2 hosts",
        ["host", "reserve to grant p50 ms", "p99 ms", "chunks/s", "failed", "ledger"],
        [(name, f"{p50:.2f}", f"{p99:.2f}", f"{chunks / took:.0f}", fails, "balances" if found["ok"] else "DOES NOT BALANCE")
         for name, (p50, p99), (chunks, fails) in zip("ab", waits, results, strict=True)],
    )  # fmt: skip
    return {
        "p50_ms": max(p50 for p50, _ in waits),
        "p99_ms": max(p99 for _, p99 in waits),
        "failed": failed,
        "ok": found["ok"],
    }


def bench_bills(count, progress):
    """A bill run over so many subscribers, each with a plan, every tenth with steps beside; then the ledger."""
    import contextlib
    import subprocess
    from datetime import UTC, datetime

    import psutil

    from bench.copying import copied_in
    from bench.crowd import seed
    from tokenworks.app.database.connections import connect
    from tokenworks.app.database.embedded import Embedded
    from tokenworks.app.database.schema import migrate
    from tokenworks.catalog import Offerings, seed_catalogue
    from tokenworks.subscriptions.model import add_months, month_start
    from tokenworks.trust import ensure_pepper

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "database")
        embedded = Embedded(home)
        with embedded.use() as url:
            migrate(embedded.owner_url, app_url=url)
            ensure_pepper(Path(folder, "secrets"))
            task = progress.add_task(f"seeding {count:,} subscribers", total=count)
            # As the owner: it makes temporary tables, and analyses.
            with contextlib.closing(connect(embedded.owner_url)) as connection:
                Offerings(connection).load(seed_catalogue())
                end = month_start(datetime.now(UTC))
                seed(
                    connection, count, add_months(end, -1), end,
                    progress=lambda done: progress.update(task, completed=done),
                )  # fmt: skip
            env = os.environ | {"TOKENWORKS_DATABASE_URL": url, "TOKENWORKS_DATA_DIR": folder}
            pid = int((embedded.pgdata / "postmaster.pid").read_text().split()[0])
            postgres = psutil.Process(pid)
            task = progress.add_task("the bill run")
            began = time.monotonic()
            before = {child.pid: sum(child.cpu_times()[:2]) for child in postgres.children()}
            run = subprocess.Popen(
                [sys.executable, "-m", "tokenworks", "bill", "run", "--json"],
                env=env,
                stdout=subprocess.PIPE,
                text=True,
            )
            process, most, cpu = psutil.Process(run.pid), 0, 0.0
            backends = {}
            while run.poll() is None:
                with contextlib.suppress(psutil.Error):
                    most = max(most, process.memory_info().rss)
                    cpu = sum(process.cpu_times()[:2])
                    for backend in postgres.children():
                        with contextlib.suppress(psutil.Error):
                            backends[backend.pid] = sum(backend.cpu_times()[:2])
                time.sleep(0.05)
            took = time.monotonic() - began
            made = json.loads(run.stdout.read())
            pg_cpu = sum(used - before.get(pid, 0.0) for pid, used in backends.items())
            task = progress.add_task("the ledger")
            began = time.monotonic()
            checked = subprocess.run(
                [sys.executable, "-m", "tokenworks", "ledger", "verify", "--full", "--json"],
                env=env,
                capture_output=True,
                text=True,
            )
            verified_s = time.monotonic() - began
            ok = checked.returncode == 0
            rows = sum(json.loads(checked.stdout)["checked"].values())
            with contextlib.closing(connect(embedded.owner_url)) as connection:
                written, bare = copied_in(connection, BILLED)
        Embedded(home).destroy()
    per_core = made["bills"] / (cpu + pg_cpu)
    table(
        f"Bill run over {count:,} subscribers",
        ["bills", "lines", "s", "bills/s", "CPU s of ours", "of PostgreSQL", "bills/s per core", "× COPY", "most memory MB", "ledger", "verified s", "rows/s"],
        [(f"{made['bills']:,}", f"{made['lines']:,}", f"{took:.0f}", f"{made['bills'] / took:.0f}", f"{cpu:.1f}", f"{pg_cpu:.1f}",
          f"{per_core:.0f}", f"{(cpu + pg_cpu) / bare.busy:.1f}", f"{most / 1e6:.0f}", "balances" if ok else "DOES NOT BALANCE", f"{verified_s:.0f}", f"{rows / verified_s:,.0f}")],
    )  # fmt: skip
    return {
        "bills": made["bills"],
        "bills_per_s_per_core": round(per_core),
        "rows_written": written,
        "x_copy": round((cpu + pg_cpu) / bare.busy, 2),
        "memory_mb": round(most / 1e6),
        "verified_rows_per_s": round(rows / verified_s),
        "ok": ok,
    }


def bench_cold_rows(rates, seconds):
    """Subscribers without an open grant and with a key that nobody knows, at these rates."""
    from bench.cold import bench_cold

    result = bench_cold(rates, seconds)
    table(
        "Cold subscribers (a key nobody knows, no open grant)",
        ["arrive /s", "held", "refused", "p50 ms", "p99 ms", "recorder CPU ms", "PostgreSQL", "closing: recorder", "PostgreSQL"],
        [(r["rate"], r["held"], sum(r["refused"].values()), r["p50_ms"], r["p99_ms"], r["recorder_ms_each"], r["postgres_ms_each"],
          r["closing_recorder_ms_each"], r["closing_postgres_ms_each"]) for r in result["rows"]],
    )  # fmt: skip
    return result


def bench_before(upstream, revision, pairs, builds, bar):
    """This tree against another revision, in one run, each built as is said."""
    from bench import before

    rows = before.summary(before.ratios(upstream, revision, pairs, builds, bar))
    table(
        f"CPU of {before.named(None)} ({builds[1]}) against {before.named(revision)} ({builds[0]}), {pairs} pairs, µs",
        ["", "before", "now", "ratio", "least", "most", "bar"],
        [
            (
                label,
                f"{base:.1f}",
                f"{mine:.1f}",
                f"{ratio:.3f}",
                f"{least:.3f}",
                f"{most:.3f}",
                f"{limit:.2f}",
            )
            for label, base, mine, ratio, least, most, limit in rows
        ],
    )
    return {label: round(ratio, 3) for label, _, _, ratio, _, _, _ in rows}


def bench_fleet(rounds, chats, bar):
    """Four llama.cpp servers behind us, behind sglang-router by cache and by turns: each arm in turn, the same shapes of chats."""
    from bench import fleet
    from tokenworks.app.demo.model_server import MODEL

    servers = fleet.ModelServers()
    ours = by_cache = by_turns = None
    found = {}
    try:
        ours = Tokenworks(None, url=[f"{url}/v1" for url in servers.urls], model_name=MODEL)
        like = ("--cache-threshold", "0.5", "--balance-abs-threshold", "32", "--balance-rel-threshold", "1.1")
        by_cache = Sglang(servers.urls, "cache_aware", MODEL, *like)
        by_turns = Sglang(servers.urls, "round_robin", MODEL)
        arms = {"tokenworks": ours, "sglang-router by cache": by_cache, "round robin": by_turns}
        found = {name: [] for name in arms}
        for target in arms.values():
            uvloop.run(
                fleet.run(target.port, target.key, MODEL, fleet.SERVERS, target.name)
            )  # nothing is cold
        for at in range(rounds):
            # Each one is first in turn.
            for name, target in [*arms.items()][at % 3 :] + [*arms.items()][: at % 3]:
                found[name].append(
                    uvloop.run(fleet.run(target.port, target.key, MODEL, chats, f"{name}{at}"))
                )
                bar()
        ours.settled()
        ok = ours.verify()["ok"]
    finally:
        for target in (ours, by_cache, by_turns):
            if target is not None:
                target.stop()
        servers.stop()
    first = {name: statistics.median(map(fleet.mean_ms, outcomes)) for name, outcomes in found.items()}
    rate = {
        name: statistics.median(o.tokens / o.took_s for o in outcomes) for name, outcomes in found.items()
    }
    table(
        f"Four llama.cpp servers, {chats} chats of {fleet.TURNS} turns, {fleet.CHATS_AT_ONCE} at once",
        ["", "first token ms", "× of it", "tokens/s", "× of it"],
        [
            (name, f"{first[name]:.0f}", f"{first['tokenworks'] / first[name]:.2f}", f"{rate[name]:.0f}", f"{rate['tokenworks'] / rate[name]:.2f}")
            for name in found
        ],
    )  # fmt: skip
    return {
        "first_token": {name: round(first["tokenworks"] / first[name], 3) for name in found},
        "tokens_per_s": {name: round(rate["tokenworks"] / rate[name], 3) for name in found},
        "ok": ok,
    }


def bench_translated(ours, rounds, bar):
    """A chunk of a stream that is translated against one that is relayed."""
    from bench import translated

    def cpu_of(data, count):
        (_, failed), cpu, _ = measure(ours, lambda: load.streams(ours.port, data, count))
        if failed:
            raise SystemExit(f"{failed} of {count} streams failed")
        return cpu

    found = list(translated.rows(translated.ratios(cpu_of, ours.key, rounds, bar)))
    table(
        f"CPU of a chunk, {translated.STREAMS} streams at {1000 // translated.GAP_MS} chunks/s, an upstream of chat, µs",
        ["client", "relayed", "translated", "× relayed", "bar"],
        [
            (client, f"{relayed:.1f}", f"{made:.1f}", f"{ratio:.2f}", f"{translated.BAR:.1f}")
            for client, relayed, made, ratio in found
        ],
    )
    return {client: round(ratio, 3) for client, _, _, ratio in found}


def bench_startup(rounds):
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=rounds + 1)
        found = startup.measure(rounds, lambda: progress.advance(task))
    bare_s, _ = found["python -c pass"]
    table(
        "CPU of a command, with the interpreter, least of the rounds",
        ["command", "ms", "× python -c pass"],
        [(row, f"{seconds * 1000:.0f}", f"{ratio:.1f}") for row, (seconds, ratio) in found.items()],
    )
    ok = all(found[row][0] - bare_s <= startup.HELP_S_MAX for row in ("--help", "--version", "order --help"))
    return {row: round(ratio, 2) for row, (_, ratio) in found.items()} | {"ok": ok}


def main():
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument(
        "--quick", action="store_true", help="one short round of each: for a look, not for figures"
    )
    parser.add_argument(
        "--only",
        default="",
        help="requests,placing,chunks,translated,low,memory,tls,settlement,grants,bills,verify,fleet; or before, cold, settling, startup or translated, alone",
    )
    parser.add_argument("--no-sglang", action="store_true")
    parser.add_argument("--subscribers", type=int, default=100_000, help="of the bill run")
    parser.add_argument(
        "--base", default="HEAD~1", metavar="REV", help="the revision that `before` compares with"
    )
    parser.add_argument(
        "--builds", default="interpreted,interpreted", metavar="BASE,THIS",
        help="of `before`: how the two are built, each `interpreted` or `compiled`",
    )  # fmt: skip
    parser.add_argument("--pairs", type=int, default=8, help="of `before`, at least 6 where not --quick")
    options = parser.parse_args()
    rounds, seconds = (1, 2) if options.quick else (4, 4)
    only = set(filter(None, options.only.split(",")))
    wanted = lambda name: not only or name in only  # noqa: E731
    if only == {"bills"}:
        with Progress(console=console, transient=True) as progress:
            result = bench_bills(options.subscribers, progress)
        console.print(json.dumps({"bills": result}))
        return 0 if result["ok"] else 1
    if only == {"settling"}:
        console.print(json.dumps({"settling": bench_settling(2 if options.quick else 10)}))
        return 0
    if only == {"verify"}:
        console.print(json.dumps({"verify": bench_verify(*VERIFY[options.quick], say=console.print)}))
        return 0
    if only == {"cold"}:
        result = bench_cold_rows(
            [150, 500] if options.quick else [150, 500, 1000], 5 if options.quick else 10
        )
        console.print(json.dumps({"cold": result}))
        return 0 if result["ok"] else 1
    if only == {"startup"}:
        result = bench_startup(2 if options.quick else 7)
        console.print(json.dumps({"startup": result}))
        return 0 if result["ok"] else 1
    if only == {"before"}:
        from bench.before import PAIRS_MIN, ROWS

        builds = options.builds.split(",")
        if len(builds) != 2 or not {"interpreted", "compiled"}.issuperset(builds):
            parser.error("--builds: two of interpreted and compiled, such as interpreted,compiled")
        pairs = 1 if options.quick else max(PAIRS_MIN, options.pairs)
        upstream = Upstream()
        try:
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("measuring", total=len(ROWS) * pairs)
                result = bench_before(upstream, options.base, pairs, builds, lambda: progress.advance(task))
        finally:
            upstream.stop()
        console.print(json.dumps({"before": result}))
        return 0 if all(result[row.label] <= row.bar for row in ROWS) else 1
    if only == {"fleet"}:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("chats", total=3 if options.quick else 9)
            result = bench_fleet(
                1 if options.quick else 3, 6 if options.quick else 12, lambda: progress.advance(task)
            )
        console.print(json.dumps({"fleet": result}))
        return 0 if result["ok"] else 1
    if only == {"translated"}:
        from bench.translated import BAR, CLIENTS

        upstream = Upstream()
        ours = Tokenworks(upstream)
        try:
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("measuring", total=rounds * len(CLIENTS))
                result = bench_translated(ours, rounds, lambda: progress.advance(task))
        finally:
            ours.stop()
            upstream.stop()
        console.print(json.dumps({"translated": result}))
        return 0 if all(ratio <= BAR for ratio in result.values()) else 1
    console.print(
        f"CPython {sys.version}: how it was built moves our figures, and not the others'. Tokenworks is {compiled.state()}."
    )
    upstream = Upstream()
    envoy, ours, relay = Envoy(upstream), Tokenworks(upstream), Relay(upstream)
    sglang = (
        None if options.no_sglang or not wanted("requests") else Sglang([f"http://127.0.0.1:{upstream.port}"])
    )
    steps = (
        (3 * rounds if wanted("requests") else 0)
        + (rounds if wanted("placing") else 0)
        + (2 * rounds if wanted("chunks") else 0)
        + (2 * rounds if wanted("translated") else 0)
        + (8 if wanted("low") else 0)
    )
    steps += (
        (1 if wanted("grants") else 0)
        + ((3 if options.quick else 9) if wanted("fleet") else 0)
        + (2 if wanted("memory") else 0)
        + (rounds if wanted("tls") else 0)
    )
    results = {}
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=steps)
            bar = lambda: progress.advance(task)  # noqa: E731
            if wanted("requests"):
                results["requests"] = bench_requests(ours, envoy, relay, sglang, rounds, seconds, bar)
            if wanted("placing"):
                results["placing"] = bench_placing(ours, rounds, seconds, bar)
            if wanted("chunks"):
                results["chunks"] = bench_chunks(ours, envoy, (300, 700), rounds, bar)
            if wanted("translated"):
                results["translated"] = bench_translated(ours, rounds, bar)
            if wanted("low"):
                results["first_byte_added_ms"] = bench_low_rate(ours, envoy, upstream, 2 * seconds, bar)
            if wanted("memory"):
                results["memory_idle_mb"], results["memory_stream_kb"] = bench_memory(ours, envoy, bar)
            if wanted("settlement"):
                bench_settlement(ours, seconds)
                results["settling"] = bench_settling(2 if options.quick else 10)
            if wanted("grants"):
                results["grants"] = bench_hot_account(upstream, 1000, bar)
            if wanted("bills"):
                results["bills"] = bench_bills(20_000 if options.quick else options.subscribers, progress)
            if wanted("verify"):
                results["verify"] = bench_verify(*VERIFY[options.quick], say=console.print)
            if wanted("fleet"):
                results["fleet"] = bench_fleet(1 if options.quick else 3, 6 if options.quick else 12, bar)
            if wanted("tls"):
                results["tls"] = bench_tls(rounds, seconds, bar)
        ours.settled()
        found = ours.verify()
        records, tokens = ours.ledger()
        mine = check_count(ours, upstream)
        console.print(f"Ledger: {records:,} complete records, {tokens:,} output tokens; verify: {'balances' if found['ok'] else found['findings'][:3]}; "
                      f"against an upstream of its own: {mine}.")  # fmt: skip
        console.print(json.dumps(results))
        return 0 if found["ok"] and mine.startswith("equal") else 1
    finally:
        ours.stop()
        envoy.stop()
        relay.stop()
        if sglang is not None:
            sglang.stop()
        upstream.stop()


def check_count(ours, upstream):
    """The others share the upstream; so a last run is ours alone, and must agree to the token."""
    before, before_ledger = upstream.count(), ours.ledger()
    uvloop.run(load.closed_loop(ours.port, load.request(ours.key, load.plain_body(300)), 32, 1))
    uvloop.run(load.streams(ours.port, load.request(ours.key, load.stream_body(20, 1)), 100))
    ours.settled()
    after, after_ledger = upstream.count(), ours.ledger()
    theirs = (after["requests"] - before["requests"], after["tokens"] - before["tokens"])
    mine = (after_ledger[0] - before_ledger[0], after_ledger[1] - before_ledger[1])
    return (
        f"equal, {mine[0]:,} requests and {mine[1]:,} tokens"
        if theirs == mine
        else f"NOT EQUAL: upstream {theirs}, ledger {mine}"
    )


if __name__ == "__main__":
    sys.exit(main())
