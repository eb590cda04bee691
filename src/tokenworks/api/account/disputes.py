"""Questions about bill lines over HTTP: a subscriber asks and reads its own; staff sees them in a list and answers."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from tokenworks.billing import QUESTION_CHARS_MAX, Dispute
from tokenworks.kernel import flaw
from tokenworks.web.bodies import Of, Strict
from tokenworks.web.content import answer, decimal, shown, when
from tokenworks.web.lists import Paged, only_filters, page_of
from tokenworks.web.principals import (
    ALL_STAFF,
    BUYERS,
    READERS,
    Who,
    allow,
    as_uuid,
    audit,
    mine_only,
    own_bill,
    whose,
)
from tokenworks.web.services import Asked

router = APIRouter(tags=["disputes"])
State = Annotated[Literal["open", "answered"] | None, Query()]


class _Lines(Strict):
    """`text` may have several lines; all else has one."""

    text: str = Field(min_length=1, max_length=QUESTION_CHARS_MAX)

    @model_validator(mode="after")
    def _texts(self) -> Self:
        """In place of the base's rule, which refuses line ends everywhere."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            found = flaw(value, lines=name == "text") if isinstance(value, str) else None
            if found is not None:
                raise ValueError(f"{name} has {found}: leave it out")
        return self


class DisputeCreate(_Lines):
    """What is asked about which line of which bill (its number or id)."""

    bill: str = Field(min_length=1, max_length=64)
    line: int = Field(ge=1, le=1_000_000)


class DisputeAnswer(_Lines):
    """What the subscriber is told. Money is given back by a credit note, which is an operation of its own."""


def dispute_resource(dispute: Dispute) -> dict[str, object]:
    return shown(
        {
            "id": str(dispute.dispute_id),
            "subscriber": str(dispute.subscriber_id),
            "bill": dispute.bill_no,
            "line": dispute.line_no,
            "description": dispute.description,
            "amount": decimal(dispute.amount_nano),
            "question": dispute.question,
            "asked_at": when(dispute.asked_at),
            "state": dispute.state,
            "answer": dispute.answer,
            "answered_at": when(dispute.answered_at),
        }
    )


@router.get("/api/disputes", summary="Questions about bills, oldest first", **allow(*READERS))
def disputes(
    request: Request, services: Asked, who: Who, page: Paged, state: State = None, of: Of = None
) -> Response:
    only_filters(request, "state", "of")
    found, total = services.disputes.all(whose(services, who, of), state, page.offset, page.limit)
    return page_of(page, [dispute_resource(one) for one in found], total)


@router.post("/api/disputes", status_code=201, summary="Question a line of a bill", **allow(*BUYERS))
def ask(body: DisputeCreate, services: Asked, who: Who) -> Response:
    bill = own_bill(services, who, body.bill)
    with services.transaction():
        made = services.disputes.ask(bill, body.line, body.text)
        if made.new:
            audit(
                services, who, "dispute.ask", made.dispute_id, None, {"bill": bill.bill_no, "line": body.line}
            )
    return answer(dispute_resource(made), 201)


@router.get("/api/disputes/{id}", summary="One question", **allow(*READERS))
def dispute(services: Asked, who: Who, id: str) -> Response:
    found = services.disputes.find(as_uuid(id, "dispute"))
    mine_only(who, found.subscriber_id, "dispute")
    return answer(dispute_resource(found))


@router.get(
    "/api/operations/disputes",
    summary="Questions about bills, oldest first, with the phone's last digits",
    **allow(*ALL_STAFF),
)
def all_disputes(request: Request, services: Asked, page: Paged, state: State = None) -> Response:
    only_filters(request, "state")
    found, total = services.disputes.all(None, state, page.offset, page.limit)
    rows = [
        {
            **dispute_resource(one),
            "phone": services.subscriptions.find(str(one.subscriber_id)).phone_masked,
            "answered_by": one.answered_by,
        }
        for one in found
    ]
    return page_of(page, [shown(row) for row in rows], total)


@router.patch(
    "/api/operations/disputes/{id}",
    summary="Answer a question; the subscriber is told",
    **allow("operator", "finance"),
)
def answer_dispute(body: DisputeAnswer, services: Asked, who: Who, id: str) -> Response:
    dispute_id = as_uuid(id, "dispute")
    with services.transaction():
        made = services.disputes.answer(dispute_id, body.text, who.name)
        audit(
            services, who, "dispute.answer", dispute_id, {"state": "open"}, {"state": "answered", "answer": made.answer}
        )  # fmt: skip
    return answer(dispute_resource(made))
