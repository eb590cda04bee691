"""The examples, run as their README says, against a real server."""

import re
import sys

import pytest

from tests.support.filled import ids_follow
from tests.support.prompt import Prompt, blocks, indented
from tests.support.server import ROOT, Server, until

EXAMPLES = ROOT / "examples"
LINES_MAX = 80
DEFAULT_URL = "http://127.0.0.1:8080"
# What a script of the standard library alone may import.
PACKAGES = {"client.py": {"anthropic", "openai"}, "agent.py": {"openai"}, "shop.py": set()}


def test_each_example_is_short_and_said_to_be_there():
    found = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert found == sorted(PACKAGES)
    said = (EXAMPLES / "README.md").read_text()
    for name in found:
        text = (EXAMPLES / name).read_text()
        assert len(text.splitlines()) <= LINES_MAX, name
        assert f"[{name}]({name})" in said and f"examples/{name}" in said
        imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
        assert imported - set(sys.stdlib_module_names) == PACKAGES[name]
        assert f'"WORKS_URL", "{DEFAULT_URL}"' in text
    assert indented(EXAMPLES / "README.md") == []


@pytest.fixture(scope="module")
def reader(tmp_path_factory, upstream):
    """(server, prompt): a prompt in a folder where the examples lie, of a host that serves a model."""
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(EXAMPLES)
    with Server(tmp_path_factory.mktemp("host"), bill_run_every_h=0) as server:
        server.add_deployment("stub", "stub", upstream.url)
        environ = server.env | {"TOKENWORKS_DATA_DIR": str(server.data_dir)}
        with Prompt(folder, environ, {DEFAULT_URL: f"http://{server.public}"}) as prompt:
            prompt.let(MODEL="stub")
            yield server, prompt
        assert server.findings() == []


@pytest.fixture(scope="module")
def run(reader):
    """The output of an example's block, after those before it."""
    server, prompt = reader
    left, said = blocks(EXAMPLES / "README.md"), {}

    def run(section):
        while section not in said:
            block = left.pop(0)
            said[block.section] = prompt.run(block)
        return said[section]

    yield run
    assert not left, f"no test runs {left}"


def of_key(server, subscriber, agent):
    """Usage records of the key that the agent has, or of the others."""
    ids = {
        key.key_id
        for key in server.services.keys.of_account(subscriber.account_id, {})
        if (key.name == "agent") is agent
    }
    return [record for record in server.usage(subscriber) if record["key_id"] in ids]


def test_the_sdks_are_answered_streamed_and_not(run, reader):
    server, _ = reader
    said = run("A client")
    assert "models: " in said
    counts = {}
    for what in ("chat", "chat, streamed", "messages", "messages, streamed"):
        (found,) = re.findall(rf"^{what}: (\d+) \+ (\d+) tokens: (.+)$", said, re.MULTILINE)
        counts[what] = (int(found[0]), int(found[1]))
        assert found[2].strip()
    subscriber = server.services.subscriptions.find("+8613800000002")
    records = until(
        lambda: (found := of_key(server, subscriber, agent=False)) and len(found) >= 4 and found,
        what="the records",
    )
    charged = sorted((r["fresh_input"] + r["cached_input"] + r["cache_write"], r["output"]) for r in records)
    assert charged == sorted(counts.values())


def test_an_agent_ends_in_order_at_its_cap(run, reader):
    server, _ = reader
    said = run("An agent with a cap")
    notes, tokens = re.search(
        r"^The key's cap is reached\. (\d+) notes, (\d+) tokens\.$", said, re.MULTILINE
    ).groups()
    assert int(notes) >= 2 and 0 < int(tokens) <= 2000
    # What the agent says that it used is what it was charged.
    subscriber = server.services.subscriptions.find("+8613800000002")
    rows = until(
        lambda: (found := of_key(server, subscriber, agent=True)) and len(found) >= int(notes) and found,
        what="the records",
    )
    assert len(rows) == int(notes)
    assert sum(r["fresh_input"] + r["cached_input"] + r["cache_write"] + r["output"] for r in rows) == int(
        tokens
    )


def test_a_shop_lists_orders_and_shows_usage_and_bills(run, reader):
    server, prompt = reader
    said = run("A shop's back end")
    assert re.search(r"^offering ctc-light: ", said, re.MULTILINE)
    (order_id, price) = re.search(
        r"^order (\S+): completed, (\S+) CNY onto the phone bill$", said, re.MULTILINE
    ).groups()
    subscriber = server.services.subscriptions.find("+8613800000003")
    ((order,), _) = server.services.orders.all(subscriber)
    assert str(order.order_id) == order_id and float(price) > 0
    assert not re.search(r"^(usage|bill) ", said, re.MULTILINE)

    # Run again, it orders nothing twice. Meanwhile something was used, and last month's bill is there.
    then = server.last_month()
    # In one transaction: the server's jobs would end its cycle in between.
    with ids_follow(then.clock), server.connection.transaction():
        old = then.subscriptions.register("+8613800000004")
        then.orders.cancel(then.orders.place(old, "ctc-light").product_id, "cycle_end")
    server.cli("bill", "run")
    assert server.chat(server.key(old), {"tokens": 3})[0] in {200, 402}
    assert server.chat(server.key(subscriber), {"tokens": 5, "prompt": 7})[0] == 200
    server.usage(subscriber, 1)
    again = prompt.run(blocks(EXAMPLES / "README.md")[-1]._replace(code="python3 examples/shop.py\n"))
    assert f"order {order_id}: completed" in again
    assert server.services.orders.all(subscriber)[1] == 1
    (drawn,) = re.findall(r"^usage \S+: stub over chat, (.+)$", again, re.MULTILINE)
    assert "12" in drawn, drawn
    prompt.let(SUBSCRIBER="+8613800000004", OFFERING="sample-trial", ORDER_KEY="shop-0002")
    billed = prompt.run(blocks(EXAMPLES / "README.md")[-1]._replace(code="python3 examples/shop.py\n"))
    (bill, *_), _ = server.services.bills.all(old)
    assert f"bill {bill.bill_no}: " in billed
