"""Drafts of offerings: one person writes a draft, another one approves it, and then it is published as the version on sale.

A draft is an entry of a catalogue file. When it is written, and again when it is published, it is checked as a file would be,
together with all offerings on sale. A change of a draft removes its approval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow
from pydantic import ValidationError

from tokenworks.catalog import draft_store
from tokenworks.catalog.catalogue import Catalogue
from tokenworks.catalog.errors import CatalogueFaulty, DraftNotFound, DraftNotReady
from tokenworks.catalog.model import Offering, RateCard
from tokenworks.catalog.service import Offerings
from tokenworks.kernel import Clock, Conflict, Invalid, flaw_in

DRAFTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft with its writer and, once it is approved, its approver."""

    offering: Offering
    drafted_by: str
    drafted_at: datetime
    approved_by: str | None
    approved_at: datetime | None


class Drafts:
    """Writes, approves and publishes drafts, on one connection."""

    def __init__(self, connection: Connection, offerings: Offerings, clock: Clock) -> None:
        self._connection = connection
        self._offerings = offerings
        self._clock = clock

    def write(self, entry: Mapping[str, object], by: str) -> Draft:
        """Add a draft, or replace its content. Raises `CatalogueFaulty` with all faults, `Invalid`."""
        found = flaw_in(entry)
        if found is not None:
            raise CatalogueFaulty(f"the entry has {found}: leave it out")
        offering = _offering(entry)
        self._check(offering)
        with self._connection.transaction():
            if len(self.all()) >= DRAFTS_MAX:
                raise Invalid(f"{DRAFTS_MAX} drafts are there already: publish or remove one first")
            draft_store.put(
                self._connection, offering.id, offering.model_dump(mode="json"), by, self._clock.now()
            )
            return self.find(offering.id)

    def begin(self, entry: Mapping[str, object], by: str) -> Draft:
        """Add a draft of an offering that has none. Raises `Conflict`, and what `write` raises."""
        with self._connection.transaction():
            if any(draft.offering.id == entry.get("id") for draft in self.all()):
                raise Conflict("this offering is being drafted: change it by PATCH")
            return self.write(entry, by)

    def rewrite(self, offering_id: str, entry: Mapping[str, object], by: str) -> Draft:
        """Replace the content of a draft, or draft a change of a known offering. Raises `DraftNotFound` if there is neither,
        `Invalid`, and what `write` raises.
        """
        if entry.get("id") != offering_id:
            raise Invalid("catalogueEntry: its id is the offering's")
        with self._connection.transaction():
            if offering_id not in {sold.offering.id for sold in self._offerings.all()}:
                self.find(offering_id)
            return self.write(entry, by)

    def find(self, offering_id: str) -> Draft:
        """The draft of an offering, locked. Raises `DraftNotFound`."""
        row = draft_store.lock(self._connection, offering_id)
        if row is None:
            raise DraftNotFound(f"no offering {offering_id[:60]} is being drafted")
        return _draft(row)

    def all(self) -> list[Draft]:
        """All drafts, by the offering's id."""
        return [_draft(row) for row in draft_store.all_of(self._connection, DRAFTS_MAX)]

    def approve(self, offering_id: str, by: str) -> Draft:
        """Approve a draft, as another person than its writer. Raises `DraftNotFound`, `DraftNotReady`."""
        with self._connection.transaction():
            draft = self.find(offering_id)
            if draft.drafted_by == by:
                raise DraftNotReady("another person than its writer approves a draft")
            draft_store.approve(self._connection, offering_id, by, self._clock.now())
            return self.find(offering_id)

    def withdraw_approval(self, offering_id: str) -> Draft:
        """Remove the approval of a draft. Raises `DraftNotFound`."""
        with self._connection.transaction():
            self.find(offering_id)
            draft_store.approve(self._connection, offering_id, None, None)
            return self.find(offering_id)

    def publish(self, offering_id: str) -> None:
        """Make an approved draft the version that is sold, from its `valid_from` on. Raises `DraftNotFound`, `DraftNotReady`,
        `CatalogueFaulty`.
        """
        with self._connection.transaction():
            draft = self.find(offering_id)
            if draft.approved_by is None:
                raise DraftNotReady("a draft is approved before it is published: lifecycleStatus In test")
            card = self._check(draft.offering)
            # Only this offering is loaded, so that planned versions of the others stay.
            alone = Catalogue.model_construct(
                catalogue="published", rate_cards=(card,), offerings=(draft.offering,)
            )
            self._offerings.load(alone)
            draft_store.remove(self._connection, offering_id)

    def remove(self, offering_id: str) -> None:
        """Delete a draft. Raises `DraftNotFound`."""
        if not draft_store.remove(self._connection, offering_id):
            raise DraftNotFound(f"no offering {offering_id[:60]} is being drafted")

    def _check(self, offering: Offering) -> RateCard:
        """Check that the catalogue with this offering is consistent, and return the offering's rate card. Raises
        `CatalogueFaulty`.
        """
        cards: dict[str, RateCard] = {}
        for card in sorted(self._offerings.rate_cards().values(), key=lambda card: card.effective_from):
            cards[card.id] = card
        if offering.rate_card not in cards:
            raise CatalogueFaulty(f"there is no rate card {offering.rate_card}: load it by a catalogue file")
        others = [sold.offering for sold in self._offerings.all() if sold.offering.id != offering.id]
        try:
            Catalogue(catalogue="draft", rate_cards=tuple(cards.values()), offerings=(*others, offering))
        except ValidationError as error:
            raise CatalogueFaulty(_faults(error)) from None
        return cards[offering.rate_card]


def _offering(entry: Mapping[str, object]) -> Offering:
    try:
        return Offering.model_validate(entry)
    except ValidationError as error:
        raise CatalogueFaulty(_faults(error)) from None


def _faults(error: ValidationError) -> str:
    """All faults in one text, each with its path."""
    found = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'entry'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_url=False)
    ]
    return "; ".join(found)[:2000]


def _draft(row: TupleRow) -> Draft:
    return Draft(Offering.model_validate(row[1]), *row[2:])
