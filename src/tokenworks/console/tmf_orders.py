"""TMF622 product orders and TMF637 product inventory."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.console.tmf_catalog import BASE as CATALOG
from tokenworks.console.web import (
    BUYERS,
    READERS,
    Asked,
    Fields,
    IdempotencyKey,
    Instant,
    Loose,
    Paged,
    Ref,
    Repeatable,
    RepeatableRoute,
    Rooms,
    Who,
    allow,
    answer,
    as_uuid,
    audit,
    cut,
    filtered,
    mine_only,
    money,
    narrowed,
    one,
    own,
    shown,
    when,
    whose,
)
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import Order, Product, Subscriber

ORDER: Final = "/tmf-api/productOrderingManagement/v4"
INVENTORY: Final = "/tmf-api/productInventory/v4"
orders_router = APIRouter(prefix=ORDER, tags=["TMF622 product orders"], route_class=RepeatableRoute)
inventory_router = APIRouter(prefix=INVENTORY, tags=["TMF637 product inventory"], route_class=RepeatableRoute)
Party = Annotated[str | None, Query(alias="relatedParty.id", max_length=64)]
# What TMF637 calls the states of a product.
_STATUS: Final = {
    "pendingActive": "pendingActive",
    "active": "active",
    "suspended": "suspended",
    "cancelled": "cancelled",
    "aborted": "aborted",
    "expired": "terminated",
}


def party(subscriber_id: object) -> list[dict[str, object]]:
    return [{"id": str(subscriber_id), "role": "customer", "@referredType": "Customer"}]


def product_ref(product_id: object, name: str | None = None) -> dict[str, object]:
    return shown({"id": str(product_id), "href": f"{INVENTORY}/product/{product_id}", "name": name})


def offering_ref(offering_id: str) -> dict[str, object]:
    return {"id": offering_id, "href": f"{CATALOG}/productOffering/{offering_id}", "name": offering_id}


def order_resource(order: Order, subscriber_id: object) -> dict[str, object]:
    price = {
        "priceType": "oneTime",
        "name": "charged or credited so far",
        "price": {"taxIncludedAmount": money(order.amount_nano, order.currency)},
    }
    item = {
        "id": "1",
        "quantity": 1,
        "action": order.action,
        "state": order.state,
        "productOffering": offering_ref(order.offering_id),
        # What waits for its start has none yet; what could not begin never has one.
        "product": product_ref(order.product_id) if order.has_product else None,
        "@type": "ProductOrderItem",
    }
    return shown(
        {
            "id": str(order.order_id),
            "href": f"{ORDER}/productOrder/{order.order_id}",
            "orderDate": when(order.ordered_at),
            "completionDate": when(order.completed_at) if order.state == "completed" else None,
            "cancellationDate": when(order.completed_at) if order.state == "cancelled" else None,
            "cancellationReason": order.reason if order.state == "cancelled" else None,
            "description": order.reason,
            "state": order.state,
            "requestedStartDate": when(order.starts_at),
            "productOrderItem": [shown(item)],
            "orderTotalPrice": [price],
            "relatedParty": party(subscriber_id),
            "@type": "ProductOrder",
        }
    )


def product_resource(rooms: Rooms, product: Product, subscriber: Subscriber) -> dict[str, object]:
    sold = rooms.offerings.sold(product.offering_version)
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


class _Characteristic(Loose):
    name: str = Field(max_length=100)
    value: Any = None


class _OrderedProduct(Loose):
    id: str | None = Field(default=None, max_length=64)
    product_characteristic: list[_Characteristic] = Field(
        default=[], alias="productCharacteristic", max_length=50
    )


class _OrderItem(Loose):
    id: str = Field(max_length=100)
    action: Literal["add", "modify", "delete", "noChange"]
    quantity: int = 1
    product_offering: Ref | None = Field(default=None, alias="productOffering")
    product: _OrderedProduct | None = None


class ProductOrderCreate(Loose):
    """One item: add an offering, modify a product's, or delete a product. The characteristic `when` is now or cycle_end;
    `confirm` (true) orders what the subscriber has already once more.
    """

    product_order_item: list[_OrderItem] = Field(alias="productOrderItem", min_length=1, max_length=1)
    related_party: list[Ref] = Field(default=[], alias="relatedParty", max_length=10)
    # Of what is added, now where it is left out or is of today and has passed; else that instant, at most 90 days ahead; a day
    # that is over is refused. Of a change or an end now where it has passed, or the end of the product's cycle.
    requested_start_date: Instant | None = Field(default=None, alias="requestedStartDate")


class CancelProductOrderCreate(Loose):
    product_order: Ref = Field(alias="productOrder")
    cancellation_reason: str | None = Field(default=None, alias="cancellationReason", max_length=200)


def _characteristic(item: _OrderItem, name: str, allowed: tuple[object, ...] | None = None) -> str | None:
    for given in item.product.product_characteristic if item.product else []:
        if given.name == name:
            if allowed is not None and given.value not in allowed:
                raise Invalid(f"{name} is {' or '.join(str(value) for value in allowed)}")
            return str(given.value)
    return None


def _start(rooms: Rooms, subscriber: Subscriber, item: _OrderItem, wanted: datetime | None) -> str:
    """`now` or `cycle_end`, by the characteristic `when` or by the date. Raises `Invalid` where it can't be done then."""
    said = _characteristic(item, "when", ("now", "cycle_end"))
    if wanted is None or wanted <= rooms.clock.now():
        return said or "now"
    end = _own_product(rooms, subscriber, item).cycle_end
    if said == "now" or end is None or wanted != end:
        raise Invalid(
            "requestedStartDate: a change or an end is now, or with the product's cycle"
            + ("" if end is None else f", at {when(end)}")
        )
    return "cycle_end"


def _own_product(rooms: Rooms, subscriber: Subscriber, item: _OrderItem) -> Product:
    id_ = as_uuid((item.product.id if item.product else None) or "", "product")
    for product in rooms.orders.products(subscriber):
        if product.product_id == id_:
            return product
    raise NotFound("there is no such product")


_ORDER_FILTERS: Final = (
    "id", "state", "orderDate", "completionDate", "cancellationDate", "requestedStartDate", "productOrderItem.action", "productOrderItem.state",
    "productOrderItem.productOffering.id", "productOrderItem.product.id",
)  # fmt: skip


@orders_router.get("/productOrder", summary="Orders, newest first", **allow(*READERS))
def orders(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    of = whose(rooms, who, related)

    def resource(order: Order) -> Mapping[str, object]:
        return order_resource(order, rooms.orders.find(order.order_id)[1] if of is None else of.subscriber_id)

    return narrowed(
        request,
        page,
        lambda offset, limit: rooms.orders.all(of, offset, limit),
        resource,
        _ORDER_FILTERS,
        ("relatedParty.id",),
    )


@orders_router.get("/productOrder/{id}", summary="One order", **allow(*READERS))
def order(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found, subscriber_id = rooms.orders.find(as_uuid(id, "order"))
    mine_only(who, subscriber_id, "order")
    return one(request, order_resource(found, subscriber_id), fields)


@orders_router.post(
    "/productOrder", status_code=201, summary="Order, change or end a product", **allow(*BUYERS)
)
def place(body: ProductOrderCreate, rooms: Asked, who: Who, key: IdempotencyKey) -> Response:
    subscriber = own(rooms, who, body.related_party[0].id if body.related_party else None)
    item = body.product_order_item[0]
    if item.quantity != 1:
        raise Invalid("quantity: one product an order")
    second = _characteristic(item, "confirm", ("true", "false", True, False)) in {"true", "True"}
    wanted = body.requested_start_date
    at: Any = "now" if item.action == "add" else _start(rooms, subscriber, item, wanted)
    with rooms.connection.transaction():
        if item.action == "add":
            if item.product_offering is None:
                raise Invalid("productOffering: say what to add")
            made = rooms.orders.place(
                subscriber, item.product_offering.id, key, delivery=_characteristic(item, "delivery"), confirm=second,
                start=wanted,
            )  # fmt: skip
        elif item.action == "modify":
            product = _own_product(rooms, subscriber, item)
            if item.product_offering is None:
                raise Invalid("productOffering: say what to change it to")
            made = rooms.orders.change(product.product_id, item.product_offering.id, at, key, confirm=second)
        elif item.action == "delete":
            made = rooms.orders.cancel(_own_product(rooms, subscriber, item).product_id, at, key)
        else:
            raise Invalid("action: add, modify or delete")
        resource = order_resource(made, subscriber.subscriber_id)
        if wanted is not None:
            resource["requestedStartDate"] = when(wanted)
        if made.new:
            audit(rooms, who, f"order.{item.action}", made.order_id, None, {"offering": made.offering_id})
    return answer(resource, 201 if made.new else 200, {"Location": str(resource["href"])})


@orders_router.post(
    "/cancelProductOrder",
    status_code=201,
    summary="Take an order back before it begins, or is delivered",
    **allow(*BUYERS),
)
def cancel_order(body: CancelProductOrderCreate, rooms: Asked, who: Who, _key: Repeatable) -> Response:
    found, subscriber_id = rooms.orders.find(as_uuid(body.product_order.id, "order"))
    mine_only(who, subscriber_id, "order")
    with rooms.connection.transaction():
        rooms.orders.withdraw(found.order_id, body.cancellation_reason)
        audit(rooms, who, "order.withdraw", found.order_id, {"state": found.state}, {"state": "cancelled"})
    return answer(_cancellation(rooms.orders.find(found.order_id)[0]), 201)


def _cancellation(order: Order) -> dict[str, object]:
    return shown(
        {
            "id": str(order.order_id),
            "href": f"{ORDER}/cancelProductOrder/{order.order_id}",
            "cancellationReason": order.reason,
            "effectiveCancellationDate": when(order.completed_at),
            "state": "done",
            "productOrder": {"id": str(order.order_id), "href": f"{ORDER}/productOrder/{order.order_id}"},
            "@type": "CancelProductOrder",
        }
    )


@orders_router.get("/cancelProductOrder/{id}", summary="An order that was taken back", **allow(*READERS))
def cancelled_order(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found, subscriber_id = rooms.orders.find(as_uuid(id, "cancellation"))
    mine_only(who, subscriber_id, "cancellation")
    if found.state != "cancelled":
        raise NotFound("there is no such cancellation")
    return one(request, _cancellation(found), fields)


@inventory_router.get("/product", summary="What a subscriber has", **allow(*READERS))
def products(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(rooms, who, related)
    found = [product_resource(rooms, product, subscriber) for product in rooms.orders.products(subscriber)]
    names = ("id", "name", "status", "isBundle", "startDate", "terminationDate", "productOffering.id")
    return cut(page, filtered(request, found, names, beside=("relatedParty.id",)))


@inventory_router.get("/product/{id}", summary="One product", **allow(*READERS))
def product(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found, subscriber_id = rooms.orders.product(as_uuid(id, "product"))
    mine_only(who, subscriber_id, "product")
    subscriber = rooms.subscriptions.find(str(subscriber_id))
    return one(request, product_resource(rooms, found, subscriber), fields)
