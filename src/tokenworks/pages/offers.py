"""Offerings as people choose them: on cards, one for a plan with its tiers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, takewhile
from typing import Any, Final, NamedTuple

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.kernel import format_money, format_tokens, parse_money
from tokenworks.pages.page import Visitor
from tokenworks.pages.phrases import brings, fen, name_of, price_of, yuan
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import Offer
from tokenworks.texts import Language
from tokenworks.web.services import Services

# Whom the shop is for; what is for others alone is sold by people.
AUDIENCES: Final = ("person", "family", "developer", "small_business")

_RANK: Final = {"plan": 0, "pay_as_you_go": 1, "bundle": 2, "trial": 3, "add_on": 4}


def on_sale(services: Services, visitor: Visitor | None) -> list[Offer]:
    """What is shown here now: what can be ordered, and what the visitor has. In the order of the shop."""
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
    """As the shop shows them: plans first, a household's before others', and cheapest first; none that people alone sell."""
    whom = set(AUDIENCES if audiences is None else audiences)
    return sorted((sold for sold in found if whom & set(sold.offering.audiences)), key=_stands)


def _stands(sold: SoldOffering) -> tuple[int, int, int]:
    """Where an offering stands in the shop."""
    o = sold.offering
    first = min((AUDIENCES.index(a) for a in o.audiences if a in AUDIENCES), default=len(AUDIENCES))
    return _RANK[o.kind], first, price_of(o)


class _Kinship(NamedTuple):
    """What tiers of one plan have in common."""

    seller: str
    kind: str
    audiences: tuple[str, ...]
    cycle: str
    rate_card: str
    windows: tuple[tuple[str, str | None], ...]
    # An offering that is no plan has a card of its own.
    alone: str


def _kinship(o: Offering) -> _Kinship:
    windows = tuple((bucket.unit, bucket.window) for bucket in o.buckets)
    alone = "" if o.kind == "plan" else o.id
    return _Kinship(o.carrier, o.kind, o.audiences, o.cycle, o.rate_card, windows, alone)


def cards(
    offered: list[Offering], had: set[str], language: Language, refused: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Tiers of one plan are one card, cheapest first; cards stand in the order of their cheapest tier. `refused`: had, and can't be
    ordered once more.
    """
    order: dict[_Kinship, int] = {}
    for offering in offered:
        order.setdefault(_kinship(offering), len(order))
    found = sorted(offered, key=lambda o: order[_kinship(o)])
    return [_card(list(tiers), had, language, refused) for _, tiers in groupby(found, _kinship)]


def _card(
    tiers: list[Offering], had: set[str], language: Language, refused: Collection[str]
) -> dict[str, Any]:
    words = WORDS[language]
    title = common_name([name_of(o, language) for o in tiers])
    whom = [a for a in tiers[0].audiences if a in {*AUDIENCES, "enterprise"}]
    return {
        "title": title,
        "audience": words["for_whom"].format(
            audience=_and([words["family_audience" if a == "family" else a] for a in whom], words)
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
    """A list in a sentence: individuals, families and developers."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{words['list_comma'].join(parts[:-1])}{words['and']}{parts[-1]}"


def _label(name: str, title: str) -> str:
    """What tells a tier from its siblings."""
    label = name.removeprefix(title).strip()
    return label[:1].upper() + label[1:]


def common_name(names: list[str]) -> str:
    """What tiers of a plan are called together: China Telecom of China Telecom Light and China Telecom Premium."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda chars: len(set(chars)) == 1, zip(*names, strict=False))
    common = _whole_words("".join(chars[0] for chars in alike))
    if any(name[len(common) :].lstrip()[:1].isdigit() for name in names):
        # A number goes with its word: tier 1, 第 1 档.
        common = _whole_words(common.rstrip().removesuffix("第"))
    return common.strip() or names[0]


def _whole_words(text: str) -> str:
    """Up to the last space, where words have spaces between them."""
    return text[: text.rfind(" ") + 1] if text.isascii() else text


def offer(o: Offering, language: Language) -> dict[str, Any]:
    """An offering as people choose it."""
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
    """An amount without its sign: 7.9 in a Chinese sentence, 7.90 in an English one."""
    text = format_money(fen(amount_nano))
    return text.rstrip("0").rstrip(".") if language == "zh" else text
