"""TMF620 product catalogue: what is sold, as other systems read it. Tariffs are changed by loading a catalogue file."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.console.web import Asked, Fields, Paged, cut, filtered, money, one, shown, when
from tokenworks.kernel import NotFound, parse_money

BASE: Final = "/tmf-api/productCatalogManagement/v4"
router = APIRouter(prefix=BASE, tags=["TMF620 product catalogue"])
_LIFE: Final = {"in_study": "In study", "active": "Active", "retired": "Retired"}
_CATEGORIES: Final = {
    "plan": ("Token plans", "套餐"),
    "pay_as_you_go": ("Pay as you go", "随用随付"),
    "trial": ("Trials", "试用"),
    "add_on": ("Add-ons", "增值业务"),
    "bundle": ("Bundles", "融合套餐"),
}


def _ref(kind: str, id_: str, name: str, **more: object) -> dict[str, object]:
    return {"id": id_, "href": f"{BASE}/{kind}/{id_}", "name": name, **more}


def _period(offering: Offering) -> dict[str, object] | None:
    if offering.valid_from is None and offering.valid_until is None:
        return None
    return shown({"startDateTime": when(offering.valid_from), "endDateTime": when(offering.valid_until)})


def offering_resource(sold: SoldOffering) -> dict[str, object]:
    o = sold.offering
    return shown(
        {
            **_ref("productOffering", o.id, o.name),
            "description": f"{o.name_zh}. {o.source}"
            + (f" Samples: {', '.join(o.samples)}." if o.samples else ""),
            "isBundle": o.kind == "bundle",
            "isSellable": o.status == "active",
            "lifecycleStatus": _LIFE[o.status],
            "version": sold.offering_version,
            "validFor": _period(o),
            "category": [_ref("category", o.kind, _CATEGORIES[o.kind][0])],
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
    """The price of a cycle or a step, and the first month's where that is another."""
    o = sold.offering
    found = []
    for suffix, text in (("", o.price), ("-first", o.first_price)):
        if text is None:
            continue
        month = o.cycle != "once"
        found.append(
            shown(
                {
                    **_ref(
                        "productOfferingPrice",
                        f"{o.id}{suffix}",
                        f"{o.name}{', first month' if suffix else ''}",
                    ),
                    "version": sold.offering_version,
                    "lifecycleStatus": _LIFE[o.status],
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

    def says(name: str, value: Any, kind: str = "string", **more: object) -> dict[str, object]:
        values = value if isinstance(value, list) else [value]
        return {
            "name": name, "valueType": kind, "configurable": len(values) > 1,
            "productSpecCharacteristicValue": [{"value": one_value, "valueType": kind, **more} for one_value in values],
        }  # fmt: skip

    characteristics = [
        says("cycle", o.cycle),
        says("proration", o.proration),
        says("rateCardVersion", sold.rate_version),
    ]
    characteristics += [
        says(f"allowance{'-' + b.window if b.window else ''}", b.quantity, "number", unitOfMeasure=b.unit)
        for b in o.buckets
    ]
    if o.rollover is not None:
        characteristics.append(says("rollover", o.rollover.quantity_max or "all"))
    if o.deliveries:
        characteristics.append(says("delivery", list(o.deliveries)))
    characteristics += [
        says(f"policy.{name}", str(value)) for name, value in o.policy.model_dump(exclude_none=True).items()
    ]
    return {
        **_ref("productSpecification", o.id, o.name),
        "brand": o.carrier,
        "isBundle": o.kind == "bundle",
        "lifecycleStatus": _LIFE[o.status],
        "version": sold.offering_version,
        "productSpecCharacteristic": characteristics,
        "@type": "ProductSpecification",
    }


def _category_resource(kind: str, sold: list[SoldOffering]) -> dict[str, object]:
    name, name_zh = _CATEGORIES[kind]
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


def _find(resources: list[dict[str, object]], id_: str, what: str) -> dict[str, object]:
    for resource in resources:
        if resource["id"] == id_:
            return resource
    raise NotFound(f"there is no {what} {id_[:60]}")


@router.get("/productOffering", summary="What is sold")
def offerings(request: Request, rooms: Asked, page: Paged) -> Response:
    found = [offering_resource(sold) for sold in rooms.offerings.all()]
    return cut(
        page, filtered(request, found, ("id", "name", "lifecycleStatus", "isBundle", "isSellable", "version"))
    )


@router.get("/productOffering/{id}", summary="One offering")
def offering(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    return one(
        request, _find([offering_resource(sold) for sold in rooms.offerings.all()], id, "offering"), fields
    )


@router.get("/productOfferingPrice", summary="What it costs")
def prices(request: Request, rooms: Asked, page: Paged) -> Response:
    found = [price for sold in rooms.offerings.all() for price in price_resources(sold)]
    return cut(page, filtered(request, found, ("id", "name", "priceType", "lifecycleStatus", "version")))


@router.get("/productOfferingPrice/{id}", summary="One price")
def price(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    found = [price for sold in rooms.offerings.all() for price in price_resources(sold)]
    return one(request, _find(found, id, "price"), fields)


@router.get("/productSpecification", summary="What it brings")
def specifications(request: Request, rooms: Asked, page: Paged) -> Response:
    found = [specification_resource(sold) for sold in rooms.offerings.all()]
    return cut(page, filtered(request, found, ("id", "name", "brand", "lifecycleStatus", "version")))


@router.get("/productSpecification/{id}", summary="One specification")
def specification(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    found = [specification_resource(sold) for sold in rooms.offerings.all()]
    return one(request, _find(found, id, "specification"), fields)


@router.get("/category", summary="Kinds of offerings")
def categories(request: Request, rooms: Asked, page: Paged) -> Response:
    sold = rooms.offerings.all()
    return cut(
        page, filtered(request, [_category_resource(kind, sold) for kind in _CATEGORIES], ("id", "name"))
    )


@router.get("/category/{id}", summary="One kind")
def category(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    sold = rooms.offerings.all()
    return one(
        request, _find([_category_resource(kind, sold) for kind in _CATEGORIES], id, "category"), fields
    )
