"""A number is not an identity; credits reduce what is open; what was collected is booked; what was billed can be credited."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.auditor import verify
from tests.support.spend import balances
from tokenworks.billing import (
    BillSettled,
    CarrierNotAnswered,
    CaseClosed,
    CaseNotFound,
    ChannelNotAllowed,
    ChargeFileAnswered,
    ChargeFileNotFound,
    PaymentNotFound,
    PaymentReused,
    PaymentReversed,
    PayoutNotAllowed,
    TestProvider,
    open_amounts,
    tax_of_part,
)
from tokenworks.charging import CreditLimitReached, RefundTooMuch
from tokenworks.kernel import Invalid, ManualClock, NotFound, uuid7
from tokenworks.subscriptions import BILLING_ZONE, KeyReused, SubscriberNotActive, SubscriberNotFound

YUAN = 1_000_000_000
FEN = 10_000_000
PHONE = "+8613800000001"


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def a(services):
    return services.subscriptions.register(PHONE, "a")


def go(clock, text):
    at = datetime.fromisoformat(text).replace(tzinfo=BILLING_ZONE)
    clock.move(at - clock.now())


def month(services):
    services.orders.run_cycles()
    services.charges.recognise()
    services.bills.run()


def lines(made):
    return [] if made is None else [row.split("|") for row in made[1].split("\n") if row.startswith("D|")]


def fen(made, phone=None):
    return sum(int(row[6]) for row in lines(made) if phone in {None, row[3]})


def answer(made, *, accepted=True, before="", end="\n", tail=""):
    said = "accepted|" if accepted else "rejected|no such number"
    rows = [f"A|tokenworks-phone-1|{made[0]}", *(f"R|{at}|{said}" for at in range(1, len(lines(made)) + 1))]
    return before + end.join(rows) + end + tail


def bill_of(services, subscriber, nth=0):
    return sorted(services.bills.all(subscriber)[0], key=lambda b: b.period_end)[nth]


@pytest.fixture
def billed(services, a, clock):
    """April of a light plan that ends with its cycle: 9.90, and nothing after it."""
    order = services.orders.place(a, "ctc-light")
    services.orders.cancel(order.product_id, "cycle_end")
    go(clock, "2027-05-01 01:00")
    month(services)
    return bill_of(services, a)


# A number is not an identity.


def test_who_closed_before_the_bill_owes_it_and_the_number_s_next_holder_does_not(services, a, clock):
    services.orders.place(a, "ctc-premium")
    go(clock, "2027-04-28 10:00")
    services.subscriptions.close(a)
    b = services.subscriptions.register(PHONE, "next holder")
    go(clock, "2027-05-01 01:00")
    month(services)
    assert (services.bills.all(a)[1], services.bills.all(b)[1]) == (1, 0)
    assert services.charge_files.make_file() is None
    assert services.payments.direct() == ([bill_of(services, a)], 1)
    assert balances(services)


def test_who_has_a_plan_that_ended_before_the_monthly_job_can_close(services, a, clock):
    order = services.orders.place(a, "ctc-light")
    services.orders.cancel(order.product_id, "cycle_end")
    services.orders.place(a, "ctc-premium")
    go(clock, "2027-05-01 01:00")
    services.subscriptions.close(a)
    assert {product.state for product in services.orders.products(a)} == {"expired", "cancelled"}
    assert services.subscriptions.find(str(a.subscriber_id)).state == "closed"
    assert balances(services)


def test_a_bill_follows_a_living_subscriber_to_another_number_and_no_number_to_another_holder(
    services, a, clock
):
    services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 01:00")
    month(services)
    services.subscriptions.change_phone(a, "+8613900000009")
    b = services.subscriptions.register(PHONE, "next holder")
    services.orders.place(b, "ctc-standard")
    made = services.charge_files.make_file()
    assert [(row[2], row[3]) for row in lines(made)] == [(bill_of(services, a).bill_no, "+8613900000009")]
    assert services.charge_files.acknowledge(answer(made)) == (1, 0)
    go(clock, "2027-06-01 01:00")
    month(services)
    made = services.charge_files.make_file()
    assert {row[3]: row[2] for row in lines(made)} == {
        PHONE: bill_of(services, b).bill_no, "+8613900000009": bill_of(services, a, 1).bill_no,
    }  # fmt: skip
    assert balances(services)


def test_a_number_goes_to_another_holder_by_an_operation_of_its_own(services, a, clock):
    host = services.subscriptions.register("+8613800000005", "host")
    guest = services.members.invite(host, PHONE, "a as a guest")
    services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 01:00")
    month(services)
    b = services.subscriptions.change_owner(a, "b", language="en")
    assert (b.phone, b.name, b.language, b.account_id == a.account_id) == (PHONE, "b", "en", False)
    assert services.subscriptions.find(PHONE).subscriber_id == b.subscriber_id
    assert services.subscriptions.find(str(a.subscriber_id)).state == "closed"
    assert services.members.find(host, str(guest.member_id)).state == "left"  # b is nobody's guest
    assert {p.state for p in services.orders.products(a)} == {"cancelled"}
    assert services.charge_files.make_file() is None
    assert (services.bills.all(a)[1], services.bills.all(b)[1]) == (1, 0)
    reasons = services.connection.execute("SELECT subscriber_id, reason FROM phone_history").fetchall()
    assert reasons == [(a.subscriber_id, "new_owner")]
    with pytest.raises(SubscriberNotActive):
        services.subscriptions.change_owner(a, "c")
    # Refused: nothing of it is done.
    with pytest.raises(Invalid):
        services.subscriptions.change_owner(b, "x", language="tlh")
    assert services.subscriptions.find(PHONE).name == "b"
    with pytest.raises(SubscriberNotFound):
        services.subscriptions.find("+8613800000099")
    assert balances(services)


def test_a_notice_goes_to_no_number_that_is_another_s_by_now(services, a):
    assert services.subscriptions.has_number(a)
    b = services.subscriptions.change_owner(a, "b")
    a = services.subscriptions.find(str(a.subscriber_id))
    assert (services.subscriptions.has_number(a), services.subscriptions.has_number(b)) == (False, True)
    services.subscriptions.close(b)
    assert services.subscriptions.has_number(services.subscriptions.find(str(b.subscriber_id)))


# Credits reduce what is open.


def test_a_bill_that_is_credited_in_full_is_not_asked_for(services, a, clock, billed):
    services.bills.correct(billed, 1, 9_900_000_000, "not delivered")
    assert (services.charges.receivable(a.account_id), services.bills.open_nano(billed)) == (0, 0)
    assert services.bills.find(billed.bill_no).state == "settled"
    assert services.charge_files.make_file() is None
    go(clock, "2027-06-20 10:00")
    assert services.dunning.run_dunning() == {}
    assert services.subscriptions.find(PHONE).state == "active"
    with pytest.raises(BillSettled):
        services.payments.pay(billed, "cash", "r")
    assert balances(services)


def test_a_credit_is_given_once_and_the_next_bill_is_its_own(services, a, clock):
    services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 01:00")
    month(services)
    services.bills.correct(bill_of(services, a), 1, 4 * YUAN, "slow")
    assert fen(services.charge_files.make_file()) == 590
    services.bills.correct(bill_of(services, a), 1, 5_900_000_000, "slow")
    go(clock, "2027-06-01 01:00")
    month(services)
    assert services.charges.receivable(a.account_id) == 19_800_000_000
    may = bill_of(services, a, 1)
    assert (may.amount_nano, may.remaining_nano) == (9_900_000_000, 9_900_000_000)
    assert [line.kind for line in services.bills.lines(may)] == ["cycle"]
    assert fen(services.charge_files.make_file()) == 990  # April's is settled, and its line not answered yet
    assert balances(services)


def test_dunning_ends_with_a_credit_and_free_credit_pays_the_oldest_bill(services, a, clock):
    order = services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 01:00")
    month(services)
    go(clock, "2027-06-10 01:00")
    services.dunning.run_dunning()
    assert services.subscriptions.find(PHONE).state == "suspended"
    month(services)
    april, may = bill_of(services, a), bill_of(services, a, 1)
    # Too much for May: the rest is April's, whatever it was said to be for.
    services.payments.pay(may, "bank_transfer", "t", 15 * YUAN)
    assert [services.bills.open_nano(b) for b in (april, may)] == [4_800_000_000, 0]
    services.bills.correct(april, 1, 4_800_000_000, "sorry")
    assert services.subscriptions.find(PHONE).state == "active"
    assert services.orders.product(order.product_id)[0].state == "active"
    assert balances(services)


def test_a_refund_of_a_billed_charge_is_taken_off_its_bill_in_fen_and_ends_dunning(
    services, a, clock, billed
):
    (order,) = [o for o in services.orders.all(a)[0] if o.action == "add"]
    go(clock, "2027-06-10 01:00")
    services.dunning.run_dunning()
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=1_234_567_890)
    assert services.bills.open_nano(billed) == 8_670_000_000  # 9.90 - 1.23
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=1_111)
    assert services.bills.open_nano(billed) == 8_670_000_000
    # Rounded together: 1.234567890 + 0.000001111 + 0.001 is 1.24 by now.
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=1_000_000)
    assert services.bills.open_nano(billed) == 8_660_000_000
    assert services.charges.receivable(a.account_id) == 8_660_000_000
    assert services.subscriptions.find(PHONE).state == "suspended"
    # The rest of the line, to the fen, whatever is left of the charge exactly.
    note = services.bills.correct(billed, 1, 8_660_000_000, "all of it")
    assert (services.charges.receivable(a.account_id), services.bills.open_nano(billed)) == (0, 0)
    assert note.tax_nano % FEN == 0
    assert services.subscriptions.find(PHONE).state == "active"
    with pytest.raises(RefundTooMuch):
        services.bills.correct(billed, 1, FEN, "more")
    assert balances(services)


def test_a_credit_from_after_the_period_s_end_is_taken_off_the_period_s_bill(services, a, clock):
    order = services.orders.place(a, "ctc-light")
    services.orders.cancel(order.product_id, "cycle_end")
    go(clock, "2027-05-01 00:30")  # April is over, and not billed yet
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=9_900_000_000)
    month(services)
    bill = bill_of(services, a)
    assert (bill.amount_nano, bill.remaining_nano, bill.state) == (9_900_000_000, 0, "settled")
    assert services.charges.of_subscriber(a.subscriber_id, unbilled=True) == []
    assert balances(services)


def test_what_was_billed_can_be_credited_to_the_fen(services, a, clock):
    order = services.orders.place(a, "ctc-light")
    go(clock, "2027-04-20 07:19:53")
    services.orders.change(order.product_id, "ctc-standard")
    go(clock, "2027-05-01 01:00")
    month(services)
    bill = bill_of(services, a)
    line = next(line for line in services.bills.lines(bill) if line.kind == "change")
    assert line.amount_nano != line.charged_nano
    assert line.line_no == 1, "lines are in an order that no version's hash changes"
    with pytest.raises(RefundTooMuch):
        services.bills.correct(bill, 1, line.amount_nano + FEN, "too much")
    part = services.bills.correct(bill, 1, 3_330_000_000, "a third")
    rest = services.bills.correct(bill, 1, line.amount_nano - 3_330_000_000, "the rest")
    assert part.tax_nano + rest.tax_nano == line.tax_nano
    assert balances(services)


# What was collected is booked.


def test_paid_by_bank_and_by_the_carrier_both_are_booked(services, a, billed):
    made = services.charge_files.make_file()
    services.payments.pay(billed, "bank_transfer", "T1")
    assert services.charge_files.acknowledge(answer(made)) == (1, 0)
    assert services.charges.receivable(a.account_id) == -9_900_000_000
    assert services.bills.open_nano(billed) == 0
    ((case,), count) = services.payments.cases()
    assert (count, case.kind, case.amount_nano) == (1, "surplus", 9_900_000_000)
    closed = services.payments.close_case(case.case_id, "stays as credit")
    assert services.payments.close_case(case.case_id, "stays as credit") == closed
    with pytest.raises(CaseClosed):
        services.payments.close_case(case.case_id, "paid back")
    with pytest.raises(CaseNotFound):
        services.payments.close_case(uuid7(), "none")
    assert (services.payments.cases()[1], services.payments.cases(still_open=False)[1]) == (0, 1)
    assert balances(services)


def test_more_than_is_open_is_credit_that_the_next_bill_uses_or_a_payout_gives_back(
    services, a, clock, billed
):
    services.payments.pay(billed, "bank_transfer", "T1", 100 * YUAN)
    assert services.charges.receivable(a.account_id) == -90_100_000_000
    services.orders.place(a, "ctc-standard")
    go(clock, "2027-06-01 01:00")
    month(services)
    may = bill_of(services, a, 1)
    assert may.remaining_nano == 0 < may.amount_nano
    assert services.charge_files.make_file() is None
    with pytest.raises(PayoutNotAllowed):
        services.payments.pay_out(a, "cash", "P1")
    services.subscriptions.close(a)
    go(clock, "2027-07-01 01:00")
    month(services)
    left = -services.charges.receivable(a.account_id)
    assert services.payments.pay_out(a, "cash", "P1").amount_nano == left > 0
    assert services.charges.receivable(a.account_id) == 0
    assert balances(services)


def test_a_reversal_takes_back_all_that_a_payment_did(services, a, clock):
    services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 01:00")
    month(services)
    april = bill_of(services, a)
    go(clock, "2027-06-10 01:00")
    services.dunning.run_dunning()
    month(services)
    may = bill_of(services, a, 1)
    paid = services.payments.pay(april, "bank_transfer", "T1", 25 * YUAN)  # April, May and 5.20 more
    assert [services.bills.open_nano(b) for b in (april, may)] == [0, 0]
    assert services.subscriptions.find(PHONE).state == "active"
    services.payments.reverse(paid, "chargeback")
    assert [services.bills.open_nano(b) for b in (april, may)] == [9_900_000_000, 9_900_000_000]
    state = services.subscriptions.find(PHONE)
    assert (state.state, state.restricted) == ("suspended", True), (
        "what the payment had lifted is in force again"
    )
    assert services.payments.cases() == ([], 0), "the surplus is none"
    with pytest.raises(PaymentReversed):
        services.payments.reverse(paid, "chargeback")
    with pytest.raises(Invalid):
        services.payments.reverse(paid, " ")
    assert services.payments.find(paid.payment_id).reversed_at == clock.now()
    with pytest.raises(PaymentNotFound):
        services.payments.find(uuid7())
    kinds = services.connection.execute(
        "SELECT kind, sum(amount)::bigint FROM posting JOIN entry USING (account_id, entry_id) "
        "WHERE ledger_account = 'paid:bank_transfer' GROUP BY 1"
    ).fetchall()
    assert dict(kinds) == {"payment": 25 * YUAN, "payment_reversal": -25 * YUAN}
    # The reference was used, the bill can be paid by another.
    assert services.payments.pay(april, "bank_transfer", "T1", 25 * YUAN).new is False
    services.payments.pay(april, "bank_transfer", "T2", 25 * YUAN)
    assert services.subscriptions.find(PHONE).state == "active"
    assert balances(services)


def test_who_paid_in_time_is_dunned_from_the_day_of_the_chargeback_on(services, a, clock, billed):
    paid = services.payments.pay(billed, "bank_transfer", "T1")
    go(clock, "2027-09-20 10:00")  # more than 90 days after it was due
    services.payments.reverse(paid, "chargeback")
    assert services.dunning.run_dunning() == {}
    clock.move(timedelta(days=4))
    assert services.dunning.run_dunning() == {"remind": 1}
    clock.move(timedelta(days=7))
    assert services.dunning.run_dunning() == {"restrict": 1}
    assert services.subscriptions.find(PHONE).state == "active"
    assert balances(services)


def test_a_payment_that_is_reversed_after_its_surplus_was_paid_out_is_a_case(services, a, billed):
    paid = services.payments.pay(billed, "bank_transfer", "T1", 30 * YUAN)
    services.subscriptions.close(a)
    services.payments.pay_out(a, "cash", "P1")
    services.payments.reverse(paid, "chargeback")
    ((case,), _) = services.payments.cases()
    assert (case.kind, case.amount_nano) == ("paid_out", 20_100_000_000)
    assert services.bills.open_nano(billed) == 9_900_000_000
    assert services.charges.receivable(a.account_id) == 30 * YUAN
    services.payments.pay(billed, "bank_transfer", "T2", 30 * YUAN)
    assert services.charges.receivable(a.account_id) == 0
    assert balances(services)


def test_an_answer_that_is_corrected_books_and_reverses(services, a, billed):
    made = services.charge_files.make_file()
    assert services.charge_files.acknowledge(answer(made, accepted=False)) == (0, 1)
    assert services.bills.open_nano(billed) == 9_900_000_000
    # The carrier has collected it after all; and says so twice.
    assert services.charge_files.acknowledge(answer(made)) == (1, 0)
    with pytest.raises(ChargeFileAnswered):
        services.charge_files.acknowledge(answer(made))
    assert services.bills.open_nano(billed) == 0
    assert services.charge_files.acknowledge(answer(made, accepted=False)) == (0, 1)
    assert services.bills.open_nano(billed) == 9_900_000_000
    assert services.charge_files.acknowledge(answer(made)) == (1, 0)
    payments = services.payments.all(a)[0]
    assert [p.reference for p in payments] == ["tokenworks-phone-1:1:1#2", "tokenworks-phone-1:1:1"]
    assert [p.reversed_at is None for p in payments] == [True, False]
    assert services.charges.receivable(a.account_id) == 0
    assert balances(services)


def test_an_answer_that_never_comes_is_not_waited_for_and_taken_when_it_does(services, a, billed):
    first = services.charge_files.make_file()
    assert services.charge_files.make_file() is None
    for act in (
        lambda: services.payments.write_off(billed, "gone", "W1"),
        lambda: services.payments.set_channel(billed, "direct", "asked for"),
    ):
        with pytest.raises(CarrierNotAnswered):
            act()
    assert services.charge_files.lapse(first[0], "a month") == 1
    assert services.charge_files.lapse(first[0], "a month") == 0
    with pytest.raises(ChargeFileNotFound):
        services.charge_files.lapse(99, "none")
    second = services.charge_files.make_file()
    assert fen(second) == 990
    services.charge_files.acknowledge(answer(second))
    services.charge_files.acknowledge(answer(first))  # late, and it collected that, too
    assert services.charges.receivable(a.account_id) == -9_900_000_000
    assert [case.kind for case in services.payments.cases()[0]] == ["surplus"]
    assert balances(services)


def test_three_rejections_lead_somewhere(services, a, clock, billed):
    def reject(times):
        for _ in range(times):
            services.charge_files.acknowledge(answer(services.charge_files.make_file(), accepted=False))

    reject(3)
    assert services.charge_files.make_file() is None
    ((case,), _) = services.payments.cases()
    assert (case.kind, case.bill_id, case.amount_nano) == ("rejected", billed.bill_id, 9_900_000_000)
    services.payments.resend(billed, "the number is right again")
    assert services.payments.cases()[1] == 0
    reject(3)
    assert services.payments.set_channel(billed, "direct", "by letter").channel == "direct"
    assert (services.charge_files.make_file(), services.payments.cases()[1]) == (None, 0)
    assert [b.bill_no for b in services.payments.direct()[0]] == [billed.bill_no]
    services.payments.set_channel(billed, "phone", "back")
    reject(3)
    made = services.payments.write_off(billed, "moved abroad", "W1")
    again = services.payments.write_off(billed, "moved abroad", "W1")
    assert (again.payment_id, again.new, again.reason) == (made.payment_id, False, "moved abroad")
    with pytest.raises(PaymentReused):
        services.payments.write_off(billed, "another reason", "W1")
    assert (services.bills.open_nano(billed), services.charges.receivable(a.account_id)) == (0, 0)
    assert [c.resolution for c in services.payments.cases(still_open=False)[0]] == [
        "sent again: the number is right again", "collected directly: by letter", "written off: moved abroad",
    ]  # fmt: skip
    for act in (services.payments.resend, lambda b, why: services.payments.write_off(b, why, "W2")):
        with pytest.raises(BillSettled):
            act(billed, "again")
    lost = services.connection.execute(
        "SELECT sum(amount) FROM posting WHERE ledger_account = 'bad_debt'"
    ).fetchone()[0]
    assert lost == 9_900_000_000
    # It is paid after all, in part: the rest is a debt again.
    services.payments.pay(billed, "cash", "C1", 4 * YUAN)
    assert services.bills.open_nano(billed) == 5_900_000_000
    services.subscriptions.close(a)
    with pytest.raises(ChannelNotAllowed):
        services.payments.set_channel(billed, "phone", "no")
    with pytest.raises(Invalid):
        services.payments.pay(billed, "write_off", "W3")
    assert balances(services)


# Documents.


def test_the_tax_of_what_is_left_is_the_part_of_each_line_s(services, a, billed):
    services.payments.pay(billed, "bank_transfer", "T1", 9_500_000_000)
    assert services.bills.open_tax_nano(billed) == 20_000_000
    (line,) = lines(services.charge_files.make_file())
    assert line[6:] == ["40", "2"]
    assert balances(services)


def test_the_tax_of_a_part():
    yuan = [(106 * YUAN, 6 * YUAN), (113 * YUAN, 13 * YUAN)]
    assert tax_of_part(219 * YUAN, yuan) == 19 * YUAN
    assert tax_of_part(73 * YUAN, yuan) == 6_330_000_000  # a third of each line
    assert tax_of_part(0, yuan) == tax_of_part(5, [(0, 0)]) == 0
    with pytest.raises(AssertionError):
        tax_of_part(220 * YUAN, yuan)


def test_the_rule_of_what_is_open():
    ids = [uuid7() for _ in range(3)]
    assert open_amounts([]) == ({}, 0)
    assert open_amounts(list(zip(ids, [5, -7, 4], strict=True))) == (
        dict(zip(ids, [0, 0, 2], strict=True)),
        0,
    )
    assert open_amounts(list(zip(ids, [5, 0, 4], strict=True)), 6) == (
        dict(zip(ids, [0, 0, 3], strict=True)),
        0,
    )
    # More was paid out than came in: the bills are open as they are, and that is owed beside them.
    assert open_amounts([(ids[0], 5)], -3) == ({ids[0]: 5}, -3)
    assert open_amounts([(ids[0], -5)], -3) == ({ids[0]: 0}, 2)


@pytest.mark.parametrize(
    "text",
    [
        {"before": "\ufeff", "end": "\r\n"},
        {"tail": "\n"},
        {"tail": "\r\n\r\n\n"},
        {"before": "\ufeff", "tail": "\n"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("encoding", [None, "utf-8", "gb18030"])
def test_an_answer_with_oddities_is_read(services, billed, text, encoding):
    made = services.charge_files.make_file()
    said = answer(made, **text).replace("accepted|", "rejected|号码不存在")
    if encoding == "gb18030" and "before" not in text:
        assert services.charge_files.acknowledge(said.encode("gbk")) == (0, 1)
        (why,) = services.connection.execute("SELECT reason FROM charge_file_line").fetchone()
        assert why == "号码不存在"
    else:
        assert services.charge_files.acknowledge(said if encoding is None else said.encode()) == (0, 1)
    assert balances(services)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"A|tokenworks-phone-1|1\nR|1|rejected|\xff\xff\n", "line 2: it is neither"),
        ("A|tokenworks-phone-1|1\x85R|1|accepted|\x85", r"line 1: it has a control character \(U\+0085\)"),
        ("A|tokenworks-phone-1|1\rR|1|accepted|\r", r"line 1: it has a control character \(U\+000D\)"),
        ("A|tokenworks-phone-1|1\n\nR|1|accepted|\n", "line 2: it is R"),
        ("A|tokenworks-phone-1|1\nR|1|accepted|\n\x1a", r"line 3: it has a control character \(U\+001A\)"),
        ("\ufeff\ufeffA|tokenworks-phone-1|1\nR|1|accepted|\n", r"line 1: it has a zero-width character"),
        ("A|tokenworks-phone-1|1\nR|1|accepted|\x00\n", "line 2: the reason has a control character"),
        ("\ufeff\n\r\n", "empty"),
        (b"\xff\xfeA\x00|\x00", "line 1"),
        (b"", "empty"),
    ],
)
def test_an_answer_that_can_t_be_read_is_refused_with_its_line(services, billed, data, reason):
    services.charge_files.make_file()
    with pytest.raises(Invalid, match=reason):
        services.charge_files.acknowledge(data)
    assert services.payments.all()[1] == 0
    assert balances(services)


# The same key with another body.


def test_one_key_has_one_body(services, a, clock):
    order = services.orders.place(a, "ctc-light")
    other = services.orders.place(a, "ctc-standard")
    (made,) = services.refunds.refund(
        order.order_id, "amount", "sorry", amount_nano=YUAN, idempotency_key="k1"
    )
    for order_id, part, reason, amount in (
        (order.order_id, "whole", "sorry", None),
        (order.order_id, "amount", "sorry", 2 * YUAN),
        (order.order_id, "amount", "another reason", YUAN),
        (other.order_id, "amount", "sorry", YUAN),
    ):
        with pytest.raises(KeyReused):
            services.refunds.refund(order_id, part, reason, amount_nano=amount, idempotency_key="k1")
    assert services.refunds.refund(
        order.order_id, "amount", "sorry", amount_nano=YUAN, idempotency_key="k1"
    ) == [made]
    assert services.charges.receivable(a.account_id) == (9_900 + 29_900 - 1_000) * 1_000_000
    # Another key that looks like a part of it is another one.
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=YUAN, idempotency_key="k1#1")
    assert (
        len(
            services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=YUAN, idempotency_key="k1")
        )
        == 1
    )
    go(clock, "2027-05-01 01:00")
    month(services)
    bill = bill_of(services, a)
    services.payments.pay(bill, "cash", "r", YUAN)
    for method, amount in (("cash", 2 * YUAN), ("cash", None)):
        with pytest.raises(PaymentReused):
            services.payments.pay(bill, method, "r", amount)
    assert issubclass(PaymentReused, KeyReused)
    taken = services.payments.collect(bill, TestProvider(), "p")
    assert services.payments.collect(bill, TestProvider(), "p").payment_id == taken.payment_id
    assert services.payments.collect(bill, TestProvider(), "p", taken.amount_nano).new is False
    with pytest.raises(PaymentReused):
        services.payments.collect(bill, TestProvider(), "p", FEN)
    assert balances(services)


def test_documents_are_numbered_without_a_gap(services, a, clock, billed):
    note = services.bills.correct(billed, 1, FEN, "first")
    with services.connection.transaction(force_rollback=True):
        services.bills.correct(billed, 1, FEN, "a dry run")
    with pytest.raises(RefundTooMuch):
        services.bills.correct(billed, 1, 99 * YUAN, "refused")
    again = services.bills.correct(billed, 1, FEN, "second")
    assert [n.credit_note_no.split("-")[1] for n in (note, again)] == ["000000001", "000000002"]
    services.orders.place(a, "ctc-light")
    go(clock, "2027-06-01 01:00")
    services.orders.run_cycles()
    with services.connection.transaction(force_rollback=True):
        services.bills.run()
    month(services)
    assert [b.bill_no.split("-")[1] for b in services.bills.all(a)[0]] == ["000000002", "000000001"]
    with services.connection.transaction(force_rollback=True):
        services.charge_files.make_file()
    assert services.charge_files.make_file()[0] == 1
    assert balances(services)
    services.connection.execute("UPDATE document_number SET last = 5 WHERE kind = 'bill'")
    assert any(
        f.where == "document bill" for f in verify(services.connection, services.offerings.rate_cards())
    )
    services.connection.execute(
        "INSERT INTO document_gap SELECT 'bill', n, 'lost' FROM generate_series(3, 5) n"
    )
    assert balances(services)


# The credit limit.


def test_the_credit_limit_binds_whatever_raises_what_is_owed(services, clock):
    a = services.subscriptions.register(PHONE, "a", credit_limit_nano=30 * YUAN)
    assert services.subscriptions.find(PHONE).credit_limit_nano == 30 * YUAN
    order = services.orders.place(a, "ctc-light")
    with pytest.raises(CreditLimitReached):
        services.orders.place(a, "ctc-standard")
    assert [p.offering_id for p in services.orders.products(a)] == ["ctc-light"]
    assert services.charges.receivable(a.account_id) == 9_900_000_000
    with pytest.raises(CreditLimitReached):
        services.orders.change(order.product_id, "ctc-premium")
    # What is credited of the old plan counts: 29.90 and nothing of 9.90.
    services.orders.change(order.product_id, "ctc-standard")
    assert services.charges.receivable(a.account_id) == 29_900_000_000
    # What makes it less is allowed, whatever the limit is.
    services.subscriptions.set_profile(a, credit_limit_nano=YUAN)
    services.orders.change(order.product_id, "ctc-light")
    assert services.charges.receivable(a.account_id) == 9_900_000_000
    assert balances(services)


def test_a_cycle_that_the_credit_limit_does_not_allow_is_not_charged(services, clock):
    a = services.subscriptions.register(PHONE, "a", credit_limit_nano=12 * YUAN)
    order = services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 01:00")
    month(services)
    assert services.charges.receivable(a.account_id) == 9_900_000_000
    assert services.orders.product(order.product_id)[0].state == "suspended"
    told = services.connection.execute(
        "SELECT kind FROM notification WHERE kind NOT IN ('order.done', 'bill.ready')"
    ).fetchall()
    assert told == [("credit_limit",)]
    with pytest.raises(CreditLimitReached):
        services.orders.resume(order.product_id)
    assert services.orders.product(order.product_id)[0].state == "suspended"
    services.payments.pay(bill_of(services, a), "cash", "r")
    services.orders.resume(order.product_id)
    assert services.orders.product(order.product_id)[0].state == "active"
    assert 0 < services.charges.receivable(a.account_id) <= 9_900_000_000
    assert balances(services)


def test_before_the_monthly_job_the_credit_limit_binds_as_it_will_after_it(services, clock):
    a = services.subscriptions.register(PHONE, "a", credit_limit_nano=12 * YUAN)
    order = services.orders.place(a, "ctc-light")
    go(clock, "2027-05-01 00:30")  # its next cycle is due, and more than the limit allows
    with pytest.raises(CreditLimitReached):
        services.orders.change(order.product_id, "ctc-standard")
    assert services.orders.product(order.product_id)[0].offering_id == "ctc-light"
    # It can be cancelled all the same: May is not charged, and nothing of April comes back.
    ended = services.orders.cancel(order.product_id)
    assert (ended.state, ended.amount_nano) == ("completed", 0)
    month(services)
    assert services.charges.receivable(a.account_id) == 9_900_000_000
    assert services.orders.product(order.product_id)[0].state == "cancelled"
    assert balances(services)


def test_what_is_registered_of_a_subscriber_is_kept(services):
    made = services.subscriptions.register(
        PHONE, "a", credit_limit_nano=7, real_name="pending", regions=["cn-sh"], home_region="cn-sh", bill_day=5,
        audiences=["person"],
    )  # fmt: skip
    assert services.subscriptions.find(PHONE) == made


# What `ledger verify` sees.


@pytest.mark.parametrize(
    ("change", "invariant"),
    [
        ("UPDATE bill SET remaining_nano = 10000000, state = 'partiallyPaid'", "bill: what is open"),
        ("UPDATE bill SET state = 'new'", "bill: what is open"),
        ("UPDATE charge SET settled_nano = settled_nano + 10000000 WHERE settles_bill_id IS NOT NULL", "credit: of a charge"),
        ("UPDATE charge SET settles_bill_id = NULL", "credit: of a charge"),
        ("UPDATE payment_reversal SET entry_id = reversal_id", "payment: it is posted"),
        ("UPDATE payment SET entry_id = payment_id", "payment: it is posted"),
        ("UPDATE payment_reversal SET entry_id = reversal_id", "charge: every receivable"),
        ("DELETE FROM payment_reversal", "account: what is owed"),
        ("UPDATE credit_note SET amount_nano = amount_nano + 10000000", "credit note: it is"),
        ("DELETE FROM credit_note", "numbers: every one"),
        ("UPDATE charge_file SET amount_nano = amount_nano + 1", "charge file: its lines"),
        ("UPDATE charge_file_line SET state = 'accepted'", "charge file: its lines"),
        ("UPDATE charge_file SET sequence_no = 7", "numbers: every one"),
    ],
)  # fmt: skip
def test_what_breaks_an_invariant_is_found(services, owner, billed, change, invariant):
    made = services.charge_files.make_file()
    services.charge_files.acknowledge(answer(made, accepted=False))
    services.bills.correct(billed, 1, YUAN, "sorry")
    paid = services.payments.pay(billed, "cash", "r1", YUAN)
    services.payments.reverse(paid, "booked twice")
    services.payments.pay(billed, "cash", "r2")
    assert balances(services)
    owner.execute("SET session_replication_role = replica")  # no trigger that keeps history
    owner.execute(change)
    found = {f.invariant for f in verify(services.connection, services.offerings.rate_cards())}
    assert any(name.startswith(invariant) for name in found), found


def test_what_names_nothing_is_not_found(services):
    with pytest.raises(NotFound):
        services.payments.find(uuid7())
