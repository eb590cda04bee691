"""The audit trail, staff and their tokens, approvals by a second person."""

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.trust import Approval
from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import exact_amount, instant, json_response, without_none
from tokenworks.web.lists import PageQuery, check_filters, page_response
from tokenworks.web.principals import ALL_STAFF, CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])


@router.get("/audit", summary="The audit trail, newest first", **allow("auditor"))
def audit_trail(
    request: Request,
    services: RequestServices,
    page: PageQuery,
    ref: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    check_filters(request, "ref")
    found, total = services.identity.audited(ref, page.offset, page.limit)
    rows = [
        {**row, "audit_id": str(row["audit_id"]), "at": instant(row["at"])}  # type: ignore[arg-type]
        for row in found
    ]
    return page_response(page, rows, total)


@router.get("/staff", summary="Staff and their roles", **allow(*ALL_STAFF))
def staff(services: RequestServices) -> Response:
    rows = [
        {name: instant(value) if name.endswith("_at") else value for name, value in row.items()}  # type: ignore[arg-type]
        for row in services.identity.staff()
    ]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


class TokenRotation(StrictBody):
    """`overlap_h`: how long the current token stays valid."""

    overlap_h: int = Field(default=24, ge=0, le=720)


@router.post(
    "/staff/token",
    status_code=201,
    summary="Rotate your own token; the new one is shown only once",
    **allow(*ALL_STAFF),
)
def rotate_token(body: TokenRotation, services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        token = services.identity.rotate_staff(principal.name, timedelta(hours=body.overlap_h))
        audit(services, principal, "staff.rotate", principal.name, None, {"overlap_h": body.overlap_h})
    return json_response({"name": principal.name, "token": token}, 201)


def _approval(approval: Approval) -> dict[str, object]:
    return without_none(
        {
            "id": str(approval.approval_id),
            "action": approval.action,
            "ref": approval.ref,
            "amount": exact_amount(approval.amount_nano),
            "state": approval.state,
            "asked_by": approval.asked_by,
            "asked_at": instant(approval.asked_at),
            "decided_by": approval.decided_by,
            "decided_at": instant(approval.decided_at),
        }
    )


@router.get(
    "/approvals", summary="Requests for a second person's approval, newest first", **allow(*ALL_STAFF)
)
def approvals(
    request: Request,
    services: RequestServices,
    page: PageQuery,
    state: Literal["open", "approved", "refused", "used"] | None = None,
) -> Response:
    check_filters(request, "state")
    found, total = services.approvals.all(state, page.offset, page.limit)
    return page_response(page, [_approval(approval) for approval in found], total)


class ApprovalDecision(StrictBody):
    state: Literal["approved", "refused"]


@router.patch("/approvals/{id}", summary="Approve or refuse another person's request", **allow("finance"))
def decide(
    body: ApprovalDecision, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    with services.transaction():
        made = services.approvals.decide(
            as_uuid(id, "approval"), principal.name, approve=body.state == "approved"
        )
        audit(services, principal, f"approval.{body.state}", id, {"state": "open"}, _approval(made))
    return json_response(_approval(made))
