"""Quantities are in tokens wherever a person reads them; where a program reads them, their names say the unit."""

import http.client
import json
import re

import click
import pytest

from tests.support.server import until
from tokenworks.cli.main import cli
from tokenworks.kernel import format_quantity

# Whole tokens, so that no other figure of the works is the same, in whichever unit.
TOKENS = 7_654_321
UNITS = ("_mtok", "_tokens", "_nano", "_bytes", "_seconds", "_ms", "_s", "_fen")
QUANTITIES = re.compile(
    r"(?:^|_)(?:amount|charged|free|freed|granted|left|lost|quantity|remaining|settled|spent|total|used|withdrawn)$"
)
# They count what their names say, or are times (`…_at` is no quantity word). Fields that another programme defines keep its names.
COUNTED = {
    "quantity": "as the catalogue's file says it, in whole units",
    "provider_total": "as the deployment reported it, in tokens",
    "tokenworks_recorder_settled_records": "records",
}
# With their arguments; `…` stands for the subscriber, `…/` for an empty folder.
WALKED = {
    "alias list": (), "approval list": (), "audit": (), "backup list": ("--in", "…/"), "balance": ("--subscriber", "…"), "bill cases": (), "bill direct": (),
    "bill files": (), "bill payments": (), "deployment list": (), "grant list": (), "intent list": (), "job list": (),
    "journal inspect": (), "journal list": (), "key list": ("--subscriber", "…"), "ledger flagged": (), "ledger losses": (), "limit list": (),
    "member list": ("--subscriber", "…"), "model list": (), "notice choices": ("--subscriber", "…"), "notice list": (), "offering list": (), "offering sold": (), "order list": ("--subscriber", "…"),
    "order work list": (), "pepper list": (), "quarantine list": (), "session list": ("--subscriber", "…"), "staff list": (),
    "subscriber history": ("--subscriber", "…"), "subscriber list": (), "subscriber show": ("--subscriber", "…"),
    "subscriber suspensions": ("--subscriber", "…"), "usage": ("--subscriber", "…"), "webhook list": (), "webhook log": (),
}  # fmt: skip


def commands(group=cli, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join((*path, name))


def names(value):
    """Names of numbers in JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, int) and not isinstance(item, bool):
                yield name
            yield from names(item)
    elif isinstance(value, list):
        for item in value:
            yield from names(item)


@pytest.fixture
def spent(server):
    """(server, subscriber) of one whose plan has an odd number of tokens, some of them granted, some spent, a key with a cap."""
    subscriber, key = server.subscriber(server.sell("odd-plan", TOKENS), cap_tokens=TOKENS - 1)
    assert server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=20)[0] == 200
    server.usage(subscriber, 1)
    until(lambda: server.services.ledger.grants(subscriber.account_id), what="a grant")
    return server, str(subscriber.subscriber_id)


def test_every_command_that_lists_is_walked():
    listed = {name for name in commands() if name.rsplit(" ", 1)[-1] in {"list", "history", "log"}}
    # Of these the subject is another's resource; they list no quantity.
    assert listed - set(WALKED) <= {"bill list", "bill dispute list", "deployment history", "vendor list"}, (
        listed - set(WALKED)
    )
    assert set(WALKED) <= set(commands())


def test_no_command_shows_thousandths_without_saying_so(spent, tmp_path):
    server, subscriber = spent
    stands_for = {"…": subscriber, "…/": str(tmp_path)}
    thousandths = re.compile(r"\b7,?65\d,?\d{3},?\d{3}\b")
    seen = set()
    for command, arguments in WALKED.items():
        args = [*command.split(), *(stands_for.get(one, one) for one in arguments)]
        table = server.cli(*args).stdout
        assert not thousandths.search(re.sub(r"[│┃\s]+", " ", table)), (command, table)
        if "7,65" in table:
            seen.add(command)
        found = json.loads(server.cli(*args, "--json").stdout)
        if command == "audit":
            # What a row says of before and after is as it was said then, of whatever others did.
            found = [
                {name: said for name, said in row.items() if name not in {"before", "after"}} for row in found
            ]
        unnamed = {name for name in names(found) if QUANTITIES.search(name) and name not in COUNTED}
        assert not unnamed, (command, unnamed)
    assert {"balance", "subscriber history", "key list"} <= seen
    who = ("--subscriber", subscriber)
    table = server.cli("grant", "list", *who).stdout
    granted = json.loads(server.cli("grant", "list", *who, "--json").stdout)
    assert granted and all(format_quantity(one["granted_mtok"], one["unit"]) in table for one in granted)
    assert {one["unit"] for one in granted} == {"token"} and all(one["settled_mtok"] >= 0 for one in granted)


def test_every_metric_of_a_quantity_says_its_unit(spent):
    server, _ = spent
    host, port = server.admin.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    exported = set(re.findall(r"^(tokenworks_\w+)(?:{.*})? \S+$", text, re.MULTILINE))
    assert {"tokenworks_recorder_in_doubt_mtok", "tokenworks_recorder_granted_mtok"} <= exported
    unnamed = {
        name
        for name in exported
        if QUANTITIES.search(name.removesuffix("_total")) and not name.removesuffix("_total").endswith(UNITS)
    }
    assert unnamed <= set(COUNTED), unnamed
    assert not {name for name in exported if "quantity" in name}
