"""TMF620 product catalogue: what is sold, as other systems read it. What a tariff says goes beyond TMF620's attributes: it is in
`catalogueEntry`, an entry of a catalogue file.
"""

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.catalog_resources import (
    CATEGORIES,
    category_resource,
    draft_resource,
    find_resource,
    offering_resource,
    price_resources,
    specification_resource,
)
from tokenworks.api.tmf.refs import CATALOG
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, Paged, cut, one
from tokenworks.web.principals import is_staff
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import Asked

router = APIRouter(prefix=CATALOG, tags=["TMF620 product catalogue"], route_class=RepeatableRoute)


@router.get("/productOffering", summary="What is sold")
def offerings(request: Request, services: Asked, page: Paged) -> Response:
    found = [offering_resource(services, sold) for sold in services.offerings.all()]
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
def offering(
    request: Request, services: Asked, id: str, fields: Fields = None, draft: bool = False
) -> Response:
    found = [offering_resource(services, sold) for sold in services.offerings.all() if sold.offering.id == id]
    if (draft or not found) and is_staff(request, services):
        return one(request, draft_resource(services.drafts.find(id)), fields)
    return one(request, find_resource(found, id, "offering"), fields)


@router.get("/productOfferingPrice", summary="What it costs")
def prices(request: Request, services: Asked, page: Paged) -> Response:
    found = [price for sold in services.offerings.all() for price in price_resources(sold)]
    return cut(
        page,
        filtered(request, found, ("id", "name", "priceType", "lifecycleStatus", "version", "price.value")),
    )


@router.get("/productOfferingPrice/{id}", summary="One price")
def price(request: Request, services: Asked, id: str, fields: Fields = None) -> Response:
    found = [price for sold in services.offerings.all() for price in price_resources(sold)]
    return one(request, find_resource(found, id, "price"), fields)


@router.get("/productSpecification", summary="What it brings")
def specifications(request: Request, services: Asked, page: Paged) -> Response:
    found = [specification_resource(sold) for sold in services.offerings.all()]
    return cut(page, filtered(request, found, ("id", "name", "brand", "lifecycleStatus", "version")))


@router.get("/productSpecification/{id}", summary="One specification")
def specification(request: Request, services: Asked, id: str, fields: Fields = None) -> Response:
    found = [specification_resource(sold) for sold in services.offerings.all()]
    return one(request, find_resource(found, id, "specification"), fields)


@router.get("/category", summary="Kinds of offerings")
def categories(request: Request, services: Asked, page: Paged) -> Response:
    sold = services.offerings.all()
    return cut(
        page,
        filtered(
            request,
            [category_resource(kind, sold) for kind in CATEGORIES],
            ("id", "name", "lifecycleStatus"),
        ),
    )


@router.get("/category/{id}", summary="One kind")
def category(request: Request, services: Asked, id: str, fields: Fields = None) -> Response:
    sold = services.offerings.all()
    return one(
        request,
        find_resource([category_resource(kind, sold) for kind in CATEGORIES], id, "category"),
        fields,
    )
