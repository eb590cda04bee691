"""A catalogue as a whole, and the check that its rate cards and offerings are consistent with each other."""

import itertools
from typing import Self

from pydantic import (
    Field,
    model_validator,
)

from tokenworks.catalog.model import CatalogueModel, Inconsistent, Offering, RateCard, Slug
from tokenworks.kernel import parse_money


class Catalogue(CatalogueModel):
    """The content of a catalogue file."""

    catalogue: Slug
    rate_cards: tuple[RateCard, ...] = Field(min_length=1, max_length=1000)
    offerings: tuple[Offering, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        cards, offerings = dict(enumerate(self.rate_cards)), dict(enumerate(self.offerings))
        card_ids = {card.id for card in self.rate_cards}
        found = inconsistencies(cards, offerings, card_ids, {offering.id for offering in self.offerings})
        if found:
            raise Inconsistent(found)
        return self


def inconsistencies(
    cards: dict[int, RateCard],
    offerings: dict[int, Offering],
    known_cards: set[str],
    known_offerings: set[str],
) -> list[tuple[tuple[str | int, ...], str]]:
    """(path in the file, reason) of all inconsistencies of a catalogue. `cards` and `offerings` are the valid ones, by their
    index in the file; `known_cards` and `known_offerings` are the ids of all, the faulty ones included.
    """
    found: list[tuple[tuple[str | int, ...], str]] = []
    by_id: dict[str, RateCard] = {}
    for at, card in cards.items():
        if card.id in by_id:
            found.append((("rate_cards", at, "id"), f"rate card {card.id} is there twice"))
        by_id[card.id] = card
    named = {offering.id: offering for offering in offerings.values()}
    for at, offering in offerings.items():
        where = ("offerings", at)
        if offering.rate_card not in known_cards:
            reason = f"offering {offering.id} names no rate card of this file: {offering.rate_card}"
            found.append(((*where, "rate_card"), reason))
        found += [
            ((*where, field), f"{offering.id} names {name}, which is not in this catalogue")
            for field in ("parts", "requires")
            for name in getattr(offering, field)
            if name not in known_offerings
        ]
        parts = [named[part] for part in offering.parts if part in named]
        if any(part.kind not in {"plan", "add_on"} for part in parts):
            found.append(((*where, "parts"), f"the parts of {offering.id} are plans and add-ons"))
        if any(part.cycle != offering.cycle for part in parts):
            found.append(((*where, "parts"), f"the parts of {offering.id} have its cycle"))
        if parts and not sum(parse_money(part.price).amount_nano for part in parts):
            reason = f"the parts of {offering.id} have prices: its own is shared out by them"
            found.append(((*where, "parts"), reason))
        rate_card = by_id.get(offering.rate_card)
        if (
            rate_card is not None
            and any(bucket.window for bucket in offering.buckets)
            and any(any(rate.weights()[1:]) or not rate.request for rate in rate_card.rates)
        ):
            reason = (
                f"{offering.id} has windows: its rate card {rate_card.id} must count requests, and no tokens"
            )
            found.append(((*where, "rate_card"), reason))
    return found + _version_faults(offerings)


def _version_faults(offerings: dict[int, Offering]) -> list[tuple[tuple[str | int, ...], str]]:
    """Faults of offerings with several entries: these are versions that are sold one after the other, without a gap or an
    overlap.
    """
    found: list[tuple[tuple[str | int, ...], str]] = []
    versions: dict[str, list[tuple[int, Offering]]] = {}
    for at, offering in offerings.items():
        versions.setdefault(offering.id, []).append((at, offering))
    for id_, rows in versions.items():
        rows.sort(key=lambda row: row[1].begins)
        for (_, before), (at, after) in itertools.pairwise(rows):
            where = ("offerings", at)
            if before.begins == after.begins:
                found.append(((*where, "id"), f"offering {id_} is there twice"))
            elif before.valid_until is None or before.valid_until > after.begins:
                reason = f"two versions of {id_} are on sale at {after.begins.isoformat()}: end the first one there"
                found.append(((*where, "valid_from"), reason))
            elif before.valid_until < after.begins:
                reason = (
                    f"there is a gap: no version of {id_} is on sale from {before.valid_until.isoformat()} "
                    f"until {after.begins.isoformat()}"
                )
                found.append(((*where, "valid_from"), reason))
    return found
