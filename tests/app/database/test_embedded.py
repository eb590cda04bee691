"""The embedded server lives as long as somebody uses it, and no longer."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.server import until
from tokenworks.app.database.embedded import Embedded
from tokenworks.kernel import Unavailable

FAST = {"fsync": "off"}


def guardians(folder):
    done = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True)
    return [
        int(line.split()[0])
        for line in done.stdout.splitlines()
        if "tokenworks.app.database.guardian" in line and str(folder) in line
    ]


def test_two_users_share_it_and_the_last_one_ends_it(tmp_path):
    one, two = Embedded(tmp_path, FAST), Embedded(tmp_path, FAST)
    with one.use() as url:
        with two.use() as same:
            assert url == same
        assert len(guardians(tmp_path)) == 1
        with psycopg.connect(one.owner_url) as connection:
            connection.execute("CREATE TABLE kept (n int)")
    until(lambda: not guardians(tmp_path), what="the guardian to leave")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(one.owner_url)
    with one.use(), psycopg.connect(one.owner_url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    one.destroy()
    assert not one.home.exists()


def test_a_user_that_is_killed_leaves_nothing_running(tmp_path):
    code = "import sys, time; from pathlib import Path; from tokenworks.app.database.embedded import Embedded\nwith Embedded(Path(sys.argv[1])).use(): print('up', flush=True); time.sleep(600)"
    user = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert user.stdout.readline() == "up\n"
    user.kill()
    user.wait()
    user.stdout.close()
    until(lambda: not guardians(tmp_path), what="the guardian to leave")
    Embedded(tmp_path).destroy()


def test_a_killed_guardian_takes_the_server_with_it_and_the_next_user_starts_another(tmp_path):
    embedded = Embedded(tmp_path, FAST)
    with embedded.use():
        with psycopg.connect(embedded.owner_url) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        os.kill(guardians(tmp_path)[0], signal.SIGKILL)
        until(lambda: not embedded._answers(), what="the server to stop")
    with embedded.use(), psycopg.connect(embedded.owner_url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    embedded.destroy()


def ended(pid):
    """Also where nobody has reaped it yet: the guardian may end before it does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def stopped_server(tmp_path):
    """A server in use that is stopped by a signal, as one is that hangs: (its cluster, its process)."""
    embedded = Embedded(tmp_path, FAST)
    with embedded.use():
        pid = embedded._server_pid()
        os.kill(pid, signal.SIGSTOP)
        yield embedded, pid
        if not ended(pid):
            os.kill(pid, signal.SIGCONT)
    embedded.destroy()


def test_a_server_that_hangs_is_named_and_gets_no_second_guardian(tmp_path, stopped_server):
    _, pid = stopped_server
    before = guardians(tmp_path)
    for _ in range(3):
        with (
            pytest.raises(Unavailable, match=f"does not answer.*guardian {before[0]}, server {pid}"),
            Embedded(tmp_path, FAST, timeout_s=0.2).use(),
        ):
            pass
    assert guardians(tmp_path) == before
    os.kill(pid, signal.SIGCONT)
    with Embedded(tmp_path, FAST).use(), psycopg.connect(Embedded(tmp_path, FAST).owner_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_that_is_killed_takes_its_guardian_along_and_is_started_anew(tmp_path, stopped_server):
    embedded, pid = stopped_server
    (before,) = guardians(tmp_path)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not guardians(tmp_path), what="the guardian to leave")
    with Embedded(tmp_path, FAST).use(), psycopg.connect(Embedded(tmp_path, FAST).owner_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert guardians(tmp_path) != [before] and embedded._server_pid() != pid


GUARD = """import signal, sys; from pathlib import Path; from tokenworks.app.database.guardian import guard
signal.signal(signal.SIGINT, signal.SIG_IGN)
guard(Path(sys.argv[1]), {"fsync": "off"}, stop_timeout_s=0.3)"""


def test_a_server_that_hangs_at_its_end_is_ended_by_force(tmp_path):
    embedded = Embedded(tmp_path, FAST)
    with embedded.use(), psycopg.connect(embedded.owner_url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    with embedded.at_rest():
        pass
    users = os.open(tmp_path / "pg.users", os.O_RDWR)
    fcntl.flock(users, fcntl.LOCK_SH)
    guardian = subprocess.Popen([sys.executable, "-c", GUARD, str(tmp_path)], stdout=subprocess.PIPE)
    until(embedded._answers, what="the server")
    pid = embedded._server_pid()
    os.kill(pid, signal.SIGSTOP)
    os.close(users)
    said, _ = guardian.communicate(timeout=60)
    assert b"SIGINT" in said and b"SIGQUIT" in said and ended(pid)
    with embedded.use(), psycopg.connect(embedded.owner_url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    embedded.destroy()


def test_a_user_that_leaves_before_its_server_is_ready_leaves_nothing_running(tmp_path):
    embedded = Embedded(tmp_path, FAST)
    with embedded.use():
        pass
    for _ in range(3):
        with embedded.at_rest():
            pass
        # Nobody holds the users' lock: the guardian has its server end at once.
        guardian = embedded._start_guardian()
        assert guardian.wait(60) == 0
        assert embedded._server_pid() is None or ended(embedded._server_pid())
    embedded.destroy()


@pytest.mark.parametrize(
    ("name", "why"), [("pg.starting", "is being started by another process"), ("pg.users", "is being stopped still")]
)  # fmt: skip
def test_whoever_waits_for_a_start_or_an_end_says_so(tmp_path, name, why):
    waiting = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
    fcntl.flock(waiting, fcntl.LOCK_EX)
    embedded = Embedded(tmp_path, FAST, timeout_s=0.1)
    with pytest.raises(Unavailable, match=why), embedded.use():
        pass
    os.close(waiting)


def test_nothing_is_deleted_while_it_is_used(tmp_path):
    embedded = Embedded(tmp_path, FAST)
    with (
        embedded.use(),
        pytest.raises(Unavailable, match="is still in use"),
        Embedded(tmp_path, FAST, timeout_s=0.1).at_rest(),
    ):
        pass
    embedded.destroy()
