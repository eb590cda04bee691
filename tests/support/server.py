"""Real processes for tests: a server, an upstream, and the operator's commands."""

import atexit
import contextlib
import functools
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from tests.support.auditor import verify
from tests.support.databases import as_role
from tests.support.environ import without_settings
from tests.support.forked import Forked, can_fork
from tests.support.forkserver import folder_with_tokenworks
from tests.support.memory import in_memory
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect, database
from tokenworks.app.database.embedded import APP_ROLE, Embedded
from tokenworks.app.settings import load_settings
from tokenworks.catalog import Catalogue, ChargingPolicy, seed_catalogue
from tokenworks.cli.main import main
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import add_months, month_start

ROOT = Path(__file__).parents[2]
FAST = {"TOKENWORKS_EMBEDDED_FSYNC": "false", "TOKENWORKS_DRAIN_GRACE_S": "0"}
PHONES = iter(range(13_900_000_000, 13_999_999_999))


def until(ready, timeout_s=30.0, what="it"):
    """Poll a condition; not a sleep in place of one. Turns that take long do not count, up to twice the time: a shared machine may stand
    still for half a minute.
    """
    before = time.monotonic()
    deadline, last = before + timeout_s, before + 3 * timeout_s
    while True:
        value = ready()
        if value:
            return value
        now = time.monotonic()
        if now - before > 1:
            deadline = min(deadline + now - before, last)
        assert now < deadline, f"waited {timeout_s} s for {what}"
        before = now
        time.sleep(0.02)


def until_it_gets_on(ready, progress, still_s=60.0, what="it"):
    """Poll a condition for as long as a number changes: however slow the machine is, it gives up where nothing happens."""
    last, deadline = progress(), time.monotonic() + still_s
    while not ready():
        if (now := progress()) != last:
            last, deadline = now, time.monotonic() + still_s
        assert time.monotonic() < deadline, f"waited for {what}; nothing changed for {still_s} s"
        time.sleep(0.02)


def in_process(argv, environ):
    """What `tokenworks` does with these arguments, as if it had been run."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["tokenworks", *argv]),
        mock.patch.dict(os.environ, environ, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        except Exception:  # an interpreter of its own would print it, too
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@functools.cache
def first_cluster():
    """Where a cluster with schema and catalogue lies, at rest, and the secrets that it knows: servers begin with a copy, since
    `initdb` takes a second.
    """
    folder = Path(tempfile.mkdtemp(prefix="tokenworks-test-"))
    in_memory(folder)
    assert in_process(["--data-dir", str(folder), "init"], dict(os.environ) | FAST).returncode == 0
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(Embedded(folder).destroy)
    embedded = Embedded(folder)
    with embedded.at_rest():
        return embedded.home, folder / "secrets"


def whole_months():
    """The shipped catalogue with whole first months, so that what a test buys does not hang on the day on which it runs."""
    shipped = seed_catalogue()
    whole = tuple(offering.model_copy(update={"proration": "full"}) for offering in shipped.offerings)
    return shipped.model_copy(update={"offerings": whole})


class StubUpstream:
    """`tests.support.upstream` as a process: what it says it sent is the truth that the ledger is held against."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.upstream"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        body = json.loads(connection.getresponse().read())
        connection.close()
        return body

    def count(self):
        return self.get("/count")

    def made(self, before=()):
        """Tokens made so far by id, of answers that are not in `before`: what was sent, and what was on its way."""
        return {id_: tokens for id_, (tokens, _) in self.count()["started"].items() if id_ not in before}

    def running(self):
        """How many answers it is in the middle of; one that broke off counts on."""
        count = self.count()
        return sum(id_ not in count["complete"] for id_ in count["started"])

    @contextlib.contextmanager
    def watched(self):
        """A list whose one number is the most answers that it was seen in the middle of while the context lasted."""
        most, stop = [0], threading.Event()

        def watch():
            while not stop.is_set():
                most[0] = max(most[0], self.running())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield most
        finally:
            stop.set()
            watching.join()

    def release(self):
        """Let those go on that were told to hold."""
        self.get("/release")

    def behave(self, **told):
        """From now on, whatever a request is told."""
        self.get("/behave?" + quote(json.dumps(told)))


class Server:
    """`tokenworks init` and `serve` in a data directory of its own. What serves has no URL of the owner's."""

    def __init__(self, data_dir, workers=1, env=None, **settings):
        self.data_dir = Path(data_dir)
        self.workers = workers
        self.python = sys.executable
        self.env = FAST | {"TOKENWORKS_JOURNAL_SEGMENT_BYTES": "1048576"} | {
            f"TOKENWORKS_{name.upper()}": str(value) for name, value in settings.items()
        } | (env or {})  # fmt: skip
        self.process = None
        self.stack = contextlib.ExitStack()

    def environ(self):
        return without_settings() | self.env

    def cli(self, *args, check=True, process=False):
        """A command. In this process, since an interpreter of its own takes longer than most commands do; `process`: in one
        of its own, as an operator runs it. Threads have theirs always, and so has what sets signals.
        """
        argv = ["--data-dir", str(self.data_dir), *args]
        alone = threading.current_thread() is threading.main_thread() and args[0] not in {"serve", "demo"}
        if process or not alone:
            done = subprocess.run(
                [sys.executable, "-m", "tokenworks", *argv],
                capture_output=True, text=True, env=self.environ(), cwd=ROOT, timeout=60,
            )  # fmt: skip
        else:
            done = in_process(argv, self.environ())
        assert not check or done.returncode == 0, done.stderr
        return done

    def make(self):
        """The data directory, with a cluster and secrets."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if "TOKENWORKS_DATABASE_URL" not in self.env:
            in_memory(self.data_dir)
            # Owners and modes, too: as root it belongs to another user.
            home = Embedded(self.data_dir).home
            cluster, secrets = first_cluster()
            subprocess.run(["cp", "-a", f"{cluster}/.", home], check=True)
            if not (self.data_dir / "secrets").exists():
                shutil.copytree(secrets, self.data_dir / "secrets")
        self.init()

    def __enter__(self):
        self.make()
        self.attach()
        self.services.offerings.load(whole_months())
        self.start()
        return self

    def attach(self):
        """Look into the database that is there, and hold it up."""
        self.settings = load_settings({"data_dir": str(self.data_dir)}, self.env).settings
        # Our own hold on the database, so that the tests may look while the server is down.
        url = self.stack.enter_context(database(self.settings))
        self.url = url
        self.connection = self.stack.enter_context(contextlib.closing(connect(url)))
        self.services = make_works(self.settings, self.connection)

    def init(self, *args, **how):
        """As `init` is run: where the database is no embedded one of this server's, with the owner's URL in this one command."""
        before = dict(self.env)
        url = self.env.get("TOKENWORKS_DATABASE_URL")
        if url is not None and f"user={APP_ROLE}" in url:
            self.env["TOKENWORKS_DATABASE_OWNER_URL"] = as_role(url, "tokenworks")
        try:
            return self.cli("init", *args, **how)
        finally:
            self.env = before

    def owner(self):
        """A connection of the database's owner, who may do what no service does. To be closed."""
        return contextlib.closing(connect(as_role(self.url, "tokenworks")))

    def command(self):
        """`tokenworks` for this data directory, as an operator runs it."""
        return [self.python, "-m", "tokenworks", "--data-dir", str(self.data_dir)]

    def start(self, listen="127.0.0.1:0", ready_s=30.0, options=None):
        """`options`: of `serve`; left out: workers, and ports that are free."""
        self.log = (self.data_dir / "serve.log").open("ab")
        if options is None:
            options = ("--workers", str(self.workers), "--listen", listen, "--admin-listen", "127.0.0.1:0")
        arguments, environ = [*self.command(), "serve", *options], self.environ()
        if can_fork(self.python, environ):
            path = folder_with_tokenworks() / "forkserver.sock"
            # Without the interpreter and `-m tokenworks`, which the fork has been given already.
            self.process = Forked(str(path), arguments[3:], environ, ROOT, self.log)
        else:
            self.process = subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environ, cwd=ROOT, start_new_session=True
            )  # fmt: skip
        line = self.process.stdout.readline()
        assert line, (self.data_dir / "serve.log").read_text()[-3000:]
        self.public, self.admin = re.findall(r"https?://([^/\s]+)", line)
        self.host, port = self.public.rsplit(":", 1)
        self.port = int(port)
        until(self.ready, ready_s, what="the server to be ready")

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError(self.log_text()[-3000:])
        with contextlib.suppress(OSError, http.client.HTTPException):
            host, port = self.admin.rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=5)
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
            connection.close()
            return status == 200
        return False

    def metrics(self, name):
        """A metric's values, one a worker."""
        host, port = self.admin.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return [
            float(value)
            for value in re.findall(rf"^tokenworks_{name}(?:_total)?(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        ]

    def log_text(self):
        return (self.data_dir / "serve.log").read_text()

    def stop(self, sig=signal.SIGTERM):
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(sig)
            self.process.wait(60)
            self.process.stdout.close()
            self.process = None
            self.log.close()

    def kill(self):
        """The host is lost: every process of it at once. The supervisor first: it must not start anybody anew."""
        os.kill(self.process.pid, signal.SIGSTOP)
        for _, pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop(signal.SIGKILL)

    def __exit__(self, *_):
        self.stop()
        self.stack.close()
        Embedded(self.data_dir).destroy()

    # What an operator does.

    def subscriber(self, offering="ctc-light", **key):
        """(subscriber, key text) of a new subscriber with a plan."""
        made = self.services.subscriptions.register(f"+86{next(PHONES)}")
        if offering:
            self.services.orders.place(made, offering)
        return made, self.key(made, **key)

    def last_month(self):
        """All rooms at the first instant of last month: what is done there and then is billed by the server today."""
        return make_works(
            self.settings,
            self.connection,
            ManualClock(add_months(month_start(datetime.now(UTC)), -1).astimezone(UTC)),
        )

    def sell(self, offering_id, tokens, service=None, **policy):
        """Put a plan of so many tokens at one price into the catalogue, with what else it promises."""
        card = next(card for card in seed_catalogue().rate_cards if card.id == "one-price")
        like = next(offering for offering in seed_catalogue().offerings if offering.id == "sample-trial")
        bucket = like.buckets[0].model_copy(update={"quantity": tokens})
        offering = like.model_copy(
            update={
                "id": offering_id,
                "buckets": (bucket,),
                "policy": ChargingPolicy(**policy),
                "per_subscriber_max": None,
                "service": service or like.service,
            }
        )
        self.services.offerings.load(Catalogue(catalogue="test", rate_cards=(card,), offerings=(offering,)))
        return offering_id

    def key(self, subscriber, models=(), cap_tokens=None, expires_in_days=None, member=None):
        member_id = None
        if member is not None:
            member_id = self.services.members.find(subscriber, member).member_id
        return self.services.access.issue_key(
            subscriber, member_id, "test", models=models or None, cap_tokens=cap_tokens, expires_in_days=expires_in_days
        )[1]  # fmt: skip

    def add_deployment(self, name, model, url, *more, wait=True):
        self.cli(
            "deployment", "add", "--name", name, "--model", model, "--base-url", url, "--allow-private", *more
        )
        if wait:
            _, text = self.subscriber(None)
            until(lambda: f'"{model}"' in self.get("/v1/models", text)[1].decode(), what=f"model {model}")

    # What a client does.

    def open(self):
        sock = socket.create_connection((self.host, self.port), timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def request(self, method, path, key=None, body=None, headers=None, timeout_s=60):
        """(status, body, headers)"""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        sent = dict(headers or {})
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if payload is not None:
            sent.setdefault("content-type", "application/json")
        connection.request(method, path, payload, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, {name.lower(): value for name, value in answer.getheaders()}

    def get(self, path, key=None, headers=None):
        return self.request("GET", path, key, None, headers)

    def chat(self, key, told=None, headers=None, **body):
        body = {"model": "stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50} | body
        if told is not None:
            body["user"] = json.dumps(told)
        return self.request("POST", "/v1/chat/completions", key, body, headers)

    # What an auditor does.

    def usage(self, subscriber, count=None):
        """Usage records; waits for `count` of them to be settled."""

        def read():
            found = self.services.ledger.usage(subscriber.account_id, limit=1000)
            return found if count is None or len(found) >= count else None

        found = read() if count is None else until(read, what=f"{count} usage records")
        return found

    def findings(self):
        return verify(self.connection, self.services.offerings.rate_cards())

    def buckets(self, subscriber):
        return self.services.ledger.buckets(subscriber.account_id)

    def processes(self):
        """(name, pid) of this server's children."""
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                name = (path / "comm").read_text().strip()
                if name.startswith("tw-") and str(self.data_dir).encode() in (path / "cmdline").read_bytes():
                    # Of a worker without its number.
                    found.append((name.split("-")[1], int(path.name)))
        return found
