"""Each attack of `attacks.py` beside 50 honest streams: the worker stays under 300 MB, its loop is never stalled for 200 ms, and
the honest ones lose nothing.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.edge.attacks import ATTACKS, Evil, Target
from tests.edge.honest import Honest
from tests.edge.riders import prompt
from tests.edge.run import Bench
from tests.edge.shapes import TOKEN, asked
from tests.edge.wire import ask
from tests.support.server import until

pytestmark = pytest.mark.xdist_group("edge-attacks")
MEMORY_MAX_MB = 300
LAG_MAX_MS = 200
STREAMS, TOKENS = 50, 200
SAMPLE_S = 0.02
# Prints how late a process of this machine wakes up that does nothing else: what is not the worker's fault.
WITNESS = """
import sys, time, threading
most = 0.0
threading.Thread(target=lambda: (sys.stdin.read(), stop.append(1)), daemon=True).start()
stop = []
while not stop:
    began = time.monotonic(); time.sleep(0.01); most = max(most, time.monotonic() - began - 0.01)
print(int(most * 1000))
"""


@contextlib.contextmanager
def machine_lag():
    """A list that has, afterwards, the most in ms that the machine kept a process from running."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITNESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found = []
    try:
        yield found
    finally:
        out, _ = process.communicate(input="", timeout=30)
        found.append(int(out))


class Memory(threading.Thread):
    """The most resident memory of a process, in MB, until it is stopped."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.process, self.most_mb, self.stopped = psutil.Process(pid), 0, threading.Event()

    def run(self):
        with contextlib.suppress(psutil.Error):
            while not self.stopped.wait(SAMPLE_S):
                self.most_mb = max(self.most_mb, self.process.memory_info().rss // 2**20)

    def stop(self):
        self.stopped.set()
        self.join()
        return self.most_mb


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    with Bench(tmp_path_factory.mktemp("attacked"), upstream_first_byte_timeout_s=60) as bench:
        honest = Honest()
        bench.await_(honest.open())
        bench.server.add_deployment(
            "honest", "honest", f"http://127.0.0.1:{honest.port}/v1", "--protocol", "chat"
        )
        yield bench


def workers(server):
    return [pid for pid, name in named(server) if name.startswith("tw-worker")]


def named(server):
    root = psutil.Process(server.process.pid)
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            yield child.pid, child.name()


def fresh_worker(server):
    """The pid of a worker that has not been attacked yet."""
    old = until(lambda: workers(server), what="a worker")
    os.kill(old[0], signal.SIGKILL)
    new = until(lambda: set(workers(server)) - set(old), what="another worker")
    until(server.ready, what="the worker to be ready")
    until(lambda: answered(server), what="the worker to answer")
    return new.pop()


def answered(server):
    with contextlib.suppress(OSError):
        return server.get("/v1/models", "none")[0] == 401
    return False


async def honest_streams(bench, key):
    body = asked("chat", prompt(f"say:{TOKENS}", 20)) | {"stream": True, "max_tokens": TOKENS}
    return await asyncio.gather(
        *(
            ask(bench.server.port, {"body": body, "timeout_s": 60}, key, "honest", "chat")
            for _ in range(STREAMS)
        )
    )


# In the small the same stands in tests/e2e/test_memory.py, which every run takes.
@pytest.mark.nightly
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(attacked, name):
    bench, (attack, behaviour) = attacked, ATTACKS[name]
    server = bench.server
    model = f"evil-{list(ATTACKS).index(name)}"
    evil = Evil(behaviour) if behaviour is not None else None
    if evil is not None:
        evil.start()
        server.add_deployment(model, model, f"http://127.0.0.1:{evil.port}/v1", "--protocol", "chat")
    _, key = server.subscriber("ctc-flagship")
    honest, honest_key = server.subscriber("ctc-flagship")
    pid = fresh_worker(server)
    memory = Memory(pid)
    memory.start()
    with machine_lag() as machine:
        streams = asyncio.run_coroutine_threadsafe(honest_streams(bench, honest_key), bench.loop)
        if evil is not None:
            evil.until_s = time.monotonic() + 10
        attack(Target(server.port, key, model))
        answers = streams.result(120)
    most_mb = memory.stop()
    if evil is not None:
        evil.close()
    lags_ms = server.metrics("loop_lag_max_ms")
    print(f"{name}: {most_mb} MB, loop lag {lags_ms} ms, the machine's own {machine[0]} ms")
    lost = [
        answer
        for answer in answers
        if answer.status != 200 or answer.text.count(TOKEN.strip()) != TOKENS or "[DONE]" not in answer.text
    ]
    assert not lost, (
        f"{len(lost)} of {STREAMS} honest streams lost something: {lost[0].status} {lost[0].text[-200:]!r}"
    )
    assert workers(server) == [pid], "the worker died"
    assert most_mb < MEMORY_MAX_MB, f"{most_mb} MB"
    assert lags_ms, "no metric tokenworks_loop_lag_max_ms"
    assert max(lags_ms) <= LAG_MAX_MS + machine[0], f"the loop was stalled for {max(lags_ms):.0f} ms"
    bench.settled()
    assert sum(bucket.spent for bucket in server.buckets(honest)) // 1000 == STREAMS * (20 + TOKENS)
