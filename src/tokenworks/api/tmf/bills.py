"""TMF678: customer bills, their lines and documents; credit notes."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import BILL, Money, PartyQuery, product_ref
from tokenworks.billing import Bill
from tokenworks.charging import BillLine
from tokenworks.kernel import NotFound
from tokenworks.web.bodies import TmfBody
from tokenworks.web.content import instant, json_response, money, without_none
from tokenworks.web.filters import apply_filters, filtered_page
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import (
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_approval,
    check_owner,
    subscriber_or_all,
)
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix=BILL, tags=["TMF678 customer bills"], route_class=RepeatableRoute)


def bill_resource(bill: Bill) -> dict[str, object]:
    return {
        "id": str(bill.bill_id),
        "href": f"{BILL}/customerBill/{bill.bill_id}",
        "billNo": bill.bill_no,
        "billDate": instant(bill.issued_at),
        "lastUpdate": instant(bill.issued_at),
        "paymentDueDate": instant(bill.due_at),
        "category": "normal",
        "runType": "onCycle",
        "state": bill.state,
        "billingPeriod": {
            "startDateTime": instant(bill.period_start),
            "endDateTime": instant(bill.period_end),
        },
        "taxIncludedAmount": money(bill.amount_nano, bill.currency),
        "taxExcludedAmount": money(bill.amount_nano - bill.tax_nano, bill.currency),
        "amountDue": money(max(0, bill.amount_nano), bill.currency),
        "remainingAmount": money(bill.remaining_nano, bill.currency),
        "taxItem": [{"taxCategory": "VAT", "taxAmount": money(bill.tax_nano, bill.currency)}],
        "billDocument": [
            {
                "id": f"{bill.bill_id}-pdf",
                "name": f"{bill.bill_no}.pdf",
                "attachmentType": "bill",
                "mimeType": "application/pdf",
                "url": f"{BILL}/customerBill/{bill.bill_id}/document",
            }
        ],
        "billingAccount": {"id": str(bill.account_id), "name": "token account"},
        "relatedParty": [{"id": str(bill.subscriber_id), "role": "customer", "@referredType": "Customer"}],
        "@type": "CustomerBill",
    }


def rate_resource(line: BillLine, bill: Bill) -> dict[str, object]:
    """A line of a bill as a resource."""
    return without_none(
        {
            "id": f"{line.bill_id}-{line.line_no}",
            "href": f"{BILL}/appliedCustomerBillingRate/{line.bill_id}-{line.line_no}",
            "date": instant(bill.issued_at),
            "name": line.description,
            "description": line.description_zh,
            "isBilled": True,
            "type": {
                "cycle": "recurringCharge",
                "step": "usageCharge",
                "credit": "credit",
                "refund": "credit",
            }.get(line.kind, "oneTimeCharge"),
            "bill": {"id": str(line.bill_id), "href": f"{BILL}/customerBill/{line.bill_id}"},
            "billingAccount": {"id": str(line.account_id), "name": "token account"},
            "product": None if line.product_id is None else product_ref(line.product_id),
            "periodCoverage": {
                "startDateTime": instant(bill.period_start),
                "endDateTime": instant(bill.period_end),
            },
            "appliedTax": [
                {
                    "taxCategory": "VAT",
                    "taxRate": line.vat_percent,
                    "taxAmount": money(line.tax_nano, bill.currency),
                }
            ],
            "taxIncludedAmount": money(line.amount_nano, bill.currency),
            "taxExcludedAmount": money(line.amount_nano - line.tax_nano, bill.currency),
            "@type": "AppliedCustomerBillingRate",
        }
    )


def _own_bill(services: Services, principal: CurrentPrincipal, id_: str) -> Bill:
    bill = services.bills.find(str(as_uuid(id_, "bill")))
    check_owner(principal, bill.subscriber_id, "bill")
    return bill


@router.get("/customerBill", summary="Bills, newest first", **allow(*READERS))
def bills(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    of = subscriber_or_all(services, principal, related)
    return filtered_page(
        request,
        page,
        lambda offset, limit: services.bills.all(of, offset, limit),
        bill_resource,
        ("id", "billNo", "state", "category", "billDate", "paymentDueDate", "billingAccount.id", "billingPeriod.startDateTime", "billingPeriod.endDateTime"),
        ("relatedParty.id",),
    )  # fmt: skip


@router.get("/customerBill/{id}", summary="One bill", **allow(*READERS))
def bill(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    return resource_response(request, bill_resource(_own_bill(services, principal, id)), fields)


@router.get("/customerBill/{id}/document", summary="A bill as a PDF", **allow(*READERS))
def document(
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    language: Literal["zh", "en"] | None = None,
) -> Response:
    found = _own_bill(services, principal, id)
    pdf = services.documents.pdf(found, language)
    return Response(
        pdf,
        media_type="application/pdf",
        headers={"Content-Disposition": f'inline; filename="{found.bill_no}.pdf"'},
    )


@router.get("/appliedCustomerBillingRate", summary="The lines of a bill", **allow(*READERS))
def rates(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    bill_id: Annotated[str, Query(alias="bill.id", max_length=64)],
) -> Response:
    found = _own_bill(services, principal, bill_id)
    lines = [rate_resource(line, found) for line in services.bills.lines(found)]
    names = ("id", "type", "name", "date", "product.id", "isBilled")
    return paginate(page, apply_filters(request, lines, names, ignored=("bill.id",)))


@router.get("/appliedCustomerBillingRate/{id}", summary="One line", **allow(*READERS))
def rate(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    bill_id, _, number = id.rpartition("-")
    found = _own_bill(services, principal, bill_id)
    for line in services.bills.lines(found):
        if str(line.line_no) == number:
            return resource_response(request, rate_resource(line, found), fields)
    raise NotFound("there is no such line")


class CreditNoteCreate(TmfBody):
    """The amount of a bill line that is credited."""

    line: int = Field(ge=1)
    amount: Money
    reason: str = Field(min_length=1, max_length=200)


@router.post(
    "/customerBill/{id}/creditNote",
    status_code=201,
    summary="Correct a bill by a credit note",
    **allow("finance"),
)
def correct(
    body: CreditNoteCreate,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    key: IdempotencyKey,
) -> Response:
    found = _own_bill(services, principal, id)
    with services.transaction():
        note = services.bills.correct(found, body.line, body.amount.nano(), body.reason, key)
        if note.new:
            check_approval(services, principal, "bill.correct", found.bill_id, note.amount_nano, key)
            audit(
                services, principal, "bill.correct", found.bill_id, None,
                {"credit_note": note.credit_note_no, "amount_nano": note.amount_nano, "reason": note.reason},
            )  # fmt: skip
    return json_response(
        {
            "id": str(note.credit_note_id),
            "creditNoteNo": note.credit_note_no,
            "bill": {"id": str(note.bill_id), "href": f"{BILL}/customerBill/{note.bill_id}"},
            "amount": money(note.amount_nano),
            "taxAmount": money(note.tax_nano),
            "reason": note.reason,
            "date": instant(note.issued_at),
        },
        201,
    )
