"""The game: a deck of events in an order from a seed, under clients that stream, and a count at the end that has to come out even."""

import contextlib
import os
import random
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.gameday.cluster import Cluster
from tests.gameday.events import DECK
from tests.gameday.fleet import MARKER, Fleet
from tests.gameday.traffic import OK, Traffic
from tests.support.server import StubUpstream, until, whole_months
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings

CLIENTS = 8
SUBSCRIBERS = 4
QUIET_ANSWERS = 2


class Lost(AssertionError):
    """Something that the runbook promises did not hold."""


class Window:
    """From when to when an event may be felt, and what may be felt of it."""

    def __init__(self, event, began_s):
        self.event, self.began_s, self.ended_s = event, began_s, None

    def excuses(self, answer):
        ended_s = float("inf") if self.ended_s is None else self.ended_s
        return (
            answer.code in self.event.allowed and answer.began_s <= ended_s and answer.ended_s >= self.began_s
            and (answer.status != 503 or answer.retry_after)
        )  # fmt: skip


class Game:
    def __init__(self, seed, folder, timeline, *, clients=CLIENTS, workers=1):
        self.seed, self.folder, self.timeline = seed, folder, timeline
        self.rng = random.Random(seed)
        self.marker = f"{seed}-{os.getpid()}-{time.monotonic_ns()}"
        self._clients, self._workers = clients, workers
        self.windows, self._judged = [], 0
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.upstream = stack.enter_context(StubUpstream())
            self.cluster = Cluster(self.folder / "database")
            stack.callback(self.cluster.destroy)
            self.cluster.start()
            self.fleet = Fleet(self.folder, self.cluster, self.upstream, self._workers, self.marker)
            stack.callback(self.fleet.destroy)
            self.traffic = stack.enter_context(Traffic(self._sell(), self.seed))
            for _ in range(2):
                self.fleet.join(self.traffic)
            self.fleet.hosts[0].cli(
                "deployment",
                "add",
                "--name",
                "stub",
                "--model",
                "stub",
                "--base-url",
                self.upstream.url,
                "--allow-private",
            )
            for host in self.fleet.hosts:
                until(lambda host=host: set(host.metrics("deployments")) == {1.0}, 60, what="the deployment")
            self.traffic.begin(self._clients)
            self.traffic.more(QUIET_ANSWERS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def services(self):
        """All rooms, for a while. The settings are those of a host."""
        settings = load_settings(
            {"data_dir": str(self.folder), "database_url": self.cluster.url, "secrets_dir": str(self.secrets)}
        ).settings
        return settings, contextlib.closing(connect(self.cluster.url))

    @property
    def secrets(self):
        return self.fleet.hosts[0].secrets if self.fleet.hosts else self.cluster.secrets

    def _sell(self):
        """The keys of subscribers with a plan that a game does not use up."""
        settings, connected = self.services()
        with connected as connection:
            services = make_works(settings, connection)
            services.offerings.load(whole_months())
            self.subscribers = [
                services.subscriptions.register(f"+86{13_800_000_000 + n}") for n in range(SUBSCRIBERS)
            ]
            for subscriber in self.subscribers:
                services.orders.place(subscriber, "ctc-premium")
            return [self._issue(services, subscriber) for subscriber in self.subscribers]

    @staticmethod
    def _issue(services, subscriber):
        return services.access.issue_key(subscriber, None, "game")[1]

    def new_key(self):
        """Another key of the first subscriber, made as the works stand now."""
        settings, connected = self.services()
        with connected as connection:
            return self._issue(make_works(settings, connection), self.subscribers[0])

    # A game's course.

    def play(self, event):
        """Have it happen, wait until it is over, and see that nobody felt more of it than is allowed."""
        window = Window(event, time.monotonic())
        self.windows.append(window)
        before = len(self.traffic.answers)
        with self.timeline.event(event) as shown:
            shown.what = event.act(self) or ""
            self._over()
            if "database_away" in event.allowed:
                # A connection of before is found broken by whoever uses it first: it ends with some answers.
                self.traffic.more(QUIET_ANSWERS)
            window.ended_s = time.monotonic()
            self.traffic.more(QUIET_ANSWERS)
            self.judge()
            shown.felt = Counter(a.code for a in self.traffic.answers[before:])

    def _over(self):
        """Every host is ready, the balancer knows it, and what they had is settled."""
        for host in self.fleet.hosts:
            self.traffic.sees(host)
        for host in self.fleet.hosts:
            until(lambda host=host: host.ready(), 90, what=f"host {host.name} to be ready")

    def judge(self):
        """Raise where a client saw what no event excuses."""
        answers = self.traffic.answers
        while self._judged < len(answers):
            answer = answers[self._judged]
            if answer.code != OK and not any(window.excuses(answer) for window in self.windows):
                at = next(
                    (w.event.name for w in reversed(self.windows) if w.began_s <= answer.ended_s),
                    "the beginning",
                )
                raise Lost(f"client {answer.client} got {answer.status} {answer.code} after {at}: {answer}")
            self._judged += 1

    # The end.

    def finish(self):
        """Nothing more is asked: what was lost turns up, everything is settled, closed and counted, and nothing is left."""
        fleet = self.fleet
        self.traffic.end()
        self.judge()
        for host in list(fleet.lost):
            # Its disk turns up: a host is started on it, and settles what nobody had heard of.
            host.begin()
            fleet.lost.remove(host)
            fleet.hosts.append(host)
        for host in fleet.hosts:
            asked_s = time.time() + 0.2
            until(
                lambda host=host, asked_s=asked_s: host.settled(asked_s),
                120,
                what=f"host {host.name} to settle",
            )
        verify = fleet.hosts[0].cli("ledger", "verify", "--full", check=False)
        for host in list(fleet.hosts):
            host.end()
        with self.cluster.connected() as connection:
            sums = self._count(connection)
            self._nothing_waits(connection)
        if verify.returncode:
            raise Lost(f"ledger verify --full: {verify.stdout}{verify.stderr}")
        self.cluster.stop()
        self._nothing_is_left()
        return sums

    def _count(self, connection):
        """What was charged and what was lost, answer by answer, against the upstream's own count.

        An answer whose record is complete is there to the last token. Of one that a process took with it, what it had made after the last
        that the recorder heard of is in no record: such answers are those that clients saw break off, or that were never seen at all.
        """
        accounts = [subscriber.account_id for subscriber in self.subscribers]
        rows = connection.execute(
            "SELECT upstream_id, request_id, state, parts, loss FROM usage WHERE account_id = ANY(%s)",
            (accounts,),
        ).fetchall()
        truth = {id_: tokens + prompt for id_, (tokens, prompt) in self.upstream.count()["started"].items()}
        answers = self.traffic.answers
        # What is recorded of a dead worker's answers does not say how the upstream called them; their clients know.
        seen = {a.request_id: a.upstream_id for a in answers if a.upstream_id}
        missing = {a.request_id for a in answers if a.code == OK} - {row[1] for row in rows}
        if missing:
            raise Lost(
                f"{len(missing)} answers that clients saw whole are not in the ledger: {sorted(missing)[:5]}"
            )
        whole, known, charged, lost = set(), Counter(), 0, Counter()
        for upstream_id, request_id, state, parts, loss in rows:
            own_charged, own_lost = charged_tokens(parts), lost_tokens(loss)
            charged += own_charged
            lost.update(own_lost)
            answer = upstream_id or seen.get(request_id, request_id)
            known[answer] += own_charged + own_lost.total()
            if state == "complete":
                if answer in whole:
                    raise Lost(f"{answer} is charged twice")
                whole.add(answer)
        unheard = sum(tokens for answer, tokens in known.items() if answer not in truth)
        gaps = {answer: made - known[answer] for answer, made in truth.items() if made != known[answer]}
        wrong = {answer: gap for answer, gap in gaps.items() if gap < 0 or answer in whole}
        if wrong:
            raise Lost(f"made, less what the ledger has of it: {wrong}")
        unseen = sum(truth.values()) - charged - lost.total()
        cut = sum(a.code != OK for a in answers)
        if unseen != sum(gaps.values()) - unheard or unseen < 0 or len(gaps) > cut:
            raise Lost(
                f"{unseen} tokens are missing, {gaps}, {unheard} of answers that nobody saw, and {cut} answers were cut"
            )
        return {
            "made": sum(truth.values()), "charged": charged, "lost": dict(lost), "unseen": unseen, "cut": len(gaps),
            "answers": Counter(a.code for a in answers),
        }  # fmt: skip

    def _nothing_waits(self, connection):
        asked = {
            "grants that are open": "SELECT count(*) FROM grants WHERE state = 'open'",
            "records in quarantine": "SELECT count(*) FROM quarantine WHERE state = 'held'",
            "locks that are waited for": "SELECT count(*) FROM pg_locks WHERE NOT granted",
            "connections of the hosts": "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tokenworks_app'",
            "transactions left open": "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'",
        }
        found = {}
        for what, statement in asked.items():
            if count := connection.execute(statement).fetchone()[0]:
                found[what] = count
        if found:
            raise Lost(f"at the end there are still {found}")

    def _nothing_is_left(self):
        until(lambda: not self.left(), 30, what=f"no process to be left: {self.left()}")
        served = []
        for port in self.fleet.ports:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                served.append(port)
        if served:
            raise Lost(f"ports are still served: {served}")

    def left(self):
        """Processes of this game that are there: (pid, command)."""
        mark, found = f"{MARKER}={self.marker}".encode(), []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(
                        (
                            int(path.name),
                            (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
                        )
                    )
        return found + [(pid, "postgres") for pid in self.cluster.processes()]


def charged_tokens(parts):
    return sum(part[5] for part in parts) // 1000


def lost_tokens(loss):
    """By cause."""
    found = Counter()
    for cause, _, counts in loss or ():
        found[cause] += sum(counts)
    return found


def order(rng, rounds, events=None, only=None):
    """The events of a game: every round has each one once, in an order of its own; of each round so many at most."""
    names = list(only or DECK)
    found = []
    for _ in range(rounds):
        rng.shuffle(names)
        found += names[: events or len(names)]
    return [DECK[name] for name in found]


def play(seed, rounds, timeline, *, events=None, only=None, clients=CLIENTS, workers=1):
    """A whole game. Raises where it is lost, with the logs of the hosts in its folder."""
    with tempfile.TemporaryDirectory(prefix="game-day-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Game(seed, folder, timeline, clients=clients, workers=workers) as game:
            course = order(game.rng, rounds, events, only)
            timeline.begin(seed, course)
            try:
                for event in course:
                    game.play(event)
                sums = game.finish()
            except BaseException:
                timeline.logs(game.folder)
                raise
        timeline.end(sums)
        return sums
