"""Services are made when they are asked for, and a server imports all of them before it forks."""

import json
import subprocess
import sys
from functools import cached_property

from tokenworks.app.bootstrap import AppServices

LOADED = """
import json, sys
from tokenworks.app import bootstrap
names = ("tokenworks.billing.payments", "tokenworks.charging.ledger.accounts", "tokenworks.factory.service", "tokenworks.subscriptions.payg",
         "tokenworks.subscriptions.served", "tokenworks.trust.identity.service")
before = [name in sys.modules for name in names]
bootstrap.load_services()
print(json.dumps([before, [name in sys.modules for name in names], "fastapi" in sys.modules]))
"""


def test_every_service_is_made_once_and_shares_the_connection(services):
    names = [name for name, made in vars(AppServices).items() if isinstance(made, cached_property)]
    assert len(names) > 25
    for name in names:
        assert getattr(services, name) is getattr(services, name), name
        assert getattr(getattr(services, name), "_connection", services.connection) is services.connection, (
            name
        )


def test_a_server_loads_every_service_before_it_forks():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[False] * 6, [True] * 6, False]


def test_a_dry_run_changes_nothing(services):
    with services.transaction(dry_run=True):
        services.subscriptions.register("+8613800000081", "Dry")
    with services.transaction():
        services.subscriptions.register("+8613800000082", "Wet")
    assert [found.phone_masked[-4:] for found in services.subscriptions.all()] == ["0082"]
