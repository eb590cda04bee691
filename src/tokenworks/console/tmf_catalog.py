"""TMF620 product catalogue: what is sold, as other systems read it; and drafted, approved and published by staff.

A draft is `In design`; approved by another person it is `In test`; published it is `Active` (or what its entry says). What a
tariff says goes beyond TMF620's attributes: it is in `catalogueEntry`, an entry of a catalogue file. Files are loaded, too.
"""

from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.catalog import Draft, Offering, SoldOffering
from tokenworks.console.web import (
    Asked,
    Fields,
    Loose,
    Paged,
    Repeatable,
    RepeatableRoute,
    Rooms,
    Who,
    allow,
    answer,
    audit,
    cut,
    filtered,
    is_staff,
    money,
    one,
    shown,
    when,
)
from tokenworks.kernel import Conflict, Invalid, NotFound, parse_money

BASE: Final = "/tmf-api/productCatalogManagement/v4"
router = APIRouter(prefix=BASE, tags=["TMF620 product catalogue"], route_class=RepeatableRoute)
# Another seller's tariff, kept for comparison, is none that we have launched.
_LIFE: Final = {"in_study": "In study", "active": "Active", "retired": "Retired", "comparison": "In study"}
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


def offering_resource(rooms: Rooms, sold: SoldOffering) -> dict[str, object]:
    o = sold.offering
    return shown(
        {
            **_ref("productOffering", o.id, o.name),
            "description": f"{o.name_zh}. {o.source}"
            + (f" Samples: {', '.join(o.samples)}." if o.samples else ""),
            "isBundle": o.kind == "bundle",
            "isSellable": rooms.offerings.can_be_ordered(o),
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
    found = [offering_resource(rooms, sold) for sold in rooms.offerings.all()]
    return cut(
        page,
        filtered(
            request,
            found,
            (
                "id",
                "name",
                "lifecycleStatus",
                "isBundle",
                "isSellable",
                "version",
                "category.id",
                "marketSegment.id",
                "validFor.startDateTime",
                "validFor.endDateTime",
            ),
        ),
    )


@router.get("/productOffering/{id}", summary="One offering; staff sees drafts, too")
def offering(request: Request, rooms: Asked, id: str, fields: Fields = None, draft: bool = False) -> Response:
    found = [offering_resource(rooms, sold) for sold in rooms.offerings.all() if sold.offering.id == id]
    if (draft or not found) and is_staff(request, rooms):
        return one(request, draft_resource(rooms.drafts.find(id)), fields)
    return one(request, _find(found, id, "offering"), fields)


# Drafts.


class ProductOfferingCreate(Loose):
    """`name` is the entry's; `catalogueEntry` is an entry of a catalogue file."""

    name: str = Field(min_length=1, max_length=100)
    catalogue_entry: dict[str, Any] = Field(alias="catalogueEntry", max_length=100)


class ProductOfferingUpdate(Loose):
    """Another entry; or In design (no longer approved), In test (approved), Active (published)."""

    catalogue_entry: dict[str, Any] | None = Field(default=None, alias="catalogueEntry", max_length=100)
    lifecycle_status: Literal["In design", "In test", "Active"] | None = Field(
        default=None, alias="lifecycleStatus"
    )


def draft_resource(draft: Draft) -> dict[str, object]:
    o = draft.offering
    return shown(
        {
            **_ref("productOffering", o.id, o.name),
            "description": o.name_zh,
            "isBundle": o.kind == "bundle",
            "isSellable": False,
            "lifecycleStatus": "In design" if draft.approved_by is None else "In test",
            "statusReason": f"drafted by {draft.drafted_by}"
            + ("" if draft.approved_by is None else f", approved by {draft.approved_by}"),
            "lastUpdate": when(draft.approved_at or draft.drafted_at),
            "validFor": _period(o),
            "category": [_ref("category", o.kind, _CATEGORIES[o.kind][0])],
            "catalogueEntry": o.model_dump(mode="json", exclude_defaults=True),
            "@type": "ProductOffering",
        }
    )


@router.post("/productOffering", status_code=201, summary="Draft an offering", **allow("operator"))
def draft_offering(body: ProductOfferingCreate, rooms: Asked, who: Who, _key: Repeatable) -> Response:
    if body.catalogue_entry.get("name") != body.name:
        raise Invalid("name: it is the name of the entry")
    with rooms.connection.transaction():
        if any(draft.offering.id == body.catalogue_entry.get("id") for draft in rooms.drafts.all()):
            raise Conflict("this offering is being drafted: change it by PATCH")
        made = rooms.drafts.write(body.catalogue_entry, who.name)
        resource = draft_resource(made)
        audit(rooms, who, "offering.draft", made.offering.id, None, resource["catalogueEntry"])
    return answer(resource, 201, {"Location": str(resource["href"])})


@router.patch("/productOffering/{id}", summary="Change, approve or publish a draft", **allow("operator"))
def change_offering(
    body: ProductOfferingUpdate, rooms: Asked, who: Who, id: str, _key: Repeatable
) -> Response:
    entry, status = body.catalogue_entry, body.lifecycle_status
    if (entry is None) == (status is None):
        raise Invalid("either catalogueEntry or lifecycleStatus is changed")
    with rooms.connection.transaction():
        if entry is not None:
            if entry.get("id") != id:
                raise Invalid("catalogueEntry: its id is the offering's")
            known = {sold.offering.id for sold in rooms.offerings.all()}
            if id not in known:
                rooms.drafts.find(id)
            resource = draft_resource(rooms.drafts.write(entry, who.name))
        elif status == "Active":
            rooms.drafts.publish(id)
            found = [
                offering_resource(rooms, sold) for sold in rooms.offerings.all() if sold.offering.id == id
            ]
            resource = _find(found, id, "offering")
        elif status == "In test":
            resource = draft_resource(rooms.drafts.approve(id, who.name))
        else:
            resource = draft_resource(rooms.drafts.withdraw_approval(id))
        audit(rooms, who, f"offering.{'change' if status is None else status.lower()}", id, None, resource)
    return answer(resource)


@router.delete("/productOffering/{id}", status_code=204, summary="Throw a draft away", **allow("operator"))
def remove_draft(rooms: Asked, who: Who, id: str) -> Response:
    with rooms.connection.transaction():
        rooms.drafts.remove(id)
        audit(rooms, who, "offering.draft.remove", id)
    return Response(status_code=204)


@router.get("/productOfferingPrice", summary="What it costs")
def prices(request: Request, rooms: Asked, page: Paged) -> Response:
    found = [price for sold in rooms.offerings.all() for price in price_resources(sold)]
    return cut(
        page,
        filtered(request, found, ("id", "name", "priceType", "lifecycleStatus", "version", "price.value")),
    )


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
        page,
        filtered(
            request,
            [_category_resource(kind, sold) for kind in _CATEGORIES],
            ("id", "name", "lifecycleStatus"),
        ),
    )


@router.get("/category/{id}", summary="One kind")
def category(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    sold = rooms.offerings.all()
    return one(
        request, _find([_category_resource(kind, sold) for kind in _CATEGORIES], id, "category"), fields
    )
