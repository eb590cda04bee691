"""The pages on which an owner pauses or resumes the whole account, after reading what stops and what is charged."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import TokenworksError
from tokenworks.pages.page import Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.phrases import name_of, yuan
from tokenworks.pages.words import WORDS, refusal
from tokenworks.subscriptions import Product, day_of, last_day
from tokenworks.texts import Language
from tokenworks.web.principals import audit
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)
What = Literal["suspend", "resume"]
# The names of the texts.
_WORD: Final[dict[What, str]] = {"suspend": "pause", "resume": "resume"}
REASON: Final = "asked by the subscriber"
_CAUSE: Final = "own_wish"


@router.get("/account/{what}")
def look(request: Request, services: RequestServices, what: What) -> Response:
    visitor = visitor_of(request, services, "owner")
    if visitor is None:
        return sign_in_page(request, services, "/products")
    return _show(request, services, visitor, what)


@router.post("/account/{what}")
def do(request: Request, services: RequestServices, what: What) -> Response:
    """Pause or resume. A form that is sent twice changes nothing the second time."""
    visitor = visitor_of(request, services, "owner")
    if visitor is None:
        return sign_in_page(request, services, "/products")
    found = visitor.subscriber
    if (_CAUSE in found.suspended_by) == (what == "suspend"):
        return RedirectResponse("/products", 303)
    state = "suspended" if what == "suspend" else "active"
    try:
        with services.transaction():
            if what == "suspend":
                services.subscriptions.suspend(found, _CAUSE, REASON)
            else:
                services.subscriptions.lift(found, _CAUSE, REASON)
            audit(
                services,
                visitor.principal,
                f"subscriber.{state}",
                found.subscriber_id,
                None,
                {"cause": _CAUSE},
            )
    except TokenworksError as error:
        return _show(request, services, visitor, what, error)
    return RedirectResponse(f"/products?done={_WORD[what]}_all", 303)


class _Outcome(NamedTuple):
    """What the action would do, and to which products; or why it is refused."""

    lines: Sequence[str] = ()
    rows: Sequence[tuple[str, str]] = ()
    refused: str | None = None


def _show(
    request: Request, services: Services, visitor: Visitor, what: What, error: TokenworksError | None = None
) -> Response:
    words = WORDS[language_of(request, visitor)]
    holds = _CAUSE in visitor.subscriber.suspended_by
    if holds == (what == "resume"):
        outcome = (_resume if holds else _pause)(request, services, visitor)
    else:
        outcome = _Outcome(refused=words["all_paused"] if holds else words["all_active"])
    word = _WORD[what]
    return render(
        request, services, "pause_all.html", "products", f"{word}_all_title", visitor=visitor, error=error,
        what=what, do=words[f"{word}_all_do"], why=outcome.refused, lines=outcome.lines, rows=outcome.rows,
    )  # fmt: skip


def _pause(request: Request, services: Services, visitor: Visitor) -> _Outcome:
    language = language_of(request, visitor)
    words = WORDS[language]
    lines = [words["pause_all_stops"], words["pause_all_charges"], words["pause_all_owed"]]
    if services.orders.to_come(visitor.subscriber):
        lines.append(words["pause_all_to_come"])
    rows = []
    for product in services.orders.products(visitor.subscriber):
        if product.state == "active" and product.parent_id is None and product.cycle_end is not None:
            text = words["pause_all_until"].format(end=last_day(product.cycle_end))
            rows.append((_name(services, product, language), text))
    return _Outcome([*lines, words["pause_all_back"]], rows)


def _resume(request: Request, services: Services, visitor: Visitor) -> _Outcome:
    language = language_of(request, visitor)
    words, found = WORDS[language], visitor.subscriber
    others = [cause for cause in found.suspended_by if cause != _CAUSE]
    try:
        charges = services.quotes.of_all(found, lambda: services.subscriptions.lift(found, _CAUSE, REASON))
    except TokenworksError as error:
        return _Outcome(refused=refusal(error, language))
    total = sum(charge.amount_nano for charge in charges)
    lines = [words["resume_all_begins"]]
    if others:
        lines = [words["resume_all_others"], *(words[f"suspended_{cause}"] for cause in others)]
    lines.append(
        words["resume_all_paid"].format(amount=yuan(total), day=day_of(services.clock.now()))
        if total
        else words["resume_all_free"]
    )
    rows = [
        (charge.description_zh if language == "zh" else charge.description, yuan(charge.amount_nano))
        for charge in charges
    ]
    return _Outcome(lines, rows)


def _name(services: Services, product: Product, language: Language) -> str:
    return name_of(services.offerings.sold(product.offering_version).offering, language)
