"""The page of personal data and consents, and the terms of service."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import NotFound, TokenworksError
from tokenworks.pages.page import language_of, render, sign_in_page, visitor_of
from tokenworks.pages.words import PRIVACY_WORDS
from tokenworks.subscriptions import PURPOSES, Erasure, check_control
from tokenworks.web.principals import audit
from tokenworks.web.privacy import SHA256_PATTERN, Purpose, close_and_erase, leave_and_erase, own_member
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)


@router.get("/terms")
def terms_page(request: Request, services: RequestServices) -> Response:
    """The texts of all consents, also for visitors without a session."""
    language = language_of(request)
    texts = [services.consents.text(purpose, language) for purpose in PURPOSES]
    words = PRIVACY_WORDS[language]
    visitor = visitor_of(request, services, "owner", "admin", "member")
    return render(request, services, "terms.html", "terms", "terms", visitor=visitor, p=words, texts=texts)


@router.get("/privacy")
def privacy_page(request: Request, services: RequestServices) -> Response:
    return _privacy(request, services)


def _privacy(
    request: Request, services: Services, error: TokenworksError | None = None, erasure: Erasure | None = None
) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/privacy")
    subscriber = visitor.subscriber
    language = language_of(request, visitor)
    is_owner = visitor.principal.role == "owner"
    # Consents are the owner's. An admin may only withdraw the consent that causes extra cost.
    states = [] if visitor.is_member else services.consents.states(subscriber, language)
    member = None if is_owner else own_member(services, visitor.principal)
    return render(
        request, services, "privacy.html", "privacy", "privacy", visitor=visitor, error=error,
        p=PRIVACY_WORDS[language], states=states, person=subscriber if is_owner else None,
        member=None if member is None else {"name": member.name, "phone": f"···· {(member.phone or '')[-4:]}"},
        erasure=erasure,
    )  # fmt: skip


@router.post("/privacy/consent")
def say_on_page(
    request: Request,
    services: RequestServices,
    purpose: Annotated[Purpose, Form()],
    given: Annotated[bool, Form()],
    text_sha256: Annotated[str, Form(pattern=SHA256_PATTERN)],
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/privacy")
    principal, subscriber = visitor.principal, visitor.subscriber
    # An admin may withdraw the consent to pay as you go; all else is the owner's.
    check_control(principal.role, subscriber, consents=given or purpose != "spill_over")
    try:
        with services.transaction():
            services.subscriptions.lock([subscriber.subscriber_id])
            last = {state.text.purpose: state for state in services.consents.states(subscriber)}[purpose]
            # A form that is sent twice changes nothing the second time.
            if (last.given, last.answered_sha256) != (given, text_sha256):
                services.consents.keep(
                    subscriber, purpose, given=given, text_sha256=text_sha256, said_by=principal.actor
                )
                after = {"purpose": purpose, "given": given}
                audit(services, principal, "subscriber.consent", subscriber.subscriber_id, None, after)
    except TokenworksError as error:
        return _privacy(request, services, error)
    return RedirectResponse("/privacy", 303)


@router.post("/privacy/erase")
def erase_on_page(
    request: Request, services: RequestServices, confirm: Annotated[str, Form(max_length=10)]
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/privacy")
    principal, subscriber = visitor.principal, visitor.subscriber
    if principal.role != "owner":
        raise NotFound("this is the owner's")
    try:
        done = close_and_erase(services, subscriber, confirm, even_if_owed=False)
        audit(services, principal, "subscriber.erase", subscriber.subscriber_id)
    except TokenworksError as error:
        return _privacy(request, services, error)
    language = language_of(request, visitor)
    return render(
        request, services, "privacy.html", "privacy", "privacy", p=PRIVACY_WORDS[language], states=[],
        person=None, member=None, erasure=done,
    )  # fmt: skip


@router.post("/privacy/leave")
def leave_on_page(
    request: Request, services: RequestServices, confirm: Annotated[str, Form(max_length=10)]
) -> Response:
    """A member leaves the account, and its personal data is erased."""
    visitor = visitor_of(request, services, "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/privacy")
    try:
        leave_and_erase(services, visitor.principal, confirm)
    except TokenworksError as error:
        return _privacy(request, services, error)
    words = PRIVACY_WORDS[language_of(request, visitor)]
    return render(
        request, services, "privacy.html", "privacy", "privacy", p=words, states=[], person=None, member=None,
        erasure={"state": "member"},
    )  # fmt: skip
