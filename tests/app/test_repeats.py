"""Idempotency keys on the command line: every command that takes one refuses another request under it."""

import json

import pytest
from click.testing import CliRunner

from tokenworks.app.settings import load_settings
from tokenworks.cli.main import cli
from tokenworks.trust import KeyReused, ensure_pepper


@pytest.fixture
def run(database_url, session_dir, monkeypatch):
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    monkeypatch.setenv("TOKENWORKS_DATA_DIR", str(session_dir / "seed"))
    ensure_pepper(load_settings({}).settings.secrets)
    return lambda *args: CliRunner().invoke(cli, [*args, "--json"])


def commands(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))
    if any(p.name == "idempotency_key" for p in command.params):
        yield " ".join(path)


def test_these_commands_take_a_key():
    assert sorted(commands(cli)) == [
        "bill correct", "member transfer", "order cancel", "order change", "order place", "refund", "subscriber top-up",
    ]  # fmt: skip


def test_a_key_is_one_request(run):
    who = ("--subscriber", "+8613800000001")
    run("subscriber", "create", "--phone", "+8613800000001")
    run("subscriber", "create", "--phone", "+8613800000002")
    first = json.loads(
        run("order", "place", *who, "--offering", "ctc-light", "--idempotency-key", "k").output
    )
    again = run("order", "place", *who, "--offering", "ctc-light", "--idempotency-key", "k")
    assert (json.loads(again.output)["order_id"], json.loads(again.output)["new"]) == (first["order_id"], False)  # fmt: skip
    # By the subscriber's id it is the same request; with another option, or another command, another one.
    product = first["product_id"]
    for other in (
        ("order", "place", *who, "--offering", "ctc-standard"),
        ("order", "place", *who, "--offering", "ctc-light", "--delivery", "network"),
        ("order", "place", *who, "--offering", "ctc-light", "--delivery", "network", "--dry-run"),
        ("subscriber", "top-up", *who, "--amount", "1"),
    ):
        refused = run(*other, "--idempotency-key", "k")
        assert isinstance(refused.exception, KeyReused), (other, refused.output)
    # Another subscriber's keys are its own.
    other = run("order", "place", "--subscriber", "+8613800000002", "--offering", "ctc-light", "--idempotency-key", "k")  # fmt: skip
    assert other.exit_code == 0, other.output
    # A dry run takes no key: what it said can be done with it.
    dry = ("order", "cancel", "--product", product, "--idempotency-key", "d")
    assert run(*dry, "--dry-run").exit_code == 0
    assert run(*dry, "--when", "cycle_end").exit_code == 0
    assert isinstance(run(*dry).exception, KeyReused)


def test_a_refund_under_a_key_is_that_refund(run, services):
    subscriber = services.subscriptions.register("+8613800000003")
    order = services.orders.place(subscriber, "ctc-light")
    made = services.refunds.refund(order.order_id, "amount", "r", amount_nano=10**9, idempotency_key="r")
    assert (
        services.refunds.refund(order.order_id, "amount", "r", amount_nano=10**9, idempotency_key="r") == made
    )
    for part, amount in (("amount", 2 * 10**9), ("whole", None), ("unused", None)):
        with pytest.raises(KeyReused):
            services.refunds.refund(order.order_id, part, "r", amount_nano=amount, idempotency_key="r")
