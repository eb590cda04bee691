"""FOCUS 1.2 (FinOps Open Cost and Usage Specification): a month's charges as the rows that FinOps tools read.

One row for each charge or credit; `BilledCost` is the gross amount, `EffectiveCost` what of it is earned so far.
"""

import csv
import io
from datetime import datetime
from typing import Final

from tokenworks.charging import Charge
from tokenworks.console.web import Rooms, decimal, when
from tokenworks.kernel import csv_cell
from tokenworks.subscriptions import BILLING_ZONE, Subscriber, add_months

CHARGES_MAX: Final = 100_000
COLUMNS: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "RegionId", "ResourceId", "ServiceCategory", "ServiceName", "ServiceSubcategory",
    "SkuId", "SkuPriceId", "SubAccountId",
)  # fmt: skip
_FREQUENCY: Final = {"cycle": "Recurring", "step": "Usage-Based"}


def focus_csv(rooms: Rooms, subscriber: Subscriber, month: str) -> str:
    """`month`: YYYY-MM, a calendar month of the billing zone."""
    year, number = (int(part) for part in month.split("-"))
    begin = datetime(year, number, 1, tzinfo=BILLING_ZONE)
    end = add_months(begin, 1)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for charge in rooms.charges.of_subscriber(subscriber.subscriber_id, limit=CHARGES_MAX):
        if begin <= charge.charged_at < end:
            row = _row(rooms, charge, subscriber, begin, end)
            writer.writerow({name: csv_cell(value) for name, value in row.items()})
    return out.getvalue()


def _row(
    rooms: Rooms, charge: Charge, subscriber: Subscriber, begin: datetime, end: datetime
) -> dict[str, object]:
    sold = None if charge.offering_version is None else rooms.offerings.sold(charge.offering_version)
    credit = charge.amount_nano < 0
    gross, earned = charge.amount_nano, charge.recognised_nano + charge.broken_nano
    unit = sold.offering.buckets[0].unit if sold and sold.offering.buckets else ""
    used = rooms.charges.used(charge)
    return {
        "BilledCost": decimal(gross),
        "BillingAccountId": subscriber.account_id,
        "BillingAccountName": subscriber.name or "",
        "BillingAccountType": "Token account",
        "BillingCurrency": charge.currency,
        "BillingPeriodStart": when(begin),
        "BillingPeriodEnd": when(end),
        "ChargeCategory": "Credit" if credit else "Purchase",
        "ChargeClass": "Correction" if credit and charge.bill_id is not None else "",
        "ChargeDescription": charge.description,
        "ChargeFrequency": _FREQUENCY.get(charge.kind, "One-Time"),
        "ChargePeriodStart": when(charge.period_start),
        "ChargePeriodEnd": when(charge.period_end or end),
        "ConsumedQuantity": "" if credit or not charge.quantity else used // 1000,
        "ConsumedUnit": "" if credit or not charge.quantity else f"{unit.capitalize()}s",
        "ContractedCost": decimal(gross),
        "ContractedUnitPrice": decimal(charge.price_nano),
        "EffectiveCost": decimal(gross if credit else earned),
        "InvoiceId": "" if charge.bill_id is None else charge.bill_id,
        "InvoiceIssuerName": rooms.operator,
        "ListCost": decimal(gross),
        "ListUnitPrice": decimal(charge.price_nano),
        "PricingCategory": "Standard",
        "PricingQuantity": 1,
        "PricingUnit": "Steps" if charge.kind == "step" else "Months",
        "ProviderName": rooms.operator,
        "PublisherName": sold.offering.carrier if sold else rooms.operator,
        "RegionId": "",
        "ResourceId": charge.product_id or "",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "AI tokens",
        "ServiceSubcategory": "Generative AI",
        "SkuId": sold.offering.id if sold else "",
        "SkuPriceId": charge.offering_version or "",
        "SubAccountId": "",
    }
