"""The HTTP API of the control plane: TM Forum resources, account routes, operations routes, and what a key reads of itself."""

from typing import Final

from tokenworks.api import account, developers, operations, tmf
from tokenworks.api.account.privacy import EXPORTS_AT_ONCE
from tokenworks.api.tmf.events import event_body
from tokenworks.api.tmf.service_orders import ANSWERS, service_order_body, take_answer

ROUTERS: Final = (*tmf.ROUTERS, *account.ROUTERS, *operations.ROUTERS, *developers.ROUTERS)

__all__ = ["ANSWERS", "EXPORTS_AT_ONCE", "ROUTERS", "event_body", "service_order_body", "take_answer"]
