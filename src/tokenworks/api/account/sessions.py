"""Where somebody is signed in."""

from typing import Any

from fastapi import APIRouter, Response

from tokenworks.kernel import NotFound
from tokenworks.trust import Session
from tokenworks.web.content import answer, shown, when
from tokenworks.web.principals import Who, allow, as_uuid, audit, own
from tokenworks.web.services import Asked
from tokenworks.web.sign_in import live_sessions

router = APIRouter(prefix="/api", tags=["account"])


def _session_resource(session: Session, who: Who, names: dict[Any, str]) -> dict[str, object]:
    return shown(
        {
            "id": str(session.session_id),
            "member": names.get(session.member_id),
            "this": session.session_id == who.session_id,
            "since": when(session.created_at),
            "until": when(session.expires_at),
            "address": session.address,
            "client": session.client,
            "seen_at": when(session.seen_at),
            "seen_address": session.seen_address,
        }
    )


@router.get(
    "/sessions", summary="Who is signed in, from where, with what", **allow("owner", "admin", "member")
)
def sessions(services: Asked, who: Who) -> Response:
    names = {m.member_id: m.name for m in services.members.of(own(services, who))}
    rows = [_session_resource(session, who, names) for session in live_sessions(services, who)]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


@router.delete(
    "/sessions",
    status_code=204,
    summary="End all of one's own sessions but this one",
    **allow("owner", "admin", "member"),
)
def end_other_sessions(services: Asked, who: Who) -> Response:
    assert who.subscriber_id is not None
    with services.transaction():
        ended = services.identity.end_other_sessions(who.subscriber_id, who.member_id, who.session_id)
        audit(services, who, "session.end_others", who.subscriber_id, None, {"ended": ended})
    return Response(status_code=204)


@router.delete(
    "/sessions/{id}", status_code=204, summary="End a session", **allow("owner", "admin", "member")
)
def end_session(services: Asked, who: Who, id: str) -> Response:
    session_id = as_uuid(id, "session")
    if session_id not in {session.session_id for session in live_sessions(services, who)}:
        raise NotFound("there is no such session")
    with services.transaction():
        services.identity.end_session(session_id)
        audit(services, who, "session.end", session_id)
    return Response(status_code=204)
