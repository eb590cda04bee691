from tokenworks.console.account import SendCode
from tokenworks.console.api import make_api, openapi_document
from tokenworks.console.hub import ANSWERS, event_body, service_order_body, take_answer
from tokenworks.console.tmf_bills import bill_pdf
from tokenworks.console.web import Rooms, status_of

__all__ = [
    "ANSWERS",
    "Rooms",
    "SendCode",
    "bill_pdf",
    "event_body",
    "make_api",
    "openapi_document",
    "service_order_body",
    "status_of",
    "take_answer",
]
