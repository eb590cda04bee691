"""Processes that hang are ended and replaced; those that only wait (for the database, the disk, a long journal) are not."""

import os
import signal

import pytest

from tests.e2e.test_hosts import processes, stopped
from tests.support.server import Server, StubUpstream, until
from tokenworks.app.database.embedded import Embedded

SILENCE_S = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hangs")
    home = folder / "database"
    with StubUpstream() as upstream, Embedded(home).use() as url:
        with Server(folder / "data", database_url=url, recorder_silence_s=SILENCE_S) as server:
            server.add_deployment("stub", "stub", upstream.url)
            server.database = home
            yield server
            assert server.findings() == []
    Embedded(home).destroy()


def only(server, kind):
    return next((pid for name, pid in server.processes() if name == kind), None)


def test_a_recorder_that_hangs_is_replaced_and_no_request_is_refused_for_it(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"tokens": 3, "prompt": 5})[0] == 200
    before = only(server, "recorder")
    os.kill(before, signal.SIGSTOP)
    # Within what a request waits for a recorder (recorder_wait_s): one whose key is known, and one whose key is asked for.
    assert server.chat(key, {"tokens": 3, "prompt": 5})[0] == 200
    _, stranger_key = server.subscriber()
    assert server.chat(stranger_key, {"tokens": 3, "prompt": 5})[0] == 200
    assert only(server, "recorder") not in {None, before}
    (line,) = [line for line in server.log_text().splitlines() if "supervisor.child_silent" in line]
    assert '"child": "recorder"' in line
    assert len(server.usage(subscriber, 2)) == 2


def test_a_recorder_whose_database_hangs_is_not_ended(server):
    _, key = server.subscriber()
    assert server.chat(key, {"tokens": 3, "prompt": 5})[0] == 200
    before, told = only(server, "recorder"), server.log_text().count("child_silent")
    with stopped(processes(server.database)):
        # It says so itself, which it does when the database has not answered for longer than it may be silent.
        until(
            lambda: server.metrics("recorder_settling_ok") == [0.0] or server.metrics("recorder_database_ok") == [0.0],
            what="a report that the database is away",
        )  # fmt: skip
        assert server.chat(key, {"tokens": 3, "prompt": 5})[0] == 200
    until(lambda: server.metrics("recorder_database_ok") == [1.0], what="the database")
    assert only(server, "recorder") == before and server.log_text().count("child_silent") == told


def test_a_recorder_that_begins_while_the_database_is_away_waits_for_it(server):
    _, key = server.subscriber()
    before, told = only(server, "recorder"), server.log_text().count("child_silent")
    with stopped(processes(server.database)):
        os.kill(before, signal.SIGKILL)
        until(lambda: only(server, "recorder") not in {None, before}, what="the next recorder")
        after = only(server, "recorder")
        waits = server.log_text().count("recorder.waits_for_database")
        until(
            lambda: server.log_text().count("recorder.waits_for_database") > waits or only(server, "recorder") != after,
            what="it to wait",
        )  # fmt: skip
    until(lambda: server.chat(key)[0] == 200, what="service")
    assert server.log_text().count("child_silent") == told


@pytest.mark.nightly
def test_a_control_plane_that_hangs_is_replaced(server):
    before = only(server, "control")
    os.kill(before, signal.SIGSTOP)
    until(lambda: only(server, "control") not in {None, before}, 60, what="another control plane")
    until(server.ready, what="the admin port")
