"""Questions about bill lines over HTTP: a subscriber asks and reads its own; staff sees them in a list and answers."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from tokenworks.billing import QUESTION_CHARS_MAX, Dispute
from tokenworks.kernel import flaw
from tokenworks.web.bodies import StrictBody, SubscriberReference
from tokenworks.web.content import exact_amount, instant, json_response, without_none
from tokenworks.web.lists import PageQuery, check_filters, page_response
from tokenworks.web.principals import (
    ALL_STAFF,
    BUYERS,
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_owner,
    own_bill,
    subscriber_or_all,
)
from tokenworks.web.services import RequestServices

router = APIRouter(tags=["disputes"])
State = Annotated[Literal["open", "answered"] | None, Query()]


class _MultilineBody(StrictBody):
    """A body in which `text` may have several lines, and every other text one."""

    text: str = Field(min_length=1, max_length=QUESTION_CHARS_MAX)

    @model_validator(mode="after")
    def _texts(self) -> Self:
        """Replaces the rule of the base class, which refuses line ends in all texts."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            found = flaw(value, lines=name == "text") if isinstance(value, str) else None
            if found is not None:
                raise ValueError(f"{name} has {found}: leave it out")
        return self


class DisputeCreate(_MultilineBody):
    """A question about a line of a bill (by its number or id)."""

    bill: str = Field(min_length=1, max_length=64)
    line: int = Field(ge=1, le=1_000_000)


class DisputeAnswer(_MultilineBody):
    """The answer to the subscriber. Money is given back by a credit note, which is a separate operation."""


def dispute_resource(dispute: Dispute) -> dict[str, object]:
    return without_none(
        {
            "id": str(dispute.dispute_id),
            "subscriber": str(dispute.subscriber_id),
            "bill": dispute.bill_no,
            "line": dispute.line_no,
            "description": dispute.description,
            "amount": exact_amount(dispute.amount_nano),
            "question": dispute.question,
            "asked_at": instant(dispute.asked_at),
            "state": dispute.state,
            "answer": dispute.answer,
            "answered_at": instant(dispute.answered_at),
        }
    )


@router.get("/api/disputes", summary="Questions about bills, oldest first", **allow(*READERS))
def disputes(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    state: State = None,
    of: SubscriberReference = None,
) -> Response:
    check_filters(request, "state", "of")
    found, total = services.disputes.all(
        subscriber_or_all(services, principal, of), state, page.offset, page.limit
    )
    return page_response(page, [dispute_resource(found_dispute) for found_dispute in found], total)


@router.post(
    "/api/disputes", status_code=201, summary="Ask a question about a line of a bill", **allow(*BUYERS)
)
def ask(body: DisputeCreate, services: RequestServices, principal: CurrentPrincipal) -> Response:
    bill = own_bill(services, principal, body.bill)
    with services.transaction():
        made = services.disputes.ask(bill, body.line, body.text)
        if made.new:
            audit(
                services,
                principal,
                "dispute.ask",
                made.dispute_id,
                None,
                {"bill": bill.bill_no, "line": body.line},
            )
    return json_response(dispute_resource(made), 201)


@router.get("/api/disputes/{id}", summary="One question", **allow(*READERS))
def dispute(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    found = services.disputes.find(as_uuid(id, "dispute"))
    check_owner(principal, found.subscriber_id, "dispute")
    return json_response(dispute_resource(found))


@router.get(
    "/api/operations/disputes",
    summary="Questions about bills, oldest first, with the last digits of the phone number",
    **allow(*ALL_STAFF),
)
def all_disputes(
    request: Request, services: RequestServices, page: PageQuery, state: State = None
) -> Response:
    check_filters(request, "state")
    found, total = services.disputes.all(None, state, page.offset, page.limit)
    rows = [
        {
            **dispute_resource(found_dispute),
            "phone": services.subscriptions.find(str(found_dispute.subscriber_id)).phone_masked,
            "answered_by": found_dispute.answered_by,
        }
        for found_dispute in found
    ]
    return page_response(page, [without_none(row) for row in rows], total)


@router.patch(
    "/api/operations/disputes/{id}",
    summary="Answer a question; the subscriber is notified",
    **allow("operator", "finance"),
)
def answer_dispute(
    body: DisputeAnswer, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    dispute_id = as_uuid(id, "dispute")
    with services.transaction():
        made = services.disputes.answer(dispute_id, body.text, principal.name)
        audit(
            services, principal, "dispute.answer", dispute_id, {"state": "open"}, {"state": "answered", "answer": made.answer}
        )  # fmt: skip
    return json_response(dispute_resource(made))
