"""The FOCUS 1.2 export: valid by the specification's rules, its billed sums are the bills, its usage is what was used."""

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.charging.ledger.test_accounts import first_attempt, settling
from tests.support.focus import faults
from tokenworks.app.database.connections import ensure_usage_months
from tokenworks.billing.focus import COLUMNS
from tokenworks.catalog import Counts
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import Part, UsageRecord
from tokenworks.charging.money import charge_store
from tokenworks.kernel import uuid7
from tokenworks.subscriptions import BILLING_ZONE

PATH = "/tmf-api/usageManagement/v4/focus"


def read(services, subscriber, month):
    text = services.focus.csv(services.subscriptions.find(str(subscriber.subscriber_id)), month)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert faults(tuple(csv.DictReader(io.StringIO(text)).fieldnames), rows) == []
    return rows


def use(services, spender, subscriber, tokens, model="m"):
    """A request that ends now, whose id has its time."""
    ensure_usage_months(services.connection, services.clock.now())
    at_ms = int(services.clock.now().timestamp() * 1000)
    (bucket,) = [
        b for b in services.ledger.buckets(subscriber.account_id) if b.kind == "balance" and b.closing is None
    ][:1]
    granted = spender.open(subscriber.account_id, bucket, tokens * 1000)
    spender.seq += 1
    part = Part(bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, bucket.unit, "balance", tokens * 1000, 1, Counts(output=tokens))  # fmt: skip
    record = UsageRecord(
        subscriber.account_id.hex, *first_attempt(uuid7(at_ms).hex), uuid7().hex, services.subscriptions.owner_of(subscriber).hex, "chat",
        model, "d", "complete", "completed", "provider", at_ms, at_ms, 1, 1, Counts(output=tokens), tokens, [part], [], [], None,
    )  # fmt: skip
    settle_store.settle(services.connection, spender.journal_id, spender.seq, [settling(spender.seq, record)], lambda *_: None)  # fmt: skip
    spender.close(subscriber.account_id, granted.grant_id)


def go_to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def billed(rows):
    found = {}
    for row in rows:
        if row["InvoiceId"]:
            found[row["InvoiceId"]] = found.get(row["InvoiceId"], 0) + Decimal(row["BilledCost"])
    return found


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Ye", bill_day=1)


def test_rows_are_purchases_usage_credits_and_rounding(services, spender, clock, subscriber):
    go_to(clock, 2027, 4, 10)
    plan = services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    use(services, spender, subscriber, 1_000_000, "m")
    use(services, spender, subscriber, 7, "another")
    clock.move(timedelta(days=2))
    use(services, spender, subscriber, 500, "m")
    services.refunds.refund(plan.order_id, "amount", "sorry", amount_nano=10**9)
    go_to(clock, 2027, 5, 1, 1)
    services.orders.run_cycles()
    services.bills.run()
    rows = read(services, subscriber, "2027-04")
    (bill,), _ = services.bills.all(subscriber)
    assert billed(rows) == {bill.bill_no: Decimal(bill.amount_nano) / 10**9}
    purchases = [
        row for row in rows if row["ChargeCategory"] == "Purchase" and Decimal(row["BilledCost"]) > 0
    ]
    assert [(row["SkuId"], row["ChargeFrequency"], row["EffectiveCost"]) for row in purchases] == [("ctc-light", "Recurring", "0")]  # fmt: skip
    usage = [row for row in rows if row["ChargeCategory"] == "Usage"]
    assert [(row["x_Model"], row["ConsumedQuantity"], row["ConsumedUnit"]) for row in usage] == [
        ("another", "7", "Tokens"),
        ("m", "1000000", "Tokens"),
        ("m", "500", "Tokens"),
    ]
    assert {row["SubAccountType"] for row in usage} == {"Member"}
    charge = services.charges.of_product(plan.product_id)[0]
    whole = sum(Decimal(row["EffectiveCost"]) for row in usage)
    exact = Decimal(charge.amount_nano * 1_000_507_000 // charge.quantity) / 10**9
    assert abs(whole - exact) <= Decimal(len(usage)) / 10**9
    refunds = [row for row in rows if row["PricingUnit"] == "Refunds"]
    assert [(row["BilledCost"], row["ChargeClass"]) for row in refunds] == [("-1", "")]
    # The first period of all begins with the first charge.
    assert {row["BillingPeriodStart"] for row in rows} == {"2027-04-09T16:00:00Z"}
    assert {row["BillingPeriodEnd"] for row in rows} == {"2027-04-30T16:00:00Z"}


def test_what_expired_unused_is_what_was_billed_and_is_in_no_effective_cost(
    services, spender, clock, subscriber
):
    """No row of its own: by product, what was billed less what its use is worth (decision 40)."""
    go_to(clock, 2027, 4, 1)
    plan = services.orders.place(subscriber, "ctc-light")
    use(services, spender, subscriber, 2_500_000)
    go_to(clock, 2027, 5, 1, 1)
    services.orders.run_cycles()
    services.bills.run()
    rows = [row for row in read(services, subscriber, "2027-04") if row["ResourceId"] == str(plan.product_id)]
    charge = services.charges.of_product(plan.product_id)[0]
    unused = sum(Decimal(row["BilledCost"]) - Decimal(row["EffectiveCost"]) for row in rows)
    assert (
        unused == Decimal(charge.amount_nano - charge.amount_nano * 2_500_000_000 // charge.quantity) / 10**9
    )
    assert not any(name.startswith("CommitmentDiscount") for name in COLUMNS)
    (bill,), _ = services.bills.all(subscriber)
    assert billed(rows) == {bill.bill_no: Decimal(bill.amount_nano) / 10**9}


def test_what_is_not_billed_yet_has_no_invoice(services, clock, subscriber):
    services.orders.place(subscriber, "ctc-light")
    (row,) = read(services, subscriber, "2027-04")
    assert (row["InvoiceId"], row["BilledCost"], row["PricingQuantity"], row["PricingUnit"]) == ("", "9.9", "1", "Months")  # fmt: skip


def test_list_and_contracted_cost_differ_by_a_contract(services, subscriber):
    services.subscriptions.set_contract_price(subscriber, "ctc-light", "7.5", "C-1")
    services.orders.place(subscriber, "ctc-light")
    (row,) = read(services, subscriber, "2027-04")
    assert (row["ListUnitPrice"], row["ListCost"], row["ContractedUnitPrice"], row["ContractedCost"], row["BilledCost"]) == (
        "9.9", "9.9", "7.5", "7.5", "7.5",
    )  # fmt: skip


def test_a_part_of_a_cycle_is_exact(services, clock, subscriber):
    """Its share of the price has no end as a decimal: the unit is the part."""
    go_to(clock, 2027, 4, 11, 7, 13)
    made = services.orders.place(subscriber, "ctc-standard")
    clock.move(timedelta(days=3, seconds=17))
    services.orders.change(made.product_id, "ctc-premium")
    go_to(clock, 2027, 5, 1, 1)
    services.bills.run()
    rows = read(services, subscriber, "2027-04")
    (bill,), _ = services.bills.all(subscriber)
    assert billed(rows) == {bill.bill_no: Decimal(bill.amount_nano) / 10**9}
    assert any(row["PricingUnit"].startswith("Prorated") for row in rows)
    assert any(row["ChargeDescription"].startswith("Rounding of line") for row in rows)


def test_a_correction_of_an_earlier_bill_says_so(services, clock, subscriber):
    services.orders.place(subscriber, "ctc-light")
    go_to(clock, 2027, 5, 1, 1)
    services.bills.run()
    (bill,), _ = services.bills.all(subscriber)
    services.bills.correct(bill, 1, 2 * 10**9, "a wrong price")
    rows = read(services, subscriber, "2027-05")
    (credit,) = [row for row in rows if row["ChargeCategory"] == "Credit"]
    assert (credit["ChargeClass"], credit["BilledCost"], credit["EffectiveCost"]) == (
        "Correction",
        "-2",
        "-2",
    )


def test_another_day_of_the_bill_is_another_period(services, clock):
    subscriber = services.subscriptions.register("+8613800000002", bill_day=15)
    go_to(clock, 2027, 4, 20)
    services.orders.place(subscriber, "ctc-light")
    go_to(clock, 2027, 5, 16)
    services.bills.run()
    (row,) = read(services, subscriber, "2027-04")
    (bill,), _ = services.bills.all(subscriber)
    assert row["InvoiceId"] == bill.bill_no
    # The first period begins with the first charge.
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (
        "2027-04-19T16:00:00Z",
        "2027-05-14T16:00:00Z",
    )
    assert read(services, subscriber, "2027-05") == []


def test_a_month_has_no_limit_and_comes_in_pieces(services, clock, subscriber, monkeypatch):
    monkeypatch.setattr("tokenworks.charging.money.charges.READ_BATCH", 7)
    monkeypatch.setattr("tokenworks.billing.focus.ROWS_AT_ONCE", 10)
    services.orders.place(subscriber, "ctc-light")
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    for number in range(1, 100):
        charge_store.add_charge(services.connection, _another(charge, number))
    pieces = list(services.focus.pieces(subscriber, "2027-04"))
    assert len(pieces) == 11 and max(len(piece) for piece in pieces) < 10_000
    assert len(read(services, subscriber, "2027-04")) == 100


def _another(charge, number):
    from dataclasses import replace

    return replace(charge, charge_id=uuid7(), number=charge.number + number)


def test_over_http_it_is_a_stream_and_the_year_has_bounds(client, services, subscriber, signed_in, clock):
    services.orders.place(subscriber, "ctc-light")
    head = signed_in(subscriber)
    answer = client.get(PATH, params={"month": "2027-04"}, headers=head)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines()[0] == ",".join(COLUMNS)
    for month in ("0000-01", "0001-01", "9999-12", "2027-13", "２０２７-04"):
        assert client.get(PATH, params={"month": month}, headers=head).status_code == 400, month
    assert client.get(PATH, params={"month": "9998-12"}, headers=head).status_code == 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"BilledCost": ""}, "BilledCost MUST NOT be null"),
        ({"BilledCost": "1,5"}, "NumericFormat"),
        ({"ChargeCategory": "Gift"}, "allowed values"),
        ({"ChargeFrequency": "Usage-Based"}, "Usage-Based"),
        ({"ConsumedQuantity": "1", "ConsumedUnit": "Tokens"}, "ConsumedQuantity MUST be null"),
        ({"PricingQuantity": "2"}, "MUST match ListCost"),
        ({"SkuId": ""}, "SkuId MUST NOT be null"),
        ({"ChargePeriodEnd": "2027-04-01"}, "DateTimeFormat"),
        ({"ServiceCategory": "Compute"}, "parent ServiceCategory"),
        ({"SubAccountId": "x"}, "SubAccountName"),
        ({"BillingCurrency": "yuan"}, "ISO 4217"),
    ],
)
def test_the_validator_sees_what_is_wrong(services, subscriber, clock, change, says):
    services.orders.place(subscriber, "ctc-light")
    (row,) = read(services, subscriber, "2027-04")
    assert any(says in rule for _, rule in faults(COLUMNS, [row | change]))


def test_instants_are_utc():
    from tokenworks.billing.focus import _at

    assert _at(datetime(2027, 4, 1, tzinfo=BILLING_ZONE)) == "2027-03-31T16:00:00Z"
    assert _at(datetime(2027, 4, 1, 0, 0, 0, 5, tzinfo=UTC)) == "2027-04-01T00:00:00Z"
