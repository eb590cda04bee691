"""The phone bill's charge files and the carrier's answers."""

import contextlib
import hashlib
import threading
from datetime import timedelta

import pytest

from tests.support.april import answer, many
from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.billing import AcknowledgementFaulty, ChargeFileAnswered, ChargeFileNotFound

YUAN = 1_000_000_000


def test_a_charge_file_takes_each_bill_once_and_its_answer_pays_them(services, clock):
    many(services, 3, clock)
    sequence, text = services.charge_files.make_file()
    assert services.charge_files.make_file() is None
    rows = text.splitlines()
    head, *lines, tail = [row.split("|") for row in rows]
    assert head == ["H", "tokenworks-phone-1", "1", "2027-04-30T17:00:00Z", "3", "2970"]
    assert [line[:2] + line[3:] for line in lines] == [
        ["D", str(at + 1), f"+86137{at:08d}", "20270401", "20270430", "990", "56"] for at in range(3)
    ]
    body = "".join(f"{row}\n" for row in rows[:-1])
    assert tail == ["T", "3", "2970", hashlib.sha256(body.encode()).hexdigest()]
    assert services.charge_files.file(sequence) == text
    assert {b.state for b in services.bills.all()[0]} == {"sent"}

    given = answer(1, "R|1|accepted|", "R|2|rejected|no such number", "R|3|accepted|")
    assert services.charge_files.acknowledge(given, dry_run=True) == (2, 1)
    assert services.payments.all()[1] == 0
    assert services.charge_files.acknowledge(given) == (2, 1)
    with pytest.raises(ChargeFileAnswered):
        services.charge_files.acknowledge(given)
    assert sorted(b.state for b in services.bills.all()[0]) == ["new", "settled", "settled"]
    assert services.charge_files.files()[0]["rejected"] == 1
    # The rejected one comes again, three times in all.
    for again in (2, 3):
        sequence, text = services.charge_files.make_file()
        assert (sequence, text.count("\n")) == (again, 3)
        services.charge_files.acknowledge(answer(again, "R|1|rejected|no such number"))
    assert services.charge_files.make_file() is None
    assert balances(services)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["R|1|accepted|", "R|9|accepted|"], "the file has no line 9, it has 2"),
        (["R|1|accepted|", "R|0|accepted|"], "no line 0"),
        (["R|1|accepted|", "R|x|accepted|"], "no line x"),
        (["R|1|accepted|"], "line 2 of the file is not answered"),
        (["R|1|accepted|", "R|1|accepted|"], "answered twice"),
        (["R|1|accepted|", "R|2|maybe|"], "line 3: it is"),
        (["R|1|accepted|because", "R|2|accepted|"], "an accepted one has none"),
        (["R|1|rejected|", "R|2|accepted|"], "a rejected line has a reason"),
    ],
)
def test_an_answer_that_does_not_fit_changes_nothing(services, clock, rows, reason):
    many(services, 2, clock)
    services.charge_files.make_file()
    with pytest.raises(AcknowledgementFaulty, match=reason):
        services.charge_files.acknowledge(answer(1, *rows))
    with pytest.raises(ChargeFileNotFound):
        services.charge_files.acknowledge(answer(7, "R|1|accepted|"))
    for text in ("", "A|other|1\n", "A|tokenworks-phone-1|one\n"):
        with pytest.raises(AcknowledgementFaulty):
            services.charge_files.acknowledge(text)
    assert {b.state for b in services.bills.all()[0]} == {"sent"}
    assert services.payments.all()[1] == 0
    assert services.charge_files.acknowledge(answer(1, "R|1|accepted|", "R|2|accepted|")) == (2, 0)
    assert balances(services)


def test_what_was_paid_meanwhile_and_is_collected_too_is_credit(services, clock):
    one, _ = many(services, 2, clock)
    services.charge_files.make_file()
    ((bill,), _) = services.bills.all(one)
    services.payments.pay(bill, "cash", "at the counter")
    assert services.charge_files.acknowledge(answer(1, "R|1|accepted|", "R|2|accepted|")) == (2, 0)
    assert services.payments.all(one)[1] == 2
    assert services.charges.receivable(one.account_id) == 0  # May's own 9.90, not billed yet, less the credit
    ((case,), _) = services.payments.cases()
    assert (case.kind, case.bill_id, case.amount_nano) == ("surplus", bill.bill_id, 9_900_000_000)
    assert balances(services)


def test_an_answer_payments_dunning_and_recognition_at_once(services, clock, database_url, session_dir):
    """They lock subscribers, accounts and bills in one order: nobody waits for each other in a ring."""
    made = many(services, 40, clock)
    sequence, _ = services.charge_files.make_file()
    bills, _ = services.bills.all(None, 0, 100)
    clock.move(timedelta(days=60))
    services.dunning.run_dunning()  # all are suspended: what is paid lifts it
    options = load_settings({"data_dir": str(session_dir / "seed")}).settings
    start, errors = threading.Barrier(5), []

    def run(what):
        try:
            with contextlib.closing(connect(database_url)) as connection:
                mine = make_works(options, connection, clock, {1: b"x" * 32})
                start.wait()
                what(mine)
        except Exception as error:
            errors.append(error)

    def acknowledge(mine):
        mine.charge_files.acknowledge(
            answer(sequence, *(f"R|{at}|accepted|" for at in range(1, len(made) + 1)))
        )

    def pay(mine):
        for at, bill in enumerate(reversed(bills)):
            mine.payments.pay(bill, "cash", f"counter-{at}", YUAN)

    def recognise(mine):
        for _ in range(5):
            mine.charges.recognise()

    def correct(mine):
        for at, bill in enumerate(reversed(bills)):
            mine.bills.correct(bill, 1, YUAN, "late", f"correct-{at}")

    def dun(mine):
        for _ in range(5):
            mine.dunning.run_dunning()

    threads = [
        threading.Thread(target=run, args=(what,)) for what in (acknowledge, pay, recognise, correct, dun)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert {bill.state for bill in services.bills.all(None, 0, 100)[0]} == {"settled"}
    assert {services.subscriptions.find(str(one.subscriber_id)).state for one in made} == {"active"}
    assert balances(services)
