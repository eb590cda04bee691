"""Real PostgreSQL always: one embedded cluster a session, a database a test made from a migrated template."""

import contextlib
import itertools
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support import heavy
from tests.support.databases import as_role, drop_role, new_database
from tests.support.environ import is_setting
from tests.support.memory import in_memory
from tests.support.server import Server, StubUpstream
from tests.support.spend import Spender
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import APP_ROLE, Embedded
from tokenworks.app.database.schema import migrate
from tokenworks.app.settings import load_settings
from tokenworks.catalog import seed_catalogue
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import month_start
from tokenworks.trust import ensure_pepper

_numbers = itertools.count()
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Tests that share something that a module makes (a server, most often) run on one worker: else every worker makes its own. Of
    those that take seconds a run may take a sample (`tests/support/heavy.py`).
    """
    one_of, left_out = int(os.environ.get("HEAVY_SAMPLE", "1")), []
    for item in items:
        if heavy.is_heavy(item.nodeid):
            item.add_marker(pytest.mark.heavy)
            if not heavy.in_sample(item.nodeid, one_of, heavy.seed()):
                left_out.append(item)
        if item.get_closest_marker("xdist_group") is None:
            found = item._fixtureinfo.name2fixturedefs.values() if hasattr(item, "_fixtureinfo") else ()
            if any(one.scope == "module" for fixtures in found for one in fixtures):
                item.add_marker(pytest.mark.xdist_group(item.path.stem))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_report_header():
    sample = os.environ.get("HEAVY_SAMPLE")
    return None if sample is None else f"HEAVY_SAMPLE={sample} HEAVY_SEED={heavy.seed()}"


def pytest_collection_finish(session):
    """Groups are a part of the names of tests, or nobody sees them: pytest 9.2 with xdist 3.8 ran every test by itself, and every
    worker made all that a module makes.
    """
    if not getattr(session.config.option, "loadgroup", False):
        return
    for item in session.items:
        if item.get_closest_marker("xdist_group") is not None and "@" not in item.nodeid:
            raise pytest.UsageError(
                f"{item.nodeid}: its group is not seen; check the versions of pytest and xdist"
            )


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch):
    for name in list(os.environ):
        if is_setting(name):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def session_dir():
    with tempfile.TemporaryDirectory(prefix="tokenworks-test-") as folder:
        yield Path(folder)


# A server that is there, by the URL of one of its databases as a role that may make more, and roles: the tests of rooms run on it.
GIVEN_CLUSTER = os.environ.get("TOKENWORKS_TEST_DATABASE_URL")
GIVEN_ROLE = f"tokenworks_test_{os.getpid()}"
TEMPLATE = f"template_works_{os.getpid()}"


@pytest.fixture(scope="session")
def cluster(session_dir):
    """The owner's URL of a server with a migrated, seeded template database."""
    os.environ.pop("TOKENWORKS_TEST_DATABASE_URL", None)  # it is no setting of ours
    with contextlib.ExitStack() as stack:
        if GIVEN_CLUSTER is None:
            in_memory(session_dir / "pg")
            embedded = Embedded(session_dir / "pg", FAST)
            stack.callback(embedded.destroy)
            stack.enter_context(embedded.use())
            url = embedded.owner_url
        else:
            url = GIVEN_CLUSTER
            stack.callback(drop_role, url, GIVEN_ROLE)
        template = stack.enter_context(new_database(url, TEMPLATE))
        migrate(template, app_url=as_app(template))
        settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
        ensure_pepper(settings.secrets)
        with contextlib.closing(connect(as_app(template))) as connection:
            make_works(settings, connection).offerings.load(seed_catalogue())
        yield url


def as_app(owner_url):
    """The URL of the role that serves."""
    if GIVEN_CLUSTER is None:
        return as_role(owner_url, APP_ROLE)
    return as_role(owner_url, GIVEN_ROLE, "of-tests-alone")


@pytest.fixture
def owner_url(cluster):
    """A fresh database with schema and seed catalogue, as its owner: for what no service may do."""
    name = f"works_{os.getpid()}_{next(_numbers)}"
    with new_database(cluster, name, f"TEMPLATE {TEMPLATE} STRATEGY FILE_COPY") as url:
        yield url


@pytest.fixture
def database_url(owner_url):
    """The same as the role that serves and every command have: what it may not do no test of a service may do."""
    return as_app(owner_url)


@pytest.fixture
def owner(owner_url):
    """A connection of the database's owner, who may corrupt what is there, history too."""
    with contextlib.closing(connect(owner_url)) as connection:
        yield connection


@pytest.fixture
def clock():
    """At a month's first instant, so that what a test orders is a whole month, on whatever day it runs."""
    return ManualClock(month_start(datetime.now(UTC)).astimezone(UTC))


@pytest.fixture
def services(database_url, session_dir, clock):
    """All rooms on a fresh database, with a clock that stands still."""
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    with contextlib.closing(connect(database_url)) as connection:
        yield make_works(settings, connection, clock)


@pytest.fixture
def spender(services):
    """Spends of accounts as the data plane does."""
    return Spender(services)


@pytest.fixture(scope="session")
def upstream():
    with StubUpstream() as stub:
        yield stub


@pytest.fixture(scope="session")
def server(session_dir, upstream):
    """One running server for the tests that don't kill it: two workers, the stub as `stub`."""
    with Server(session_dir / "server", workers=2) as running:
        running.add_deployment("stub", "stub", upstream.url)
        yield running
