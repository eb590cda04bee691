"""Members and departments of an account."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.subscriptions import Member, check_invited_role, check_rank, normal_number
from tokenworks.web.actions import audited_member
from tokenworks.web.bodies import StrictBody, SubscriberReference
from tokenworks.web.content import json_response, without_none
from tokenworks.web.lists import check_match
from tokenworks.web.principals import READERS, CurrentPrincipal, allow, as_uuid, audit, own_subscriber
from tokenworks.web.services import RequestServices
from tokenworks.web.sign_in import Identifier

router = APIRouter(prefix="/api", tags=["account"])


class Invitation(StrictBody):
    phone: Identifier
    name: str = Field(min_length=1, max_length=100)
    role: Literal["member", "admin"] = "member"
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    cap_period: Literal["day", "month", "total"] = "month"
    # The department's id or name.
    department: str | None = Field(default=None, min_length=1, max_length=100)


class DepartmentCreate(StrictBody):
    """A department has no keys; its cap limits all of its members together. There are two levels: `under` names the upper one."""

    name: str = Field(min_length=1, max_length=100)
    under: str | None = Field(default=None, min_length=1, max_length=100)
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    cap_period: Literal["day", "month", "total"] = "month"


def member_resource(member: Member) -> dict[str, object]:
    return without_none(
        {
            "id": str(member.member_id),
            "name": member.name,
            "role": member.role,
            "state": member.state,
            "department": None if member.parent_id is None else str(member.parent_id),
            "cap_tokens": member.cap_tokens,
            "cap_period": member.cap_period,
        }
    )


@router.get("/members", summary="Members of the account", **allow(*READERS))
def members(
    services: RequestServices, principal: CurrentPrincipal, of: SubscriberReference = None
) -> Response:
    found = [
        member_resource(member) for member in services.members.of(own_subscriber(services, principal, of))
    ]
    return json_response(found, headers={"X-Total-Count": str(len(found))})


@router.post(
    "/members", status_code=201, summary="Invite a member by phone number", **allow("owner", "admin")
)
def invite(body: Invitation, services: RequestServices, principal: CurrentPrincipal) -> Response:
    found = own_subscriber(services, principal)
    check_invited_role(principal.role, body.role)
    with services.transaction():
        made = services.members.invite(
            found,
            normal_number(body.phone),
            body.name,
            role=body.role,
            cap_tokens=body.cap_tokens,
            cap_period=body.cap_period,
            parent=body.department,
        )
        audit(services, principal, "member.invite", made.member_id, None, audited_member(made))
    return json_response(member_resource(made), 201)


@router.post(
    "/departments", status_code=201, summary="Create a department with its cap", **allow("owner", "admin")
)
def make_department(
    body: DepartmentCreate, services: RequestServices, principal: CurrentPrincipal
) -> Response:
    with services.transaction():
        made = services.members.add(
            own_subscriber(services, principal), body.name, department=True, parent=body.under, cap_tokens=body.cap_tokens,
            cap_period=body.cap_period,
        )  # fmt: skip
        audit(services, principal, "member.add", made.member_id, None, audited_member(made))
    return json_response(member_resource(made), 201)


class MemberUpdate(StrictBody):
    """A field that is left out stays as it is; null removes its value."""

    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    cap_period: Literal["day", "month", "total"] = "month"
    department: str | None = Field(default=None, min_length=1, max_length=100)


@router.patch(
    "/members/{id}",
    summary="Set a member's (or department's) cap and its department",
    **allow("owner", "admin"),
)
def set_member(
    request: Request, body: MemberUpdate, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    found = own_subscriber(services, principal)
    member = services.members.find(found, str(as_uuid(id, "member")))
    check_rank(principal.role, member)
    check_match(request, member_resource(member))
    with services.transaction():
        if body.model_fields_set & {"cap_tokens", "cap_period"}:
            tokens = body.cap_tokens if "cap_tokens" in body.model_fields_set else member.cap_tokens
            period = body.cap_period if "cap_period" in body.model_fields_set else member.cap_period
            services.members.set_cap(member, tokens, period or "month")
        if "department" in body.model_fields_set:
            services.members.set_department(found, member, body.department)
        after = services.members.find(found, str(member.member_id))
        audit(
            services, principal, "member.set", member.member_id, audited_member(member), audited_member(after)
        )
    return json_response(member_resource(services.members.find(found, id)))


@router.delete(
    "/members/{id}", status_code=204, summary="Remove a member and revoke its keys", **allow("owner", "admin")
)
def remove_member(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    found = own_subscriber(services, principal)
    member = services.members.find(found, str(as_uuid(id, "member")))
    check_rank(principal.role, member)
    with services.transaction():
        audit(services, principal, "member.remove", member.member_id, audited_member(member))
        services.members.remove(member)
    return Response(status_code=204)
