"""FOCUS 1.2 (FinOps Open Cost and Usage Specification): a month's costs and usage as the rows that FinOps tools read.

A month contains the whole billing periods that begin in it (in the seller's zone): the charges on their bills, the charges in them
that are not billed yet, and the usage in them. `InvoiceId` is the bill's number. The `BilledCost` of its rows add up to the bill: a line
that was rounded to fen has a row for the difference.

- A purchase (a cycle, a change, a step of pay-as-you-go) or its refund: `ListCost` is the list price, `ContractedCost` is what this
  subscriber pays. A part of a cycle is one unit at its share of the price, because a share may have no finite decimal. A purchase
  that pays for tokens has `EffectiveCost` 0: the rows of the usage have it.
- Usage, by day, product, member and model: `ConsumedQuantity` is the quantity counted against the allowance. Usage costs nothing
  more, so list, contracted and billed cost are 0, and `EffectiveCost` is its share of what was paid for the allowance.
- A later credit is a `Credit`, a rounding an `Adjustment`.

Amounts include VAT, as bills do. What was paid for and expired unused is in `BilledCost` and in no `EffectiveCost`: the specification
has rows only for the unused part of commitment discounts, and a plan is not one (decision 40).
"""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from tokenworks.billing.bills import Bills
from tokenworks.billing.model import Bill
from tokenworks.catalog import Offerings, SoldOffering
from tokenworks.charging import PER_UNIT, BillLine, Charge, Charges, Ledger
from tokenworks.kernel import NANO_PER_UNIT, Clock, Invalid, csv_cell, exact_decimal, parse_money
from tokenworks.subscriptions import BILLING_ZONE, Members, Orders, Subscriber, Subscriptions, add_months

COLUMNS: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName",
    "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName",
    "SubAccountType", "x_Model", "x_RateVersion",
)  # fmt: skip
BILLS_AT_ONCE: Final = 1000
# Rows that are joined into one piece of the file.
ROWS_AT_ONCE: Final = 200
MONTH_FIRST: Final = 2000
MONTH_LAST: Final = 9998
_AI: Final = ("AI tokens", "AI and Machine Learning", "Generative AI")
_OTHER: Final = ("Carrier add-ons", "Other", "Other (Other)")
_SECOND: Final = timedelta(seconds=1)
Row = dict[str, object]


class Focus:
    """FOCUS files of subscribers, on one connection."""

    def __init__(
        self,
        bills: Bills,
        charges: Charges,
        ledger: Ledger,
        offerings: Offerings,
        orders: Orders,
        subscriptions: Subscriptions,
        members: Members,
        operator: str,
        clock: Clock,
    ) -> None:
        self.bills = bills
        self.charges = charges
        self.ledger = ledger
        self.offerings = offerings
        self.orders = orders
        self.subscriptions = subscriptions
        self.members = members
        self.operator = operator
        self.clock = clock

    def csv(self, subscriber: Subscriber, month: str) -> str:
        """The whole file: the pieces of `pieces`, joined."""
        return "".join(self.pieces(subscriber, month))

    def pieces(self, subscriber: Subscriber, month: str) -> Iterator[str]:
        """The file in pieces, so that memory is bounded. `month`: YYYY-MM. Raises `Invalid` before the first piece."""
        year, number = (int(part) for part in month.split("-"))
        if not MONTH_FIRST <= year <= MONTH_LAST:
            raise Invalid(f"month: a year from {MONTH_FIRST} to {MONTH_LAST}")
        return _pieces(_Month(self, subscriber, datetime(year, number, 1, tzinfo=BILLING_ZONE)).rows())


def decimal(amount_nano: int) -> Decimal:
    return exact_decimal(amount_nano, NANO_PER_UNIT)


def _pieces(rows: Iterator[Row]) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for count, row in enumerate(rows, 1):
        writer.writerow({name: csv_cell(value) for name, value in row.items()})
        if count % ROWS_AT_ONCE == 0:
            yield out.getvalue()
            out.seek(0)
            out.truncate()
    yield out.getvalue()


class _Month:
    """The rows of a subscriber's billing periods that begin in a month."""

    def __init__(self, services: Focus, subscriber: Subscriber, first: datetime) -> None:
        self._services = services
        self._subscriber = subscriber
        self._first = first
        self._begin = first.replace(day=subscriber.bill_day)
        self._end = add_months(self._begin, 1)
        self._sold: dict[str, SoldOffering] = {}
        self._members: dict[UUID, str] = {}
        self._periods: list[tuple[datetime, datetime]] = []

    def rows(self) -> Iterator[Row]:
        for bill in self._bills():
            self._periods.append((bill.period_start, bill.period_end))
            for charge in self._services.charges.of_bill(bill.account_id, bill.bill_id):
                yield self._charge(charge, bill)
            for line in self._services.bills.lines(bill):
                if line.amount_nano != line.charged_nano:
                    yield self._rounding(line, bill)
        subscriber = self._subscriber
        for charge in self._services.charges.unbilled_between(
            subscriber.account_id, subscriber.subscriber_id, self._begin, self._end
        ):
            yield self._charge(charge, None)
        yield from self._usage()

    def _bills(self) -> Iterator[Bill]:
        """The bills whose period begins in the month, newest first."""
        end, offset = add_months(self._first, 1), 0
        while True:
            found, total = self._services.bills.all(self._subscriber, offset, BILLS_AT_ONCE)
            yield from (bill for bill in found if self._first <= bill.period_start < end)
            offset += len(found)
            if not found or offset >= total or found[-1].period_start < self._first:
                return

    def _base(self, bill: Bill | None, currency: str) -> Row:
        begin, end = (self._begin, self._end) if bill is None else (bill.period_start, bill.period_end)
        return {
            "BillingAccountId": self._subscriber.account_id,
            "BillingAccountName": self._subscriber.name,
            "BillingAccountType": "Token account",
            "BillingCurrency": currency,
            "BillingPeriodStart": _at(begin),
            "BillingPeriodEnd": _at(end),
            "InvoiceId": None if bill is None else bill.bill_no,
            "InvoiceIssuerName": self._services.operator,
            "ProviderName": self._services.operator,
            "PublisherName": self._services.operator,
        }

    def _product(self, version: str | None, product_id: UUID | None) -> Row:
        """The columns that name what was sold."""
        sold = None if version is None else self._offering(version)
        name, category, subcategory = _AI if sold is None or sold.offering.buckets else _OTHER
        found: Row = {"ServiceName": name, "ServiceCategory": category, "ServiceSubcategory": subcategory}
        if sold is not None:
            found |= {
                "PublisherName": sold.offering.carrier,
                "SkuId": sold.offering.id,
                "SkuPriceId": sold.offering_version,
                "SkuMeter": "Allowance" if sold.offering.buckets else "Service",
            }
        if product_id is not None:
            found |= {"ResourceId": product_id, "ResourceType": "Product"}
            found["ResourceName"] = None if sold is None else sold.offering.name
        return found

    def _offering(self, version: str) -> SoldOffering:
        if version not in self._sold:
            self._sold[version] = self._services.offerings.sold(version)
        return self._sold[version]

    def _charge(self, charge: Charge, bill: Bill | None) -> Row:
        row = self._base(bill, charge.currency) | self._product(charge.offering_version, charge.product_id)
        start = charge.period_start
        end = charge.period_end or (self._end if bill is None else bill.period_end)
        cost = decimal(charge.amount_nano)
        bought = charge.amount_nano >= 0 and charge.kind in {"cycle", "step", "change"}
        row |= {
            "BilledCost": cost,
            "EffectiveCost": cost,
            "ListCost": cost,
            "ContractedCost": cost,
            "ChargeDescription": charge.description,
            "ChargeFrequency": "Recurring" if bought and charge.kind == "cycle" else "One-Time",
            "ChargeClass": self._class(charge, bill),
            "ChargePeriodStart": _at(start),
            "ChargePeriodEnd": _at(max(end, start + _SECOND)),
        }
        if bought:
            row["ChargeCategory"] = "Purchase"
            row |= self._prices(charge)
            if charge.recognise == "usage":
                row["EffectiveCost"] = decimal(0)  # the rows of its usage have it
        elif charge.kind == "refund":
            unit = decimal(abs(charge.amount_nano))
            row |= {"ChargeCategory": "Purchase", "PricingCategory": "Standard", "PricingQuantity": -1, "PricingUnit": "Refunds"}  # fmt: skip
            row |= {"ListUnitPrice": unit, "ContractedUnitPrice": unit}
        else:
            row["ChargeCategory"] = "Credit" if charge.amount_nano <= 0 else "Adjustment"
        return row

    def _prices(self, charge: Charge) -> Row:
        """The columns of prices: list price, and what this subscriber pays."""
        sold = None if charge.offering_version is None else self._offering(charge.offering_version)
        listed = (
            charge.price_nano
            if sold is None
            else parse_money(sold.offering.price, sold.offering.currency).amount_nano
        )
        whole = charge.share_num == charge.share_den
        unit = "Steps" if charge.kind == "step" else "Months" if self._is_monthly(sold) else "Units"
        if not whole:
            listed = listed * charge.share_num // charge.share_den
            unit = f"Prorated {unit}"
        return {
            "PricingCategory": "Standard",
            "PricingQuantity": 1,
            "PricingUnit": unit,
            "ListUnitPrice": decimal(listed),
            "ListCost": decimal(listed),
            "ContractedUnitPrice": decimal(charge.price_nano if whole else charge.amount_nano),
            "ContractedCost": decimal(charge.price_nano if whole else charge.amount_nano),
        }

    @staticmethod
    def _is_monthly(sold: SoldOffering | None) -> bool:
        return sold is not None and sold.offering.cycle != "once"

    def _class(self, charge: Charge, bill: Bill | None) -> str | None:
        """`Correction` if the charge corrects an earlier invoice; None within the same period."""
        if charge.of_charge_id is None:
            return None
        before = self._services.charges.find(charge.account_id, charge.of_charge_id).bill_id
        return None if before is None or (bill is not None and before == bill.bill_id) else "Correction"

    def _rounding(self, line: BillLine, bill: Bill) -> Row:
        cost = decimal(line.amount_nano - line.charged_nano)
        row = self._base(bill, bill.currency) | self._product(line.offering_version, line.product_id)
        return row | {
            "BilledCost": cost,
            "EffectiveCost": cost,
            "ListCost": cost,
            "ContractedCost": cost,
            "ChargeCategory": "Adjustment",
            "ChargeFrequency": "One-Time",
            "ChargeDescription": f"Rounding of line {line.line_no} to fen",
            "ChargePeriodStart": _at(bill.period_start),
            "ChargePeriodEnd": _at(bill.period_end),
        }

    # Usage.

    def _usage(self) -> Iterator[Row]:
        day = self._begin
        now = self._services.clock.now()
        while day < min(self._end, now):
            following = min(day + timedelta(days=1), self._end)
            for used in self._services.ledger.consumed(self._subscriber.account_id, day, following):
                yield self._used(used, day, following)
            day = following

    def _used(self, used: Mapping[str, object], day: datetime, following: datetime) -> Row:
        charge_id, product_id = _id(used["charge_id"]), _id(used["product_id"])
        member_id, amount = _id(used["member_id"]), used["amount"]
        assert member_id is not None
        assert isinstance(amount, int)
        charge = (
            None if charge_id is None else self._services.charges.find(self._subscriber.account_id, charge_id)
        )
        version = None if charge is None else charge.offering_version
        if version is None and product_id is not None:
            version = self._services.orders.product(product_id)[0].offering_version
        unit = str(used["unit"])
        worth = 0
        if charge is not None and charge.recognise == "usage" and charge.quantity:
            worth = charge.amount_nano * amount // charge.quantity
        quantity = exact_decimal(amount, PER_UNIT)
        row = self._base(None, "CNY" if charge is None else charge.currency)
        for begin, end in self._periods:
            if begin <= day < end:  # a subscriber's first period may begin after the billing day
                row |= {"BillingPeriodStart": _at(begin), "BillingPeriodEnd": _at(end)}
        row |= {"SkuId": "tokens", "SkuPriceId": "tokens", "SkuMeter": "Allowance"}
        row |= self._product(version, product_id)
        return row | {
            "BilledCost": decimal(0),
            "ListCost": decimal(0),
            "ContractedCost": decimal(0),
            "ListUnitPrice": decimal(0),
            "ContractedUnitPrice": decimal(0),
            "EffectiveCost": decimal(worth),
            "ChargeCategory": "Usage",
            "ChargeFrequency": "Usage-Based",
            "ChargeDescription": f"{used['requests']} request(s) of {used['model']}",
            "ChargePeriodStart": _at(day),
            "ChargePeriodEnd": _at(following),
            "ConsumedQuantity": quantity,
            "ConsumedUnit": f"{unit.capitalize()}s",
            "PricingCategory": "Standard",
            "PricingQuantity": quantity,
            "PricingUnit": f"{unit.capitalize()}s",
            "SubAccountId": member_id,
            "SubAccountName": self._member(member_id),
            "SubAccountType": "Member",
            "x_Model": used["model"],
            "x_RateVersion": used["rate_version"],
        }

    def _member(self, member_id: UUID) -> str:
        if member_id not in self._members:
            found = self._services.members.by_id(member_id)
            self._members[member_id] = "member" if found is None or not found.name else found.name
        return self._members[member_id]


def _id(value: object) -> UUID | None:
    assert value is None or isinstance(value, UUID)
    return value


def _at(at: datetime) -> str:
    """YYYY-MM-DDTHH:mm:ssZ, as the specification writes an instant."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
