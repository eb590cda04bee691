"""The page of a person's own data, and the terms."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import NotFound, TokenworksError
from tokenworks.pages.page import ask_to_sign_in, language_of, render, visitor_of
from tokenworks.pages.words import PRIVACY_WORDS
from tokenworks.subscriptions import PURPOSES, Erasure, check_control
from tokenworks.web.principals import audit
from tokenworks.web.privacy import SHA256_PATTERN, Purpose, close_and_erase, leave_and_erase, own_member
from tokenworks.web.rooms import Asked, Rooms

router = APIRouter(include_in_schema=False)


@router.get("/terms")
def terms_page(request: Request, rooms: Asked) -> Response:
    """What one agrees to, before one signs in."""
    language = language_of(request)
    texts = [rooms.consents.text(purpose, language) for purpose in PURPOSES]
    words = PRIVACY_WORDS[language]
    visitor = visitor_of(request, rooms, "owner", "admin", "member")
    return render(request, rooms, "terms.html", "terms", "terms", visitor=visitor, p=words, texts=texts)


@router.get("/privacy")
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


@router.post("/privacy/consent")
def say_on_page(
    request: Request,
    rooms: Asked,
    purpose: Annotated[Purpose, Form()],
    given: Annotated[bool, Form()],
    text_sha256: Annotated[str, Form(pattern=SHA256_PATTERN)],
) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    who, subscriber = visitor.who, visitor.subscriber
    # An admin may stop what costs more; all else is the owner's to say.
    check_control(who.role, subscriber, consents=given or purpose != "spill_over")
    try:
        with rooms.transaction():
            rooms.subscriptions.lock([subscriber.subscriber_id])
            last = {one.text.purpose: one for one in rooms.consents.states(subscriber)}[purpose]
            # Said again of the same text it is the same.
            if (last.given, last.said_sha256) != (given, text_sha256):
                rooms.consents.keep(
                    subscriber, purpose, given=given, text_sha256=text_sha256, said_by=who.actor
                )
                said = {"purpose": purpose, "given": given}
                audit(rooms, who, "subscriber.consent", subscriber.subscriber_id, None, said)
    except TokenworksError as error:
        return _privacy(request, rooms, error)
    return RedirectResponse("/privacy", 303)


@router.post("/privacy/erase")
def erase_on_page(request: Request, rooms: Asked, confirm: Annotated[str, Form(max_length=10)]) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    who, subscriber = visitor.who, visitor.subscriber
    if who.role != "owner":
        raise NotFound("this is the owner's")
    try:
        done = close_and_erase(rooms, subscriber, confirm, even_if_owed=False)
        audit(rooms, who, "subscriber.erase", subscriber.subscriber_id)
    except TokenworksError as error:
        return _privacy(request, rooms, error)
    language = language_of(request, visitor)
    return render(
        request, rooms, "privacy.html", "privacy", "privacy", p=PRIVACY_WORDS[language], states=[],
        person=None, member=None, erasure=done,
    )  # fmt: skip


@router.post("/privacy/leave")
def leave_on_page(request: Request, rooms: Asked, confirm: Annotated[str, Form(max_length=10)]) -> Response:
    """A member's own erasure: it leaves the account for good."""
    visitor = visitor_of(request, rooms, "admin", "member")
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/privacy")
    try:
        leave_and_erase(rooms, visitor.who, confirm)
    except TokenworksError as error:
        return _privacy(request, rooms, error)
    words = PRIVACY_WORDS[language_of(request, visitor)]
    return render(
        request, rooms, "privacy.html", "privacy", "privacy", p=words, states=[], person=None, member=None,
        erasure={"state": "member"},
    )  # fmt: skip
