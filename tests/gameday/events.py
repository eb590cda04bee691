"""What can happen to a fleet, how it is mended as the runbook says, and which errors clients may see meanwhile.

`pages` are the runbook's. A code that is allowed is named on one of them (a test compares them): a client sees no other, and none after
the event is over, which is when every host is ready again.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.app.process.test_renewing import presented
from tests.gameday.traffic import BROKEN
from tests.support.releases import OLD, THIS, tree_of
from tests.support.server import until
from tokenworks.cli.main import cli

AWAY = frozenset({"database_away", "recorder_away"})
CUT = frozenset({BROKEN, "shutting_down"})


class Event(NamedTuple):
    """`act(game)` makes it happen and mends it; it may return a few words for the timeline."""

    name: str
    pages: tuple[str, ...]
    allowed: frozenset[str]
    act: Callable[[object], str | None]


DECK: dict[str, Event] = {}


def event(*pages, allowed=frozenset()):
    def declared(act):
        name = act.__name__.replace("_", " ")
        DECK[name] = Event(name, pages, frozenset(allowed), act)
        return act

    return declared


def some_host(game):
    """One of them, while another one serves."""
    assert len(game.fleet.hosts) > 1
    return game.rng.choice(game.fleet.hosts)


def kill(host, name):
    pid = host.process_of(name)
    os.kill(pid, signal.SIGKILL)
    if name == "worker":
        until(
            lambda: len(host.pids("worker")) == host.workers and pid not in host.pids("worker"),
            60,
            "another worker",
        )
    else:
        until(lambda: host.pids(name) not in ([], [pid]), 60, f"another {name}")
    return f"{name} of host {host.name}"


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def while_it_hangs(game, host, name, answers=2):
    """A process stands still until clients have had so many answers, good or bad."""
    with stopped(host.process_of(name)):
        seen = len(game.traffic.answers) + answers * game.traffic.clients
        until(lambda: len(game.traffic.answers) >= seen, 120, "answers")
    return f"{name} of host {host.name}"


# Processes.


@event("A worker ends", allowed={BROKEN})
def a_worker_is_killed(game):
    return kill(some_host(game), "worker")


@event("A worker ends", allowed={BROKEN})
def a_worker_hangs(game):
    """It is killed after `worker_silence_s`, and another one begins."""
    host = some_host(game)
    pid = host.process_of("worker")
    os.kill(pid, signal.SIGSTOP)
    until(lambda: pid not in host.pids("worker") and host.pids("worker"), 60, "another worker")
    return f"a worker of host {host.name}"


@event("A recorder that hangs", allowed=AWAY)
def the_recorder_is_killed(game):
    return kill(some_host(game), "recorder")


@event("A recorder that hangs", allowed=AWAY)
def the_recorder_hangs(game):
    """Until the balancer has turned away: answers that were made wait for their records' commits until it goes on."""
    host = some_host(game)
    with stopped(host.process_of("recorder")):
        game.traffic.sees(host, ready=False)
    return f"recorder of host {host.name}"


@event("What to watch")
def the_tokenizer_is_killed(game):
    return kill(some_host(game), "tokenizer")


@event("What to watch")
def the_tokenizer_hangs(game):
    return while_it_hangs(game, some_host(game), "tokenizer")


@event("What to watch")
def the_control_plane_is_killed(game):
    return kill(some_host(game), "control")


@event("What to watch")
def the_control_plane_hangs(game):
    return while_it_hangs(game, some_host(game), "control")


@event("A worker ends", allowed=CUT)
def the_supervisor_is_killed(game):
    """Its children leave with it, in order; what started it starts it again."""
    host = some_host(game)
    os.kill(host.process.pid, signal.SIGKILL)
    until(lambda: not host.processes(), 90, "the children to leave")
    host.stop()
    host.begin()
    return f"host {host.name}"


@event("A worker ends")
def the_supervisor_hangs(game):
    return while_it_hangs(game, some_host(game), "supervisor")


# The database.


@event("The database is away", "A recorder that hangs", allowed=AWAY)
def the_database_hangs(game):
    with game.cluster.hung():
        seen = len(game.traffic.answers) + 4 * game.traffic.clients
        until(lambda: len(game.traffic.answers) >= seen, 120, "answers")


@event("The database is away", "A recorder that hangs", allowed=AWAY)
def a_backend_of_the_database_is_killed(game):
    game.cluster.kill_a_backend()
    game.cluster.wait()


@event("The database is away", "A recorder that hangs", allowed=AWAY)
def the_database_is_dead(game):
    game.cluster.kill()
    seen = len(game.traffic.answers) + 2 * game.traffic.clients
    until(lambda: len(game.traffic.answers) >= seen, 120, "answers")
    game.cluster.start()
    game.cluster.wait()


@event("Fail-over and restore", "The database is away", "A recorder that hangs", allowed=AWAY)
def a_standby_that_lost_commits_is_promoted(game):
    node = game.cluster.base_backup("-R")
    game.traffic.more(2)
    game.cluster.promote(node)


@event("Backup and restore", "A worker ends", allowed=CUT)
def the_database_is_restored_to_a_point_in_time(game):
    """As the page says: every host is stopped, the database is restored, the hosts are started; their journals know the rest."""
    point = f"game-{time.monotonic_ns()}"
    node = game.cluster.base_backup()
    game.traffic.more(1)
    game.cluster.restore_point(point)
    game.traffic.more(2)
    for host in game.fleet.hosts:
        host.leave()
    for host in game.fleet.hosts:
        host.end()
    game.cluster.archive()
    game.cluster.restore(node, point)
    for host in game.fleet.hosts:
        host.begin()


# Hosts.


@event("Restarting a host")
def a_host_is_restarted(game):
    host = some_host(game)
    game.fleet.restart(host, game.traffic)
    return f"host {host.name}"


@event("Restarting a host")
def a_third_host_joins(game):
    """And where there are three already, one leaves."""
    if len(game.fleet.hosts) < 3:
        return f"host {game.fleet.join(game.traffic).name}"
    host = some_host(game)
    with game.traffic.without(host):
        host.end()
        game.fleet.hosts.remove(host)
        game.fleet.gone.append(host)
        return f"host {host.name} leaves"


@event("A lost host", "A worker ends", allowed={BROKEN})
def a_host_is_lost_and_replaced(game):
    """With its disk: its grants are written off when their leases have ended. The disk turns up at the end of the game."""
    fleet = game.fleet
    lost = some_host(game)
    fleet.lose(lost, game.traffic)
    new = fleet.join(game.traffic)
    journal_id = json.loads(lost.cli("journal", "inspect", "--json").stdout)["journal_id"]

    def in_doubt():
        found = json.loads(new.cli("grant", "list", "--json").stdout)
        own = [grant for grant in found if grant["journal_id"] == journal_id]
        return own if all(grant["in_doubt"] for grant in own) else None

    for grant in until(in_doubt, 120, "the leases of the lost host to end"):
        new.cli("grant", "write-off", grant["grant_id"])
    return f"host {lost.name}, host {new.name} in its place"


@event("A full disk")
def the_disk_of_a_host_is_full(game):
    """The host takes nothing new; the balancer goes elsewhere. Room is made, and it serves."""
    host = some_host(game)
    key = game.traffic.keys[0]
    with game.traffic.without(host):
        host.end()
        host.env["TOKENWORKS_JOURNAL_RESERVE_BYTES"] = str(2**50)
        with contextlib.suppress(AssertionError):
            host.start(host.address, ready_s=0.1)
        until(lambda: host.ask(key) == (503, "journal_full"), 60, "the host to say so")
        host.end()
        del host.env["TOKENWORKS_JOURNAL_RESERVE_BYTES"]
        host.begin()
    return f"host {host.name}"


@event("A full disk", "A recorder that hangs", allowed=AWAY)
def the_disk_refuses_a_write(game):
    """The recorder ends for it and begins anew; every answer waits for that."""
    host = some_host(game)
    pid = host.process_of("recorder")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, 1024))
    until(lambda: host.pids("recorder") not in ([], [pid]), 90, "another recorder")
    return f"host {host.name}"


# What is changed while it serves.


@event("Renewing certificates and credentials")
def the_certificate_is_renewed(game):
    name = game.fleet.write_certificate()
    for host in game.fleet.hosts:
        until(
            lambda host=host: {presented(host) for _ in range(2 * host.workers)} == {name},
            60,
            "the certificate",
        )


@event("Another pepper, and a host that is refused for it")
def the_pepper_is_rotated(game):
    first, *others = game.fleet.hosts
    version = str(json.loads(first.cli("pepper", "new", "--json").stdout)["version"])
    for host in others:
        shutil.copy2(first.secrets / f"pepper-{version}", host.secrets)
    for host in game.fleet.lost:
        shutil.copy2(first.secrets / f"pepper-{version}", host.secrets)
    for host in game.fleet.hosts:
        game.fleet.restart(host, game.traffic)
    first.cli("pepper", "use", version)
    key = game.new_key()
    for host in game.fleet.hosts:
        until(lambda host=host: host.ask(key) == (200, None), 60, "a key of the new pepper")
    return f"to {version}"


@event("A new release")
def a_host_goes_to_another_release_and_back(game):
    """To the release before, which the schema still serves, and from there to this one again: the upgrade of a host."""
    host = some_host(game)
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        old = tree_of(OLD, Path(folder))
        for release in (old, THIS):
            with game.traffic.without(host):
                host.end()
                host.release = release
                host.begin()
            game.traffic.more(1)
    return f"host {host.name}"


if "reload" in cli.commands:

    @event("New settings, and a new release in place")
    def a_host_is_reloaded(game):
        host = some_host(game)
        host.cli("reload")
        return f"host {host.name}"
