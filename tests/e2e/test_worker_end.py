"""How a worker ends: in order its streams are cut in protocol; stalled it is killed, and nobody else's streams are cut."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.server import Server, StubUpstream, until

pytestmark = pytest.mark.fault
TOKENS_SHOWN = 3


class Stream(threading.Thread):
    """A client that reads a stream to its end, whatever end it has."""

    def __init__(self, server, key, path="/v1/chat/completions", told=None, **body):
        super().__init__(daemon=True)
        told = json.dumps(told or {"tokens": 6, "hold_after": TOKENS_SHOWN})
        self.body = {"model": "stub", "max_tokens": 50, "stream": True, "messages": [], "user": told} | body
        if path == "/v1/messages":
            self.body |= {"metadata": {"user_id": self.body.pop("user")}}
        if path == "/v1/responses":
            del self.body["messages"], self.body["max_tokens"]
            self.body |= {"input": "hi", "max_output_tokens": 50}
        self.path, self.key = path, key
        self.data, self.broken = b"", False
        self.sock = server.open()
        self.start()

    def run(self):
        body = json.dumps(self.body).encode()
        self.sock.sendall(
            f"POST {self.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        try:
            while piece := self.sock.recv(65536):
                self.data += piece
                if self.data.endswith(b"0\r\n\r\n"):
                    break
        except OSError:
            self.broken = True
        self.sock.close()

    @property
    def shows(self):
        return self.data.count(b"tok ")

    @property
    def whole(self):
        return self.data.endswith(b"0\r\n\r\n")


def worker_pids(server):
    """By the worker's number."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                name = (path / "comm").read_text().strip()
                ours = str(server.data_dir).encode() in (path / "cmdline").read_bytes()
                if name.startswith("tw-worker-") and ours:
                    found[int(name.rpartition("-")[2])] = int(path.name)
    return found


def known(server):
    """How many attempts the recorder knows as open, by a report that is younger than this question."""
    path = server.settings.run_dir / "recorder.json"
    return json.loads(path.read_text())["open_attempts"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_in_order_a_stream_is_cut_in_protocol_after_its_time_to_drain(tmp_path, path):
    with StubUpstream() as upstream, Server(tmp_path, drain_s=0, progress_tokens=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        streams = [Stream(server, key, path) for _ in range(3)]
        until(lambda: all(s.shows == TOKENS_SHOWN for s in streams), what="the streams to be under way")
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            stream.join(20)
            assert stream.whole and not stream.broken
            assert b"shutting_down" in stream.data and b"[DONE]" not in stream.data
            assert (b"event: error" in stream.data) == (path != "/v1/chat/completions")
        assert server.process.wait(30) == 0
        records = server.usage(subscriber)
        assert [(r["state"], r["reason"]) for r in records] == [("interrupted", "shutdown")] * 3
        assert all(r["output"] >= 1 for r in records)
        bucket = server.buckets(subscriber)[0]
        spent = sum(r["fresh_input"] + r["output"] for r in records)
        assert (bucket.granted, bucket.used) == (0, 1000 * spent)
        assert server.findings() == []
        server.process.stdout.close()
        server.process = None


def test_in_order_what_has_not_begun_to_answer_is_refused_and_costs_nothing(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, drain_s=0) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        before = upstream.count()["requests"]
        waiting = Stream(server, key, told={"fail": "hang"}, stream=False)
        until(lambda: upstream.count()["requests"] > before, what="the request to be at the upstream")
        server.process.send_signal(signal.SIGTERM)
        waiting.join(20)
        assert waiting.data.startswith(b"HTTP/1.1 503 ") and b"shutting_down" in waiting.data
        assert b"connection: close" in waiting.data and not waiting.broken
        assert server.process.wait(30) == 0
        assert server.usage(subscriber) == []
        assert server.findings() == []
        server.process.stdout.close()
        server.process = None


def test_a_stalled_worker_is_killed_and_no_other_workers_stream_is_cut(tmp_path):
    with (
        StubUpstream() as upstream,
        Server(tmp_path, workers=2, worker_silence_s=1, progress_tokens=1) as server,
    ):
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        streams = []

        def both_serve():
            streams.append(Stream(server, key))
            until(lambda: streams[-1].shows == TOKENS_SHOWN, what="the stream to be under way")
            until(lambda: sum(server.metrics("requests_open")) == len(streams), what="the count of all")
            return all(server.metrics("requests_open"))

        until(both_serve, what="streams at both workers")
        until(lambda: known(server) == len(streams), what="all attempts to be known")
        pids = worker_pids(server)
        victims = int(server.metrics("requests_open")[0])
        os.kill(pids[0], signal.SIGSTOP)
        until(lambda: worker_pids(server).get(0) not in {None, pids[0]}, what="another worker in its place")
        until(lambda: sum(not s.is_alive() for s in streams) == victims, what="its streams to break off")
        records = server.usage(subscriber, victims)
        assert [(r["state"], r["reason"]) for r in records] == [("interrupted", "worker_lost")] * victims
        assert all(1 <= r["output"] <= TOKENS_SHOWN for r in records)
        cut = [s for s in streams if not s.is_alive()]
        assert not any(s.whole for s in cut), "nobody takes a stream that broke off for a whole one"
        upstream.release()
        for stream in streams:
            stream.join(20)
        kept = [s for s in streams if s not in cut]
        assert kept and all(s.whole and b"[DONE]" in s.data and s.shows == 6 for s in kept)
        assert worker_pids(server)[1] == pids[1], "the other worker lives on"
        server.usage(subscriber, len(streams))
        assert server.findings() == []


def test_a_host_that_stood_still_kills_none_of_its_workers(tmp_path):
    with (
        StubUpstream() as upstream,
        Server(tmp_path, workers=2, worker_silence_s=1) as server,
    ):
        server.add_deployment("stub", "stub", upstream.url)
        _, key = server.subscriber()
        stream = Stream(server, key)
        until(lambda: stream.shows == TOKENS_SHOWN, what="the stream to be under way")
        before = worker_pids(server)
        stopped = [server.process.pid, *(pid for _, pid in server.processes())]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        since = time.monotonic()
        until(lambda: time.monotonic() > since + 3, what="more than a worker may be silent")
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        until(lambda: "supervisor.stalled" in server.log_text(), what="the supervisor to look again")
        upstream.release()
        stream.join(20)
        assert stream.whole and b"[DONE]" in stream.data
        assert worker_pids(server) == before
        assert "supervisor.child_silent" not in server.log_text()
