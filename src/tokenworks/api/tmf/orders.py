"""TMF622: product orders."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import ORDER, PartyQuery, offering_ref, party, product_ref
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import ChangeTiming, Order, Product, Subscriber
from tokenworks.web.bodies import Instant, Reference, TmfBody
from tokenworks.web.content import instant, json_response, money, without_none
from tokenworks.web.filters import filtered_page
from tokenworks.web.lists import FieldsQuery, PageQuery, resource_response
from tokenworks.web.principals import (
    BUYERS,
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_owner,
    own_subscriber,
    subscriber_or_all,
)
from tokenworks.web.repeats import IdempotencyKey, OptionalIdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix=ORDER, tags=["TMF622 product orders"], route_class=RepeatableRoute)


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
        # An order that has not begun has no product yet; one that could not begin never gets one.
        "product": product_ref(order.product_id) if order.has_product else None,
        "@type": "ProductOrderItem",
    }
    return without_none(
        {
            "id": str(order.order_id),
            "href": f"{ORDER}/productOrder/{order.order_id}",
            "orderDate": instant(order.ordered_at),
            "completionDate": instant(order.completed_at) if order.state == "completed" else None,
            "cancellationDate": instant(order.completed_at) if order.state == "cancelled" else None,
            "cancellationReason": order.reason if order.state == "cancelled" else None,
            "description": order.reason,
            "state": order.state,
            "requestedStartDate": instant(order.starts_at),
            "productOrderItem": [without_none(item)],
            "orderTotalPrice": [price],
            "relatedParty": party(subscriber_id),
            "@type": "ProductOrder",
        }
    )


class _Characteristic(TmfBody):
    name: str = Field(max_length=100)
    value: object = None


class _OrderedProduct(TmfBody):
    id: str | None = Field(default=None, max_length=64)
    product_characteristic: list[_Characteristic] = Field(
        default=[], alias="productCharacteristic", max_length=50
    )


class _OrderItem(TmfBody):
    id: str = Field(max_length=100)
    action: Literal["add", "modify", "delete", "noChange"]
    quantity: int = 1
    product_offering: Reference | None = Field(default=None, alias="productOffering")
    product: _OrderedProduct | None = None


class ProductOrderCreate(TmfBody):
    """An order of one item: add an offering, modify a product to another offering, or delete a product. The characteristic `when`
    is now or cycle_end; `confirm` (true) orders an offering again that the subscriber has already.
    """

    product_order_item: list[_OrderItem] = Field(alias="productOrderItem", min_length=1, max_length=1)
    related_party: list[Reference] = Field(default=[], alias="relatedParty", max_length=10)
    # For `add`: left out, or an earlier instant of today, means now; a later one is at most 90 days ahead; an earlier day is refused.
    # For `modify` and `delete`: an instant that has passed means now; a later one has to be the end of the product's cycle.
    requested_start_date: Instant | None = Field(default=None, alias="requestedStartDate")


class CancelProductOrderCreate(TmfBody):
    product_order: Reference = Field(alias="productOrder")
    cancellation_reason: str | None = Field(default=None, alias="cancellationReason", max_length=200)


def _characteristic(item: _OrderItem, name: str, allowed: tuple[object, ...] | None = None) -> str | None:
    for given in item.product.product_characteristic if item.product else []:
        if given.name == name:
            if allowed is not None and given.value not in allowed:
                raise Invalid(f"{name} is {' or '.join(str(value) for value in allowed)}")
            return str(given.value)
    return None


def _start(
    services: Services, subscriber: Subscriber, item: _OrderItem, wanted: datetime | None
) -> ChangeTiming:
    """When a change takes effect, by the characteristic `when` or by the date. Raises `Invalid` if it is not possible then."""
    when = _characteristic(item, "when", ("now", "cycle_end"))
    if wanted is None or wanted <= services.clock.now():
        return "cycle_end" if when == "cycle_end" else "now"
    end = _own_product(services, subscriber, item).cycle_end
    if when == "now" or end is None or wanted != end:
        raise Invalid(
            "requestedStartDate: a change or an end is now, or with the product's cycle"
            + ("" if end is None else f", at {instant(end)}")
        )
    return "cycle_end"


def _own_product(services: Services, subscriber: Subscriber, item: _OrderItem) -> Product:
    id_ = as_uuid((item.product.id if item.product else None) or "", "product")
    for product in services.orders.products(subscriber):
        if product.product_id == id_:
            return product
    raise NotFound("there is no such product")


_ORDER_FILTERS: Final = (
    "id", "state", "orderDate", "completionDate", "cancellationDate", "requestedStartDate", "productOrderItem.action", "productOrderItem.state",
    "productOrderItem.productOffering.id", "productOrderItem.product.id",
)  # fmt: skip


@router.get("/productOrder", summary="Orders, newest first", **allow(*READERS))
def orders(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    of = subscriber_or_all(services, principal, related)

    def resource(order: Order) -> Mapping[str, object]:
        return order_resource(
            order, services.orders.find(order.order_id)[1] if of is None else of.subscriber_id
        )

    return filtered_page(
        request,
        page,
        lambda offset, limit: services.orders.all(of, offset, limit),
        resource,
        _ORDER_FILTERS,
        ("relatedParty.id",),
    )


@router.get("/productOrder/{id}", summary="One order", **allow(*READERS))
def order(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    found, subscriber_id = services.orders.find(as_uuid(id, "order"))
    check_owner(principal, subscriber_id, "order")
    return resource_response(request, order_resource(found, subscriber_id), fields)


@router.post("/productOrder", status_code=201, summary="Order, change or cancel a product", **allow(*BUYERS))
def place(
    body: ProductOrderCreate, services: RequestServices, principal: CurrentPrincipal, key: IdempotencyKey
) -> Response:
    subscriber = own_subscriber(services, principal, body.related_party[0].id if body.related_party else None)
    item = body.product_order_item[0]
    if item.quantity != 1:
        raise Invalid("quantity: one product an order")
    second = _characteristic(item, "confirm", ("true", "false", True, False)) in {"true", "True"}
    wanted = body.requested_start_date
    at: ChangeTiming = "now" if item.action == "add" else _start(services, subscriber, item, wanted)
    with services.transaction():
        if item.action == "add":
            if item.product_offering is None:
                raise Invalid("productOffering: say what to add")
            made = services.orders.place(
                subscriber, item.product_offering.id, key, delivery=_characteristic(item, "delivery"), confirm=second,
                start=wanted,
            )  # fmt: skip
        elif item.action == "modify":
            product = _own_product(services, subscriber, item)
            if item.product_offering is None:
                raise Invalid("productOffering: say what to change it to")
            made = services.orders.change(
                product.product_id, item.product_offering.id, at, key, confirm=second
            )
        elif item.action == "delete":
            made = services.orders.cancel(_own_product(services, subscriber, item).product_id, at, key)
        else:
            raise Invalid("action: add, modify or delete")
        resource = order_resource(made, subscriber.subscriber_id)
        if wanted is not None:
            resource["requestedStartDate"] = instant(wanted)
        if made.new:
            audit(
                services,
                principal,
                f"order.{item.action}",
                made.order_id,
                None,
                {"offering": made.offering_id},
            )
    return json_response(resource, 201 if made.new else 200, {"Location": str(resource["href"])})


@router.post(
    "/cancelProductOrder",
    status_code=201,
    summary="Cancel an order before it begins or is delivered",
    **allow(*BUYERS),
)
def cancel_order(
    body: CancelProductOrderCreate,
    services: RequestServices,
    principal: CurrentPrincipal,
    _key: OptionalIdempotencyKey,
) -> Response:
    found, subscriber_id = services.orders.find(as_uuid(body.product_order.id, "order"))
    check_owner(principal, subscriber_id, "order")
    with services.transaction():
        services.orders.withdraw(found.order_id, body.cancellation_reason)
        audit(
            services,
            principal,
            "order.withdraw",
            found.order_id,
            {"state": found.state},
            {"state": "cancelled"},
        )
    return json_response(_cancellation(services.orders.find(found.order_id)[0]), 201)


def _cancellation(order: Order) -> dict[str, object]:
    return without_none(
        {
            "id": str(order.order_id),
            "href": f"{ORDER}/cancelProductOrder/{order.order_id}",
            "cancellationReason": order.reason,
            "effectiveCancellationDate": instant(order.completed_at),
            "state": "done",
            "productOrder": {"id": str(order.order_id), "href": f"{ORDER}/productOrder/{order.order_id}"},
            "@type": "CancelProductOrder",
        }
    )


@router.get("/cancelProductOrder/{id}", summary="A cancelled order", **allow(*READERS))
def cancelled_order(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    found, subscriber_id = services.orders.find(as_uuid(id, "cancellation"))
    check_owner(principal, subscriber_id, "cancellation")
    if found.state != "cancelled":
        raise NotFound("there is no such cancellation")
    return resource_response(request, _cancellation(found), fields)
