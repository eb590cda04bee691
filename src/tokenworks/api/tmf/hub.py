"""The hub of each API (TMF630): listeners to its events."""

from typing import Final

from fastapi import APIRouter, Response
from pydantic import Field

from tokenworks.api.tmf.refs import BILL, INVENTORY, ORDER, PAYMENT, SERVICE
from tokenworks.subscriptions import Api, Listener
from tokenworks.web.bodies import TmfBody
from tokenworks.web.content import json_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices

_BASES: Final[dict[Api, tuple[str, str]]] = {
    "productOrdering": (ORDER, "TMF622 product orders"),
    "productInventory": (INVENTORY, "TMF637 product inventory"),
    "customerBill": (BILL, "TMF678 customer bills"),
    "payment": (PAYMENT, "TMF676 payments"),
    "serviceOrdering": (SERVICE, "TMF641 service orders"),
}


class HubCreate(TmfBody):
    """`query` is `eventType=…`, with one or several types; without it the listener gets all events of the API."""

    callback: str = Field(min_length=1, max_length=500)
    query: str = Field(default="", max_length=500)


def listener_resource(listener: Listener) -> dict[str, object]:
    return {"id": str(listener.listener_id), "callback": listener.callback, "query": listener.query}


def _hub_of(api: Api, base: str, tag: str) -> APIRouter:
    router = APIRouter(prefix=base, tags=[tag])

    @router.get("/hub", summary="Listeners to the events of this API", **allow("operator", "auditor"))
    def listeners(services: RequestServices) -> Response:
        found = [listener_resource(listener) for listener in services.hub.listeners() if listener.api == api]
        return json_response(found, headers={"X-Total-Count": str(len(found))})

    @router.post(
        "/hub",
        status_code=201,
        summary="Subscribe a listener to events; its secret is shown only once",
        **allow("operator"),
    )
    def subscribe(body: HubCreate, services: RequestServices, principal: CurrentPrincipal) -> Response:
        with services.transaction():
            made, secret = services.hub.subscribe(api, body.callback, body.query, principal.name)
            audit(services, principal, "webhook.add", made.listener_id, None, {"api": api})
        headers = {"Location": f"{base}/hub/{made.listener_id}"}
        return json_response({**listener_resource(made), "secret": secret}, 201, headers)

    @router.delete("/hub/{id}", status_code=204, summary="Unsubscribe a listener", **allow("operator"))
    def unsubscribe(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
        with services.transaction():
            services.hub.unsubscribe(as_uuid(id, "listener"), api)
            audit(services, principal, "webhook.remove", id)
        return Response(status_code=204)

    return router


hub_routers: Final = tuple(_hub_of(api, base, tag) for api, (base, tag) in _BASES.items())
