"""What is a person's by law: consents with the texts that are shown, the real-name check, export, erasure; and a page of them."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from pydantic import Field

from tokenworks.console.account import subscriber_resource
from tokenworks.console.asker import check_control
from tokenworks.console.page import ask_to_sign_in, language_of, render, visitor_of
from tokenworks.console.web import (
    Asked,
    Of,
    Rooms,
    Strict,
    Who,
    allow,
    answer,
    audit,
    own,
    shown,
    two_persons,
    when,
)
from tokenworks.console.words_privacy import PRIVACY_WORDS
from tokenworks.kernel import Invalid, NotFound, TokenworksError, Unavailable
from tokenworks.subscriptions import PURPOSES, ConsentState, Erasure, Member, Subscriber, lock_subscriber
from tokenworks.trust import Principal

router = APIRouter(prefix="/api", tags=["privacy"])
pages_router = APIRouter(include_in_schema=False)
# Each reads the database for as long as its reader takes: more are told to come again.
EXPORTS_AT_ONCE: Final = 2
Purpose = Literal["terms", "marketing", "spill_over", "data_cross_border"]
_SHA256: Final = r"^[0-9a-f]{64}$"


def consent_resource(state: ConsentState) -> dict[str, object]:
    """A purpose: the text that is shown now with its hash, and what was said last."""
    return shown(
        {
            "purpose": state.text.purpose,
            "language": state.text.language,
            "text": state.text.text,
            "text_sha256": state.text.sha256,
            "given": state.given,
            "said_at": when(state.said_at),
            "said_text_sha256": state.said_sha256,
            "text_changed": state.text_changed or None,
        }
    )


@router.get(
    "/consents",
    summary="What may be agreed to: the texts, and what one said of each",
    **allow("owner", "admin", "operator", "auditor"),
)
def consents(rooms: Asked, who: Who, of: Of = None) -> Response:
    found = own(rooms, who, of)
    rows = [consent_resource(state) for state in rooms.consents.states(found)]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class Said(Strict):
    """`text_sha256`: of the text that was shown; it is required where one agrees."""

    given: bool
    text_sha256: str | None = Field(default=None, pattern=_SHA256)


@router.put(
    "/consents/{purpose}",
    summary="Agree, or take it back: from the next request on",
    **allow("owner", "operator"),
)
def say(body: Said, rooms: Asked, who: Who, purpose: Purpose, of: Of = None) -> Response:
    found = own(rooms, who, of)
    if body.given and body.text_sha256 is None:
        raise Invalid("text_sha256: say which text was shown; GET /api/consents has it")
    with rooms.connection.transaction():
        _say(rooms, found, purpose, given=body.given, text_sha256=body.text_sha256, said_by=who.actor)
        states = {state.text.purpose: state for state in rooms.consents.states(found)}
        after = consent_resource(states[purpose])
        audit(rooms, who, "subscriber.consent", found.subscriber_id, None, after)
    return answer(after)


def _say(
    rooms: Rooms, found: Subscriber, purpose: str, *, given: bool, text_sha256: str | None, said_by: str
) -> None:
    rooms.consents.keep(found, purpose, given=given, text_sha256=text_sha256, said_by=said_by)


class RealName(Strict):
    """As on the identity document. Its number is not kept."""

    name: str = Field(min_length=1, max_length=100)
    id_number: str = Field(min_length=6, max_length=40)


@router.post("/real-name", summary="Have the carrier check the real name", **allow("owner", "operator"))
def real_name(body: RealName, rooms: Asked, who: Who, of: Of = None) -> Response:
    found = rooms.privacy.check_real_name(own(rooms, who, of), body.name, body.id_number)
    audit(rooms, who, "subscriber.real_name", found.subscriber_id, None, {"real_name": found.real_name})
    return answer(subscriber_resource(rooms, found))


@router.get(
    "/export",
    summary="All that is stored of one, as one JSON document, streamed",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/json": {}}}},
    **allow("owner", "operator"),
)
def export(request: Request, rooms: Asked, who: Who, of: Of = None) -> Response:
    found = own(rooms, who, of)
    audit(rooms, who, "subscriber.export", found.subscriber_id)
    headers = {
        "Content-Disposition": f'attachment; filename="tokenworks-{found.subscriber_id}.json"',
        "Cache-Control": "no-store",
    }
    pieces = _pieces(request, lambda rooms: rooms.privacy.export(found))
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


def _pieces(request: Request, export: Callable[[Rooms], Iterator[bytes]]) -> Iterator[bytes]:
    """On a connection of its own, which ends with the last piece or with the reader. Raises `Unavailable` at once where as
    many as may are being read.
    """
    slots = request.app.state.exports
    if not slots.acquire(blocking=False):
        raise Unavailable("other exports are being read: try again in a minute")

    def read() -> Iterator[bytes]:
        try:
            with request.app.state.open_rooms() as rooms:
                yield from export(rooms)
        finally:
            slots.release()

    pieces = read()
    # Begun here: what was not begun has no end that releases the slot.
    first = next(pieces)

    def all_of_it() -> Iterator[bytes]:
        try:
            yield first
            yield from pieces
        finally:
            pieces.close()  # type: ignore[attr-defined]

    return all_of_it()


@router.get(
    "/me/export",
    summary="All that is stored of a member itself, in somebody else's account",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/json": {}}}},
    **allow("admin", "member"),
)
def export_member(request: Request, rooms: Asked, who: Who) -> Response:
    found = own_member(rooms, who)
    audit(rooms, who, "member.export", found.member_id)
    headers = {
        "Content-Disposition": f'attachment; filename="tokenworks-{found.member_id}.json"',
        "Cache-Control": "no-store",
    }
    pieces = _pieces(request, lambda rooms: rooms.privacy.members.export(found))
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


def own_member(rooms: Rooms, who: Principal) -> Member:
    """Whoever asks, as a member of the account."""
    found = None if who.member_id is None else rooms.members.by_id(who.member_id)
    if found is None:
        raise NotFound("there is no such member")
    return found


class EraseMember(Strict):
    """`confirm`: the last four digits of the member's own phone number."""

    confirm: str = Field(pattern=r"^[0-9]{4}$")


@router.post(
    "/me/erasure",
    status_code=204,
    summary="Leave somebody else's account, and erase what it keeps of oneself",
    **allow("admin", "member"),
)
def erase_member(body: EraseMember, rooms: Asked, who: Who) -> Response:
    _erase_member(rooms, who, body.confirm)
    return Response(status_code=204)


def _erase_member(rooms: Rooms, who: Principal, confirm: str) -> None:
    found = own_member(rooms, who)
    if not found.phone or not found.phone.endswith(confirm):
        raise Invalid("confirm: say the last four digits of your own phone number")
    with rooms.connection.transaction():
        audit(rooms, who, "member.erase", found.member_id)
        rooms.privacy.members.erase(found)


class Erase(Strict):
    """`confirm`: the last four digits of the phone number. `even_if_owed` is for staff: what is owed can't be collected then."""

    confirm: str = Field(pattern=r"^[0-9]{4}$")
    even_if_owed: bool = False


def erasure_resource(done: Erasure) -> dict[str, object]:
    return shown(
        {
            "state": done.state,
            "waits_for": list(done.waits_for) or None,
            "backups_forget_at": when(done.backups_forget_at),
            "identity_kept_until": when(done.identity_kept_until),
        }
    )


@router.post(
    "/erasure",
    summary="Close the account and erase what names the person; while something is owed, as soon as nothing is",
    **allow("owner", "operator"),
)
def erase(body: Erase, rooms: Asked, who: Who, of: Of = None) -> Response:
    found = own(rooms, who, of)
    if body.even_if_owed and not who.is_staff:
        raise Invalid("even_if_owed: only the operator gives up what is owed")
    id_ = str(found.subscriber_id)
    with rooms.connection.transaction():
        done = _erase(rooms, found, body.confirm, even_if_owed=body.even_if_owed)
        if body.even_if_owed:
            two_persons(rooms, who, "subscriber.erase", id_, abs(done.owes_nano), id_)
        audit(rooms, who, "subscriber.erase", id_)
    return answer(erasure_resource(done))


def _erase(rooms: Rooms, found: Subscriber, confirm: str, *, even_if_owed: bool) -> Erasure:
    if not found.phone.endswith(confirm) or not found.phone:
        raise Invalid("confirm: say the last four digits of the phone number")
    return rooms.privacy.erase(found, even_if_owed=even_if_owed)


# The page.


@pages_router.get("/terms")
def terms_page(request: Request, rooms: Asked) -> Response:
    """What one agrees to, before one signs in."""
    language = language_of(request)
    texts = [rooms.consents.text(purpose, language) for purpose in PURPOSES]
    words = PRIVACY_WORDS[language]
    visitor = visitor_of(request, rooms, "owner", "admin", "member")
    return render(request, rooms, "terms.html", "terms", "terms", visitor=visitor, p=words, texts=texts)


@pages_router.get("/privacy")
def privacy_page(request: Request, rooms: Asked) -> Response:
    return _privacy(request, rooms)


def _privacy(
    request: Request, rooms: Rooms, error: TokenworksError | None = None, erasure: Erasure | None = None
) -> Response:
    visitor = visitor_of(request, rooms, "owner", "admin", "member")
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    subscriber = visitor.subscriber
    language = language_of(request, visitor)
    is_owner = visitor.who.role == "owner"
    # What an account agreed to is its owner's to say; an admin may stop what costs more.
    states = [] if visitor.is_member else rooms.consents.states(subscriber, language)
    member = None if is_owner else own_member(rooms, visitor.who)
    return render(
        request, rooms, "privacy.html", "privacy", "privacy", visitor=visitor, error=error,
        p=PRIVACY_WORDS[language], states=states, person=subscriber if is_owner else None,
        member=None if member is None else {"name": member.name, "phone": f"···· {(member.phone or '')[-4:]}"},
        erasure=erasure,
    )  # fmt: skip


@pages_router.post("/privacy/consent")
def say_on_page(
    request: Request,
    rooms: Asked,
    purpose: Annotated[Purpose, Form()],
    given: Annotated[bool, Form()],
    text_sha256: Annotated[str, Form(pattern=_SHA256)],
) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    who, subscriber = visitor.who, visitor.subscriber
    # An admin may stop what costs more; all else is the owner's to say.
    check_control(who, subscriber, consents=given or purpose != "spill_over")
    try:
        with rooms.connection.transaction():
            lock_subscriber(rooms.vault, subscriber.subscriber_id)
            last = {one.text.purpose: one for one in rooms.consents.states(subscriber)}[purpose]
            # Said again of the same text it is the same.
            if (last.given, last.said_sha256) != (given, text_sha256):
                _say(rooms, subscriber, purpose, given=given, text_sha256=text_sha256, said_by=who.actor)
                said = {"purpose": purpose, "given": given}
                audit(rooms, who, "subscriber.consent", subscriber.subscriber_id, None, said)
    except TokenworksError as error:
        return _privacy(request, rooms, error)
    return RedirectResponse("/privacy", 303)


@pages_router.post("/privacy/erase")
def erase_on_page(request: Request, rooms: Asked, confirm: Annotated[str, Form(max_length=10)]) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    who, subscriber = visitor.who, visitor.subscriber
    if who.role != "owner":
        raise NotFound("this is the owner's")
    if not re.fullmatch(r"[0-9]{4}", confirm):
        return _privacy(request, rooms, Invalid("confirm: say the last four digits of the phone number"))
    try:
        done = _erase(rooms, subscriber, confirm, even_if_owed=False)
        audit(rooms, who, "subscriber.erase", subscriber.subscriber_id)
    except TokenworksError as error:
        return _privacy(request, rooms, error)
    language = language_of(request, visitor)
    return render(
        request, rooms, "privacy.html", "privacy", "privacy", p=PRIVACY_WORDS[language], states=[],
        person=None, member=None, erasure=done,
    )  # fmt: skip


@pages_router.post("/privacy/leave")
def leave_on_page(request: Request, rooms: Asked, confirm: Annotated[str, Form(max_length=10)]) -> Response:
    """A member's own erasure: it leaves the account for good."""
    visitor = visitor_of(request, rooms, "admin", "member")
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    try:
        if not re.fullmatch(r"[0-9]{4}", confirm):
            raise Invalid("confirm: say the last four digits of your own phone number")
        _erase_member(rooms, visitor.who, confirm)
    except TokenworksError as error:
        return _privacy(request, rooms, error)
    words = PRIVACY_WORDS[language_of(request, visitor)]
    return render(
        request, rooms, "privacy.html", "privacy", "privacy", p=words, states=[], person=None, member=None,
        erasure={"state": "member"},
    )  # fmt: skip
