"""Sessions of a member, or of an account."""

from uuid import UUID

from fastapi import APIRouter, Response

from tokenworks.kernel import NotFound
from tokenworks.trust import Session
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit, own_subscriber
from tokenworks.web.services import RequestServices
from tokenworks.web.sign_in import live_sessions

router = APIRouter(prefix="/api", tags=["account"])


def _session_resource(
    session: Session, principal: CurrentPrincipal, names: dict[UUID, str]
) -> dict[str, object]:
    return without_none(
        {
            "id": str(session.session_id),
            "member": names.get(session.member_id),
            "this": session.session_id == principal.session_id,
            "since": instant(session.created_at),
            "until": instant(session.expires_at),
            "address": session.address,
            "client": session.client,
            "seen_at": instant(session.seen_at),
            "seen_address": session.seen_address,
        }
    )


@router.get("/sessions", summary="Sessions, with address and device", **allow("owner", "admin", "member"))
def sessions(services: RequestServices, principal: CurrentPrincipal) -> Response:
    names = {m.member_id: m.name for m in services.members.of(own_subscriber(services, principal))}
    rows = [_session_resource(session, principal, names) for session in live_sessions(services, principal)]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


@router.delete(
    "/sessions",
    status_code=204,
    summary="End all of your other sessions",
    **allow("owner", "admin", "member"),
)
def end_other_sessions(services: RequestServices, principal: CurrentPrincipal) -> Response:
    assert principal.subscriber_id is not None
    with services.transaction():
        ended = services.identity.end_other_sessions(
            principal.subscriber_id, principal.member_id, principal.session_id
        )
        audit(services, principal, "session.end_others", principal.subscriber_id, None, {"ended": ended})
    return Response(status_code=204)


@router.delete(
    "/sessions/{id}", status_code=204, summary="End a session", **allow("owner", "admin", "member")
)
def end_session(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    session_id = as_uuid(id, "session")
    if session_id not in {session.session_id for session in live_sessions(services, principal)}:
        raise NotFound("there is no such session")
    with services.transaction():
        services.identity.end_session(session_id)
        audit(services, principal, "session.end", session_id)
    return Response(status_code=204)
