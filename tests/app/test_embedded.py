"""The embedded server lives as long as somebody uses it, and no longer."""

import os
import signal
import subprocess
import sys

import psycopg
import pytest

from tests.support.server import until
from tokenworks.app.embedded import Embedded

FAST = {"fsync": "off"}


def guardians(folder):
    done = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True)
    return [
        int(line.split()[0])
        for line in done.stdout.splitlines()
        if "tokenworks.app.embedded" in line and str(folder) in line
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
    code = "import sys, time; from pathlib import Path; from tokenworks.app.embedded import Embedded\nwith Embedded(Path(sys.argv[1])).use(): print('up', flush=True); time.sleep(600)"
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
