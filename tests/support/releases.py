"""Two releases on one database: trees of older ones, hosts that run one or the other, and clients that ask all the time."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.databases import as_role
from tests.support.environ import BUILD
from tests.support.server import ROOT, Server, in_process, until
from tokenworks.app.database.embedded import APP_ROLE

# The first release that runs on younger schemas: that of 0026.
OLD = "28fcaa9479b1b0aa4998df933cf583a3de729897"
THIS = ROOT / "src"
# Between an answer and a client's next request: the hosts shall not wait for the clients' processor.
PAUSE_S = 0.01


def tree_of(commit, folder):
    """The source of a commit, unpacked; skips the test where the clone has no such commit."""
    done = subprocess.run(["git", "archive", "--format=tar", commit, "src"], cwd=ROOT, capture_output=True)
    if done.returncode:
        pytest.skip(
            f"commit {commit[:7]} is not in this clone: fetch the whole history (git fetch --unshallow)"
        )
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


class Host(Server):
    """A host on a database that is there, of one release and later of another. It never migrates."""

    def __init__(self, data_dir, release, **settings):
        super().__init__(data_dir, **settings)
        self.release = release

    def environ(self):
        return self.environ_of()

    def cli(self, *args, check=True, release=None):
        """A command of the host's release, or of another one, with this host's settings: of this one in this process."""
        if (release or self.release) == THIS and args[0] != "serve":
            done = in_process(["--data-dir", str(self.data_dir), *args], self.environ())
            assert not check or done.returncode == 0, done.stderr
            return done
        done = subprocess.run(
            self.command(*args), capture_output=True, text=True, env=self.environ_of(release), cwd=ROOT, timeout=1800
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def command(self, *args):
        return [sys.executable, "-m", "tokenworks", "--data-dir", str(self.data_dir), *args]

    def environ_of(self, release=None, *, init=False):
        """An older release is given the owner's URL; this one that of the role that serves, and `init` the owner's beside it."""
        release = release or self.release
        environ = super().environ() | {"PYTHONPATH": str(release)}
        if release == THIS:
            owner = environ["TOKENWORKS_DATABASE_URL"]
            environ["TOKENWORKS_DATABASE_URL"] = as_role(owner, APP_ROLE)
            if init:
                environ["TOKENWORKS_DATABASE_OWNER_URL"] = owner
        else:
            environ.pop("TOKENWORKS_DRAIN_GRACE_S", None)
            environ.pop(BUILD, None)
        return environ

    def __enter__(self):
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.start(ready_s=60.0)
        return self

    def __exit__(self, *_):
        self.stop()


def killed_at_each_thing(command, environ, kills_max, after, *, within=False):
    """Run a command again and again, and kill it with -9 at each thing that it says for the first time on stderr (`within`: where it says
    how far it is with one, and not where one begins); the last run is left to its end. `after()` is called after each kill. Returns what
    it was killed at.
    """
    seen = {}
    while True:
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environ, cwd=ROOT
        )
        killed, said = False, []
        for line in process.stderr:
            said.append(line)
            what, _, batch = line.strip().partition(": ")
            what = (what.partition(",")[0], bool(batch))
            if what not in seen and len(seen) < kills_max and (batch or not within):
                seen[what] = line.strip()
                process.send_signal(signal.SIGKILL)
                killed = True
                break
        process.stderr.close()
        code = process.wait(1800)
        if not killed:
            assert code == 0, "".join(said)
            return list(seen.values())
        after()


class Answer(NamedTuple):
    client: str
    host: str
    status: int | str
    began_s: float
    ended_s: float


class Traffic:
    """Clients that ask one thing after the other, as a balancer lets them: each has a host of its own, and goes to another one while
    that is out of rotation.
    """

    def __init__(self, hosts, keys, staff):
        self.hosts, self.keys, self.staff = list(hosts), keys, staff
        self.lock = threading.Condition()
        self.rotation = list(hosts)
        self.in_flight = Counter()
        self.answers = []
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=(f"client {at}", at, self._chat, PAUSE_S)) for at in range(len(self.hosts))
        ]  # fmt: skip
        self.threads.append(
            threading.Thread(target=self._run, args=("clerk", 0, self._register, 5 * PAUSE_S))
        )
        self.clients = [*(f"client {at}" for at in range(len(self.hosts))), "clerk"]
        self.phone = 13_700_000_000

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ask nothing more, and wait for what was asked."""
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def _run(self, client, own, ask, pause_s):
        for number in range(10**9):
            if self.stop.wait(pause_s):
                return
            with self.lock:
                host = self.hosts[own] if self.hosts[own] in self.rotation else self.rotation[0]
                self.in_flight[host] += 1
            began_s = time.monotonic()
            try:
                status = ask(host, number)
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            ended_s = time.monotonic()
            with self.lock:
                self.in_flight[host] -= 1
                self.answers.append(Answer(client, host.data_dir.name, status, began_s, ended_s))
                self.lock.notify_all()

    def _chat(self, host, number):
        return host.chat(self.keys[number % len(self.keys)], {"tokens": 5, "prompt": 11}, max_tokens=200)[0]

    def _register(self, host, number):
        """Staff registers somebody: rows of account, subscriber, member and the audit trail."""
        body = {"phone": f"+86{self.phone + number}", "name": "Li"}
        return host.request("POST", "/api/operations/subscribers", self.staff, body)[0]

    def more(self, count, timeout_s=120.0):
        """Wait until every client has had so many more answers, and every host in rotation has given as many."""
        first = len(self.answers)

        def enough():
            with self.lock:
                by = Counter()
                for answer in self.answers[first:]:
                    by[answer.client] += 1
                    by[answer.host] += 1
                names = [*self.clients, *(host.data_dir.name for host in self.rotation)]
                return all(by[name] >= count for name in names)

        until(enough, timeout_s, what=f"{count} answers of each client and host")

    def restart(self, host, release):
        """Take a host out of rotation, let it finish, start it on a release, and put it back."""
        with self.lock:
            self.rotation.remove(host)
            self.lock.wait_for(lambda: not self.in_flight[host], 60)
        host.stop()
        host.release = release
        host.start(ready_s=60.0)
        with self.lock:
            self.rotation.append(host)

    def refused(self):
        """Answers that are no success, by client and status."""
        good = {200, 201}
        return Counter((a.client, a.host, a.status) for a in self.answers if a.status not in good)

    def served(self):
        return sum(a.status == 200 for a in self.answers)

    def longest_s(self, began_s, ended_s):
        """The longest answer, and the longest time between two answers of a client, of those that overlap a time: by client."""
        found = {}
        for client in sorted({a.client for a in self.answers}):
            own = [
                a
                for a in self.answers
                if a.client == client and a.ended_s >= began_s and a.began_s <= ended_s
            ]
            gaps = [after.ended_s - before.ended_s for before, after in itertools.pairwise(own)]
            found[client] = (max((a.ended_s - a.began_s for a in own), default=0.0), max(gaps, default=0.0))
        return found


@contextlib.contextmanager
def timed(steps, what):
    """Note how long it took."""
    began_s = time.monotonic()
    yield
    steps[what] = (began_s, time.monotonic())
    print(f"{what}: {time.monotonic() - began_s:.1f} s", flush=True)


def fill(host, rows, accounts):
    """Have the host's release make an installation: what `tests.support.filled` prints."""
    environ = host.environ()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("filled.py")), str(host.data_dir), str(rows), str(accounts)],
        capture_output=True, text=True, env=environ, cwd=host.data_dir, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["code"].startswith(os.fspath(host.release)), "another release filled it"
    return found
