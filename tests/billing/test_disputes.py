"""Questions about bill lines: asked, listed, answered; nothing of the money moves."""

import contextlib
from datetime import timedelta

import pytest

from tests.support.notices import fan_out
from tests.support.spend import balances
from tokenworks.app.database.connections import connect
from tokenworks.billing import BillNotFound, DisputeAnswered, DisputeNotFound, DisputeOpen, dispute_store
from tokenworks.billing.disputes import QUESTION_CHARS_MAX, QUESTIONS_OF_LINE_MAX
from tokenworks.kernel import Invalid, uuid7
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def billed(services):
    """A subscriber, and a bill over one line."""
    subscriber = services.subscriptions.register("+8613800000001", "Li")
    services.orders.place(subscriber, "ctc-light")
    now = services.clock.now().astimezone(BILLING_ZONE)
    first = (now.replace(day=1, hour=1, minute=0, second=0) + timedelta(days=32)).replace(day=1)
    services.clock.move(first - services.clock.now())
    services.bills.run()
    (bill,), _ = services.bills.all(subscriber)
    return subscriber, bill


def test_a_line_is_questioned_and_answered_and_nothing_moves(services, billed):
    subscriber, bill = billed
    made = services.disputes.ask(bill, 1, "  I did not order this.\r\nWhat is it? ")
    assert (made.state, made.question, made.answer) == ("open", "I did not order this.\nWhat is it?", None)
    assert (made.bill_no, made.line_no, made.amount_nano) == (bill.bill_no, 1, 9_900_000_000)
    assert services.disputes.all(state="open") == ([made], 1)
    assert services.disputes.all(subscriber, "answered") == ([], 0)
    services.clock.move(timedelta(days=1))
    answered = services.disputes.answer(made.dispute_id, "It is the plan of April.", "kim")
    assert (answered.state, answered.answer, answered.answered_by) == (
        "answered",
        "It is the plan of April.",
        "kim",
    )
    assert answered.answered_at == services.clock.now()
    assert services.disputes.of_bills([bill]) == [answered]
    assert services.bills.find(bill.bill_no) == bill
    # By day: no text message is sent at night.
    services.clock.move(timedelta(hours=12))
    fan_out(services)
    notices = [notice for notice in services.notices.lease(["sms"], 100) if notice.kind == "dispute.answered"]
    assert [notice.content for notice in notices] == [{"bill_no": bill.bill_no, "line_no": 1}]
    with pytest.raises(DisputeAnswered):
        services.disputes.answer(made.dispute_id, "Again", "kim")
    balances(services)


def test_one_open_question_a_line_and_the_same_text_is_the_same_question(services, billed):
    _, bill = billed
    made = services.disputes.ask(bill, 1, "What is it?")
    assert services.disputes.ask(bill, 1, "What is it?") == made
    with pytest.raises(DisputeOpen):
        services.disputes.ask(bill, 1, "And why?")
    services.disputes.answer(made.dispute_id, "A plan.", "kim")
    assert services.disputes.ask(bill, 1, "And why?").dispute_id != made.dispute_id
    assert services.disputes.all()[1] == 2


def test_what_is_refused_writes_nothing(services, billed):
    _, bill = billed
    for text in ("", "  \r\n ", "x" * (QUESTION_CHARS_MAX + 1), "a\x00b", "a\u202eb"):
        with pytest.raises(Invalid):
            services.disputes.ask(bill, 1, text)
    with pytest.raises(BillNotFound):
        services.disputes.ask(bill, 2, "What is it?")
    with pytest.raises(DisputeNotFound):
        services.disputes.answer(uuid7(), "A plan.", "kim")
    assert services.disputes.all() == ([], 0)


def test_a_line_is_not_questioned_without_end(services, billed):
    _, bill = billed
    for n in range(QUESTIONS_OF_LINE_MAX):
        services.disputes.answer(
            services.disputes.ask(bill, 1, f"Question {n}").dispute_id, "See above.", "kim"
        )
    with pytest.raises(Invalid, match="at most"):
        services.disputes.ask(bill, 1, "One more")


def test_of_two_at_once_one_is_kept(services, billed, database_url):
    """Both looked before, and found nothing: the index lets one through."""
    _, bill = billed
    now = services.clock.now()
    with contextlib.closing(connect(database_url)) as other:
        assert dispute_store.add(other, uuid7(), bill.subscriber_id, bill.bill_id, 1, "One", now)
    assert not dispute_store.add(
        services.connection, uuid7(), bill.subscriber_id, bill.bill_id, 1, "Two", now
    )
    assert services.disputes.all()[1] == 1
