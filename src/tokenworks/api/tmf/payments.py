"""TMF676: payments of bills."""

from typing import Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import PAYMENT, Party, _Money, party
from tokenworks.billing import Payment
from tokenworks.kernel import Invalid
from tokenworks.web.bodies import Loose, Ref
from tokenworks.web.content import answer, money, shown, when
from tokenworks.web.filters import narrowed
from tokenworks.web.lists import Fields, Paged, one
from tokenworks.web.principals import READERS, Who, allow, as_uuid, audit, mine_only, whose
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import Asked

router = APIRouter(prefix=PAYMENT, tags=["TMF676 payments"], route_class=RepeatableRoute)


class _Method(Loose):
    """`@type`: phoneBill comes by charge files; here bankTransfer, cash or test (in a dev environment)."""

    type: Literal["bankTransfer", "cash", "test"] = Field(alias="@type")


class _PaymentItem(Loose):
    item: Ref


class PaymentCreate(Loose):
    """Money that came in for a bill, named in `paymentItem`."""

    account: Ref
    payment_method: _Method = Field(alias="paymentMethod")
    total_amount: _Money = Field(alias="totalAmount")
    payment_item: list[_PaymentItem] = Field(alias="paymentItem", min_length=1, max_length=1)


_METHODS: Final = {"bank_transfer": "bankTransfer", "cash": "cash", "test": "test", "phone_bill": "phoneBill"}


def payment_resource(payment: Payment, account_id: UUID) -> dict[str, object]:
    return shown(
        {
            "id": str(payment.payment_id),
            "href": f"{PAYMENT}/payment/{payment.payment_id}",
            "correlatorId": payment.reference,
            "paymentDate": when(payment.paid_at),
            "status": "Accepted" if payment.reversed_at is None else "Reversed",
            "statusDate": when(payment.reversed_at or payment.paid_at),
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
def payments(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    of = whose(services, who, related)
    return narrowed(
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
def payment_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found = services.payments.find(as_uuid(id, "payment"))
    mine_only(who, found.subscriber_id, "payment")
    account_id = services.subscriptions.find(str(found.subscriber_id)).account_id
    return one(request, payment_resource(found, account_id), fields)


@router.post("/payment", status_code=201, summary="Book a payment of a bill", **allow("finance"))
def pay(body: PaymentCreate, services: Asked, who: Who, key: IdempotencyKey) -> Response:
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
                who,
                "payment",
                made.payment_id,
                None,
                {"bill": bill.bill_no, "amount_nano": amount_nano},
            )
    return answer(payment_resource(made, bill.account_id), 201 if made.new else 200)
