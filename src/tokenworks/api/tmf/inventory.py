"""TMF637: product inventory."""

from typing import Final

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.refs import INVENTORY, Party, offering_ref, party, product_ref
from tokenworks.subscriptions import Product, Subscriber
from tokenworks.web.content import shown, when
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, Paged, cut, one
from tokenworks.web.principals import READERS, Who, allow, as_uuid, mine_only, own
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import Asked, Services

router = APIRouter(prefix=INVENTORY, tags=["TMF637 product inventory"], route_class=RepeatableRoute)

# What TMF637 calls the states of a product.
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
    return shown(
        {
            **product_ref(product.product_id, sold.offering.name),
            "description": sold.offering.name_zh,
            "isBundle": sold.offering.kind == "bundle",
            "isCustomerVisible": True,
            "status": _STATUS[product.state],
            "startDate": when(product.started_at),
            "terminationDate": when(product.cycle_end) if product.ends_after_cycle else None,
            "productOffering": offering_ref(product.offering_id),
            "productCharacteristic": [
                {"name": name, "valueType": "string", "value": str(value)}
                for name, value in (
                    ("offeringVersion", product.offering_version),
                    ("cycle", product.cycle_no),
                    ("cycleStart", when(product.cycle_start)),
                    ("cycleEnd", when(product.cycle_end)),
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


@router.get("/product", summary="What a subscriber has", **allow(*READERS))
def products(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(services, who, related)
    found = [
        product_resource(services, product, subscriber) for product in services.orders.products(subscriber)
    ]
    names = ("id", "name", "status", "isBundle", "startDate", "terminationDate", "productOffering.id")
    return cut(page, filtered(request, found, names, beside=("relatedParty.id",)))


@router.get("/product/{id}", summary="One product", **allow(*READERS))
def product(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found, subscriber_id = services.orders.product(as_uuid(id, "product"))
    mine_only(who, subscriber_id, "product")
    subscriber = services.subscriptions.find(str(subscriber_id))
    return one(request, product_resource(services, found, subscriber), fields)
