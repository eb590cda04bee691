"""The holder of an API key, for the routes that a client calls with the key itself. They only read, and only what is the key's own."""

from typing import Annotated

from fastapi import Depends, Request

from tokenworks.subscriptions import ServedKey
from tokenworks.web.principals import RouteOptions
from tokenworks.web.services import RequestServices


def _key_holder(request: Request, services: RequestServices) -> ServedKey:
    """The live key in the bearer token. The gateway writes the token of these routes, from any header that a client uses for its key.

    Raises `NotSignedIn`.
    """
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return services.key_standings.find(text.strip() if scheme.lower() == "bearer" else "")


CurrentKey = Annotated[ServedKey, Depends(_key_holder)]


def with_key() -> RouteOptions:
    """Arguments of a route decorator: the route is for API keys, also in the OpenAPI document, and for no role."""
    return {"dependencies": [Depends(_key_holder)], "openapi_extra": {"x-credential": "api-key"}}
