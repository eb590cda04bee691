"""A real standby that lost the last commits is promoted: the host notices, and settles what is missing, once."""

import contextlib
import os
import signal

from tests.e2e.test_hosts import _connect, _count, processes
from tests.support.auditor import verify
from tests.support.server import Server, until
from tokenworks.app.database.connections import connect, database_identity
from tokenworks.app.database.embedded import Embedded
from tokenworks.catalog import Offerings


def test_a_standby_that_lost_the_last_commits_takes_over(tmp_path, upstream):
    home = tmp_path / "database"
    primary = Embedded(home)
    with primary.use() as url, Server(tmp_path / "a", database_url=url) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        standby, sockets = primary.home / "standby", primary.home / "run2"
        sockets.mkdir()
        primary._own(sockets)
        # What a client of a replicated PostgreSQL names: both hosts, and that it wants to write.
        server.stop()
        both = f"postgresql:///tokenworks?host={primary.socket_dir},{sockets}&user=tokenworks_app&target_session_attrs=read-write"
        server.env["TOKENWORKS_DATABASE_URL"] = both
        server.start()
        for _ in range(4):
            assert server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
        until(lambda: _count(url, subscriber) == 4)
        with contextlib.closing(connect(url)) as connection:
            before = database_identity(connection)
        done = primary._run(
            "pg_basebackup", "-h", str(primary.socket_dir), "-U", "tokenworks", "-D", str(standby), "-R", "-c", "fast", "-X", "stream",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # These commits never reach the standby.
        for _ in range(6):
            assert server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
        until(lambda: _count(url, subscriber) == 10)
        for pid in processes(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started = ("pg_ctl", "-D", str(standby), "-w", "-l", str(primary.home / "standby.log"))
        done = primary._run(*started, "-o", f"-k {sockets} -c listen_addresses=''", "start")
        assert done.returncode == 0, done.stdout + done.stderr
        try:
            assert primary._run("pg_ctl", "-D", str(standby), "-w", "promote").returncode == 0
            until(lambda: _connect(both), what="the promoted standby")
            assert _count(both, subscriber) == 4
            until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="service")
            until(lambda: _count(both, subscriber) == 11, what="every record once")
            until(server.ready, what="the server to be ready again")
            assert "LedgerWentBack" in server.log_text()
            with contextlib.closing(connect(both)) as connection:
                system, timeline = before.split(":")
                assert database_identity(connection).split(":")[0] == system
                assert database_identity(connection).split(":")[1] > timeline
                assert verify(connection, Offerings(connection).rate_cards()) == []
                spent = connection.execute(
                    "SELECT sum((p->>5)::bigint) FROM usage, jsonb_array_elements(parts) p"
                ).fetchone()[0]
            assert spent == 11 * 16_000
            server.stop()
        finally:
            primary._run("pg_ctl", "-D", str(standby), "-m", "immediate", "-w", "stop")
    primary.destroy()
