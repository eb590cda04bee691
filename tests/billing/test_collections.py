"""A provider that takes money while our process dies: nothing is lost, and nothing is taken or booked twice."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.billing import BillSettled, PaymentDeclined
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE

YUAN = 1_000_000_000


class Bank:
    """A provider with books of its own, in a file: it takes a reference once, and says the same to it ever after."""

    name = "bank"

    def __init__(self, books, *, after=None):
        self._books = books
        self._after = after

    def collect(self, reference, amount_nano, currency):
        taken = self.taken()
        if taken.setdefault(reference, amount_nano) != amount_nano:
            raise AssertionError("the reference was used for another amount")
        self._books.write_text(json.dumps(taken))
        if self._after is not None:
            self._after()

    def taken(self):
        return json.loads(self._books.read_text()) if self._books.exists() else {}


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def bill(services, clock):
    subscriber = services.subscriptions.register("+8613800000001", "Li")
    services.orders.place(subscriber, "ctc-light")
    clock.move(datetime(2027, 5, 2, tzinfo=BILLING_ZONE) - clock.now())
    services.bills.run()
    ((found,), _) = services.bills.all(subscriber)
    return found


@pytest.fixture
def books(tmp_path):
    return tmp_path / "books.json"


DIES = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from tests.billing.test_collections import Bank, opened
url, data, books, bill_no, at, outer = sys.argv[1:]
with opened(url, data, datetime.fromisoformat(at)) as works:
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    bill = works.bills.find(bill_no)
    if outer == "outer":
        with works.connection.transaction():  # as a request's, or a command's
            works.payments.collect(bill, Bank(Path(books), after=kill), "first")
    else:
        works.payments.collect(bill, Bank(Path(books), after=kill), "first")
"""


@contextlib.contextmanager
def opened(url, data, at):
    settings = load_settings({"data_dir": str(data)}).settings
    with contextlib.closing(connect(url)) as connection:
        yield make_works(settings, connection, ManualClock(at))


@pytest.fixture
def died(services, database_url, session_dir, books, bill, clock, request):
    """A process asked the bank, which took the money, and was killed before it could commit."""
    done = subprocess.run(
        [sys.executable, "-c", DIES, database_url, session_dir / "seed", books, bill.bill_no, clock.now().isoformat(),
         getattr(request, "param", "inner")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    bank = Bank(books)
    assert bank.taken() == {"first": 9_900_000_000}
    assert (
        services.payments.all()[1] == 0 and services.bills.find(bill.bill_no).remaining_nano == 9_900_000_000
    )
    return bank


def state(services, bill):
    (payments, count), found = services.payments.all(), services.bills.find(bill.bill_no)
    return count, [(p.method, p.reference, p.amount_nano) for p in payments], found.remaining_nano


BOOKED = (1, [("bank", "first", 9_900_000_000)], 0)


@pytest.mark.parametrize("died", ["inner", "outer"], indirect=True)
@pytest.mark.parametrize("reference", ["first", "second"])
def test_whoever_asks_next_books_what_was_taken(services, bill, died, reference):
    """Also under another reference, as a person who starts anew takes."""
    made = services.payments.collect(bill, died, reference)
    assert (made.reference, made.new) == ("first", True)
    assert state(services, bill) == BOOKED and died.taken() == {"first": 9_900_000_000}
    assert services.payments.collect(bill, died, "first").new is False
    with pytest.raises(BillSettled):
        services.payments.collect(bill, died, "third")
    assert died.taken() == {"first": 9_900_000_000}
    assert balances(services)


def test_where_nobody_asks_the_job_does(services, bill, died):
    assert services.payments.finish_collections({}) == 0
    assert services.payments.finish_collections({"bank": died}) == 1
    assert state(services, bill) == BOOKED and died.taken() == {"first": 9_900_000_000}
    assert services.payments.finish_collections({"bank": died}) == 0
    assert balances(services)


def test_what_was_paid_meanwhile_is_credit_and_a_case(services, bill, died):
    services.payments.pay(bill, "cash", "at the counter")
    assert services.payments.collect(bill, died, "second").reference == "first"
    assert services.charges.receivable(bill.account_id) == -9_900_000_000
    (cases, _) = services.payments.cases()
    assert [(case.kind, case.amount_nano) for case in cases] == [("surplus", 9_900_000_000)]
    assert balances(services)


def test_two_jobs_at_once_book_it_once(services, bill, died, database_url, session_dir, clock):
    asked = threading.Barrier(2, timeout=30)

    def finish(results):
        with opened(database_url, session_dir / "seed", clock.now()) as there:
            asked.wait()
            results.append(there.payments.finish_collections({"bank": died}))

    results = []
    threads = [threading.Thread(target=finish, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2 and state(services, bill) == BOOKED
    assert balances(services)


def test_an_answer_that_does_not_come_is_asked_for_again(services, bill, books):
    """The bank took it, and its answer was lost: whatever it raises but a decline says nothing."""

    def lost():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        services.payments.collect(bill, Bank(books, after=lost), "first")
    assert services.payments.all()[1] == 0
    with pytest.raises(TimeoutError):
        services.payments.collect(bill, Bank(books, after=lost), "second")
    assert services.payments.finish_collections({"bank": Bank(books, after=lost)}) == 0
    (failed,) = services.failed_jobs.all()
    assert (failed.job, failed.state) == ("collection", "retrying")
    assert services.payments.collect(bill, Bank(books), "third").reference == "first"
    assert state(services, bill) == BOOKED
    assert Bank(books).taken() == {"first": 9_900_000_000}


def test_what_is_declined_is_answered_and_can_be_asked_anew(services, bill, books):
    def no():
        raise PaymentDeclined("no cover")

    with pytest.raises(PaymentDeclined):
        services.payments.collect(bill, Bank(books.with_name("nobody.json"), after=no), "first")
    assert services.payments.finish_collections({"bank": Bank(books)}) == 0
    assert services.payments.collect(bill, Bank(books), "second").reference == "second"
    assert Bank(books).taken() == {"second": 9_900_000_000}


def test_a_dry_run_asks_nobody(services, bill, books):
    made = services.payments.collect(bill, Bank(books), "first", dry_run=True)
    assert made.amount_nano == 9_900_000_000
    assert Bank(books).taken() == {} and state(services, bill) == (0, [], 9_900_000_000)
    assert services.payments.finish_collections({"bank": Bank(books)}) == 0
