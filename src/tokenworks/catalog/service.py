"""Loading a catalogue, and reading the offerings that are on sale or were sold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import Connection

from tokenworks.catalog import store
from tokenworks.catalog.catalogue import Catalogue
from tokenworks.catalog.differences import ChangeKind, OfferingChange, card_differences, offering_differences
from tokenworks.catalog.errors import OfferingChanged, OfferingNotActive, OfferingNotFound
from tokenworks.catalog.model import Offering, RateCard
from tokenworks.kernel import Clock, SystemClock, parse_money

_KINDS: Final = ("plan", "bundle", "pay_as_you_go", "trial", "add_on")


@dataclass(frozen=True, slots=True)
class SoldOffering:
    """An offering at a version; the version fixes its content and its rate card."""

    offering: Offering
    offering_version: str
    rate_version: str


def _by_seller(sold: SoldOffering) -> tuple[bool, str, int, int, str]:
    o = sold.offering
    return o.status == "comparison", o.carrier, _KINDS.index(o.kind), parse_money(o.price).amount_nano, o.id


class Offerings:
    """Loads and reads offerings and rate cards, on one connection. `is_dev`: samples are on sale, and a subscriber without
    audiences may order everything.
    """

    def __init__(self, connection: Connection, clock: Clock | None = None, *, is_dev: bool = False) -> None:
        self._connection = connection
        self._clock = clock or SystemClock()
        self._is_dev = is_dev

    def load(self, catalogue: Catalogue) -> int:
        """Put every offering of a catalogue on sale, from its `valid_from` on, in one transaction. Return the number of new
        versions.

        Versions are immutable: products that were sold before keep theirs.
        """
        now = self._clock.now()
        with self._connection.transaction():
            store.forget_planned(self._connection, [o.id for o in catalogue.offerings], now)
            versions = {card.id: store.add_rate_card(self._connection, card) for card in catalogue.rate_cards}
            new = 0
            for offering in sorted(catalogue.offerings, key=lambda offering: offering.begins):
                # A version that has ended can't be ordered. It is stored if the offering has no other, so that it is known.
                ended = offering.valid_until is not None and offering.valid_until <= now
                if not ended or not store.is_known(self._connection, offering.id):
                    new += store.add_offering(self._connection, offering, versions[offering.rate_card], now)
            store.announce_change(self._connection, f"catalogue {catalogue.catalogue}")
        return new

    def compare(self, catalogue: Catalogue) -> list[OfferingChange]:
        """What loading a catalogue would change, by offering, the versions of one offering in the order of their time."""
        now = self._clock.now()
        cards = {card.id: card for card in catalogue.rate_cards}
        before = {sold.offering.id: sold for sold in self.all()}
        known = self.rate_cards()
        last: dict[str, tuple[Offering, RateCard]] = {
            id_: (sold.offering, known[sold.rate_version]) for id_, sold in before.items()
        }
        found = []
        for offering in sorted(catalogue.offerings, key=lambda offering: (offering.id, offering.begins)):
            if offering.valid_until is not None and offering.valid_until <= now and offering.id in last:
                continue
            card = cards[offering.rate_card]
            previous = last.get(offering.id)
            last[offering.id] = (offering, card)
            sold = before.get(offering.id)
            version = offering.version(card.version())
            if previous is None:
                kind: ChangeKind = "new"
            elif sold is not None and version == sold.offering_version:
                kind = "same"
            else:
                kind = "changed"
            words = offering_differences(previous and previous[0], offering)
            if previous is not None:
                words += card_differences(previous[1], card)
            if kind == "changed" and not words:
                words = ["nothing but its form: it is a version of its own"]
            begins = offering.valid_from if offering.valid_from and offering.valid_from > now else None
            found.append(OfferingChange(offering.id, kind, version, begins, tuple(words)))
        return found

    def all(self) -> list[SoldOffering]:
        """All offerings at their present version, in any status: by seller, kind and price, tariffs for comparison last."""
        found = [
            SoldOffering(o, version, rate)
            for version, rate, o in store.current_offerings(self._connection, self._clock.now())
        ]
        return sorted(found, key=_by_seller)

    def known(self, offering_id: str) -> SoldOffering:
        """The present version of an offering, in any status. Raises `OfferingNotFound`."""
        for sold in self.all():
            if sold.offering.id == offering_id:
                return sold
        raise OfferingNotFound(f"there is no offering {offering_id}: tokenworks offering list")

    def for_sale(self, audiences: Sequence[str] | None) -> list[SoldOffering]:
        """The offerings that a subscriber of these audiences (None: not known) can order now, in the order of `all`."""
        now = self._clock.now()
        return [
            sold
            for sold in self.all()
            if self._refusal(sold.offering, now) is None and self.is_for(sold.offering, audiences)
        ]

    def can_be_ordered(self, offering: Offering) -> bool:
        """True if the offering is on sale now, to its audiences."""
        return self._refusal(offering, self._clock.now()) is None

    def is_for(self, offering: Offering, audiences: Sequence[str] | None) -> bool:
        """True if the offering is for a subscriber of these audiences. A subscriber without audiences (None) counts as a person;
        in a dev environment it belongs to all audiences, so that everything can be tried.
        """
        if audiences is None:
            return self._is_dev or "person" in offering.audiences
        return bool(set(audiences) & set(offering.audiences))

    def _refusal(self, offering: Offering, now: datetime) -> str | None:
        """The reason why an offering can't be ordered at a time; None if it can."""
        if offering.status == "comparison":
            return f"{offering.id} is another seller's tariff, for comparison: it can't be ordered"
        if offering.status != "active":
            return f"{offering.id} is {offering.status.replace('_', ' ')}: it can't be ordered"
        if offering.is_sample and not self._is_dev:
            return f'{offering.id} is a sample: it can be ordered where environment = "dev" alone'
        has_begun = offering.valid_from is None or offering.valid_from <= now
        if not has_begun or (offering.valid_until is not None and offering.valid_until <= now):
            return f"{offering.id} is not on sale at this time: `tokenworks offering list`"
        return None

    def on_sale(self, offering_id: str, now: datetime | None = None) -> SoldOffering:
        """The version of an offering that can be ordered at `now`. Raises `OfferingNotFound` or `OfferingNotActive`."""
        now = now or self._clock.now()
        found = store.find_offering(self._connection, now, offering_id=offering_id)
        if found is None:
            raise OfferingNotFound(
                f"there is no offering {offering_id!r}: `tokenworks offering list` shows them"
            )
        version, rate, offering = found
        refusal = self._refusal(offering, now)
        if refusal is not None:
            raise OfferingNotActive(refusal)
        return SoldOffering(offering, version, rate)

    def check_version(self, offering_id: str, version: str) -> None:
        """Check that the version on sale is the one that was shown. Raises `OfferingChanged`, and what `on_sale` raises."""
        if self.on_sale(offering_id).offering_version != version:
            raise OfferingChanged("the offering has changed: look at it again")

    def sold(self, offering_version: str) -> SoldOffering:
        """An offering by its version, in any status: for products that were sold. Raises `OfferingNotFound`."""
        found = store.find_offering(self._connection, self._clock.now(), version=offering_version)
        if found is None:
            raise OfferingNotFound(f"there is no offering version {offering_version!r}")
        return SoldOffering(found[2], found[0], found[1])

    def rate_card(self, rate_version: str) -> RateCard:
        """A rate card by its version. Raises `OfferingNotFound`."""
        found = store.rate_cards(self._connection, rate_version).get(rate_version)
        if found is None:
            raise OfferingNotFound(f"there is no rate card {rate_version!r}")
        return found

    def rate_cards(self) -> dict[str, RateCard]:
        """All rate cards by version."""
        return store.rate_cards(self._connection)
