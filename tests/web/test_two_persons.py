"""Above a limit nobody moves money alone: each operation of the one table, by command and over HTTP, asks and is done once approved."""

from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from tokenworks.cli.main import cli
from tokenworks.cli.trail import audited_commands
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import month_start
from tokenworks.trust import MONEY_MOVES, ONE_PERSON_OPERATIONS, ApprovalNeeded

YUAN = 10**9
LIMIT, BELOW, ABOVE = 5, 3, 8
BASE = "/tmf-api"


@pytest.fixture
def clock():
    """Some weeks ago: what is prepared is before now, by which commands go."""
    return ManualClock(month_start(datetime.now(UTC) - timedelta(days=45)).astimezone(UTC))


@pytest.fixture
def services(services, monkeypatch):
    monkeypatch.setattr(services.approvals, "_above_nano", LIMIT * YUAN)
    return services


@pytest.fixture
def command(services, database_url, session_dir, monkeypatch):
    """Runs a command on the test's database: (done, the error)."""
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    monkeypatch.setenv("TOKENWORKS_TWO_PERSONS_ABOVE_YUAN", str(LIMIT))

    def run(*args):
        done = CliRunner().invoke(cli, ["--data-dir", str(session_dir / "seed"), *args])
        return done.exit_code == 0, done.exception

    return run


class Case:
    """A subscriber with a bill, and an operation of so many yuan, by both doors."""

    def __init__(self, services, clock, action, yuan, number):
        self.services, self.yuan, self.number = services, yuan, number
        self.phone = f"+86138{number:08d}"
        self.subscriber = services.subscriptions.register(self.phone, f"Person {number}")
        self.id, self.key = str(self.subscriber.subscriber_id), f"k-{number}"
        getattr(self, action.replace(".", "_"))(services, clock)
        clock.move(datetime.now(UTC) - clock.now())

    def _billed(self, services, clock):
        order = services.orders.place(self.subscriber, "ctc-light")
        services.orders.cancel(order.product_id, "cycle_end")
        clock.move(timedelta(days=32))
        services.orders.run_cycles()
        services.bills.run()
        return services.bills.all(self.subscriber)[0][0]

    def _pay(self, services, bill, amount_nano):
        return services.payments.pay(bill, "cash", f"P{self.number}", amount_nano)

    def refund(self, services, clock):
        order = services.orders.place(self.subscriber, "ctc-light")
        self.command = ("refund", "--order", str(order.order_id), "--part", "amount", "--amount", str(self.yuan),
                        "--reason", "r", "--idempotency-key", self.key)  # fmt: skip
        self.request = (
            "POST", f"{BASE}/paymentManagement/v4/refund",
            {"order": {"id": str(order.order_id)}, "part": "amount", "reason": "r",
             "totalAmount": {"unit": "CNY", "value": self.yuan}},
        )  # fmt: skip
        self.done = lambda: sum(r.amount_nano for r in services.refunds.of_order(order.order_id))

    def bill_correct(self, services, clock):
        bill = self._billed(services, clock)
        self.command = ("bill", "correct", bill.bill_no, "--line", "1", "--amount", str(self.yuan), "--reason", "r",
                        "--idempotency-key", self.key)  # fmt: skip
        self.request = (
            "POST", f"{BASE}/customerBillManagement/v4/customerBill/{bill.bill_id}/creditNote",
            {"line": 1, "amount": {"unit": "CNY", "value": self.yuan}, "reason": "r"},
        )  # fmt: skip
        self.done = lambda: sum(note.amount_nano for note in services.bills.credit_notes(bill))

    def payment_reverse(self, services, clock):
        payment = self._pay(services, self._billed(services, clock), self.yuan * YUAN)
        self.command = ("bill", "reverse", str(payment.payment_id), "--reason", "r")
        path = f"/api/operations/payments/{payment.payment_id}/reversal"
        self.request = ("POST", path, {"reason": "r"})
        reversed_at = lambda: services.payments.find(payment.payment_id).reversed_at
        self.done = lambda: self.yuan * YUAN if reversed_at() else 0

    def bill_write_off(self, services, clock):
        bill = self._billed(services, clock)
        self._pay(services, bill, bill.remaining_nano - self.yuan * YUAN)
        self.command = ("bill", "write-off", bill.bill_no, "--reference", self.key, "--reason", "r")
        self.request = (
            "POST",
            f"/api/operations/bills/{bill.bill_id}/actions",
            {"action": "write_off", "reason": "r"},
        )
        self.done = lambda: self.yuan * YUAN - services.bills.find(bill.bill_no).remaining_nano

    def bill_pay_out(self, services, clock):
        bill = self._billed(services, clock)
        self._pay(services, bill, bill.remaining_nano)
        services.bills.correct(bill, 1, self.yuan * YUAN, "r")
        services.subscriptions.close(self.subscriber)
        account_id = self.subscriber.account_id
        owed = -services.charges.receivable(account_id)
        assert owed == self.yuan * YUAN
        self.command = ("bill", "pay-out", "--subscriber", self.id, "--reference", self.key)
        self.request = None
        self.done = lambda: owed + services.charges.receivable(account_id)

    def subscriber_contract(self, services, clock):
        price = f"{9.9 - self.yuan:.1f}"
        self.command = ("subscriber", "contract", "--subscriber", self.id, "--offering", "ctc-light", "--price", price,
                        "--contract", "K")  # fmt: skip
        path = f"/api/operations/subscribers/{self.id}/contract-prices"
        self.request = ("POST", path, {"offering": "ctc-light", "price": price, "contract": "K"})
        self.done = lambda: sum(
            9_900_000_000 - p.price_nano for p in services.subscriptions.contract_prices(self.subscriber)
        )

    def subscriber_credit_limit(self, services, clock):
        services.subscriptions.set_profile(self.subscriber, credit_limit_nano=100 * YUAN)
        self.command = ("subscriber", "set", "--subscriber", self.id, "--credit-limit", str(100 + self.yuan))
        self.request = None
        self.done = lambda: services.subscriptions.find(self.id).credit_limit_nano - 100 * YUAN

    def balance_topup(self, services, clock):
        services.orders.place(self.subscriber, "shanghai-mobile-payg")
        self.command = ("subscriber", "top-up", "--subscriber", self.id, "--amount", str(self.yuan),
                        "--idempotency-key", self.key)  # fmt: skip
        self.request = (
            "POST", f"{BASE}/prepayBalanceManagement/v4/topupBalance",
            {"amount": {"amount": self.yuan, "units": "CNY"}, "usageType": "monetary",
             "partyAccount": {"id": str(self.subscriber.account_id)}},
        )  # fmt: skip
        self.done = lambda: sum(made.amount_nano for made in services.payg.top_ups(self.subscriber, 0, 9)[0])

    def subscriber_erase(self, services, clock):
        bill = self._billed(services, clock)
        self._pay(services, bill, bill.remaining_nano - self.yuan * YUAN)
        assert services.charges.receivable(self.subscriber.account_id) == self.yuan * YUAN
        self.command = ("subscriber", "erase", "--subscriber", self.id, "--even-if-owed", "--yes")
        self.request = (
            "POST", f"/api/erasure?of={self.id}", {"confirm": self.phone[-4:], "even_if_owed": True},
        )  # fmt: skip
        erased = lambda: services.subscriptions.find(self.id).phone_masked == "(erased)"
        self.done = lambda: self.yuan * YUAN if erased() else 0


class Doors:
    def __init__(self, command, client, staff):
        self._command, self._client, self._staff = command, client, staff

    def send(self, case, door):
        """True if it was done, False if it was asked for."""
        if door == "command":
            done, error = self._command(*case.command)
            assert done or isinstance(error, ApprovalNeeded), error
            return done
        method, path, body = case.request
        role = "finance" if any(p in path for p in ("payment", "Bill", "bills")) else "operator"
        headers = {**self._staff[role], "Idempotency-Key": case.key}
        answer = self._client.request(method, path, json=body, headers=headers)
        assert answer.status_code in {200, 201} or "approves" in answer.json()["detail"], answer.text
        return answer.status_code < 300


@pytest.fixture
def doors(command, client, staff):
    return Doors(command, client, staff)


DOORS = [
    pytest.param(move, door, id=f"{move.action} by {door}")
    for move in MONEY_MOVES
    if not move.always
    for door, there in (("command", move.commands), ("request", move.routes))
    if there
]


@pytest.mark.parametrize(("move", "door"), DOORS)
def test_money_above_the_limit_is_moved_by_two(services, clock, doors, move, door):
    begin = clock.now()
    below = Case(services, clock, move.action, BELOW, 1)
    assert doors.send(below, door) and below.done() == BELOW * YUAN
    assert services.approvals.all()[1] == 0
    clock.move(begin - clock.now())
    above = Case(services, clock, move.action, ABOVE, 2)
    assert not doors.send(above, door) and above.done() == 0
    assert not doors.send(above, door)
    (asked,), count = services.approvals.all("open")
    assert (asked.action, asked.amount_nano, count) == (move.action, ABOVE * YUAN, 1)
    services.approvals.decide(asked.approval_id, "another", approve=True)
    assert doors.send(above, door) and above.done() == ABOVE * YUAN
    assert services.approvals.all("used")[1] == 1


def test_what_is_at_the_limit_is_moved_alone(services, clock, doors):
    case = Case(services, clock, "bill.write_off", LIMIT, 1)
    assert doors.send(case, "request") and case.done() == LIMIT * YUAN


def test_a_subscriber_tops_up_alone(services, clock, client, signed_in):
    case = Case(services, clock, "balance.topup", ABOVE, 1)
    method, path, body = case.request
    headers = {**signed_in(case.subscriber), "Idempotency-Key": "k"}
    assert client.request(method, path, json=body, headers=headers).status_code == 201


def test_an_adjustment_has_two_persons_whatever_it_is(services, client, staff):
    subscriber = services.subscriptions.register("+8613800000001", "Li")
    services.orders.place(subscriber, "ctc-light")
    bucket = services.ledger.buckets(subscriber.account_id)[0]
    path = f"{BASE}/prepayBalanceManagement/v4/adjustBalance"
    body = {"amount": {"amount": 1, "units": bucket.unit}, "usageType": "other", "bucket": {"id": str(bucket.bucket_id)},
            "reason": "r"}  # fmt: skip
    asked = client.post(path, json=body, headers={**staff["operator"], "Idempotency-Key": "k"})
    assert asked.status_code == 201 and asked.json()["status"] == "created"
    one = f"{path}/{asked.json()['id']}"
    refused = client.patch(one, json={"status": "completed"}, headers=staff["operator"])
    assert refused.status_code >= 400
    assert (
        client.patch(one, json={"status": "completed"}, headers=staff["finance"]).json()["status"]
        == "completed"
    )


def test_every_door_of_staff_is_in_the_table(api):
    """A command or a route that somebody adds needs an approval, or a reason why it needs none."""
    routes = {
        f"{method.upper()} {path}"
        for path, methods in api.openapi()["paths"].items()
        for method, said in methods.items()
        if method != "get" and {"operator", "finance"} & set(said.get("x-roles", ()))
    }
    doors = [door for move in MONEY_MOVES for door in (*move.commands, *move.routes)]
    assert len(doors) == len(set(doors)) and not set(doors) & set(ONE_PERSON_OPERATIONS)
    assert set(doors) | set(ONE_PERSON_OPERATIONS) == set(audited_commands(cli)) | routes
    assert all(ONE_PERSON_OPERATIONS.values())
