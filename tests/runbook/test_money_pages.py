"""Pages about bills and what is paid of them: the trouble is prepared as a month leaves it."""

import signal
import subprocess
import sys

import pytest

from tests.runbook.book import scenario
from tests.shop.test_identity_and_credits import answer
from tests.support.filled import ONE_CLOCK, ids_follow
from tests.support.server import PHONES, ROOT, until

YUAN = 10**9


def owing(host, count=1, offering="ctc-light"):
    """Subscribers that had a plan last month and have none now, before their bills are made."""
    then, made = host.last_month(), []
    with ids_follow(then.clock):
        for _ in range(count):
            subscriber = then.subscriptions.register(f"+86{next(PHONES)}")
            order = then.orders.place(subscriber, offering)
            then.orders.cancel(order.product_id, "cycle_end")
            made.append(subscriber)
    # The database's own times, as if its clock had stood there.
    with host.owner() as owner, owner.transaction():
        owner.execute("SET LOCAL session_replication_role = replica")
        for statement in ONE_CLOCK:
            if statement.split()[1] in {"account", "bucket", "entry"} and "FROM usage" not in statement:
                more = "AND" if " WHERE " in statement else "WHERE"
                owner.execute(
                    f"{statement} {more} account_id = ANY(%s)",
                    ([subscriber.account_id for subscriber in made],),
                )
    return made


def bill_of(host, subscriber):
    (bill,), _ = host.services.bills.all(subscriber)
    return bill


@pytest.fixture
def billed(host):
    """Makes bills: (subscriber, its bill) of each new subscriber."""

    def bill(count=1):
        made = owing(host, count)
        host.cli("bill", "run")
        return [(subscriber, bill_of(host, subscriber)) for subscriber in made]

    yield bill
    assert host.findings() == []


@scenario("The bill run stopped")
def test_a_bill_run_that_was_killed_goes_on(host, shell):
    people = owing(host, 4)
    count = lambda: sum(host.services.bills.all(subscriber)[1] for subscriber in people)
    with host.owner() as owner, owner.transaction():
        # It comes to a subscriber whom somebody else holds, with some bills made, and is killed there.
        owner.execute(
            "SELECT 1 FROM subscriber WHERE subscriber_id = %s FOR UPDATE", (people[-1].subscriber_id,)
        )
        running = subprocess.Popen(
            [sys.executable, "-m", "tokenworks", "--data-dir", str(host.data_dir), "bill", "run"], cwd=ROOT,
            env=host.environ() | {"TOKENWORKS_BILL_RUN_BATCH": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until(
            lambda: host.connection.execute(waits).fetchone()[0] and count(),
            60,
            what="the run to wait with bills made",
        )
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert 0 < count() < len(people)
    left = len(people) - count()
    with shell.page("The bill run stopped") as page:
        said = page.run("bill run")
    assert said.count(f"{left} bill") >= 2, said
    assert count() == len(people) and {host.services.bills.all(subscriber)[1] for subscriber in people} == {1}


@scenario("A charge file was lost, or its answer is refused")
def test_charge_files_and_their_answers(host, shell, billed, tmp_path):
    ((subscriber, bill),) = billed()
    services = host.services
    number, text = made = services.charge_files.make_file()
    out, said = tmp_path / "again.txt", tmp_path / "answer.txt"
    said.write_text(answer(made).replace("R|1|", "R|one|"))
    refused = host.cli("bill", "acknowledge", str(said), check=False)
    assert (
        refused.returncode == 1
        and "line 2" in refused.stderr
        and services.bills.open_nano(bill) == bill.amount_nano
    )
    said.write_text(answer(made))
    with shell.page("A charge file was lost, or its answer is refused") as page:
        page.run("--again", FILE_NO=number, OUT=out)
        assert out.read_text() == text
        page.run("bill acknowledge", ANSWER=said)
        assert services.bills.open_nano(bill) == 0
        (_, rejected), (_, lapsed) = billed(2)
        for _ in range(3):
            services.charge_files.acknowledge(answer(services.charge_files.make_file(), accepted=False))
        assert rejected.bill_no in page.run("bill resend", BILL=rejected.bill_no)
        assert services.charge_files.make_file() is not None
        page.run("--to direct", BILL=lapsed.bill_no)
        page.run("bill write-off", BILL=lapsed.bill_no, REFERENCE="W-1")
        page.run("bill lapse", FILE_NO=number + 4)


@scenario("Money that came in twice, or too much, or went back")
def test_money_that_came_twice_goes_where_it_belongs(host, shell, billed):
    services = host.services
    (twice, bill), (closed, other), (_, third) = billed(3)
    made = services.charge_files.make_file()
    services.payments.pay(bill, "bank_transfer", "T-1")
    services.charge_files.acknowledge(answer(made))
    ((case,), _) = services.payments.cases()
    assert (case.kind, case.amount_nano) == ("surplus", bill.amount_nano)
    services.payments.pay(other, "bank_transfer", "T-2", other.amount_nano)
    services.subscriptions.close(closed)
    credit = -services.charges.receivable(closed.account_id)
    payment = next(p for p in services.payments.all()[0] if p.bill_id == third.bill_id)
    with shell.page("Money that came in twice, or too much, or went back") as page:
        said = page.run("bill close-case", CASE=case.case_id)
        assert str(case.case_id) in said and "surplus" in said
        page.run("bill pay-out", SUBSCRIBER=closed.subscriber_id, REFERENCE="P-1")
        assert credit > 0 == services.charges.receivable(closed.account_id)
        assert str(payment.payment_id) in page.run("bill reverse", PAYMENT=payment.payment_id)
        assert services.bills.open_nano(third) == third.amount_nano
        page.run("bill direct")
    assert services.charges.receivable(twice.account_id) == -bill.amount_nano
    assert case.case_id not in {one.case_id for one in services.payments.cases()[0]}, (
        services.payments.cases()
    )


@scenario("Money above the limit")
def test_money_above_the_limit_is_given_by_another_person(host, shell):
    services = host.services
    subscriber, _ = host.subscriber("shanghai-mobile-payg")
    token = services.identity.add_staff("Wang", "operator")
    body = {
        "amount": {"amount": 30, "units": "CNY"}, "usageType": "monetary", "partyAccount": {"id": str(subscriber.account_id)},
    }  # fmt: skip
    send = lambda: host.request(
        "POST", "/tmf-api/prepayBalanceManagement/v4/topupBalance", token, body, {"idempotency-key": "t-1"}
    )
    status, said, _ = send()
    assert status == 409, said
    (asked,), _ = services.approvals.all("open")
    assert str(asked.approval_id) in said.decode()
    with shell.page("Money above the limit") as page:
        said = page.run("approval give", APPROVAL=asked.approval_id)
    assert str(asked.approval_id) in said and "Wang" in said and "30" in said
    assert send()[0] == 201
    assert sum(top_up.amount_nano for top_up in services.payg.top_ups(subscriber, 0, 9)[0]) == 30 * YUAN
