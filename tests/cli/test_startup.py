"""What a command does not need it does not import: each of these takes longer to import than most commands take to run."""

import json
import subprocess
import sys

import pytest

# Packages that take 20 ms or more each.
HELP_WITHOUT = (
    "alembic", "asyncio", "brotli", "cryptography", "fastapi", "httptools", "jinja2", "msgspec", "prometheus_client", "psycopg", "pydantic",
    "rich", "sqlalchemy", "structlog", "tokenizers", "typst", "uvicorn", "uvloop", "yaml", "tokenworks.app.settings", "tokenworks.billing.bills",
    "tokenworks.catalog.model", "tokenworks.charging.ledger.accounts", "tokenworks.factory.model", "tokenworks.gateway.dispatch",
    "tokenworks.subscriptions.service", "tokenworks.trust.keys.store",
)  # fmt: skip
COMMAND_WITHOUT = (
    "alembic", "brotli", "fastapi", "httptools", "jinja2", "prometheus_client", "rich", "sqlalchemy", "structlog", "tokenizers", "typst",
    "uvicorn", "uvloop", "yaml", "tokenworks.gateway.dispatch", "tokenworks.charging.host.recorder", "tokenworks.charging.ledger.verify", "tokenworks.web.routes",
)  # fmt: skip
# Noun -> what its commands need of the list above: profiles of deployments are YAML.
NEEDS = {"deployment": {"yaml"}, "vendor": {"yaml"}}
LISTS = """
import atexit, json, sys
atexit.register(lambda: print("MODULES", json.dumps(sorted(sys.modules)), file=sys.stderr))
sys.argv[0] = "tokenworks"
from tokenworks.cli.main import main
main()
"""


def imported(*args, env=None):
    """The modules that a command imported; it ended well."""
    done = subprocess.run([sys.executable, "-c", LISTS, *args], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr.partition("MODULES ")[0]
    return set(json.loads(done.stderr.rpartition("MODULES ")[2]))


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("--version",),
        ("order", "--help"),
        ("usage", "--help"),
        ("backup", "--help"),
        ("bill", "dispute", "--help"),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_of_what_commands_need(args):
    found = imported(*args)
    assert "tokenworks.cli.main" in found
    assert found.isdisjoint(HELP_WITHOUT), sorted(found & set(HELP_WITHOUT))


@pytest.mark.parametrize(
    "args",
    [
        ("subscriber", "create", "--phone", "+8613800000071"),
        ("key", "create", "--subscriber", "+8613800000070"),
        ("deployment", "add", "--name", "lean", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--protocol", "chat", "--allow-private"),
        ("order", "place", "--subscriber", "+8613800000070", "--offering", "ctc-light", "--dry-run"),
        ("balance", "--subscriber", "+8613800000070", "--json"),
    ],
    ids=lambda args: " ".join(args[:2]),
)  # fmt: skip
def test_a_usual_command_imports_what_it_needs(args, lean):
    found = imported(*args, env=lean)
    assert "psycopg" in found
    without = set(COMMAND_WITHOUT) - NEEDS.get(args[0], set())
    assert found.isdisjoint(without), sorted(found & without)


def test_a_proof_of_the_books_imports_the_checks_and_nothing_for_terminals(lean):
    found = imported("ledger", "verify", "--json", env=lean)
    assert "tokenworks.charging.ledger.verify" in found
    left = set(COMMAND_WITHOUT) - {"tokenworks.charging.ledger.verify"}
    assert found.isdisjoint(left), sorted(found & left)


@pytest.fixture
def lean(database_url, session_dir):
    """The environment of commands on the test's database, with one subscriber."""
    import os

    from tokenworks.app.settings import load_settings
    from tokenworks.trust import ensure_pepper

    env = os.environ | {
        "TOKENWORKS_DATABASE_URL": database_url,
        "TOKENWORKS_DATA_DIR": str(session_dir / "seed"),
    }
    ensure_pepper(load_settings({}, env).settings.secrets)
    imported("subscriber", "create", "--phone", "+8613800000070", env=env)
    return env
