"""Invitations to other accounts, and memberships in them."""

from typing import Literal

from fastapi import APIRouter, Request, Response

from tokenworks.api.account.members import member_resource
from tokenworks.web.bodies import StrictBody
from tokenworks.web.client import client_address, is_secure
from tokenworks.web.content import instant, json_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit, phone_of
from tokenworks.web.services import RequestServices
from tokenworks.web.sign_in import set_cookie

router = APIRouter(prefix="/api", tags=["account"])


@router.get(
    "/memberships",
    summary="Invitations to other accounts, and memberships in them",
    **allow("owner", "admin", "member"),
)
def memberships(services: RequestServices, principal: CurrentPrincipal) -> Response:
    found = services.members.memberships(phone_of(services, principal))
    rows = [
        {**member_resource(member), "of": services.subscriptions.find(str(member.subscriber_id)).name or "?"}
        for member in found
    ]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


class MembershipUpdate(StrictBody):
    state: Literal["active", "left"]


@router.patch(
    "/memberships/{id}", summary="Accept an invitation, or leave", **allow("owner", "admin", "member")
)
def join(body: MembershipUpdate, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    phone, member_id = phone_of(services, principal), as_uuid(id, "invitation")
    with services.transaction():
        if body.state == "active":
            made = services.members.accept(phone, member_id)
        else:
            made = services.members.leave(phone, member_id)
        audit(services, principal, "member.accept" if body.state == "active" else "member.leave", member_id)
    return json_response(member_resource(made))


@router.post(
    "/memberships/{id}/session",
    status_code=201,
    summary="Begin a session as a member of that account",
    **allow("owner", "admin", "member"),
)
def switch(request: Request, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    entered = services.sign_ins.switch(
        phone_of(services, principal), as_uuid(id, "membership"), client_address(request), request.headers.get("user-agent"), principal.session_id
    )  # fmt: skip
    response = json_response({"token": entered.text, "expires_at": instant(entered.ends_at)}, 201)
    set_cookie(response, entered.text, entered.ends_at, secure=is_secure(request))
    return response
