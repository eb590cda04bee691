"""The HTTP application that the control plane serves: every router, the errors, the OpenAPI document."""

import threading
from typing import Any, Final, NoReturn

from fastapi import FastAPI

from tokenworks import __version__, api, pages
from tokenworks.subscriptions import CodeSender
from tokenworks.web.errors import explain_errors, problem
from tokenworks.web.services import OpenServices
from tokenworks.web.staff_door import StaffDoor
from tokenworks.web.urls import BaseUrl, CleanUrl

ROUTERS: Final = (*api.ROUTERS, *pages.ROUTERS)


def make_api(
    open_services: OpenServices,
    send_code: CodeSender,
    public_url: str = "",
    door: StaffDoor | None = None,
    *,
    is_dev: bool = False,
) -> FastAPI:
    """`open_services` opens every room's services for one request, on a connection of the request's own. `door`: how staff sign in on the
    public port; None: /ops is not there. `is_dev`: the page /style is there.
    """
    app = FastAPI(
        title="Tokenworks",
        version=__version__,
        summary="Sell AI tokens, bill them on the phone bill, and show what was used",
        docs_url=None,
        redoc_url=None,
        responses={
            "default": {
                "description": "Problem details (RFC 9457)",
                "content": {"application/problem+json": {}},
            }
        },
    )
    app.state.open_services = open_services
    app.state.send_code = send_code
    app.state.staff_door = door
    app.state.is_dev = is_dev
    app.state.event_streams = pages.EventStreams()
    app.state.exports = threading.BoundedSemaphore(api.EXPORTS_AT_ONCE)
    app.add_middleware(BaseUrl, public_url=public_url)
    app.add_middleware(CleanUrl, refuse=lambda found: problem(400, "Invalid", found))
    explain_errors(app)
    pages.show_error_pages(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def make_staff_app(open_services: OpenServices, door: StaffDoor, staff_url: str = "") -> FastAPI:
    """The application of the staff port: /ops and what its pages load, and nothing else of the works."""
    app = FastAPI(
        title="Tokenworks staff", version=__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.open_services = open_services
    app.state.staff_door = door
    app.add_middleware(BaseUrl, public_url=staff_url)
    app.add_middleware(CleanUrl, refuse=lambda found: problem(400, "Invalid", found))
    explain_errors(app)
    pages.show_error_pages(app)
    for router in pages.STAFF_ROUTERS:
        app.include_router(router)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document as the control plane serves it. It is the same for every installation."""

    def nothing() -> NoReturn:
        raise NotImplementedError

    def no_code(phone: str, code: str) -> None:
        raise NotImplementedError

    return make_api(nothing, no_code).openapi()
