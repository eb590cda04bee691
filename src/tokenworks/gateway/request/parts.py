"""The parts that a worker's requests are handled by: made once, handed to every exchange."""

from collections.abc import Callable
from typing import Any

from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.request.decisions import Decisions
from tokenworks.gateway.shared import Shared


class Parts:
    __slots__ = ("decisions", "ended", "pools")

    def __init__(self, shared: Shared, pools: Pools, ended: Callable[[Any], None]) -> None:
        """`ended(exchange)` is called once, when a request is over."""
        self.pools = pools
        self.decisions = Decisions(shared)
        self.ended = ended
