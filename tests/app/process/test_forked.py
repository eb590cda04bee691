"""A fork of this process: it keeps what it is told to keep, and ends as it is told."""

import os
import signal
import sys
import time

import pytest

from tokenworks.app.process.forked import Forked


def ends_with(run, keep=()):
    return Forked("tw-test", run, keep).wait()


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (lambda: None, 0),
        (lambda: 78, 78),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("said"), 1),
        (lambda: 1 // 0, 1),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
    ],
)
def test_it_ends_with_what_it_returns(run, code):
    assert ends_with(run) == code


def test_it_keeps_the_descriptors_that_it_is_told_to_and_no_other():
    read, write = os.pipe()
    other_read, other_write = os.pipe()

    def run():
        os.write(write, b"kept")
        try:
            os.write(other_write, b"x")
        except OSError:
            return 5
        return 6

    try:
        assert ends_with(run, [write]) == 5
        assert os.read(read, 4) == b"kept"
    finally:
        for fd in (read, write, other_read, other_write):
            os.close(fd)


def test_it_has_a_name_a_session_and_signals_of_its_own():
    read, write = os.pipe()

    def run():
        with open("/proc/self/comm") as file:
            name = file.read().strip()
        os.write(write, f"{name} {os.getsid(0) == os.getpid()}".encode())
        signal.pause()

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        # One that comes before it has its own is not lost in ours.
        for _ in range(50):
            child = Forked("tw-test", lambda: time.sleep(20), [])
            child.send_signal(signal.SIGTERM)
            assert child.wait() == -signal.SIGTERM
        child = Forked("tw-worker-1234567", run, [write])
        assert os.read(read, 100) == b"tw-worker-12345 True"
        assert child.poll() is None
        # What we do with the signal is not what it does.
        child.send_signal(signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM
        child.send_signal(signal.SIGTERM)  # it is gone, and nobody who has its number now is meant
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(read)
        os.close(write)
