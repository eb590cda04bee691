"""Where somebody was invited, or is a member."""

from typing import Literal

from fastapi import APIRouter, Request, Response

from tokenworks.api.account.members import member_resource
from tokenworks.web.asker import client_address, is_secure
from tokenworks.web.bodies import Strict
from tokenworks.web.content import answer, when
from tokenworks.web.principals import Who, allow, as_uuid, audit, phone_of
from tokenworks.web.services import Asked
from tokenworks.web.sign_in import set_cookie

router = APIRouter(prefix="/api", tags=["account"])


@router.get(
    "/memberships", summary="Where one was invited, or is a member", **allow("owner", "admin", "member")
)
def memberships(services: Asked, who: Who) -> Response:
    found = services.members.memberships(phone_of(services, who))
    rows = [
        {**member_resource(member), "of": services.subscriptions.find(str(member.subscriber_id)).name or "?"}
        for member in found
    ]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class Joining(Strict):
    state: Literal["active", "left"]


@router.patch(
    "/memberships/{id}", summary="Accept an invitation, or leave", **allow("owner", "admin", "member")
)
def join(body: Joining, services: Asked, who: Who, id: str) -> Response:
    phone, member_id = phone_of(services, who), as_uuid(id, "invitation")
    with services.transaction():
        if body.state == "active":
            made = services.members.accept(phone, member_id)
        else:
            made = services.members.leave(phone, member_id)
        audit(services, who, "member.accept" if body.state == "active" else "member.leave", member_id)
    return answer(member_resource(made))


@router.post(
    "/memberships/{id}/session",
    status_code=201,
    summary="Go on as a member there",
    **allow("owner", "admin", "member"),
)
def switch(request: Request, services: Asked, who: Who, id: str) -> Response:
    entered = services.sign_ins.switch(
        phone_of(services, who), as_uuid(id, "membership"), client_address(request), request.headers.get("user-agent")
    )  # fmt: skip
    response = answer({"token": entered.text, "expires_at": when(entered.ends_at)}, 201)
    set_cookie(response, entered.text, entered.ends_at, secure=is_secure(request))
    return response
