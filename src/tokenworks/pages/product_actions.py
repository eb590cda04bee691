"""Routes that change, pause, resume or cancel a product."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import TokenworksError
from tokenworks.pages.choices import What, choices_page
from tokenworks.pages.page import FormText, sign_in_page, visitor_of
from tokenworks.pages.products import ProductId, own_product
from tokenworks.subscriptions import ChangeTiming
from tokenworks.web.principals import audit
from tokenworks.web.services import RequestServices

router = APIRouter(include_in_schema=False)

Offered = Annotated[str | None, Query(max_length=64)]


@router.get("/products/{id}/{what}")
def look(
    request: Request, services: RequestServices, id: ProductId, what: What, offering: Offered = None
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/products")
    return choices_page(request, services, visitor, own_product(services, visitor, id), what, offering)


@router.post("/products/{id}/{what}")
def do(
    request: Request,
    services: RequestServices,
    id: ProductId,
    what: What,
    key: FormText = "",
    when: FormText = "now",
    offering: FormText = "",
    second: FormText = "",
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/products")
    product = own_product(services, visitor, id)
    at: ChangeTiming = "cycle_end" if when == "cycle_end" else "now"
    try:
        with services.transaction():
            # A form that is sent twice acts once: the order exists already, or the product's state no longer fits.
            is_new = True
            if what == "change":
                is_new = services.orders.change(
                    product.product_id, offering, at, key or None, confirm=second == "yes"
                ).new
            elif what == "cancel":
                is_new = services.orders.cancel(product.product_id, at, key or None).new
            elif what == "pause":
                services.orders.suspend(product.product_id)
            else:
                services.orders.resume(product.product_id)
            if is_new:
                after = {"when": at, "offering": offering or None}
                audit(services, visitor.principal, f"product.{what}", product.product_id, None, after)
    except TokenworksError as error:
        return choices_page(request, services, visitor, product, what, offering or None, error)
    later = "_later" if at == "cycle_end" else ""
    return RedirectResponse(f"/products?done={what}{later}", 303)
