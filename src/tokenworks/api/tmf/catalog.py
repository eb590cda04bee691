"""TMF620: the product catalogue. A tariff has more than TMF620's attributes: a draft shows all of it in `catalogueEntry`, which is an
entry of a catalogue file.
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
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import is_staff
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=CATALOG, tags=["TMF620 product catalogue"], route_class=RepeatableRoute)


@router.get("/productOffering", summary="Product offerings")
def offerings(request: Request, services: RequestServices, page: PageQuery) -> Response:
    found = [offering_resource(services, sold) for sold in services.offerings.all()]
    return paginate(
        page,
        apply_filters(
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


@router.get("/productOffering/{id}", summary="One offering; staff also sees drafts")
def offering(
    request: Request, services: RequestServices, id: str, fields: FieldsQuery = None, draft: bool = False
) -> Response:
    found = [offering_resource(services, sold) for sold in services.offerings.all() if sold.offering.id == id]
    if (draft or not found) and is_staff(request, services):
        return resource_response(request, draft_resource(services.drafts.find(id)), fields)
    return resource_response(request, find_resource(found, id, "offering"), fields)


@router.get("/productOfferingPrice", summary="Product offering prices")
def prices(request: Request, services: RequestServices, page: PageQuery) -> Response:
    found = [price for sold in services.offerings.all() for price in price_resources(sold)]
    return paginate(
        page,
        apply_filters(
            request, found, ("id", "name", "priceType", "lifecycleStatus", "version", "price.value")
        ),
    )


@router.get("/productOfferingPrice/{id}", summary="One price")
def price(request: Request, services: RequestServices, id: str, fields: FieldsQuery = None) -> Response:
    found = [price for sold in services.offerings.all() for price in price_resources(sold)]
    return resource_response(request, find_resource(found, id, "price"), fields)


@router.get("/productSpecification", summary="Product specifications")
def specifications(request: Request, services: RequestServices, page: PageQuery) -> Response:
    found = [specification_resource(sold) for sold in services.offerings.all()]
    return paginate(
        page, apply_filters(request, found, ("id", "name", "brand", "lifecycleStatus", "version"))
    )


@router.get("/productSpecification/{id}", summary="One specification")
def specification(
    request: Request, services: RequestServices, id: str, fields: FieldsQuery = None
) -> Response:
    found = [specification_resource(sold) for sold in services.offerings.all()]
    return resource_response(request, find_resource(found, id, "specification"), fields)


@router.get("/category", summary="Categories of offerings")
def categories(request: Request, services: RequestServices, page: PageQuery) -> Response:
    sold = services.offerings.all()
    return paginate(
        page,
        apply_filters(
            request,
            [category_resource(kind, sold) for kind in CATEGORIES],
            ("id", "name", "lifecycleStatus"),
        ),
    )


@router.get("/category/{id}", summary="One category")
def category(request: Request, services: RequestServices, id: str, fields: FieldsQuery = None) -> Response:
    sold = services.offerings.all()
    return resource_response(
        request,
        find_resource([category_resource(kind, sold) for kind in CATEGORIES], id, "category"),
        fields,
    )
