"""TMF637: product inventory."""

from typing import Final

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.refs import INVENTORY, PartyQuery, offering_ref, party, product_ref
from tokenworks.subscriptions import Product, Subscriber
from tokenworks.web.content import instant, without_none
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import READERS, CurrentPrincipal, allow, as_uuid, check_owner, own_subscriber
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix=INVENTORY, tags=["TMF637 product inventory"], route_class=RepeatableRoute)

# The states of a product, by their TMF637 names.
_STATUS: Final = {
    "pendingActive": "pendingActive",
    "active": "active",
    "suspended": "suspended",
    "cancelled": "cancelled",
    "aborted": "aborted",
    "expired": "terminated",
}


def product_resource(services: Services, product: Product, subscriber: Subscriber) -> dict[str, object]:
    sold = services.offerings.sold(product.offering_version)
    return without_none(
        {
            **product_ref(product.product_id, sold.offering.name),
            "description": sold.offering.name_zh,
            "isBundle": sold.offering.kind == "bundle",
            "isCustomerVisible": True,
            "status": _STATUS[product.state],
            "startDate": instant(product.started_at),
            "terminationDate": instant(product.cycle_end) if product.ends_after_cycle else None,
            "productOffering": offering_ref(product.offering_id),
            "productCharacteristic": [
                {"name": name, "valueType": "string", "value": str(value)}
                for name, value in (
                    ("offeringVersion", product.offering_version),
                    ("cycle", product.cycle_no),
                    ("cycleStart", instant(product.cycle_start)),
                    ("cycleEnd", instant(product.cycle_end)),
                    ("delivery", product.delivery),
                    ("nextOfferingVersion", product.next_version),
                )
                if value is not None
            ],
            "productRelationship": None
            if product.parent_id is None
            else [{"relationshipType": "bundledBy", "product": product_ref(product.parent_id)}],
            "productOrderItem": [
                {"productOrderId": str(product.order_id), "orderItemId": "1", "orderItemAction": "add"}
            ],
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "Product",
        }
    )


@router.get("/product", summary="A subscriber's products", **allow(*READERS))
def products(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    subscriber = own_subscriber(services, principal, related)
    found = [
        product_resource(services, product, subscriber) for product in services.orders.products(subscriber)
    ]
    names = ("id", "name", "status", "isBundle", "startDate", "terminationDate", "productOffering.id")
    return paginate(page, apply_filters(request, found, names, ignored=("relatedParty.id",)))


@router.get("/product/{id}", summary="One product", **allow(*READERS))
def product(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    found, subscriber_id = services.orders.product(as_uuid(id, "product"))
    check_owner(principal, subscriber_id, "product")
    subscriber = services.subscriptions.find(str(subscriber_id))
    return resource_response(request, product_resource(services, found, subscriber), fields)
