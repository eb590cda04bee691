"""The README's command blocks, in their order, as they stand: the first ones in an empty directory."""

import contextlib
import json
import socket

import pytest

from tests.shop.test_identity_and_credits import answer
from tests.support.filled import ids_follow
from tests.support.prompt import Prompt, blocks
from tests.support.server import FAST, PHONES, ROOT, Server, until
from tokenworks.app.settings import Settings

README = ROOT / "README.md"
PHONE = "+8613800000001"
# Blocks that no test of these runs, by a word in them, each with its reason.
NOT_RUN = {
    "make demo     #": "CI runs both of them, after one another: .ci/run",
    "make bench ARGS": "minutes, and another checkout; tests of bench/ are in tests/gateway",
}
# What a vendor's public address is here is on loopback.
STAND_IN = {'--base-url "$VENDOR"': '--base-url "$VENDOR" --allow-private'}
# The search for machines takes six seconds of computing: tests/factory/simulation/test_simulate.py has it on smaller traces.
SHORTER = {" --machines-for 0.9": ""}


def section(name, path=README):
    found = [block for block in blocks(path) if block.section == name]
    assert found, f"{path.name} has no block under {name!r}"
    return found


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as sock:
        return sock.getsockname()[1]


def reaches(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def test_what_makes_a_start_is_in_ci():
    said = (ROOT / ".ci/run").read_text()
    (block,) = section("Tokenworks")
    assert [line.split("#")[0].strip() for line in block.code.splitlines()] == ["make demo", "make test"]
    assert "make test" in said and "make demo" in said


@pytest.mark.nightly
def test_a_start_in_an_empty_directory(tmp_path, upstream):
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    public, admin = free_port(), free_port()
    here = {Settings().listen: f"127.0.0.1:{public}"}
    environ = FAST | {
        "TOKENWORKS_LISTEN": f"127.0.0.1:{public}",
        "TOKENWORKS_ADMIN_LISTEN": f"127.0.0.1:{admin}",
    }
    setup, curl, sdks, look = section("Put a real backend behind it")
    with Prompt(tmp_path, environ, here | STAND_IN) as prompt:
        prompt.let(VENDOR=upstream.url, ENGINE=upstream.url, CREDENTIAL="sk-of-a-test")
        prompt.run(setup)
        until(lambda: reaches(public), 120, what="the server")
        models = setup._replace(
            code='curl -sS http://127.0.0.1:8080/v1/models -H "Authorization: Bearer $WORKS_KEY"\n'
        )
        until(lambda: '"qwen3"' in prompt.run(models), 120, what="the deployment to be known")
        assert json.loads(prompt.run(curl))["model"] == "qwen3"
        said = prompt.run(sdks)
        assert "CompletionUsage(" in said and "Usage(" in said.splitlines()[-1]
        # Each request is in what the commands show, once it is settled.
        until(lambda: prompt.run(look).count("qwen3") >= 3, 120, what="the records to be settled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, upstream):
    """(server, prompt) with the README's subscriber, whose plan began this month, and what else its blocks name."""
    folder = tmp_path_factory.mktemp("reader")
    with Server(
        tmp_path_factory.mktemp("host"),
        bill_run_every_h=0,
        webhook_allow_private="true",
        two_persons_above_yuan=10,
    ) as server:
        server.services.orders.place(server.services.subscriptions.register(PHONE), "ctc-light")
        for name, model in (("own", "qwen3"), ("ds", "deepseek-chat")):
            server.add_deployment(name, model, upstream.url, wait=False)
        environ = server.env | {"TOKENWORKS_DATA_DIR": str(server.data_dir)}
        with Prompt(folder, environ, STAND_IN | SHORTER) as prompt:
            prompt.let(VENDOR=upstream.url, ENGINE=upstream.url, FILING_NO="F-1")
            yield server, prompt


def test_a_month_of_an_operator(shop):
    server, prompt = shop
    services = server.services
    days, begin, end = section("Sell and bill")
    subscriber = services.subscriptions.find(PHONE)
    ((order,), _) = services.orders.all(subscriber)
    family = services.subscriptions.register(f"+86{next(PHONES)}")
    services.orders.place(family, "ctc-premium")
    for name in ("Sales", "Research"):
        services.members.add(family, name, department=True, cap_tokens=1_000_000)
    prompt.let(
        PRODUCT=order.product_id,
        ORDER=order.order_id,
        FAMILY=family.subscriber_id,
        CRM="http://127.0.0.1:9/events",
    )
    said = prompt.run(days)
    assert "Wang" in said or "twk" in said or "token" in said
    assert {p.offering_id for p in services.orders.products(subscriber) if p.state == "active"} == {
        "ctc-standard"
    }

    # Last month somebody had a plan; somebody else has left with a credit.
    then = server.last_month()
    # In one transaction: the server's jobs would end its cycle in between.
    with ids_follow(then.clock), server.connection.transaction():
        billed, left = (then.subscriptions.register(f"+86{next(PHONES)}") for _ in range(2))
        for one in (billed, left):
            then.orders.cancel(then.orders.place(one, "ctc-light").product_id, "cycle_end")
    prompt.run(begin)
    assert (prompt.folder / "charges.txt").read_text().count("\n") >= 3
    made = (1, (prompt.folder / "charges.txt").read_text())
    (prompt.folder / "answer.txt").write_text(answer(made))
    ((bill,), _) = services.bills.all(billed)
    ((other,), _) = services.bills.all(left)
    services.payments.pay(other, "bank_transfer", "T-1")
    services.orders.run_cycles()  # its plan ends now, not when the server's jobs come to it
    services.subscriptions.close(left)
    spender = services.subscriptions.register(f"+86{next(PHONES)}")
    services.orders.place(spender, "shanghai-mobile-payg")
    token = services.identity.add_staff("Li", "operator")
    body = {
        "amount": {"amount": 12, "units": "CNY"}, "usageType": "monetary", "partyAccount": {"id": str(spender.account_id)},
    }  # fmt: skip
    status, text, _ = server.request(
        "POST", "/tmf-api/prepayBalanceManagement/v4/topupBalance", token, body, {"idempotency-key": "t-1"}
    )
    assert (status, json.loads(text)["title"]) == (409, "ApprovalNeeded"), text
    ((wanted,), _) = services.approvals.all("open")
    prompt.let(BILL=bill.bill_no, LEFT=left.subscriber_id, APPROVAL=wanted.approval_id)
    said = prompt.run(end)
    assert (prompt.folder / "bill.pdf").read_bytes().startswith(b"%PDF")
    assert services.bills.open_nano(bill) == 0 and services.charges.receivable(left.account_id) == 0
    assert services.approvals.all("open") == ([], 0)
    assert "Wang" in said, said


def test_where_requests_go(shop):
    server, prompt = shop
    places, intents = section("Where requests go")
    said = prompt.run(places)
    assert "sh-1" in said and (prompt.folder / "day.svg").read_text().startswith("<svg")
    said = prompt.run(intents)
    assert "box-7" in {deployment.name for deployment in server.services.deployments.all()}


def test_every_block_is_run_or_says_why_not():
    run = {"Put a real backend behind it", "Sell and bill", "Where requests go"}
    text = "".join(block.code for block in blocks(README))
    assert all(there in text for there in (Settings().listen, *STAND_IN, *SHORTER))
    left = [block for block in blocks(README) if block.section not in run]
    assert [next((words for words in NOT_RUN if words in block.code), str(block)) for block in left] == list(
        NOT_RUN
    )
