"""Offerings, prices, specifications, categories and drafts as TMF620 resources."""

from typing import Final

from tokenworks.api.tmf.refs import CATALOG
from tokenworks.catalog import Draft, Offering, SoldOffering
from tokenworks.kernel import NotFound, parse_money
from tokenworks.web.content import instant, money, without_none
from tokenworks.web.services import Services

# A tariff of another seller is kept for comparison; it is not launched here.
_LIFECYCLE: Final = {
    "in_study": "In study",
    "active": "Active",
    "retired": "Retired",
    "comparison": "In study",
}
CATEGORIES: Final = {
    "plan": ("Token plans", "套餐"),
    "pay_as_you_go": ("Pay as you go", "随用随付"),
    "trial": ("Trials", "试用"),
    "add_on": ("Add-ons", "增值业务"),
    "bundle": ("Bundles", "融合套餐"),
}


def _ref(kind: str, id_: str, name: str, **more: object) -> dict[str, object]:
    return {"id": id_, "href": f"{CATALOG}/{kind}/{id_}", "name": name, **more}


def _period(offering: Offering) -> dict[str, object] | None:
    if offering.valid_from is None and offering.valid_until is None:
        return None
    return without_none(
        {"startDateTime": instant(offering.valid_from), "endDateTime": instant(offering.valid_until)}
    )


def offering_resource(services: Services, sold: SoldOffering) -> dict[str, object]:
    o = sold.offering
    return without_none(
        {
            **_ref("productOffering", o.id, o.name),
            "description": f"{o.name_zh}. {o.source}"
            + (f" Samples: {', '.join(o.samples)}." if o.samples else ""),
            "isBundle": o.kind == "bundle",
            "isSellable": services.offerings.can_be_ordered(o),
            "lifecycleStatus": _LIFECYCLE[o.status],
            "version": sold.offering_version,
            "validFor": _period(o),
            "category": [_ref("category", o.kind, CATEGORIES[o.kind][0])],
            "marketSegment": [
                {"id": audience, "name": audience.replace("_", " ")} for audience in o.audiences
            ],
            "productOfferingPrice": [
                _ref("productOfferingPrice", str(p["id"]), str(p["name"])) for p in price_resources(sold)
            ],
            "productSpecification": _ref("productSpecification", o.id, o.name, version=sold.offering_version),
            "bundledProductOffering": [_ref("productOffering", part, part) for part in o.parts] or None,
            "productOfferingRelationship": [
                _ref("productOffering", need, need, relationshipType="requires") for need in o.requires
            ]
            or None,
            "@type": "ProductOffering",
        }
    )


def price_resources(sold: SoldOffering) -> list[dict[str, object]]:
    """The price of a cycle or a step, and the first month's price if it differs."""
    o = sold.offering
    found = []
    for suffix, text in (("", o.price), ("-first", o.first_price)):
        if text is None:
            continue
        month = o.cycle != "once"
        found.append(
            without_none(
                {
                    **_ref(
                        "productOfferingPrice",
                        f"{o.id}{suffix}",
                        f"{o.name}{', first month' if suffix else ''}",
                    ),
                    "version": sold.offering_version,
                    "lifecycleStatus": _LIFECYCLE[o.status],
                    "priceType": "recurring"
                    if month
                    else "usage"
                    if o.kind == "pay_as_you_go"
                    else "oneTime",
                    "recurringChargePeriodType": "month" if month else None,
                    "recurringChargePeriodLength": 1 if month else None,
                    "price": money(parse_money(text, o.currency).amount_nano, o.currency),
                    "tax": [{"taxCategory": "VAT", "taxRate": o.vat_percent}],
                    "unitOfMeasure": {"amount": o.buckets[0].quantity, "units": o.buckets[0].unit}
                    if o.kind == "pay_as_you_go"
                    else None,
                    "@type": "ProductOfferingPrice",
                }
            )
        )
    return found


def specification_resource(sold: SoldOffering) -> dict[str, object]:
    o = sold.offering

    def characteristic(name: str, value: object, kind: str = "string", **more: object) -> dict[str, object]:
        values = value if isinstance(value, list) else [value]
        return {
            "name": name, "valueType": kind, "configurable": len(values) > 1,
            "productSpecCharacteristicValue": [{"value": item, "valueType": kind, **more} for item in values],
        }  # fmt: skip

    characteristics = [
        characteristic("cycle", o.cycle),
        characteristic("proration", o.proration),
        characteristic("rateCardVersion", sold.rate_version),
    ]
    characteristics += [
        characteristic(
            f"allowance{'-' + b.window if b.window else ''}", b.quantity, "number", unitOfMeasure=b.unit
        )
        for b in o.buckets
    ]
    if o.rollover is not None:
        characteristics.append(characteristic("rollover", o.rollover.quantity_max or "all"))
    if o.deliveries:
        characteristics.append(characteristic("delivery", list(o.deliveries)))
    characteristics += [
        characteristic(f"policy.{name}", str(value))
        for name, value in o.policy.model_dump(exclude_none=True).items()
    ]
    return {
        **_ref("productSpecification", o.id, o.name),
        "brand": o.carrier,
        "isBundle": o.kind == "bundle",
        "lifecycleStatus": _LIFECYCLE[o.status],
        "version": sold.offering_version,
        "productSpecCharacteristic": characteristics,
        "@type": "ProductSpecification",
    }


def category_resource(kind: str, sold: list[SoldOffering]) -> dict[str, object]:
    name, name_zh = CATEGORIES[kind]
    return {
        **_ref("category", kind, name),
        "description": name_zh,
        "isRoot": True,
        "lifecycleStatus": "Active",
        "productOffering": [
            _ref("productOffering", s.offering.id, s.offering.name) for s in sold if s.offering.kind == kind
        ],
        "@type": "Category",
    }


def find_resource(resources: list[dict[str, object]], id_: str, what: str) -> dict[str, object]:
    for resource in resources:
        if resource["id"] == id_:
            return resource
    raise NotFound(f"there is no {what} {id_[:60]}")


def draft_resource(draft: Draft) -> dict[str, object]:
    o = draft.offering
    return without_none(
        {
            **_ref("productOffering", o.id, o.name),
            "description": o.name_zh,
            "isBundle": o.kind == "bundle",
            "isSellable": False,
            "lifecycleStatus": "In design" if draft.approved_by is None else "In test",
            "statusReason": f"drafted by {draft.drafted_by}"
            + ("" if draft.approved_by is None else f", approved by {draft.approved_by}"),
            "lastUpdate": instant(draft.approved_at or draft.drafted_at),
            "validFor": _period(o),
            "category": [_ref("category", o.kind, CATEGORIES[o.kind][0])],
            "catalogueEntry": o.model_dump(mode="json", exclude_defaults=True),
            "@type": "ProductOffering",
        }
    )
