"""The audit trail, staff and their tokens, approvals by a second person."""

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.trust import Approval
from tokenworks.web.bodies import Strict
from tokenworks.web.content import answer, decimal, shown, when
from tokenworks.web.lists import Paged, only_filters, page_of
from tokenworks.web.principals import ALL_STAFF, Who, allow, as_uuid, audit
from tokenworks.web.services import Asked

router = APIRouter(prefix="/api/operations", tags=["operations"])


@router.get("/audit", summary="Who did what to what, newest first", **allow("auditor"))
def audit_trail(
    request: Request, services: Asked, page: Paged, ref: Annotated[str | None, Query(max_length=100)] = None
) -> Response:
    only_filters(request, "ref")
    found, total = services.identity.audited(ref, page.offset, page.limit)
    rows = [
        {**row, "audit_id": str(row["audit_id"]), "at": when(row["at"])}  # type: ignore[arg-type]
        for row in found
    ]
    return page_of(page, rows, total)


@router.get("/staff", summary="Staff and their roles", **allow(*ALL_STAFF))
def staff(services: Asked) -> Response:
    rows = [
        {name: when(value) if name.endswith("_at") else value for name, value in row.items()}  # type: ignore[arg-type]
        for row in services.identity.staff()
    ]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class TokenRotation(Strict):
    """For so many hours the token that is asked with stays good."""

    overlap_h: int = Field(default=24, ge=0, le=720)


@router.post(
    "/staff/token",
    status_code=201,
    summary="A new token of one's own, shown this once",
    **allow(*ALL_STAFF),
)
def rotate_token(body: TokenRotation, services: Asked, who: Who) -> Response:
    with services.transaction():
        token = services.identity.rotate_staff(who.name, timedelta(hours=body.overlap_h))
        audit(services, who, "staff.rotate", who.name, None, {"overlap_h": body.overlap_h})
    return answer({"name": who.name, "token": token}, 201)


def _approval(approval: Approval) -> dict[str, object]:
    return shown(
        {
            "id": str(approval.approval_id),
            "action": approval.action,
            "ref": approval.ref,
            "amount": decimal(approval.amount_nano),
            "state": approval.state,
            "asked_by": approval.asked_by,
            "asked_at": when(approval.asked_at),
            "decided_by": approval.decided_by,
            "decided_at": when(approval.decided_at),
        }
    )


@router.get("/approvals", summary="What needs a second person, newest first", **allow(*ALL_STAFF))
def approvals(
    request: Request,
    services: Asked,
    page: Paged,
    state: Literal["open", "approved", "refused", "used"] | None = None,
) -> Response:
    only_filters(request, "state")
    found, total = services.approvals.all(state, page.offset, page.limit)
    return page_of(page, [_approval(approval) for approval in found], total)


class ApprovalDecision(Strict):
    state: Literal["approved", "refused"]


@router.patch(
    "/approvals/{id}", summary="Approve what another person asks for, or refuse it", **allow("finance")
)
def decide(body: ApprovalDecision, services: Asked, who: Who, id: str) -> Response:
    with services.transaction():
        made = services.approvals.decide(as_uuid(id, "approval"), who.name, approve=body.state == "approved")
        audit(services, who, f"approval.{body.state}", id, {"state": "open"}, _approval(made))
    return answer(_approval(made))
