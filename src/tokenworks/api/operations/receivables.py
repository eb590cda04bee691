"""Routes for finance: reversals of payments, reconciliation cases, bills that the carrier does not collect."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.bills import bill_resource
from tokenworks.billing import ReconciliationCase
from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import exact_amount, instant, json_response, without_none
from tokenworks.web.lists import PageQuery, check_filters, page_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit, check_approval
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"], route_class=RepeatableRoute)


class ReasonBody(StrictBody):
    reason: str = Field(min_length=1, max_length=200)


@router.post(
    "/payments/{id}/reversal", status_code=201, summary="Take a payment back (chargeback)", **allow("finance")
)
def reverse(body: ReasonBody, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    with services.transaction():
        payment = services.payments.find(as_uuid(id, "payment"))
        made = services.payments.reverse(payment, body.reason)
        # A payment is reversed once, so its id is the idempotency key.
        check_approval(
            services,
            principal,
            "payment.reverse",
            payment.payment_id,
            made.amount_nano,
            str(payment.payment_id),
        )
        audit(
            services, principal, "payment.reverse", payment.payment_id, None,
            {"amount_nano": made.amount_nano, "reason": made.reason},
        )  # fmt: skip
    return json_response(
        {
            "id": str(made.reversal_id),
            "payment": str(made.payment_id),
            "amount": exact_amount(made.amount_nano),
            "reason": made.reason,
            "reversed_at": instant(made.reversed_at),
        },
        201,
    )


def _case(case: ReconciliationCase) -> dict[str, object]:
    return without_none(
        {
            "id": str(case.case_id),
            "kind": case.kind,
            "subscriber": str(case.subscriber_id),
            "bill": None if case.bill_id is None else str(case.bill_id),
            "payment": None if case.payment_id is None else str(case.payment_id),
            "amount": exact_amount(case.amount_nano),
            "opened_at": instant(case.opened_at),
            "closed_at": instant(case.closed_at),
            "resolution": case.resolution,
        }
    )


@router.get(
    "/reconciliation-cases",
    summary="Reconciliation cases, oldest first",
    **allow("finance", "auditor"),
)
def cases(
    request: Request, services: RequestServices, page: PageQuery, state: Literal["open", "all"] = "open"
) -> Response:
    check_filters(request, "state")
    found, total = services.payments.cases(still_open=state == "open", offset=page.offset, limit=page.limit)
    return page_response(page, [_case(case) for case in found], total)


class Resolution(StrictBody):
    resolution: str = Field(min_length=1, max_length=200)


@router.patch(
    "/reconciliation-cases/{id}",
    summary="Close a reconciliation case with its resolution",
    **allow("finance"),
)
def close_case(body: Resolution, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    with services.transaction():
        closed = services.payments.close_case(as_uuid(id, "case"), body.resolution)
        audit(
            services, principal, "case.close", closed.case_id, None,
            {"kind": closed.kind, "amount_nano": closed.amount_nano, "resolution": closed.resolution},
        )  # fmt: skip
    return json_response(_case(closed))


@router.get(
    "/direct-bills",
    summary="Open bills that are collected directly from subscribers, oldest first",
    **allow("finance", "auditor"),
)
def direct_bills(request: Request, services: RequestServices, page: PageQuery) -> Response:
    check_filters(request)
    found, total = services.payments.direct(page.offset, page.limit)
    return page_response(page, [bill_resource(bill) for bill in found], total)


class BillAction(ReasonBody):
    """`resend` and `phone`: by the next charge file; `direct`: directly from the subscriber; `write_off`: not collected."""

    action: Literal["resend", "phone", "direct", "write_off"]


@router.post(
    "/bills/{id}/actions", summary="Set how a bill is collected, or write it off", **allow("finance")
)
def act_on_bill(
    body: BillAction, services: RequestServices, principal: CurrentPrincipal, id: str, key: IdempotencyKey
) -> Response:
    with services.transaction():
        bill = services.bills.find(str(as_uuid(id, "bill")))
        if body.action == "write_off":
            made = services.payments.write_off(bill, body.reason, key)
            check_approval(services, principal, "bill.write_off", bill.bill_id, made.amount_nano, key)
        elif body.action == "resend":
            services.payments.resend(bill, body.reason)
        else:
            services.payments.set_channel(bill, body.action, body.reason)
        after = services.bills.find(str(bill.bill_id))
        audit(
            services, principal, f"bill.{body.action}", bill.bill_id, {"open_nano": bill.remaining_nano, "channel": bill.channel},
            {"open_nano": after.remaining_nano, "channel": after.channel, "reason": body.reason},
        )  # fmt: skip
    return json_response({**bill_resource(after), "channel": after.channel})


@router.post(
    "/charge-files/{sequence}/lapse",
    summary="Stop waiting for the carrier's answer to a charge file",
    **allow("finance"),
)
def lapse(
    body: ReasonBody, services: RequestServices, principal: CurrentPrincipal, sequence: int
) -> Response:
    with services.transaction():
        lines = services.charge_files.lapse(sequence, body.reason)
        audit(
            services, principal, "charge_file.lapse", sequence, None, {"lines": lines, "reason": body.reason}
        )
    return json_response({"sequence": sequence, "lines": lines})
