"""A validator of FOCUS 1.2 datasets, written from the column rules of the specification (focus.finops.org, version 1.2).

It checks what a dataset shows by itself: which columns are there, types and formats, nulls, allowed values, and what the rules
say between columns of a row. An empty cell is a null.
"""

import re
from decimal import Decimal

MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "ServiceCategory", "ServiceName",
)  # fmt: skip
RECOMMENDED = ("ChargeFrequency", "InvoiceId", "ServiceSubcategory")
CONDITIONAL = (
    "AvailabilityZone", "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice",
    "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "SkuId", "SkuMeter",
    "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
)  # fmt: skip
NOT_NULL = (
    "BilledCost", "BillingAccountId", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost",
    "InvoiceIssuerName", "ListCost", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory",
)  # fmt: skip
DECIMALS = (
    "BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost", "ListUnitPrice",
    "PricingQuantity",
)  # fmt: skip
DATES = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {
        "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools", "Multicloud",
        "Identity", "Integration", "Internet of Things", "Management and Governance", "Media", "Migration", "Mobile",
        "Networking", "Security", "Storage", "Web", "Other",
    },
}  # fmt: skip
# The parents of the subcategories that are used here.
PARENTS = {
    "AI Platforms": "AI and Machine Learning", "Bots": "AI and Machine Learning", "Generative AI": "AI and Machine Learning",
    "Machine Learning": "AI and Machine Learning", "Natural Language Processing": "AI and Machine Learning",
    "Other (AI and Machine Learning)": "AI and Machine Learning", "Other (Other)": "Other",
}  # fmt: skip
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(E-?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_UNIT = re.compile(r"([1-9][0-9]* )?[A-Z][A-Za-z]*( [A-Z][A-Za-z]*)*")


def faults(columns, rows):
    """Every rule that a dataset breaks, as (row number from 1 or 0 for the dataset, rule)."""
    found = [(0, f"{name} MUST be present") for name in (*MANDATORY, *RECOMMENDED) if name not in columns]
    known = {*MANDATORY, *RECOMMENDED, *CONDITIONAL}
    seen_custom = False
    for name in columns:
        custom = name not in known
        if custom and not re.fullmatch(r"x_[A-Z][A-Za-z0-9]*", name):
            found.append((0, f"{name}: a custom column begins with x_"))
        if seen_custom and not custom:
            found.append((0, f"{name}: FOCUS columns come before custom ones"))
        seen_custom = seen_custom or custom
    for number, row in enumerate(rows, 1):
        found += [(number, text) for text in _row(columns, row)]
    found += [(0, text) for text in _across(rows)]
    return found


def _row(columns, row):
    get = lambda name: row.get(name) or None
    for name in NOT_NULL:
        if name in columns and get(name) is None:
            yield f"{name} MUST NOT be null"
    for name, allowed in ALLOWED.items():
        if get(name) is not None and get(name) not in allowed:
            yield f"{name} {get(name)!r} MUST be one of the allowed values"
    for name in columns:
        if get(name) is not None and not get(name).strip():
            yield f"{name} MUST NOT consist of spaces alone"
    numbers = {}
    for name in DECIMALS:
        text = get(name)
        if text is None:
            continue
        if _NUMBER.fullmatch(text) is None:
            yield f"{name} {text!r} MUST conform to NumericFormat"
            return
        numbers[name] = Decimal(text)
    for name in DATES:
        if get(name) is not None and _DATE.fullmatch(get(name)) is None:
            yield f"{name} {get(name)!r} MUST conform to DateTimeFormat"
            return
    for first, last in (("BillingPeriodStart", "BillingPeriodEnd"), ("ChargePeriodStart", "ChargePeriodEnd")):
        if not get(first) < get(last):
            yield f"{last} MUST be the exclusive end bound"
    if re.fullmatch(r"[A-Z]{3}", get("BillingCurrency") or "") is None:
        yield "BillingCurrency MUST be three letters (ISO 4217)"
    yield from _prices(get, numbers)
    yield from _nulls(get)
    parent = PARENTS.get(get("ServiceSubcategory"))
    if parent != get("ServiceCategory"):
        yield "ServiceSubcategory MUST have its parent ServiceCategory"
    for name in ("ConsumedUnit", "PricingUnit"):
        if get(name) is not None and (_UNIT.fullmatch(get(name)) is None or not get(name).endswith("s")):
            yield f"{name} {get(name)!r} SHOULD conform to UnitFormat"


def _prices(get, numbers):
    category, correction = get("ChargeCategory"), get("ChargeClass") == "Correction"
    quantity = numbers.get("PricingQuantity")
    for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
        unit = numbers.get(price)
        if unit is None:
            if category in {"Credit", "Adjustment"} and numbers[cost] != numbers["BilledCost"]:
                yield f"{cost} of a charge unrelated to others MUST match the BilledCost"
            continue
        if unit < 0:
            yield f"{price} MUST be non-negative"
        if quantity is not None and not correction and unit * quantity != numbers[cost]:
            yield f"{price} times PricingQuantity MUST match {cost}"
    if category in {"Usage", "Purchase"} and not correction:
        for name in (
            "ListUnitPrice",
            "ContractedUnitPrice",
            "PricingQuantity",
            "PricingCategory",
            "SkuId",
            "SkuPriceId",
        ):
            if get(name) is None:
                yield f"{name} MUST NOT be null for {category}"
    if category == "Tax":
        for name in (
            "ListUnitPrice",
            "ContractedUnitPrice",
            "PricingQuantity",
            "PricingCategory",
            "SkuId",
            "SkuPriceId",
        ):
            if get(name) is not None:
                yield f"{name} MUST be null for Tax"
    if category in {"Credit", "Adjustment"} and numbers["EffectiveCost"] != numbers["BilledCost"]:
        yield "EffectiveCost MUST match the BilledCost"


def _nulls(get):
    category = get("ChargeCategory")
    if category == "Purchase" and get("ChargeFrequency") == "Usage-Based":
        yield 'ChargeFrequency MUST NOT be "Usage-Based" for a Purchase'
    if category != "Usage" and get("ConsumedQuantity") is not None:
        yield "ConsumedQuantity MUST be null when ChargeCategory is not Usage"
    if category == "Usage" and get("ChargeClass") is None and get("ConsumedQuantity") is None:
        yield "ConsumedQuantity MUST NOT be null for Usage"
    for first, then in (
        ("ConsumedQuantity", "ConsumedUnit"), ("PricingQuantity", "PricingUnit"), ("SubAccountId", "SubAccountName"),
        ("SubAccountId", "SubAccountType"), ("ResourceId", "ResourceType"),
    ):  # fmt: skip
        if (get(first) is None) != (get(then) is None):
            yield f"{then} MUST be null exactly when {first} is null"
    for first, then in (
        ("ResourceId", "ResourceName"),
        ("SkuId", "SkuMeter"),
        ("SkuPriceId", "SkuPriceDetails"),
    ):
        if get(first) is None and get(then) is not None:
            yield f"{then} MUST be null when {first} is null"
    if get("ResourceId") is not None and get("ResourceId") == get("ResourceName"):
        yield "ResourceName MUST NOT duplicate ResourceId"


def _across(rows):
    """What holds between rows."""
    for child, parent in (("SkuPriceId", "SkuId"), ("ServiceName", "ServiceCategory")):
        known = {}
        for row in rows:
            if row.get(child) and known.setdefault(row[child], row[parent]) != row[parent]:
                yield f"{child} {row[child]} MUST have one and only one {parent}"
    known = {}
    for row in rows:
        if row.get("InvoiceId"):
            period = (row["BillingPeriodStart"], row["BillingPeriodEnd"], row["BillingAccountId"])
            if known.setdefault(row["InvoiceId"], period) != period:
                yield f"InvoiceId {row['InvoiceId']} MUST be of one billing account and period"
