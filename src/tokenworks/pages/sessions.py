"""The page of sessions and passkeys: sessions with device and a shortened address; ends one session, or all others."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import NotFound, TokenworksError
from tokenworks.pages.page import FormText, Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.words import SESSION_WORDS
from tokenworks.subscriptions import minute_of
from tokenworks.trust import Session
from tokenworks.web.principals import as_uuid, audit
from tokenworks.web.services import RequestServices, Services
from tokenworks.web.sign_in import live_sessions
from tokenworks.web.urls import base_url

router = APIRouter(include_in_schema=False)
SESSIONS_SHOWN: Final = 100
Done = Annotated[
    Literal["ended", "ended_others", "passkey_added", "passkey_renamed", "passkey_removed"] | None, Query()
]
# Names of systems in a browser's user agent, the specific ones first: an iPad's contains Mac, too.
_SYSTEMS: Final = (
    ("iPhone", "iphone"), ("iPad", "ipad"), ("Android", "android"), ("Windows", "windows"), ("Macintosh", "mac"),
    ("Mac OS", "mac"), ("Linux", "linux"),
)  # fmt: skip


def device_of(client: str | None) -> str:
    """The name of the text for a session's device. The text that the client sent is never shown."""
    return next((word for name, word in _SYSTEMS if name in (client or "")), "other")


def place_of(address: str | None) -> str | None:
    """A shortened address, enough to recognise one's own: the first half of an IPv4 address, the first 32 bits of an IPv6 address."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if parsed.version == 4:
        return ".".join(str(parsed).split(".")[:2]) + ".*.*"
    mapped = parsed.ipv4_mapped
    if mapped is not None:
        return place_of(str(mapped))
    return ":".join(parsed.exploded.split(":")[:2]) + ":…"


@router.get("/sessions")
def sessions(request: Request, services: RequestServices, done: Done = None) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    return show_sessions(request, services, visitor, done)


def show_sessions(
    request: Request,
    services: Services,
    visitor: Visitor,
    done: str | None = None,
    error: TokenworksError | None = None,
) -> Response:
    """The page of sessions and passkeys. `done`: the name of the text that says what was done."""
    words = SESSION_WORDS[language_of(request, visitor)]
    found = live_sessions(services, visitor.principal)
    # The current session first, then the member's own, then those of other members.
    own_first = sorted(
        found,
        key=lambda s: (
            s.session_id != visitor.principal.session_id,
            s.member_id != visitor.principal.member_id,
        ),
    )
    names = {m.member_id: m.name for m in services.members.of(visitor.subscriber)}
    others = any(
        s.member_id == visitor.principal.member_id and s.session_id != visitor.principal.session_id
        for s in found
    )
    return render(
        request, services, "sessions.html", "sessions", "sessions", visitor=visitor, error=error, s=words,
        passkeys=_passkey_rows(services, visitor, words),
        has_passkeys=services.passkeys.is_offered(base_url.get()),
        is_fresh=services.passkeys.is_fresh(visitor.principal.session_id),
        done=words[done] if done else None,
        rows=[_row(session, visitor, names, words) for session in own_first[:SESSIONS_SHOWN]], others=others,
        more=words["more"].format(count=len(found) - SESSIONS_SHOWN) if len(found) > SESSIONS_SHOWN else "",
    )  # fmt: skip


def _passkey_rows(services: Services, visitor: Visitor, words: Mapping[str, str]) -> list[dict[str, object]]:
    subscriber_id, member_id = visitor.subscriber.subscriber_id, visitor.principal.member_id
    assert member_id is not None
    return [
        {
            "id": str(passkey.passkey_id),
            "name": passkey.name,
            "lines": [
                words["passkey_since"].format(at=minute_of(passkey.created_at)),
                words["passkey_used"].format(at=minute_of(passkey.used_at)) if passkey.used_at else words["passkey_unused"],
                words["passkey_synced" if passkey.is_synced else "passkey_here"],
            ],
            "is_blocked": passkey.cloned_at is not None,
        }
        for passkey in services.passkeys.of(subscriber_id, member_id)
    ]  # fmt: skip


def _row(
    session: Session, visitor: Visitor, names: dict[UUID, str], words: Mapping[str, str]
) -> dict[str, object]:
    seen = session.seen_at or session.created_at
    place = place_of(session.seen_address or session.address) or words["unknown_place"]
    lines = [
        words["since"].format(at=minute_of(session.created_at)),
        words["seen"].format(at=minute_of(seen)),
        words["where"].format(place=place),
        words["until"].format(at=minute_of(session.expires_at)),
    ]
    is_own = session.member_id == visitor.principal.member_id
    return {
        "id": str(session.session_id), "device": words[device_of(session.client)], "lines": lines,
        "is_this": session.session_id == visitor.principal.session_id,
        "of": "" if is_own else words["of"].format(name=names.get(session.member_id, "")),
    }  # fmt: skip


@router.post("/sessions/end")
def end(request: Request, services: RequestServices, id: FormText) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    end_live_session(services, visitor, id)
    return RedirectResponse("/sessions?done=ended", 303)


def end_live_session(services: Services, visitor: Visitor, id_: str) -> None:
    """End a session of the list. A form that is sent twice changes nothing the second time. Raises `NotFound` for other sessions."""
    session_id = as_uuid(id_, "session")
    with services.transaction():
        if session_id in {session.session_id for session in live_sessions(services, visitor.principal)}:
            if services.identity.end_session(session_id):
                audit(services, visitor.principal, "session.end", session_id)
        elif visitor.is_member or not services.identity.has_session(
            visitor.subscriber.subscriber_id, session_id
        ):
            raise NotFound("there is no such session")


@router.post("/sessions/end-others")
def end_others(request: Request, services: RequestServices) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    principal, subscriber_id = visitor.principal, visitor.subscriber.subscriber_id
    with services.transaction():
        ended = services.identity.end_other_sessions(subscriber_id, principal.member_id, principal.session_id)
        if ended:
            audit(services, principal, "session.end_others", subscriber_id, None, {"ended": ended})
    return RedirectResponse("/sessions?done=ended_others", 303)
