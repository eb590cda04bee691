"""How long a process may say nothing, and what is no silence."""

import os
import signal
import time

import pytest

from tests.support.server import until
from tokenworks.app.process.children import Child, ChildRecord, free_slots
from tokenworks.app.settings import load_settings
from tokenworks.gateway import Heartbeat

LATER_S = 1000.0


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "run").mkdir()
    return load_settings({"data_dir": str(tmp_path), "recorder_silence_s": 5}, {}).settings


@pytest.fixture
def recorder(settings):
    child = Child("recorder", settings, lambda _: time.sleep(60), [])
    child.start()
    yield child
    child.signal(signal.SIGKILL)
    child.process.wait()


def test_silence_is_counted_from_the_last_heartbeat_of_this_process(recorder, settings):
    now_s = time.monotonic()
    # Before the first one it has the time that a start may take, the embedded database's included.
    assert not recorder.silent_s(now_s + 60, 0.0)
    assert recorder.silent_s(now_s + LATER_S, 0.0)
    # One that another process left is not its own.
    Heartbeat(recorder.stats, os.getpid()).beat()
    assert not recorder.beats()
    assert not recorder.silent_s(now_s + 60, 0.0)
    Heartbeat(recorder.stats, recorder.process.pid).beat()
    assert recorder.beats()
    assert not recorder.silent_s(time.monotonic() + 4, 0.0)
    assert recorder.silent_s(time.monotonic() + 6, 0.0) > 5
    # While the supervisor itself stood still nobody was heard.
    assert not recorder.silent_s(time.monotonic() + 6, time.monotonic() + 4)


def _spin(_slot):
    while True:
        pass


def test_the_wait_for_a_cpu_is_no_silence(settings, monkeypatch):
    """Two children share one CPU, so each of them waits about half of the time."""
    cpus = os.sched_getaffinity(0)
    children = [Child("recorder", settings, _spin, []) for _ in range(2)]
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for child in children:
            child.start()
    finally:
        os.sched_setaffinity(0, cpus)
    child = children[0]
    try:
        until(lambda: child.waited_s() > 0.1, what="a wait for the CPU")
        Heartbeat(child.stats, child.process.pid).beat()
        now_s = time.monotonic()
        waited_s = 100.0
        monkeypatch.setattr(child, "waited_s", lambda: waited_s)
        assert not child.silent_s(now_s + 1, 0.0)
        waited_s = 104.0
        assert not child.silent_s(now_s + 8, 0.0)
        assert 5 < child.silent_s(now_s + 10, 0.0) < 7
    finally:
        for child in children:
            child.signal(signal.SIGKILL)
            child.process.wait()


def test_one_of_before_whose_file_is_its_successors_is_not_silent(recorder, settings):
    Heartbeat(recorder.stats, os.getpid()).beat()
    old = Child.adopted(ChildRecord("recorder", 0, recorder.process.pid, recorder.started_s, 0.0), settings)
    assert old.alive() and not old.silent_s(time.monotonic() + LATER_S, 0.0)


def test_a_process_that_waits_for_the_disk_is_seen(settings, tmp_path):
    """As a slow fsync has it (state D). Here: of the fork that waits for its child's exec, which opens a pipe without a writer."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def run(_slot):
        os.posix_spawn(
            "/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 3, str(fifo), os.O_RDONLY, 0)]
        )

    child = Child("recorder", settings, run, [])
    child.start()
    try:
        until(child.waits_for_disk, what="state D")
    finally:
        writer = os.open(fifo, os.O_WRONLY)
        assert child.process.wait() == 0
        os.close(writer)
    assert not child.waits_for_disk()


def test_slots_of_workers_that_live_are_not_taken_twice():
    slots = free_slots({0, 1, 3})
    assert [next(slots) for _ in range(3)] == [2, 4, 5]
