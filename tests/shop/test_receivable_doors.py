"""The doors to money that did not go its usual way: the command line and HTTP say what the service says."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from tests.support.spend import balances
from tokenworks.app.http_app import make_api
from tokenworks.cli.main import cli
from tokenworks.kernel import ManualClock, uuid7
from tokenworks.subscriptions import add_months, month_start

YUAN = 1_000_000_000
PHONE = "+8613800000001"


@pytest.fixture
def clock():
    """Some months ago: commands have the system's clock, and what is paid by one is paid after its bill was made."""
    return ManualClock(add_months(month_start(datetime.now(UTC)), -3).astimezone(UTC))


@pytest.fixture
def bill(services, clock):
    a = services.subscriptions.register(PHONE, "a")
    services.orders.place(a, "ctc-light")
    clock.move(add_months(month_start(clock.now()), 1) + timedelta(hours=1) - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    return services.bills.all(a)[0][0]


@pytest.fixture
def run(database_url, session_dir, monkeypatch):
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    monkeypatch.setenv("TOKENWORKS_DATA_DIR", str(session_dir / "seed"))

    def invoke(*args, code=0):
        done = CliRunner().invoke(cli, args, catch_exceptions=True)
        assert done.exit_code == code, done.output
        return done.output

    return invoke


def test_reversals_cases_and_write_offs_by_command(services, bill, run, tmp_path):
    run("bill", "pay", bill.bill_no, "--reference", "T1", "--amount", "30")
    (payment,) = json.loads(run("bill", "payments", "--json"))
    assert payment["amount_nano"] == 30 * YUAN
    assert "surplus" in run("bill", "cases")
    (case,) = json.loads(run("bill", "cases", "--json"))
    assert case["amount_nano"] == 20_100_000_000
    run("bill", "close-case", case["case_id"], "--resolution", "stays as credit")
    assert json.loads(run("bill", "cases", "--json")) == []
    run("bill", "reverse", payment["payment_id"], "--reason", "chargeback", "--dry-run")
    assert services.bills.open_nano(bill) == 0
    run("bill", "reverse", payment["payment_id"], "--reason", "chargeback")
    assert services.bills.open_nano(bill) == 9_900_000_000
    out = tmp_path / "file"
    for _ in range(3):
        sequence = json.loads(run("bill", "file", "--out", str(out), "--json"))["sequence_no"]
        said = tmp_path / "answer"
        said.write_bytes(
            f"A|tokenworks-phone-1|{sequence}\r\nR|1|rejected|号码不存在\r\n\r\n".encode("gb18030")
        )
        run("bill", "acknowledge", str(said))
    run("bill", "resend", bill.bill_no, "--reason", "asked again")
    sequence = json.loads(run("bill", "file", "--out", str(out), "--json"))["sequence_no"]
    assert "not waited for" in run("bill", "lapse", str(sequence), "--reason", "never answered")
    run("bill", "channel", bill.bill_no, "--to", "direct", "--reason", "by letter")
    assert bill.bill_no in run("bill", "direct")
    run("bill", "write-off", bill.bill_no, "--reference", "W1", "--reason", "gone")
    assert services.bills.open_nano(bill) == 0
    run("bill", "write-off", bill.bill_no, "--reference", "W1", "--reason", "another reason", code=1)
    made = json.loads(run("subscriber", "owner", "--subscriber", PHONE, "--name", "b", "--json"))
    assert services.subscriptions.find(PHONE).subscriber_id.hex == made["subscriber_id"].replace("-", "")
    assert PHONE[3:] not in run("audit", "--json")
    assert balances(services)


def test_no_number_is_burnt_by_a_dry_run_of_a_command(services, bill, run):
    run("bill", "correct", bill.bill_no, "--line", "1", "--amount", "1", "--reason", "x", "--dry-run")
    run("bill", "correct", bill.bill_no, "--line", "1", "--amount", "1", "--reason", "x")
    assert [n.credit_note_no.split("-")[1] for n in services.bills.credit_notes(bill)] == ["000000001"]
    assert balances(services)


def test_reversals_cases_and_channels_by_http(services, bill):
    @contextlib.contextmanager
    def open_services():
        yield services

    headers = {
        "authorization": f"Bearer {services.identity.add_staff('f', 'finance')}",
        "idempotency-key": "k1",
    }
    operator = {"authorization": f"Bearer {services.identity.add_staff('o', 'operator')}"}
    base = "/api/operations"
    with TestClient(make_api(open_services, lambda *_: None), raise_server_exceptions=False) as client:
        pay = {
            "account": {"id": str(bill.account_id)}, "paymentMethod": {"@type": "bankTransfer"},
            "totalAmount": {"unit": "CNY", "value": 30}, "paymentItem": [{"item": {"id": str(bill.bill_id)}}],
        }  # fmt: skip
        url = "/tmf-api/paymentManagement/v4/payment"
        made = client.post(url, json=pay, headers=headers)
        assert made.status_code == 201
        other = client.post(url, json={**pay, "totalAmount": {"unit": "CNY", "value": 31}}, headers=headers)
        assert other.status_code == 409
        cases = client.get(f"{base}/reconciliation-cases", headers=headers).json()
        assert [(case["kind"], case["amount"]) for case in cases] == [("surplus", 20.1)]
        closed = client.patch(
            f"{base}/reconciliation-cases/{cases[0]['id']}", json={"resolution": "credit"}, headers=headers
        )
        assert closed.json()["resolution"] == "credit"
        reversal = f"{base}/payments/{made.json()['id']}/reversal"
        statuses = [
            client.post(reversal, json={"reason": why}, headers=headers).status_code
            for why in ("chargeback", "chargeback", "x")
        ]
        assert statuses == [201, 409, 409]
        assert client.get(url, headers=headers).json()[0]["status"] == "Reversed"
        assert (
            client.post(
                f"{base}/payments/{uuid7()}/reversal", json={"reason": "x"}, headers=headers
            ).status_code
            == 404
        )
        moved = client.post(
            f"{base}/bills/{bill.bill_id}/actions",
            json={"action": "direct", "reason": "by letter"},
            headers={**headers, "idempotency-key": "k2"},
        )
        assert moved.json()["channel"] == "direct"
        assert len(client.get(f"{base}/direct-bills", headers=headers).json()) == 1
        off = {"action": "write_off", "reason": "gone"}
        done = client.post(
            f"{base}/bills/{bill.bill_id}/actions", json=off, headers={**headers, "idempotency-key": "k3"}
        )
        assert done.json()["remainingAmount"]["value"] == 0
        assert (
            client.post(
                f"{base}/charge-files/99999999999999999999/lapse", json={"reason": "x"}, headers=headers
            ).status_code
            == 404
        )
        answer = client.post(
            f"{base}/charge-files/acknowledgements",
            content=b"A|tokenworks-phone-1|1\nR|1|\xff\n",
            headers=headers,
        )
        assert (answer.status_code, "line 2" in answer.json()["detail"]) == (400, True)
        subscriber = services.subscriptions.find(PHONE).subscriber_id
        given = client.post(
            f"{base}/subscribers/{subscriber}/actions",
            json={"action": "change_owner", "name": "b", "reason": "sold"}, headers=operator,
        )  # fmt: skip
        assert given.status_code == 200
        assert services.subscriptions.find(PHONE).name == "b"
    assert balances(services)
