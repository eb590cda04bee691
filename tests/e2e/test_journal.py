"""The journal's disk gives trouble on real processes: a failed write, damage, a cut tail. And a host's clock that is off."""

import os
import resource
import signal
import struct

import pytest

from tests.support.server import Server, until
from tokenworks.charging.host.journal import FRAME, HEADER


@pytest.fixture
def server(tmp_path, upstream):
    with Server(tmp_path) as made:
        made.add_deployment("stub", "stub", upstream.url)
        yield made


def only(server, role):
    return until(lambda: [pid for name, pid in server.processes() if name == role], what=f"the {role}")[0]


def test_a_failed_write_ends_the_recorder_and_loses_nothing(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    server.usage(subscriber, 1)
    before = only(server, "recorder")
    # From here on this process can't write past the first kilobyte of any file.
    resource.prlimit(before, resource.RLIMIT_FSIZE, (1024, 1024))
    # The answer waits for the next recorder, which begins another segment.
    status, body, _ = server.chat(key, {"tokens": 5, "prompt": 11})
    assert status == 200, body
    assert only(server, "recorder") != before
    assert "JournalFailed" in server.log_text()
    until(server.ready, what="service")
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    assert len(server.usage(subscriber, 3)) == 3
    assert server.buckets(subscriber)[0].left == server.buckets(subscriber)[0].total - 3 * 16_000
    assert server.findings() == []


def newest_segment(server):
    return max((server.data_dir / "journal").glob("*.seg"))


def test_nothing_is_settled_past_damage_and_a_restored_segment_serves_again(server):
    subscriber, key = server.subscriber()
    for _ in range(3):
        assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    server.usage(subscriber, 3)
    server.kill()
    path = newest_segment(server)
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<I", whole, HEADER.size)
    damaged = bytearray(whole)
    damaged[HEADER.size + FRAME.size + length // 2] ^= 0xFF  # the first frame; others follow it
    path.write_bytes(damaged)
    inspected = server.cli("journal", "inspect", check=False)
    assert inspected.returncode == 1
    assert path.name in inspected.stdout
    with pytest.raises(AssertionError, match="journal_corrupt"):
        server.start(ready_s=20)
    assert until(lambda: server.process.poll()) == 78
    server.stop()
    path.write_bytes(whole)
    server.start()
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    assert len(server.usage(subscriber, 4)) == 4
    assert server.findings() == []


def test_a_cut_tail_is_what_a_power_cut_leaves(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    server.usage(subscriber, 1)
    server.kill()
    path = newest_segment(server)
    # Half of a frame that was never acknowledged.
    end = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(end + 8)
        file.write(struct.pack("<IQ", 500, 10**6) + os.urandom(100))
    server.start()
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    assert len(server.usage(subscriber, 2)) == 2
    assert server.findings() == []


def test_a_stopped_recorder_finishes_nothing_and_loses_nothing(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    recorder = only(server, "recorder")
    os.kill(recorder, signal.SIGSTOP)
    sock = server.open()
    body = b'{"model":"stub","max_tokens":20,"messages":[{"role":"user","content":"hi"}]}'
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), len(body), body)
    )
    sock.settimeout(1)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    os.kill(recorder, signal.SIGCONT)
    sock.settimeout(30)
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    sock.close()
    assert len(server.usage(subscriber, 2)) == 2
    assert server.findings() == []


def test_a_hosts_clock_is_held_against_the_databases(server):
    assert until(lambda: server.metrics("recorder_clock_skew_seconds"))[0] < 1
