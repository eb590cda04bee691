"""The commands as an operator runs them: exit codes, one sentence on stderr, JSON."""

import functools
import json

import pytest

from tests.support.server import Server
from tokenworks.app.database.embedded import Embedded


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("cli"))
    server.cli("init")
    yield server.cli
    Embedded(server.data_dir).destroy()


def test_from_a_phone_number_to_a_balance(cli):
    cli = functools.partial(cli, process=True)
    made = json.loads(
        cli("subscriber", "create", "--phone", "+86 138 0000 0009", "--name", "Li", "--json").stdout
    )
    phone = "+8613800000009"
    order = json.loads(
        cli(
            "order",
            "place",
            "--subscriber",
            phone,
            "--offering",
            "sample-rollover",
            "--idempotency-key",
            "k",
            "--json",
        ).stdout
    )
    again = json.loads(
        cli(
            "order",
            "place",
            "--subscriber",
            made["subscriber_id"],
            "--offering",
            "sample-rollover",
            "--idempotency-key",
            "k",
            "--json",
        ).stdout
    )
    assert (order["order_id"], order["new"], again["new"]) == (again["order_id"], True, False)
    (bucket,) = json.loads(cli("balance", "--subscriber", phone, "--json").stdout)
    assert (bucket["left_mtok"], bucket["spent_mtok"], bucket["total_mtok"]) == (
        30_000_000_000,
        0,
        30_000_000_000,
    )
    key = json.loads(
        cli(
            "key",
            "create",
            "--subscriber",
            phone,
            "--cap-tokens",
            "500",
            "--model",
            "m",
            "--expires-in-days",
            "3",
            "--json",
        ).stdout
    )
    (listed,) = json.loads(cli("key", "list", "--subscriber", phone, "--json").stdout)
    assert (listed["cap_tokens"], listed["models"], key["key"][-4:] in listed["hint"]) == (500, ["m"], True)
    assert key["key"] not in cli("key", "list", "--subscriber", phone).stdout
    assert json.loads(cli("key", "revoke", key["key_id"], "--json").stdout)["revoked"] is True
    assert json.loads(cli("usage", "--subscriber", phone, "--since", "24h", "--json").stdout) == []
    shown = json.loads(cli("subscriber", "show", "--subscriber", phone, "--json").stdout)
    assert [line["amount_nano"] for line in shown["bill_lines"]] == [39_900_000_000]
    cli("order", "cancel", "--product", order["product_id"])
    assert json.loads(cli("ledger", "verify", "--json").stdout)["ok"] is True
    assert phone not in cli("subscriber", "list").stdout


REFUSED = [
    (
        ("order", "place", "--subscriber", "+8613899999999", "--offering", "sample-rollover"),
        "no such subscriber",
    ),
    (("subscriber", "create", "--phone", "138"), "E.164"),
    (("balance", "--subscriber", "nonsense"), "id or phone number"),
    (("deployment", "remove", "none"), "no deployment"),
    (
        ("deployment", "add", "--name", "x", "--model", "m", "--base-url", "ftp://x", "--protocol", "chat"),
        "base URL",
    ),
    (
        (
            "deployment",
            "add",
            "--name",
            "x",
            "--model",
            "m",
            "--base-url",
            "http://u:p@x/",
            "--protocol",
            "chat",
        ),
        "no credential in the URL",
    ),
    (
        (
            "deployment",
            "add",
            "--name",
            "x",
            "--model",
            "m",
            "--base-url",
            "https://x/",
            "--protocol",
            "chat",
            "--api-key-env",
            "HOME",
        ),
        "TOKENWORKS_UPSTREAM_",
    ),
    (
        (
            "deployment",
            "add",
            "--name",
            "x",
            "--model",
            "m",
            "--base-url",
            "http://127.0.0.1:9/v1",
            "--allow-private",
        ),
        "does not answer",
    ),
    (("key", "revoke", "00000000-0000-0000-0000-000000000000"), "no key"),
    (("alias", "add", "--alias", "bad name", "--model", "m"), "not a model name"),
]


@pytest.mark.parametrize(("args", "reason"), REFUSED)
def test_a_refusal_is_one_sentence_and_exit_code_1(cli, args, reason):
    done = cli(*args, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tokenworks: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("usage",),
        ("usage", "--subscriber", "+8613800000009", "--since", "soon"),
        ("order", "place", "--bad"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(cli, args):
    done = cli(*args, check=False, process=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_what_is_not_there_yet_says_what_to_do(tmp_path):
    done = Server(tmp_path / "none").cli(
        "balance", "--subscriber", "+8613800000009", check=False, process=True
    )
    assert (done.returncode, "tokenworks init" in done.stderr) == (1, True)


def test_a_schema_that_this_release_cannot_run_on(tmp_path):
    with Server(tmp_path) as server:
        server.stop()
        (head,) = server.connection.execute("SELECT version_num FROM alembic_version").fetchone()
        with server.owner() as owner:
            owner.execute("UPDATE alembic_version SET version_num = '9999'")
        done = server.cli("serve", check=False)
        assert done.returncode == 1
        assert "schema 9999" in done.stderr
        assert "newer release" in done.stderr
        with server.owner() as owner:
            owner.execute("UPDATE alembic_version SET version_num = %s", (head,))
        server.start()


def test_two_servers_on_one_data_directory(tmp_path):
    with Server(tmp_path) as server:
        done = server.cli("serve", check=False)
        assert (done.returncode, "is served already" in done.stderr) == (1, True)


def test_config_show_masks_secrets(cli, tmp_path):
    server = Server(tmp_path, database_url="postgresql://u:secret@h/d")
    rows = json.loads(server.cli("config", "show", "--json").stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["database_url"] == {"name": "database_url", "value": "********", "from": "variable"}


def test_a_corrupted_row_makes_verify_fail(tmp_path):
    with Server(tmp_path) as server:
        server.subscriber()
        assert server.cli("ledger", "verify").returncode == 0
        server.connection.execute(
            "UPDATE charge SET price_nano = price_nano + 1, amount_nano = amount_nano + 1"
        )
        done = server.cli("ledger", "verify", "--json", check=False)
        assert done.returncode == 1
        assert json.loads(done.stdout)["findings"]


def test_metrics_and_health(server):
    import http.client

    host, port = server.admin.rsplit(":", 1)
    _, key = server.subscriber()
    server.chat(key)
    for path, expected in (
        ("/healthz", b"ok"),
        ("/readyz", b"ok"),
        ("/metrics", b"tokenworks_requests_total"),
    ):
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200
        assert expected in body
    assert b"tokenworks_recorder_settled_seq" in body
    assert server.get("/healthz")[0] == server.get("/readyz")[0] == 200
    assert server.request("HEAD", "/")[0] == 200
    status, body = server.get("/tmf-api/productCatalogManagement/v4/productOffering?limit=100")[:2]
    assert status == 200 and len(json.loads(body)) > 20
    assert server.get("/openapi.json")[0] == 200


def test_the_newest_migration_is_the_schema_that_this_release_runs_on():
    from tokenworks.app.database import schema

    versions = (schema.MIGRATIONS / "versions").glob("[0-9]*.py")
    assert max(path.name[:4] for path in versions) == schema.SCHEMA


READING = {
    "deployment history",
    "alias list", "webhook list", "webhook log", "approval list", "pepper list", "session list", "subscriber find", "audit", "bill cases", "bill direct", "bill dispute list", "bill dispute show", "bill export", "bill payments", "bill files", "bill list", "bill show", "config show", "deployment list", "grant list",
    "journal inspect", "key list", "ledger flagged", "ledger losses", "ledger verify", "limit list", "member list", "offering list",
    "offering show", "order list", "order work list", "quarantine list", "factory calibrate", "factory simulate", "route explain", "intent evaluate", "intent list", "model list", "model show", "staff list", "subscriber history", "subscriber list", "subscriber show", "subscriber suspensions",
    "usage", "usage show", "balance", "offering diff", "offering sold", "job list", "order quote", "vault erased", "doctor",
    "journal list", "backup list", "database url", "vendor list", "vendor show", "notice choices", "notice list", "staff sessions", "staff show",
}  # fmt: skip
# They are of the host, or make what the trail is kept in; a key is blocked without the database.
# `restore` writes its row itself, in the database that it makes.
OF_THE_HOST = {
    "demo",
    "init",
    "key block",
    "reload",
    "serve",
    "vault new-key",
    "backup prune",
    "database psql",
    "restore",
}


def test_every_command_that_changes_something_is_in_the_audit_trail(server):
    import click

    from tokenworks.cli.main import cli
    from tokenworks.cli.trail import audited_commands

    def walk(group, path=()):
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from walk(command, (*path, name))
            else:
                yield " ".join((*path, name))

    found, audited = set(walk(cli)), set(audited_commands(cli))
    assert found >= audited
    assert found - audited - OF_THE_HOST <= READING, found - audited - OF_THE_HOST - READING
    server.cli("subscriber", "create", "--phone", "+8613811112222", "--name", "Audited")
    server.cli("subscriber", "set", "--subscriber", "+8613811112222", "--cap", "7", "--lock")
    server.cli("order", "place", "--subscriber", "+8613811112222", "--offering", "ctc-light", "--dry-run")
    trail = json.loads(server.cli("audit", "--json").stdout)
    assert [row["action"] for row in trail[:2]] == ["subscriber set", "subscriber create"]
    assert "13811112222" not in json.dumps(trail)
    before, after = trail[0]["before"], trail[0]["after"]["is"]
    assert (before["spend_locked"], after["spend_locked"]) == (False, True)
    assert trail[0]["after"]["asked"] == {"subscriber": "+86*******2222", "cap": "7", "lock": "True"}
    # By the subscriber's id, whatever it was named by.
    assert trail[0]["ref"] == trail[1]["ref"] == after["subscriber_id"]
    assert trail[1]["before"] is None and trail[1]["after"]["is"]["name"] == "Audited"
    assert trail[0]["actor"].startswith("cli:")


def test_a_month_by_commands(server, tmp_path):
    """What an operator does: order, change, refund, bill, file, acknowledge, pay; each with a dry run that changes nothing."""
    import re as regex

    def run(*args):
        return json.loads(server.cli(*args, "--json").stdout)

    who = ("--subscriber", "+8613822223333")
    run("subscriber", "create", "--phone", "+8613822223333")
    dry = run("order", "place", *who, "--offering", "ctc-light", "--dry-run")
    assert run("order", "list", *who) == [] and dry["amount_nano"] == 9_900_000_000
    order = run("order", "place", *who, "--offering", "ctc-light", "--idempotency-key", "k")
    run("order", "place", *who, "--offering", "shanghai-mobile-payg")
    assert (
        run("subscriber", "top-up", *who, "--amount", "2", "--idempotency-key", "t", "--dry-run")["steps"]
        == 2
    )
    assert run("subscriber", "set", *who, "--real-name", "verified")["real_name"] == "verified"
    contract = (
        "--offering",
        "ctc-standard",
        "--price",
        "19.9",
        "--contract",
        "2026-7",
        "--until",
        "2099-01-01",
    )
    run("subscriber", "contract", *who, *contract)
    later = run(
        "order",
        "change",
        "--product",
        order["product_id"],
        "--offering",
        "ctc-standard",
        "--when",
        "cycle_end",
    )
    assert later["state"] == "pending"
    run("order", "suspend", "--product", order["product_id"])
    run("order", "resume", "--product", order["product_id"])
    dry = run("refund", "--order", order["order_id"], "--part", "unused", "--reason", "test", "--dry-run")
    assert dry[0]["amount_nano"] == 9_900_000_000
    run("refund", "--order", order["order_id"], "--part", "amount", "--amount", "1.5", "--reason", "sorry")
    assert (
        run("bill", "run", "--dry-run")["bills"] == run("bill", "run")["bills"] == 0
    )  # the month is not over
    run("subscriber", "close", *who, "--dry-run")
    run("subscriber", "close", *who)
    # Of whom a month is over.
    who = ("--subscriber", "+8613822223334")
    then = server.last_month()
    subscriber = then.subscriptions.register(who[1])
    order = then.orders.place(subscriber, "ctc-light")
    then.refunds.refund(order.order_id, "amount", "sorry", amount_nano=1_500_000_000)
    made = run("bill", "run")
    assert made["bills"] >= 1
    bills = run("bill", "list", *who)
    assert [(b["amount_nano"], b["state"]) for b in bills] == [(8_400_000_000, "new")]
    number = bills[0]["bill_no"]
    shown = server.cli("bill", "show", number).stdout
    assert "China Telecom Light" in shown and "8.40" in shown
    pdf = tmp_path / "bill.pdf"
    server.cli("bill", "export", number, "--out", str(pdf), "--language", "en")
    assert pdf.read_bytes().startswith(b"%PDF-")
    path = tmp_path / "charges.txt"
    sent = run("bill", "file", "--out", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert run("bill", "file", "--out", str(tmp_path / "none.txt"))["sequence_no"] is None
    line = regex.search(rf"D\|(\d+)\|{number}\|", path.read_text()).group(1)
    answers = [
        f"R|{n}|accepted|" if str(n) == line else f"R|{n}|rejected|test" for n in range(1, sent["lines"] + 1)
    ]
    answer = tmp_path / "answer.txt"
    answer.write_text("\n".join([f"A|tokenworks-phone-1|{sent['sequence_no']}", *answers]) + "\n")
    assert run("bill", "acknowledge", str(answer), "--dry-run")["accepted"] == 1
    assert run("bill", "acknowledge", str(answer))["accepted"] == 1
    assert server.cli("bill", "acknowledge", str(answer), check=False).returncode == 1
    assert run("bill", "list", *who)[0]["state"] == "settled"
    assert len(run("bill", "files")) == 1
    refused = server.cli("bill", "pay", number, "--reference", "x", check=False)
    assert refused.returncode == 1 and "paid already" in refused.stderr
    note = run("bill", "correct", number, "--line", "1", "--amount", "2", "--reason", "outage")
    assert note["amount_nano"] == 2_000_000_000
    token = run("staff", "add", "--name", "Wang", "--role", "auditor")["token"]
    # Of this bill: the whole trail is more than a page, and so 206, where other tests were before.
    assert server.request("GET", f"/api/operations/audit?ref={number}", token)[0] == 200
    run("staff", "revoke", "--name", "Wang")
    assert server.request("GET", "/api/operations/audit", token)[0] == 401
    run("subscriber", "close", *who, "--dry-run")
    run("subscriber", "close", *who)
    assert server.findings() == []


def test_the_audit_trail_says_what_was_before_and_after(server):
    """Of every kind of thing that a command changes."""

    def run(*args):
        return json.loads(server.cli(*args, "--json").stdout)

    def last():
        return run("audit")[0]

    who = ("--subscriber", "+8613855556666")
    run("subscriber", "create", "--phone", "+8613855556666")
    product = run("order", "place", *who, "--offering", "ctc-light")["product_id"]
    row = last()
    assert row["before"]["products"] == {} and row["after"]["is"]["products"] == {
        product: ["ctc-light", "active"]
    }
    run("order", "suspend", "--product", product)
    assert (last()["before"]["state"], last()["after"]["is"]["state"]) == ("active", "suspended")
    run("order", "resume", "--product", product)
    for name in ("a", "b"):
        run("member", "add", *who, "--name", name, "--cap-tokens", "1000")
    run(
        "member",
        "transfer",
        *who,
        "--from",
        "a",
        "--to",
        "b",
        "--tokens",
        "100",
        "--reason",
        "r",
        "--idempotency-key",
        "k",
    )
    row = last()
    assert row["action"] == "member transfer"
    assert {name: m["left"] for name, m in row["after"]["is"].items()} == {"a": 900_000, "b": 1_100_000}
    run("member", "cap", *who, "--member", "a", "--cap-tokens", "50")
    assert (last()["before"]["a"]["cap_tokens"], last()["after"]["is"]["a"]["cap_tokens"]) == (1000, 50)
    key = run("key", "create", *who, "--name", "capped", "--cap-tokens", "500")["key_id"]
    assert last()["before"] == [] and last()["after"]["is"][0]["name"] == "capped"
    limit = run("limit", "set", *who, "--key", key, "--requests-per-min", "5")["limit_id"]
    assert last()["before"] == [] and last()["after"]["is"][0]["requests_per_min"] == 5
    run("limit", "remove", limit)
    assert (last()["before"]["requests_per_min"], last()["after"]["is"]) == (5, None)
    run("key", "revoke", key)
    assert last()["before"]["revoked_at"] is None and last()["after"]["is"]["revoked_at"]
    run("account", "freeze", *who)
    assert (last()["before"]["account"], last()["after"]["is"]["account"]) == ("open", "frozen")
    frozen = run("subscriber", "suspensions", *who)
    assert [(s["cause"], s["ended_at"]) for s in frozen] == [("operator", None)]
    run("subscriber", "suspend", *who, "--cause", "fraud", "--reason", "reported")
    assert run("account", "freeze", *who, "--undo")["frozen"] is True  # fraud still holds
    run("subscriber", "resume", *who, "--cause", "fraud", "--reason", "cleared")
    assert (last()["before"]["state"], last()["after"]["is"]["state"]) == ("suspended", "active")
    run("staff", "add", "--name", "Mei", "--role", "finance")
    run("staff", "revoke", "--name", "Mei")
    row = last()
    assert row["before"]["revoked_at"] is None and row["after"]["is"]["revoked_at"]
    run("subscriber", "phone", *who, "--to", "+8613855557777")
    row = last()
    assert (row["before"]["phone"], row["after"]["is"]["phone"]) == ("+86*******6666", "+86*******7777")
    who = ("--subscriber", "+8613855557777")
    history = run("subscriber", "history", *who)
    assert [move["kind"] for move in history if move["kind"] == "transfer"] == ["transfer", "transfer"]
    run("subscriber", "close", *who)
    assert (last()["before"]["state"], last()["after"]["is"]["state"]) == ("active", "closed")
    trail = json.dumps(run("audit"))
    assert "13855556666" not in trail and "13855557777" not in trail
