"""Routes that a client calls with its API key: `/v1/key`, `/v1/usage`."""

from typing import Final

from tokenworks.api.developers import key, usage

ROUTERS: Final = (key.router, usage.router)
