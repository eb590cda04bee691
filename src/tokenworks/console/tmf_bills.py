"""TMF678 customer bills and TMF676 payments and refunds."""

from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.billing import Bill, Payment, Refund, TestProvider, invoice_data, render_pdf
from tokenworks.charging import BillLine
from tokenworks.console.tmf_orders import ORDER, Party, party, product_ref
from tokenworks.console.web import (
    READERS,
    Asked,
    Fields,
    IdempotencyKey,
    Loose,
    Number,
    Paged,
    Ref,
    RepeatableRoute,
    Rooms,
    Who,
    allow,
    answer,
    as_uuid,
    audit,
    cut,
    filtered,
    mine_only,
    money,
    narrowed,
    one,
    shown,
    two_persons,
    when,
    whose,
)
from tokenworks.kernel import Invalid, NotFound, parse_money

BILL: Final = "/tmf-api/customerBillManagement/v4"
PAYMENT: Final = "/tmf-api/paymentManagement/v4"
bills_router = APIRouter(prefix=BILL, tags=["TMF678 customer bills"], route_class=RepeatableRoute)
payments_router = APIRouter(prefix=PAYMENT, tags=["TMF676 payments"], route_class=RepeatableRoute)


def bill_resource(bill: Bill) -> dict[str, object]:
    return {
        "id": str(bill.bill_id),
        "href": f"{BILL}/customerBill/{bill.bill_id}",
        "billNo": bill.bill_no,
        "billDate": when(bill.issued_at),
        "lastUpdate": when(bill.issued_at),
        "paymentDueDate": when(bill.due_at),
        "category": "normal",
        "runType": "onCycle",
        "state": bill.state,
        "billingPeriod": {"startDateTime": when(bill.period_start), "endDateTime": when(bill.period_end)},
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
    """A line of a bill."""
    return shown(
        {
            "id": f"{line.bill_id}-{line.line_no}",
            "href": f"{BILL}/appliedCustomerBillingRate/{line.bill_id}-{line.line_no}",
            "date": when(bill.issued_at),
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
                "startDateTime": when(bill.period_start),
                "endDateTime": when(bill.period_end),
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


def _own_bill(rooms: Rooms, who: Who, id_: str) -> Bill:
    bill = rooms.bills.find(str(as_uuid(id_, "bill")))
    mine_only(who, bill.subscriber_id, "bill")
    return bill


@bills_router.get("/customerBill", summary="Bills, newest first", **allow(*READERS))
def bills(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    of = whose(rooms, who, related)
    return narrowed(
        request,
        page,
        lambda offset, limit: rooms.bills.all(of, offset, limit),
        bill_resource,
        ("id", "billNo", "state", "category", "billDate", "paymentDueDate", "billingAccount.id", "billingPeriod.startDateTime", "billingPeriod.endDateTime"),
        ("relatedParty.id",),
    )  # fmt: skip


@bills_router.get("/customerBill/{id}", summary="One bill", **allow(*READERS))
def bill(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    return one(request, bill_resource(_own_bill(rooms, who, id)), fields)


def bill_pdf(rooms: Rooms, bill: Bill, language: Literal["zh", "en"] | None = None) -> bytes:
    """A bill as a PDF, in the subscriber's language where none is said."""
    subscriber = rooms.subscriptions.find(str(bill.subscriber_id))
    data = invoice_data(
        bill,
        rooms.bills.lines(bill),
        rooms.bills.credit_notes(bill),
        subscriber,
        rooms.charges.quantities(bill.account_id, bill.bill_id),
        rooms.operator,
        language or subscriber.language,
    )
    return render_pdf(data, rooms.fonts_dir)


@bills_router.get("/customerBill/{id}/document", summary="A bill as a PDF", **allow(*READERS))
def document(
    rooms: Asked,
    who: Who,
    id: str,
    language: Literal["zh", "en"] | None = None,
) -> Response:
    found = _own_bill(rooms, who, id)
    pdf = bill_pdf(rooms, found, language)
    return Response(
        pdf,
        media_type="application/pdf",
        headers={"Content-Disposition": f'inline; filename="{found.bill_no}.pdf"'},
    )


@bills_router.get("/appliedCustomerBillingRate", summary="The lines of a bill", **allow(*READERS))
def rates(
    request: Request,
    rooms: Asked,
    who: Who,
    page: Paged,
    bill_id: Annotated[str, Query(alias="bill.id", max_length=64)],
) -> Response:
    found = _own_bill(rooms, who, bill_id)
    lines = [rate_resource(line, found) for line in rooms.bills.lines(found)]
    names = ("id", "type", "name", "date", "product.id", "isBilled")
    return cut(page, filtered(request, lines, names, beside=("bill.id",)))


@bills_router.get("/appliedCustomerBillingRate/{id}", summary="One line", **allow(*READERS))
def rate(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    bill_id, _, number = id.rpartition("-")
    found = _own_bill(rooms, who, bill_id)
    for line in rooms.bills.lines(found):
        if str(line.line_no) == number:
            return one(request, rate_resource(line, found), fields)
    raise NotFound("there is no such line")


# Payments and refunds.


class _Money(Loose):
    """At most 15 digits, so that a JSON number is the decimal that was written; more go as a string of a decimal."""

    unit: Literal["CNY"]
    value: Number = Field(max_digits=15, decimal_places=9)

    def nano(self) -> int:
        return parse_money(f"{self.value:f}").amount_nano


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


@payments_router.get("/payment", summary="Payments, newest first", **allow(*READERS))
def payments(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    of = whose(rooms, who, related)
    return narrowed(
        request,
        page,
        lambda offset, limit: rooms.payments.all(of, offset, limit),
        lambda payment: payment_resource(
            payment, (of or rooms.subscriptions.find(str(payment.subscriber_id))).account_id
        ),
        ("id", "correlatorId", "status", "paymentDate", "account.id", "paymentItem.item.id"),
        ("relatedParty.id",),
    )


@payments_router.get("/payment/{id}", summary="One payment", **allow(*READERS))
def payment_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found = rooms.payments.find(as_uuid(id, "payment"))
    mine_only(who, found.subscriber_id, "payment")
    account_id = rooms.subscriptions.find(str(found.subscriber_id)).account_id
    return one(request, payment_resource(found, account_id), fields)


@payments_router.post("/payment", status_code=201, summary="Book a payment of a bill", **allow("finance"))
def pay(body: PaymentCreate, rooms: Asked, who: Who, key: IdempotencyKey) -> Response:
    bill = rooms.bills.find(str(as_uuid(body.payment_item[0].item.id, "bill")))
    if body.account.id != str(bill.account_id):
        raise Invalid("account: the bill is another account's")
    amount_nano = body.total_amount.nano()
    method = {"bankTransfer": "bank_transfer"}.get(body.payment_method.type, body.payment_method.type)
    with rooms.connection.transaction():
        if method == "test":
            if not rooms.is_dev:
                raise Invalid('the test provider takes money only where environment = "dev"')
            made = rooms.payments.collect(bill, TestProvider(), key, amount_nano)
        else:
            made = rooms.payments.pay(bill, method, key, amount_nano)
        if made.new:
            audit(
                rooms,
                who,
                "payment",
                made.payment_id,
                None,
                {"bill": bill.bill_no, "amount_nano": amount_nano},
            )
    return answer(payment_resource(made, bill.account_id), 201 if made.new else 200)


class RefundCreate(Loose):
    """Of an order: `whole`, `unused`, or an amount of it."""

    order: Ref
    part: Literal["whole", "unused", "amount"]
    reason: str = Field(min_length=1, max_length=200)
    total_amount: _Money | None = Field(default=None, alias="totalAmount")


def refund_resource(refund: Refund) -> dict[str, object]:
    return shown(
        {
            "id": str(refund.refund_id),
            "href": f"{PAYMENT}/refund/{refund.refund_id}",
            "description": refund.reason,
            "name": refund.part,
            "refundDate": when(refund.done_at),
            "status": refund.state,
            "statusDate": when(refund.done_at or refund.asked_at),
            "account": {"id": str(refund.account_id), "name": "token account"},
            "paymentMethod": {"@type": "phoneBill", "name": "credit on the phone bill"},
            "totalAmount": None if refund.amount_nano is None else money(refund.amount_nano),
            "order": {"id": str(refund.order_id), "href": f"{ORDER}/productOrder/{refund.order_id}"},
            "@type": "Refund",
        }
    )


@payments_router.get("/refund", summary="Refunds of an order", **allow(*READERS))
def refunds(
    request: Request,
    rooms: Asked,
    who: Who,
    page: Paged,
    order_id: Annotated[str, Query(alias="order.id", max_length=64)],
) -> Response:
    order, subscriber_id = rooms.orders.find(as_uuid(order_id, "order"))
    mine_only(who, subscriber_id, "order")
    found = [refund_resource(refund) for refund in rooms.refunds.of_order(order.order_id)]
    return cut(page, filtered(request, found, ("id", "status", "name", "refundDate"), beside=("order.id",)))


@payments_router.get("/refund/{id}", summary="One refund", **allow(*READERS))
def refund_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found = rooms.refunds.find(as_uuid(id, "refund"))
    mine_only(who, rooms.orders.find(found.order_id)[1], "refund")
    return one(request, refund_resource(found), fields)


@payments_router.post("/refund", status_code=201, summary="Refund an order", **allow("finance"))
def refund(body: RefundCreate, rooms: Asked, who: Who, key: IdempotencyKey) -> Response:
    order, _ = rooms.orders.find(as_uuid(body.order.id, "order"))
    amount_nano = None if body.total_amount is None else body.total_amount.nano()
    with rooms.connection.transaction():
        made = rooms.refunds.refund(
            order.order_id, body.part, body.reason, amount_nano=amount_nano, idempotency_key=key
        )
        if made[0].new:
            two_persons(rooms, who, "refund", order.order_id, rooms.refunds.at_most(made), key)
            audit(
                rooms, who, "refund", order.order_id, None,
                {"part": body.part, "reason": body.reason, "refunds": [str(refund.refund_id) for refund in made]},
            )  # fmt: skip
    return answer([refund_resource(refund) for refund in made], 201)


class CreditNoteCreate(Loose):
    """What is given back of a line of a bill."""

    line: int = Field(ge=1)
    amount: _Money
    reason: str = Field(min_length=1, max_length=200)


@bills_router.post(
    "/customerBill/{id}/creditNote",
    status_code=201,
    summary="Correct a bill by a credit note",
    **allow("finance"),
)
def correct(body: CreditNoteCreate, rooms: Asked, who: Who, id: str, key: IdempotencyKey) -> Response:
    found = _own_bill(rooms, who, id)
    with rooms.connection.transaction():
        note = rooms.bills.correct(found, body.line, body.amount.nano(), body.reason, key)
        if note.new:
            two_persons(rooms, who, "bill.correct", found.bill_id, note.amount_nano, key)
            audit(
                rooms, who, "bill.correct", found.bill_id, None,
                {"credit_note": note.credit_note_no, "amount_nano": note.amount_nano, "reason": note.reason},
            )  # fmt: skip
    return answer(
        {
            "id": str(note.credit_note_id),
            "creditNoteNo": note.credit_note_no,
            "bill": {"id": str(note.bill_id), "href": f"{BILL}/customerBill/{note.bill_id}"},
            "amount": money(note.amount_nano),
            "taxAmount": money(note.tax_nano),
            "reason": note.reason,
            "date": when(note.issued_at),
        },
        201,
    )
