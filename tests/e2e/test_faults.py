"""kill -9 under load: nothing counted twice, nothing finished lost, service goes on, nothing outlives the supervisor."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time

import pytest

from tests.support.server import Server, StubUpstream, until

pytestmark = pytest.mark.fault
KILLS = pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.nightly)])


class Load:
    """Clients that come again and again; knows which responses it saw finished."""

    def __init__(self, server, key, clients=12):
        self.server = server
        self.key = key
        self.clients = clients
        self.finished = []
        self.broken = 0
        self.stop = False

    async def client(self, number):
        rng = random.Random(number)
        while not self.stop:
            tokens = rng.randrange(1, 40)
            stream = rng.random() < 0.7
            told = {"tokens": tokens, "prompt": rng.randrange(1, 60), "gap_ms": rng.choice([0, 1, 5])}
            body = json.dumps(
                {
                    "model": "stub",
                    "stream": stream,
                    "max_tokens": 50,
                    "user": json.dumps(told),
                    "messages": [],
                }
            ).encode()
            try:
                reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
                writer.write(
                    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\nconnection: close\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                data = await asyncio.wait_for(reader.read(), 60)
                writer.close()
            except (OSError, TimeoutError):
                self.broken += 1
                await asyncio.sleep(0.01)
                continue
            head, _, rest = data.partition(b"\r\n\r\n")
            whole = (
                rest.endswith(b"0\r\n\r\n") and b"[DONE]" in rest
                if stream
                else len(rest) == int((re.findall(rb"content-length: (\d+)", head) or [b"-1"])[0])
            )
            if data[9:12] == b"200" and whole and b"event: error" not in rest:
                self.finished.append(re.findall(rb"x-request-id: (\w+)", head)[0].decode())
            else:
                self.broken += 1

    async def run(self, disturb):
        tasks = [asyncio.create_task(self.client(number)) for number in range(self.clients)]
        try:
            await disturb(self)
        finally:
            self.stop = True
            await asyncio.gather(*tasks)


def check(server, subscriber, upstream, load, *, interrupted):
    """The sums, against the upstream's own count and what the clients saw."""
    since = time.time() + 0.5
    until(lambda: _quiet(server, since), what="open attempts and records to be settled")
    rows = server.connection.execute(
        """SELECT upstream_id, request_id, state, fresh_input + cached_input, output, usage_id, reason FROM usage WHERE account_id = %s""",
        (subscriber.account_id,),
    ).fetchall()
    assert len({row[5] for row in rows}) == len(rows)
    complete = [row for row in rows if row[2] == "complete"]
    assert len({row[0] for row in complete}) == len(complete), "an upstream response was charged twice"
    lost = set(load.finished) - {row[1] for row in rows}
    assert not lost, f"{len(lost)} of {len(load.finished)} finished responses are not in the ledger"
    count = upstream.count()
    for upstream_id, _, _, inputs, output, _, _ in complete:
        theirs = count["complete"][upstream_id]
        assert (inputs, output) == (theirs["prompt_tokens"], theirs["completion_tokens"])
    produced = sum(tokens for tokens, _ in count["started"].values())
    assert sum(row[4] for row in rows) <= produced
    assert server.findings() == []
    if interrupted:
        assert any(row[2] == "interrupted" for row in rows)


def _quiet(server, since):
    """The recorder says so, in a report that is younger than the question."""
    with contextlib.suppress(OSError, ValueError):
        path = server.settings.run_dir / "recorder.json"
        report = json.loads(path.read_text())
        return path.stat().st_mtime > since and (
            report["open_attempts"] == 0
            and report["unsettled_records"] == 0
            and report["settled_seq"] >= report["written_seq"] - 1
        )
    return False


@KILLS
@pytest.mark.parametrize("victim", ["worker", "recorder"])
def test_kill_9_again_and_again_under_load(tmp_path, victim, kills):
    with StubUpstream() as upstream, Server(tmp_path, workers=2, progress_tokens=4) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        load = Load(server, key)
        rng = random.Random(1)

        async def disturb(load):
            for _ in range(kills):
                seen = len(load.finished)
                while len(load.finished) < seen + 15:
                    await asyncio.sleep(0.005)
                pids = [pid for name, pid in server.processes() if name == victim]
                if pids:
                    os.kill(rng.choice(pids), signal.SIGKILL)
            seen = len(load.finished)
            while len(load.finished) < seen + 30:  # service goes on
                await asyncio.sleep(0.005)

        asyncio.run(load.run(disturb))
        assert server.log_text().count("supervisor.child_died") >= kills
        check(server, subscriber, upstream, load, interrupted=victim == "worker")


def test_kill_9_of_worker_and_recorder_at_once(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, workers=2, progress_tokens=4) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        load = Load(server, key)

        async def disturb(load):
            for _ in range(6):
                seen = len(load.finished)
                while len(load.finished) < seen + 15:
                    await asyncio.sleep(0.005)
                victims = [pid for name, pid in server.processes() if name == "recorder"]
                victims += [pid for name, pid in server.processes() if name == "worker"][:1]
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
            seen = len(load.finished)
            while len(load.finished) < seen + 30:
                await asyncio.sleep(0.005)

        asyncio.run(load.run(disturb))
        check(server, subscriber, upstream, load, interrupted=False)


@KILLS
def test_kill_9_of_the_supervisor_again_and_again_under_load(tmp_path, kills):
    with StubUpstream() as upstream, Server(tmp_path, workers=2, progress_tokens=4, drain_s=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        load = Load(server, key, clients=6)

        async def disturb(load):
            for _ in range(kills):
                seen = len(load.finished)
                while len(load.finished) < seen + 8:
                    await asyncio.sleep(0.005)
                server.process.kill()
                await asyncio.to_thread(server.process.wait)
                # Nothing outlives the supervisor.
                await asyncio.to_thread(until, lambda: not server.processes(), 30, "the children to leave")
                server.process.stdout.close()
                await asyncio.to_thread(server.start, server.public)

        asyncio.run(load.run(disturb))
        check(server, subscriber, upstream, load, interrupted=False)


def test_open_attempts_of_a_dead_worker_end_as_interrupted_within_seconds(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, workers=1, progress_tokens=4) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        sock = server.open()
        body = json.dumps(
            {
                "model": "stub",
                "stream": True,
                "max_tokens": 50,
                "user": json.dumps({"stall_after": 12, "tokens": 40}),
                "messages": [],
            }
        ).encode()
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        seen = b""
        while seen.count(b"tok ") < 12:
            seen += sock.recv(65536)
        until(
            lambda: json.loads((server.settings.run_dir / "recorder.json").read_text())["open_attempts"] == 1,
            what="the attempt to be known",
        )
        for name, pid in server.processes():
            if name == "worker":
                os.kill(pid, signal.SIGKILL)
        record = server.usage(subscriber, 1)[0]
        assert (record["state"], record["reason"], record["counted_by"]) == (
            "interrupted",
            "worker_lost",
            "progress",
        )
        assert 0 < record["output"] <= 12
        bucket = server.buckets(subscriber)[0]
        # The input, which chat reports at its end alone, is bounded from below.
        assert 0 < record["fresh_input"] <= 11
        assert bucket.left == bucket.total - 1000 * (record["output"] + record["fresh_input"])
        assert server.findings() == []
        sock.close()


def test_a_silent_worker_is_killed_and_replaced(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, workers=1, worker_silence_s=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        _, key = server.subscriber()
        before = [pid for name, pid in server.processes() if name == "worker"]
        os.kill(before[0], signal.SIGSTOP)
        until(
            lambda: [pid for name, pid in server.processes() if name == "worker"] not in ([], before),
            what="another worker",
        )
        until(lambda: server.chat(key)[0] == 200, what="service")


def test_draining_finishes_what_runs_and_closes_the_grants(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, workers=2) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()

        async def run():
            from tests.e2e.test_concurrency import _stream

            streams = [
                asyncio.create_task(_stream(server, key, {"tokens": 40, "gap_ms": 10}, 50)) for _ in range(10)
            ]
            while upstream.count()["requests"] < 10:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*streams)

        results = asyncio.run(run())
        assert [status for status, _ in results] == [200] * 10
        assert all(b"[DONE]" in data for _, data in results)
        assert server.process.wait(30) == 0
        assert server.processes() == []
        server.process.stdout.close()
        server.process = None
        assert len(server.usage(subscriber)) == 10
        bucket = server.buckets(subscriber)[0]
        assert (bucket.granted, bucket.used) == (0, 10 * 51_000)
        assert server.findings() == []
