"""What people and other systems ask over HTTP: TM Forum resources, account, operations, pages."""

from tokenworks.console.account import SendCode
from tokenworks.console.api import make_api, openapi_document
from tokenworks.console.tmf_bills import bill_pdf
from tokenworks.console.web import Rooms, status_of

__all__ = ["Rooms", "SendCode", "bill_pdf", "make_api", "openapi_document", "status_of"]
