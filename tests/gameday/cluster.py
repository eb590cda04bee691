"""A PostgreSQL of the game's own that can hang, die, go back to a point in time, or be followed by a standby that lost commits.

Nodes are folders beside each other. Two socket folders take turns, so that one URL names whichever node is the primary.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from tests.support.databases import as_role
from tests.support.memory import in_memory
from tests.support.server import first_cluster, until
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import APP_ROLE, Embedded
from tokenworks.kernel import Unavailable

COMMAND_TIMEOUT_S = 120.0


class Cluster:
    def __init__(self, data_dir):
        data_dir.mkdir(parents=True)
        in_memory(data_dir)
        self._embedded = Embedded(data_dir)
        self.home = self._embedded.home
        first, self.secrets = first_cluster()
        subprocess.run(["cp", "-a", f"{first}/.", self.home], check=True)
        self._archive = self.home / "log-archive"
        self._sockets = [self.home / "run1", self.home / "run2"]
        for folder in (self._archive, *self._sockets):
            folder.mkdir()
            self._embedded._own(folder)
        self._number = 0
        self.primary, self._at = self.home / "pgdata", 0
        with (self.primary / "postgresql.conf").open("a") as file:
            # What a machine that dies would lose is not this game's: processes are killed, and what they wrote stays written.
            file.write(
                "listen_addresses = ''\nfsync = off\nsynchronous_commit = on\nfull_page_writes = off\nmax_connections = 100\n"
                f"archive_mode = on\narchive_command = 'cp %p {self._archive}/%f'\nrestore_command = 'cp {self._archive}/%f %p'\n"
                "dynamic_shared_memory_type = mmap\ntimezone = 'UTC'\nunix_socket_permissions = 0700\nshared_buffers = 32MB\n"
            )
        # A cluster in use has its folder to itself.
        self.owner_url = (
            f"postgresql:///tokenworks?host={self._sockets[0]},{self._sockets[1]}&user=tokenworks"
            "&target_session_attrs=read-write"
        )
        self.url = as_role(self.owner_url, APP_ROLE)

    def run(self, program, *args):
        done = self._embedded._run(program, *(str(arg) for arg in args), timeout_s=COMMAND_TIMEOUT_S)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done

    def start(self, node=None):
        node = node or self.primary
        log = self.home / "postgresql.log"
        try:
            self.run(
                "pg_ctl",
                "-D",
                node,
                "-w",
                "-t",
                "100",
                "-l",
                log,
                "-o",
                f"-k {self._sockets[self._at]}",
                "start",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}{log.read_text()[-2000:]}") from None

    def wait(self):
        """Until it takes writes."""
        until(self._takes_writes, 120, what="the database")

    def _takes_writes(self):
        with contextlib.suppress(Unavailable, psycopg.Error), self.connected() as connection:
            return not connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]
        return False

    def connected(self):
        """The owner's connection. To be closed."""
        return contextlib.closing(connect(self.owner_url))

    def processes(self):
        """Of all nodes."""
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if (path / "comm").read_text().strip() == "postgres" and str(
                    (path / "cwd").readlink()
                ).startswith(str(self.home)):
                    found.append(int(path.name))
        return found

    @contextlib.contextmanager
    def hung(self):
        pids = self.processes()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill(self):
        """All of it at once, as a machine that dies."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), what="the database to be dead")
        # Where nobody reaps orphans its process id is still taken.
        for lock in (self.primary / "postmaster.pid", self._sockets[self._at] / ".s.PGSQL.5432.lock"):
            lock.unlink(missing_ok=True)

    def kill_a_backend(self):
        """PostgreSQL ends all the others for it, and recovers by itself."""
        with self.connected() as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)

    def base_backup(self, *more):
        """A node beside the primary, which nobody serves yet."""
        self._number += 1
        node = self.home / f"node{self._number}"
        self.run(
            "pg_basebackup", "-h", self._sockets[self._at], "-U", "tokenworks", "-D", node, "-c", "fast", "-X", "stream", *more
        )  # fmt: skip
        return node

    def restore_point(self, name):
        """Where a restore may go to. What comes after it is archived, too."""
        with self.connected() as connection:
            connection.execute("SELECT pg_create_restore_point(%s)", (name,))

    def archive(self):
        with self.connected() as connection:
            segment = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()[0]
        until((self._archive / segment).exists, 60, what="the archive")

    def restore(self, node, point):
        """The node, brought to that point, is the primary; the one before is gone."""
        self.kill()
        with (node / "postgresql.auto.conf").open("a") as file:
            file.write(f"recovery_target_name = '{point}'\nrecovery_target_action = 'promote'\n")
        (node / "recovery.signal").touch()
        self._take_over(node)
        self.wait()
        text = (node / "postgresql.auto.conf").read_text()
        (node / "postgresql.auto.conf").write_text(
            "".join(line for line in text.splitlines(True) if not line.startswith("recovery_target"))
        )

    def promote(self, node):
        """The standby is the primary, at another address; the one before is dead and stays so."""
        self.kill()
        self._at = 1 - self._at
        self._take_over(node)
        self.run("pg_ctl", "-D", node, "-w", "-t", "100", "promote")
        self.wait()

    def _take_over(self, node):
        before, self.primary = self.primary, node
        self.start()
        shutil.rmtree(before)

    def stop(self):
        if self.processes():
            self.run("pg_ctl", "-D", self.primary, "-m", "fast", "-w", "-t", "100", "stop")

    def destroy(self):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.kill()
        self._embedded.destroy()
