"""The page before a product is changed, paused, resumed or cancelled: each choice with what it would do and cost."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from fastapi import Request, Response

from tokenworks.kernel import TokenworksError, uuid7
from tokenworks.pages.offers import ShownOffering, in_order, offer
from tokenworks.pages.page import Visitor, language_of, render
from tokenworks.pages.phrases import price_of, yuan
from tokenworks.pages.products import product_name
from tokenworks.pages.words import WORDS, refusal
from tokenworks.subscriptions import ChangeTiming, Product, actions_on, day_of, last_day
from tokenworks.texts import Language
from tokenworks.web.services import Services

What = Literal["change", "cancel", "pause", "resume"]


def choices_page(
    request: Request,
    services: Services,
    visitor: Visitor,
    product: Product,
    what: What,
    offering: str | None = None,
    error: TokenworksError | None = None,
) -> Response:
    if what == "change":
        found = _change(request, services, visitor, product, offering)
    else:
        choices = {"cancel": _cancel, "pause": _pause, "resume": _resume}[what](
            request, services, visitor, product
        )
        found = _Choices(choices)
    template = "change.html" if what == "change" and not found.choices else "choices.html"
    return render(
        request, services, template, "products", f"{what}_title", visitor=visitor, error=error,
        id=str(product.product_id), what=what, name=product_name(request, services, visitor, product), offering=offering or "",
        idempotency_key=uuid7().hex, choices=found.choices, to=found.to, plans=found.plans,
    )  # fmt: skip


class _Choice(NamedTuple):
    """What would happen, and the text of the button; or why the choice is refused. `twice`: the subscriber has the plan already."""

    when: str
    title: str
    lines: list[str]
    do: str
    why: str | None = None
    twice: bool = False


class _Choices(NamedTuple):
    """The choices; of a change also the plan that was chosen, or the plans to choose from."""

    choices: list[_Choice]
    to: ShownOffering | None = None
    plans: Sequence[ShownOffering] = ()


def _change(
    request: Request, services: Services, visitor: Visitor, product: Product, offering: str | None
) -> _Choices:
    language = language_of(request, visitor)
    words = WORDS[language]
    current = services.offerings.sold(product.offering_version).offering
    offered = services.eligibility.change_options(visitor.subscriber, product)
    others = [sold.offering for sold in in_order(offered, visitor.subscriber.audiences)]
    # Tiers of the same seller first.
    others.sort(key=lambda o: (o.carrier != current.carrier, price_of(o)))
    chosen = next((o for o in others if o.id == offering), None)
    if chosen is None:
        return _Choices([], plans=[offer(o, language) for o in others])
    choices = [_change_at(services, visitor, product, chosen.id, "now", words, language)]
    if product.cycle_end is not None:
        choices.append(_change_at(services, visitor, product, chosen.id, "cycle_end", words, language))
    return _Choices(choices, offer(chosen, language))


def _change_at(
    services: Services,
    visitor: Visitor,
    product: Product,
    offering: str,
    when: ChangeTiming,
    words: Mapping[str, str],
    language: Language,
) -> _Choice:
    title, do = (
        (words["now_title"], words["change_now"])
        if when == "now"
        else (words["later_title"], words["change_later"])
    )
    try:
        found = services.quotes.change(product.product_id, offering, when, confirm=None)
    except TokenworksError as error:
        return _Choice(when, title, [], do, refusal(error, language))
    end, renewal = found.renews_at, found.renewal_nano
    assert end is not None and renewal is not None
    price = yuan(renewal) + words["per_month"]
    if found.begins_at == end:
        # Also if `when` is now: a change from or to a free plan begins with the next cycle.
        lines = [words["change_from"].format(price=price, day=day_of(end))]
        return _Choice(when, title, lines, do, twice=found.second)
    amount = found.now_nano
    text_name = "change_charge" if amount > 0 else "change_back" if amount < 0 else "change_nothing"
    if amount > 0 and found.waits_for is not None:
        text_name = "change_whole"
    lines = [words[text_name].format(amount=yuan(abs(amount)))]
    if found.waits_for is not None:
        lines.append(words["change_waits"].format(amount=yuan(-found.later_nano)))
    lines.append(words["change_until"].format(end=last_day(end), day=day_of(end), price=price))
    return _Choice(when, title, lines, do, twice=found.second)


def _cancel(request: Request, services: Services, visitor: Visitor, product: Product) -> list[_Choice]:
    language = language_of(request, visitor)
    words = WORDS[language]
    choices = []
    offering = services.offerings.sold(product.offering_version).offering
    if actions_on(product, offering).end_with_cycle and product.cycle_end is not None:
        lines = [words["cancel_later"].format(end=last_day(product.cycle_end))]
        choices.append(_Choice("cycle_end", words["cancel_later_title"], lines, words["cancel_later_do"]))
    try:
        found = services.quotes.cancel(product.product_id)
    except TokenworksError as error:
        choices.append(
            _Choice("now", words["cancel_now_title"], [], words["cancel_now_do"], refusal(error, language))
        )
    else:
        back = -found.amount_nano
        text_name = "gives_at_most" if found.at_most else "gives_back"
        text = words[text_name].format(amount=yuan(back)) if back > 0 else words["gives_nothing"]
        choices.append(
            _Choice("now", words["cancel_now_title"], [words["cancel_now"], text], words["cancel_now_do"])
        )
    return choices


def _pause(request: Request, services: Services, visitor: Visitor, product: Product) -> list[_Choice]:
    words = WORDS[language_of(request, visitor)]
    if product.cycle_end is None:
        lines = [words["pause_text_open"]]
    else:
        end = last_day(product.cycle_end)
        after = "pause_after" if product.renews and not product.ends_after_cycle else "pause_after_once"
        lines = [words["pause_text"].format(end=end), words[after].format(end=end)]
    return [_Choice("now", "", lines, words["pause_do"])]


def _resume(request: Request, services: Services, visitor: Visitor, product: Product) -> list[_Choice]:
    language = language_of(request, visitor)
    words = WORDS[language]
    try:
        found = services.quotes.resume(product.product_id)
    except TokenworksError as error:
        return [_Choice("now", "", [], words["resume_do"], refusal(error, language))]
    lines = [words["resume_free"]]
    if found.amount_nano > 0:
        lines = [words["resume_paid"].format(amount=yuan(found.amount_nano))]
    if found.ends_at is not None:
        lines.append(words["resume_until"].format(end=last_day(found.ends_at)))
    return [_Choice("now", "", lines, words["resume_do"])]
