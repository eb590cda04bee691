"""FOCUS 1.2 (FinOps Open Cost and Usage Specification): a month's costs and usage as the rows that FinOps tools read.

A month has the billing periods that begin in it (in the seller's zone), whole: the charges of their bills, what is charged in
them and not billed yet, and what was used. `InvoiceId` is the bill's number; the `BilledCost` of its rows add up to the bill:
where a line was rounded to fen there is a row for the difference.

- A purchase (a cycle, a change, a step of pay-as-you-go) or its refund: `ListCost` by the price list, `ContractedCost` by
  what this subscriber pays. A part of a cycle is one unit at its share of the price, since a share may have no end as a
  decimal. What pays for tokens has `EffectiveCost` 0: the rows of their use have it.
- Usage, by day, product, member and model: `ConsumedQuantity` as it is counted against the allowance; it costs nothing more,
  so list, contracted and billed cost are 0, and `EffectiveCost` is its share of what was paid for the allowance.
- A credit afterwards is a `Credit`, a rounding an `Adjustment`.

Amounts include VAT, as bills do. What was paid for and expired unused is in `BilledCost` and in no `EffectiveCost`: the
specification has rows for the unused part of commitment discounts alone, and a plan is none (decision 40).
"""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
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
# Rows that are put together before they are sent.
ROWS_AT_ONCE: Final = 200
MONTH_FIRST: Final = 2000
MONTH_LAST: Final = 9998
_AI: Final = ("AI tokens", "AI and Machine Learning", "Generative AI")
_OTHER: Final = ("Carrier add-ons", "Other", "Other (Other)")
_SECOND: Final = timedelta(seconds=1)
Row = dict[str, object]


class Focus:
    """On one connection, with the rooms that it uses."""

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
        """The whole file, as `pieces` gives it."""
        return "".join(self.pieces(subscriber, month))

    def pieces(self, subscriber: Subscriber, month: str) -> Iterator[str]:
        """`month`: YYYY-MM. The file in pieces, whatever its length. Raises `Invalid` at once."""
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

    def __init__(self, rooms: Focus, subscriber: Subscriber, first: datetime) -> None:
        self._rooms = rooms
        self._of = subscriber
        self._first = first
        self._begin = first.replace(day=subscriber.bill_day)
        self._end = add_months(self._begin, 1)
        self._sold: dict[str, SoldOffering] = {}
        self._members: dict[UUID, str] = {}
        self._periods: list[tuple[datetime, datetime]] = []

    def rows(self) -> Iterator[Row]:
        for bill in self._bills():
            self._periods.append((bill.period_start, bill.period_end))
            for charge in self._rooms.charges.of_bill(bill.account_id, bill.bill_id):
                yield self._charge(charge, bill)
            for line in self._rooms.bills.lines(bill):
                if line.amount_nano != line.charged_nano:
                    yield self._rounding(line, bill)
        of = self._of
        for charge in self._rooms.charges.unbilled_between(
            of.account_id, of.subscriber_id, self._begin, self._end
        ):
            yield self._charge(charge, None)
        yield from self._usage()

    def _bills(self) -> Iterator[Bill]:
        """Those whose period begins in the month; newest first."""
        end, offset = add_months(self._first, 1), 0
        while True:
            found, total = self._rooms.bills.all(self._of, offset, BILLS_AT_ONCE)
            yield from (bill for bill in found if self._first <= bill.period_start < end)
            offset += len(found)
            if not found or offset >= total or found[-1].period_start < self._first:
                return

    def _base(self, bill: Bill | None, currency: str) -> Row:
        begin, end = (self._begin, self._end) if bill is None else (bill.period_start, bill.period_end)
        return {
            "BillingAccountId": self._of.account_id,
            "BillingAccountName": self._of.name,
            "BillingAccountType": "Token account",
            "BillingCurrency": currency,
            "BillingPeriodStart": _at(begin),
            "BillingPeriodEnd": _at(end),
            "InvoiceId": None if bill is None else bill.bill_no,
            "InvoiceIssuerName": self._rooms.operator,
            "ProviderName": self._rooms.operator,
            "PublisherName": self._rooms.operator,
        }

    def _product(self, version: str | None, product_id: UUID | None) -> Row:
        """What names the thing that was sold."""
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
            self._sold[version] = self._rooms.offerings.sold(version)
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
                row["EffectiveCost"] = decimal(0)  # the rows of its use have it
        elif charge.kind == "refund":
            unit = decimal(abs(charge.amount_nano))
            row |= {"ChargeCategory": "Purchase", "PricingCategory": "Standard", "PricingQuantity": -1, "PricingUnit": "Refunds"}  # fmt: skip
            row |= {"ListUnitPrice": unit, "ContractedUnitPrice": unit}
        else:
            row["ChargeCategory"] = "Credit" if charge.amount_nano <= 0 else "Adjustment"
        return row

    def _prices(self, charge: Charge) -> Row:
        """List against contracted: by the price list, and what this subscriber pays."""
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
        """A correction of what an earlier invoice had; one within the same period is none."""
        if charge.of_charge_id is None:
            return None
        before = self._rooms.charges.find(charge.account_id, charge.of_charge_id).bill_id
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
        now = self._rooms.clock.now()
        while day < min(self._end, now):
            following = min(day + timedelta(days=1), self._end)
            for used in self._rooms.ledger.consumed(self._of.account_id, day, following):
                yield self._used(used, day, following)
            day = following

    def _used(self, used: dict[str, Any], day: datetime, following: datetime) -> Row:
        found = used["charge_id"]
        charge = None if found is None else self._rooms.charges.find(self._of.account_id, found)
        version = None if charge is None else charge.offering_version
        if version is None and used["product_id"] is not None:
            version = self._rooms.orders.product(used["product_id"])[0].offering_version
        unit, amount = str(used["unit"]), int(used["amount"])
        worth = 0
        if charge is not None and charge.recognise == "usage" and charge.quantity:
            worth = charge.amount_nano * amount // charge.quantity
        quantity = exact_decimal(amount, PER_UNIT)
        row = self._base(None, "CNY" if charge is None else charge.currency)
        for begin, end in self._periods:
            if begin <= day < end:  # the first period of all begins within its month
                row |= {"BillingPeriodStart": _at(begin), "BillingPeriodEnd": _at(end)}
        row |= {"SkuId": "tokens", "SkuPriceId": "tokens", "SkuMeter": "Allowance"}
        row |= self._product(version, used["product_id"])
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
            "SubAccountId": used["member_id"],
            "SubAccountName": self._member(used["member_id"]),
            "SubAccountType": "Member",
            "x_Model": used["model"],
            "x_RateVersion": used["rate_version"],
        }

    def _member(self, member_id: UUID) -> str:
        if member_id not in self._members:
            found = self._rooms.members.by_id(member_id)
            self._members[member_id] = "member" if found is None or not found.name else found.name
        return self._members[member_id]


def _at(at: datetime) -> str:
    """YYYY-MM-DDTHH:mm:ssZ, as the specification writes an instant."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
