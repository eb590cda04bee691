"""Offerings on cards of the shop: a plan with its tiers is one card."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, takewhile
from typing import Final, NamedTuple, TypedDict

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.kernel import format_money, format_tokens, parse_money
from tokenworks.pages.page import Visitor
from tokenworks.pages.phrases import brings, fen, name_of, price_of, yuan
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import Offer
from tokenworks.texts import Language
from tokenworks.web.services import Services

# The audiences of the shop. Offerings for other audiences only are sold by staff.
AUDIENCES: Final = ("person", "family", "developer", "small_business")

_RANK: Final = {"plan": 0, "pay_as_you_go": 1, "bundle": 2, "trial": 3, "add_on": 4}


def on_sale(services: Services, visitor: Visitor | None) -> list[Offer]:
    """Offerings that the shop shows, in its order: those that can be ordered, and those that the visitor has."""
    audiences = None if visitor is None else visitor.subscriber.audiences
    if visitor is None:
        found = [Offer(sold, is_owned=False, can_order=True) for sold in services.offerings.for_sale(None)]
    else:
        found = [
            offer
            for offer in services.eligibility.offers(visitor.subscriber)
            if offer.can_order or offer.is_owned
        ]
    shown = {offer.sold.offering.id: offer for offer in found}
    return [shown[sold.offering.id] for sold in in_order([offer.sold for offer in found], audiences)]


def in_order(found: Iterable[SoldOffering], audiences: Sequence[str] | None) -> list[SoldOffering]:
    """Offerings in the order of the shop: plans first, then by audience, cheapest first; without those that only staff sells."""
    audiences_shown = set(AUDIENCES if audiences is None else audiences)
    return sorted((sold for sold in found if audiences_shown & set(sold.offering.audiences)), key=_rank)


def _rank(sold: SoldOffering) -> tuple[int, int, int]:
    """The sort key of the shop: kind, audience, price."""
    o = sold.offering
    first = min((AUDIENCES.index(a) for a in o.audiences if a in AUDIENCES), default=len(AUDIENCES))
    return _RANK[o.kind], first, price_of(o)


class _Family(NamedTuple):
    """What the tiers of one plan have in common."""

    seller: str
    kind: str
    audiences: tuple[str, ...]
    cycle: str
    rate_card: str
    windows: tuple[tuple[str, str | None], ...]
    # Empty for plans; other offerings have a card each.
    alone: str


def _family(o: Offering) -> _Family:
    windows = tuple((bucket.unit, bucket.window) for bucket in o.buckets)
    alone = "" if o.kind == "plan" else o.id
    return _Family(o.carrier, o.kind, o.audiences, o.cycle, o.rate_card, windows, alone)


def cards(
    offered: list[Offering], had: set[str], language: Language, refused: Collection[str] = ()
) -> list[dict[str, object]]:
    """Cards in the order of their cheapest tiers; the tiers of one plan are one card, cheapest first. `had`: ids of offerings that
    the visitor has; `refused`: those of them that can't be ordered again.
    """
    order: dict[_Family, int] = {}
    for offering in offered:
        order.setdefault(_family(offering), len(order))
    found = sorted(offered, key=lambda o: order[_family(o)])
    return [_card(list(tiers), had, language, refused) for _, tiers in groupby(found, _family)]


def _card(
    tiers: list[Offering], had: set[str], language: Language, refused: Collection[str]
) -> dict[str, object]:
    words = WORDS[language]
    title = common_name([name_of(o, language) for o in tiers])
    audiences_shown = [a for a in tiers[0].audiences if a in {*AUDIENCES, "enterprise"}]
    return {
        "title": title,
        "audience": words["for_whom"].format(
            audience=_and([words["family_audience" if a == "family" else a] for a in audiences_shown], words)
        ),
        "tiers": [
            {
                **offer(o, language),
                "label": _label(name_of(o, language), title) if len(tiers) > 1 else "",
                "have": o.id in had,
                "can": o.id not in refused,
            }
            for o in tiers
        ],
    }


def _and(parts: list[str], words: Mapping[str, str]) -> str:
    """Join a list for a sentence: individuals, families and developers."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{words['list_comma'].join(parts[:-1])}{words['and']}{parts[-1]}"


def _label(name: str, title: str) -> str:
    """The part of a tier's name that differs from the other tiers'."""
    label = name.removeprefix(title).strip()
    return label[:1].upper() + label[1:]


def common_name(names: list[str]) -> str:
    """The common part of the tiers' names: China Telecom of China Telecom Light and China Telecom Premium."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda chars: len(set(chars)) == 1, zip(*names, strict=False))
    common = _whole_words("".join(chars[0] for chars in alike))
    if any(name[len(common) :].lstrip()[:1].isdigit() for name in names):
        # A number belongs to the word before it: tier 1, 第 1 档.
        common = _whole_words(common.rstrip().removesuffix("第"))
    return common.strip() or names[0]


def _whole_words(text: str) -> str:
    """The text up to its last space, in a language with spaces between words."""
    return text[: text.rfind(" ") + 1] if text.isascii() else text


class ShownOffering(TypedDict):
    """An offering as the templates show it."""

    id: str
    name: str
    brings: str
    price: str
    per: str
    first: str | None


def offer(o: Offering, language: Language) -> ShownOffering:
    words = WORDS[language]
    price = price_of(o)
    per = words["per_month"] if o.cycle != "once" else ""
    first, text = None, brings(o, language)
    if o.kind == "pay_as_you_go":
        per = words["per_step"]
        text = words["in_steps"].format(
            quantity=format_tokens(o.buckets[0].quantity * 1000, o.buckets[0].unit, language)
        )
    if o.kind == "add_on":
        text = words["delivered_later"]
    if o.first_price is not None:
        first = words["first_month"].format(
            first=_bare(parse_money(o.first_price).amount_nano, language), price=_bare(price, language)
        )
    return {
        "id": o.id, "name": name_of(o, language), "brings": text, "price": yuan(price) if price else words["free"],
        "per": per if price else "", "first": first,
    }  # fmt: skip


def _bare(amount_nano: int, language: Language) -> str:
    """An amount without the currency sign: 7.9 in a Chinese sentence, 7.90 in an English one."""
    text = format_money(fen(amount_nano))
    return text.rstrip("0").rstrip(".") if language == "zh" else text
