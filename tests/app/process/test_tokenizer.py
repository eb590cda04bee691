"""The tokenizer process as a process: every job ends within its time, whatever becomes of it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time

import msgspec
import pytest
import uvloop

from tests.support.server import until
from tests.support.word_tokenizer import HANGS, SLOW, write_words
from tokenworks.app.process import tokenizer
from tokenworks.app.process.forked import Forked
from tokenworks.app.process.listeners import bind_unix
from tokenworks.app.settings import Settings
from tokenworks.gateway import COUNTERS, TokenizerClient, TokenizerCounts, TokenizerJob, last_beat
from tokenworks.gateway.counting import COUNT, JOB, JOB_BYTES_MAX, NS_PER_S, JobFrame
from tokenworks.gateway.tokenizer import PIECE_CHARS

NAMES = frozenset({"words"})
CHAT = json.dumps({"messages": [{"role": "user", "content": "one two three"}]}).encode()


class Host:
    """What the supervisor gives it: a socket, a pipe, a run directory; and the process, which is started again at will."""

    def __init__(self, folder, queue_max=64, timeout_s=3):
        self.settings = Settings(
            data_dir=folder, tokenize_queue_max=queue_max, tokenize_timeout_s=timeout_s, log_level="error"
        )
        self.settings.run_dir.mkdir()
        write_words(self.settings.tokenizers / "words")
        write_words(self.settings.tokenizers / "hangs", HANGS)
        write_words(self.settings.tokenizers / "slow", SLOW)
        self.path = self.settings.run_dir / "tokenizer.sock"
        self.listener = bind_unix(self.path)
        self.read, self.write = os.pipe()
        self.start()

    def start(self):
        keep = (self.listener.fileno(), self.read)
        self.process = Forked(
            "tw-tokenizer", lambda: tokenizer.run(self.settings, self.listener, self.read), keep
        )

    def beat_ms(self):
        return last_beat(self.settings.run_dir / "tokenizer.stats")[0]

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.listener.close()
        for end in (self.read, self.write):
            with contextlib.suppress(OSError):
                os.close(end)


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    yield made
    made.close()


class Worker:
    """One worker's client in a loop of its own."""

    def __init__(self, host, queue_max=64, timeout_s=3):
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.client = TokenizerClient(
            str(host.path), queue_max=queue_max, timeout_s=timeout_s, counters=self.counters
        )

    async def __aenter__(self):
        self.client.load(NAMES)
        await self.ready()
        return self

    async def __aexit__(self, *_):
        self.client.close()

    async def ready(self):
        deadline_s = time.monotonic() + 20
        while not self.client.ready:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)

    def ask(self, job):
        """A future of what is counted, which is answered once and no more."""
        future = asyncio.get_running_loop().create_future()
        self.client.count(job, future.set_result)
        return asyncio.wait_for(future, 30)

    def words(self, **more):
        return self.ask(TokenizerJob("words", "chat", CHAT, **more))


def test_requests_answers_and_texts_are_counted(host):
    async def scenario():
        async with Worker(host) as worker:
            answer = json.dumps({"choices": [{"message": {"content": "one two"}}]}).encode()
            assert await worker.words() == TokenizerCounts(3, 0)
            assert await worker.words(chunks=[answer[:9], answer[9:]]) == TokenizerCounts(3, 2)
            assert await worker.words(texts=["one t", "wo go"]) == TokenizerCounts(3, 3)
            event = b'data: {"choices": [{"delta": {"content": "go"}}]}\n\n'
            assert await worker.words(chunks=[event], streamed=True) == TokenizerCounts(3, 1)
            many = [worker.words() for _ in range(50)]
            assert await asyncio.gather(*many) == [TokenizerCounts(3, 0)] * 50
            assert worker.counters["tokenizer_jobs"] == 54
            assert worker.counters["tokenizer_waiting"] == worker.counters["tokenizer_timeouts"] == 0

    uvloop.run(scenario())


def test_it_is_for_this_host_s_processes_alone(host):
    assert host.path.stat().st_mode & 0o777 == 0o600


def test_a_tokenizer_that_can_t_be_read_counts_nothing(host):
    async def scenario():
        async with Worker(host) as worker:
            assert await worker.ask(TokenizerJob("none", "chat", CHAT)) is None
            assert await worker.words() == TokenizerCounts(3, 0), "the next job is another's"

    uvloop.run(scenario())


def test_a_slow_count_ends_with_its_time_and_holds_nobody_up(host):
    async def scenario():
        async with Worker(host, timeout_s=0.5) as worker, Worker(host) as other:
            slow = worker.ask(TokenizerJob("slow", "chat", CHAT))
            assert await worker.ask(TokenizerJob("slow", "chat", CHAT)) is None
            assert await slow is None
            assert await other.words() == TokenizerCounts(3, 0)
            assert worker.counters["tokenizer_timeouts"] == 2

    uvloop.run(scenario())
    assert host.process.poll() is None, "it did not die of it"


def test_a_text_of_megabytes_is_counted_in_pieces_until_its_time_is_over(host):
    async def scenario():
        async with Worker(host, timeout_s=1) as worker:
            few = "one two " * PIECE_CHARS
            assert await worker.ask(TokenizerJob("words", "chat", texts=[few])) == TokenizerCounts(
                0, 2 * PIECE_CHARS
            )
            many = [worker.ask(TokenizerJob("words", "chat", texts=["one " * 3_000_000])) for _ in range(3)]
            assert (await asyncio.gather(*many))[2] is None

    uvloop.run(scenario())


def test_what_hangs_shows_no_heartbeat_and_the_next_one_counts_again(host):
    """The supervisor ends it then; here the test does."""

    async def scenario():
        async with Worker(host, timeout_s=0.5) as worker:
            assert await worker.words() == TokenizerCounts(3, 0)
            assert await worker.ask(TokenizerJob("hangs", "chat", CHAT)) is None
            beat_ms = host.beat_ms()
            assert await worker.words() is None, "behind what hangs"
            assert host.beat_ms() == beat_ms
            host.process.send_signal(signal.SIGKILL)
            host.process.wait()
            host.start()
            await again(worker)

    async def again(worker):
        deadline_s = time.monotonic() + 20
        while await worker.words() is None:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)

    uvloop.run(scenario())


def test_kill_9_under_jobs_ends_every_job_once(host):
    async def scenario():
        async with Worker(host) as worker:
            for _ in range(5):
                jobs = [worker.words(texts=["one " * 100_000]) for _ in range(20)]
                await asyncio.sleep(0)
                host.process.send_signal(signal.SIGKILL)
                found = await asyncio.gather(*jobs)
                assert set(found) <= {None, TokenizerCounts(3, 100_000)}
                assert None in found
                host.process.wait()
                host.start()
                await worker.ready()
            assert worker.counters["tokenizer_waiting"] == 0

    uvloop.run(scenario())


def test_a_stopped_process_holds_nobody_longer_than_the_bound(host):
    async def scenario():
        async with Worker(host, timeout_s=0.3) as worker:
            assert await worker.words() == TokenizerCounts(3, 0)
            host.process.send_signal(signal.SIGSTOP)
            assert await asyncio.gather(*[worker.words() for _ in range(10)]) == [None] * 10
            assert worker.counters["tokenizer_timeouts"] == 10
            host.process.send_signal(signal.SIGCONT)
            assert await worker.words() == TokenizerCounts(3, 0), (
                "what is late is passed over, and answered to nobody"
            )

    uvloop.run(scenario())


def test_a_worker_s_queue_is_bounded(host):
    async def scenario():
        async with Worker(host, queue_max=3) as worker:
            host.process.send_signal(signal.SIGSTOP)
            jobs = [worker.words() for _ in range(3)]
            assert await worker.words() is None
            assert worker.counters["tokenizer_refused"] == 1
            host.process.send_signal(signal.SIGCONT)
            assert await asyncio.gather(*jobs) == [TokenizerCounts(3, 0)] * 3
            assert await worker.ask(TokenizerJob("words", "chat", b" " * (JOB_BYTES_MAX + 1))) is None

    uvloop.run(scenario())


def test_the_host_s_queue_is_bounded(tmp_path):
    host = Host(tmp_path, queue_max=4)

    async def scenario():
        async with Worker(host) as worker:
            host.process.send_signal(signal.SIGSTOP)
            jobs = [worker.words() for _ in range(30)]
            await asyncio.sleep(0)
            host.process.send_signal(signal.SIGCONT)
            found = await asyncio.gather(*jobs)
            assert set(found) == {None, TokenizerCounts(3, 0)}
            assert worker.counters["tokenizer_timeouts"] == 0, "those were told at once"

    uvloop.run(scenario())
    host.close()


def job_frame(number, until_s=30.0):
    until_ns = time.monotonic_ns() + int(until_s * NS_PER_S)
    body = msgspec.msgpack.encode(JobFrame(number, until_ns, "words", "chat", CHAT, [], False, []))
    return struct.pack("<IB", len(body), JOB) + body


def answers(sock, count):
    sock.settimeout(20)
    data = b""
    found = []
    while len(found) < count:
        while len(data) < 5 or len(data) < 5 + struct.unpack_from("<I", data)[0]:
            got = sock.recv(65_536)
            assert got
            data += got
        length, kind = struct.unpack_from("<IB", data)
        assert kind == COUNT
        found.append(msgspec.msgpack.decode(data[5 : 5 + length])[:2])
        data = data[5 + length :]
    return found


def connect(host):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(host.path))
    return sock


def test_a_worker_that_dies_with_jobs_is_forgotten(host):
    with connect(host) as dying:
        dying.sendall(b"".join(map(job_frame, range(40))) + job_frame(41)[:-3])
    with connect(host) as other:
        other.sendall(job_frame(7))
        assert answers(other, 1) == [[7, [3, 0]]]


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<IB", 2**32 - 1, JOB),
        struct.pack("<IB", 3, JOB) + b"\xc1\xc1\xc1",
        struct.pack("<IB", 1, JOB) + b"\x90",
    ],
)
def test_what_no_worker_sends_ends_that_connection_alone(host, bad):
    with connect(host) as good, connect(host) as evil:
        evil.sendall(bad)
        assert evil.recv(10) == b""
        good.sendall(job_frame(1))
        assert answers(good, 1) == [[1, [3, 0]]]


def test_one_that_does_not_read_is_cut_off(host):
    """It may ask on; the others are served."""
    with connect(host) as deaf, connect(host) as good:
        deaf.setblocking(False)
        host_is_done = False
        while not host_is_done:
            try:
                deaf.send(job_frame(1, -1.0) * 10 + b"".join(map(job_frame, range(200))))
            except BlockingIOError:
                good.sendall(job_frame(5))
                assert answers(good, 1)[0][0] == 5, "counted, or told that too many wait"
            except OSError:
                host_is_done = True


def test_it_ends_with_its_supervisor(host):
    until(lambda: host.beat_ms() > 0, what="a heartbeat")
    os.close(host.write)
    assert host.process.wait() == 0
