"""TMF676: payments of bills."""

from typing import Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import PAYMENT, Money, PartyQuery, party
from tokenworks.billing import Payment
from tokenworks.kernel import Invalid
from tokenworks.web.bodies import Reference, TmfBody
from tokenworks.web.content import instant, json_response, money, without_none
from tokenworks.web.filters import filtered_page
from tokenworks.web.lists import FieldsQuery, PageQuery, resource_response
from tokenworks.web.principals import (
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_owner,
    subscriber_or_all,
)
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=PAYMENT, tags=["TMF676 payments"], route_class=RepeatableRoute)


class _Method(TmfBody):
    """`@type`: bankTransfer, cash, or test (in a dev environment). Payments by phone bill come with charge files."""

    type: Literal["bankTransfer", "cash", "test"] = Field(alias="@type")


class _PaymentItem(TmfBody):
    item: Reference


class PaymentCreate(TmfBody):
    """A payment that was received for the bill in `paymentItem`."""

    account: Reference
    payment_method: _Method = Field(alias="paymentMethod")
    total_amount: Money = Field(alias="totalAmount")
    payment_item: list[_PaymentItem] = Field(alias="paymentItem", min_length=1, max_length=1)


_METHODS: Final = {"bank_transfer": "bankTransfer", "cash": "cash", "test": "test", "phone_bill": "phoneBill"}


def payment_resource(payment: Payment, account_id: UUID) -> dict[str, object]:
    return without_none(
        {
            "id": str(payment.payment_id),
            "href": f"{PAYMENT}/payment/{payment.payment_id}",
            "correlatorId": payment.reference,
            "paymentDate": instant(payment.paid_at),
            "status": "Accepted" if payment.reversed_at is None else "Reversed",
            "statusDate": instant(payment.reversed_at or payment.paid_at),
            "account": {"id": str(account_id), "name": "token account"},
            "payer": party(payment.subscriber_id)[0],
            "paymentMethod": {"@type": _METHODS.get(payment.method, payment.method), "name": payment.method},
            "amount": money(payment.amount_nano, payment.currency),
            "totalAmount": money(payment.amount_nano, payment.currency),
            "paymentItem": None
            if payment.bill_id is None
            else [
                {
                    "id": "1",
                    "amount": money(payment.amount_nano, payment.currency),
                    "item": {"id": str(payment.bill_id), "@referredType": "CustomerBill"},
                }
            ],
            "@type": "Payment",
        }
    )


@router.get("/payment", summary="Payments, newest first", **allow(*READERS))
def payments(
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
        lambda offset, limit: services.payments.all(of, offset, limit),
        lambda payment: payment_resource(
            payment, (of or services.subscriptions.find(str(payment.subscriber_id))).account_id
        ),
        ("id", "correlatorId", "status", "paymentDate", "account.id", "paymentItem.item.id"),
        ("relatedParty.id",),
    )


@router.get("/payment/{id}", summary="One payment", **allow(*READERS))
def payment_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    found = services.payments.find(as_uuid(id, "payment"))
    check_owner(principal, found.subscriber_id, "payment")
    account_id = services.subscriptions.find(str(found.subscriber_id)).account_id
    return resource_response(request, payment_resource(found, account_id), fields)


@router.post("/payment", status_code=201, summary="Record a payment of a bill", **allow("finance"))
def pay(
    body: PaymentCreate, services: RequestServices, principal: CurrentPrincipal, key: IdempotencyKey
) -> Response:
    bill = services.bills.find(str(as_uuid(body.payment_item[0].item.id, "bill")))
    if body.account.id != str(bill.account_id):
        raise Invalid("account: the bill is another account's")
    amount_nano = body.total_amount.nano()
    method = {"bankTransfer": "bank_transfer"}.get(body.payment_method.type, body.payment_method.type)
    with services.transaction():
        made = services.desk.take(bill, method, key, amount_nano)
        if made.new:
            audit(
                services,
                principal,
                "payment",
                made.payment_id,
                None,
                {"bill": bill.bill_no, "amount_nano": amount_nano},
            )
    return json_response(payment_resource(made, bill.account_id), 201 if made.new else 200)
