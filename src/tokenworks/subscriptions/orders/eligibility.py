"""The checks that an order must pass before it is placed, and what they say of a subscriber's choices."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offering, Offerings, SoldOffering
from tokenworks.kernel import Invalid, TokenworksError, check_reason
from tokenworks.subscriptions.errors import (
    BroadbandMissing,
    DeliveredAlready,
    HadAlready,
    NeedsFirst,
    OtherAudience,
    ProductEnded,
    SecondNotConfirmed,
    StepsThere,
    SubscriberNotActive,
)
from tokenworks.subscriptions.model import SUSPENSIONS, PrivacyRules, Product, Subscriber, SuspensionCause
from tokenworks.subscriptions.orders import order_store, product_store
from tokenworks.subscriptions.people import privacy_store
from tokenworks.subscriptions.people.lawful import check_lawful

# The states of a product that the subscriber has, or will have.
LIVE_STATES: Final = frozenset({"active", "suspended", "pendingActive"})
# The fulfilment port whose deliveries go to a broadband account.
BROADBAND_PORT: Final = "broadband"


def check_eligible(
    connection: Connection,
    offerings: Offerings,
    rules: PrivacyRules,
    subscriber: Subscriber,
    offering: Offering,
    *,
    confirm: bool,
    instead_of: Product | None = None,
    ordered_at: datetime | None = None,
) -> None:
    """Check that a subscriber may order an offering. `instead_of`: the product that is changed to the offering. `ordered_at`:
    when an order for later was placed; it was confirmed then, and has the parts of a bundle that were on sale then. Raises the
    subclass of `NotEligible` that says why, `ConsentNeeded`, `RealNameNeeded`, `SecondNotConfirmed`.
    """
    check_lawful(connection, rules, subscriber, offering)
    if not offerings.is_for(offering, subscriber.audiences):
        raise OtherAudience(f"{offering.id} is for {', '.join(offering.audiences)}")
    # Orders of one person run one after the other, also those of several subscribers, so that each counts the products of all
    # before.
    product_store.lock_person(connection, subscriber.subscriber_id)
    beside = [
        product
        for product in product_store.products(connection, subscriber.subscriber_id)
        if product.state in LIVE_STATES
        and (instead_of is None or product.product_id != instead_of.product_id)
    ]
    live = {product.offering_id for product in beside}
    if offering.requires and not live & set(offering.requires):
        raise NeedsFirst(
            f"{offering.id} needs {' or '.join(offering.requires)}: order that first", offering.requires
        )
    whole = (offering, *(offerings.on_sale(part, ordered_at).offering for part in offering.parts))
    check_deliverable(subscriber, whole, live)
    people = privacy_store.same_identity(connection, subscriber.subscriber_id)
    for ordered in whole:
        times_max = ordered.per_subscriber_max
        if times_max is None:
            continue
        # A change to another version of the same offering does not count as one more.
        is_same = instead_of is not None and instead_of.offering_id == ordered.id
        besides = instead_of.product_id if instead_of is not None and is_same else None
        if product_store.times_had(connection, people, ordered.id, besides=besides) >= times_max:
            raise HadAlready(f"{ordered.id} can be ordered {times_max} time(s) in all, and was")
    if offering.kind == "pay_as_you_go" and offering.id in live:
        raise StepsThere(f"{offering.id} is there already: its steps are bought as they are needed")
    coming = {
        offerings.sold(product.next_version).offering.id
        for product in beside
        if product.next_version is not None
    } | {order.offering_id for order in order_store.orders_to_come(connection, subscriber.subscriber_id)}
    twice = [id_ for id_ in (offering.id, *offering.parts) if id_ in live | coming]
    if twice and not confirm and ordered_at is None:
        raise SecondNotConfirmed(
            f"the subscriber has {twice[0]} already: confirm that it is ordered a second time"
        )


# Refusals that the subscriber cannot change: such an offering is not shown.
_PERMANENT_REFUSALS: Final = (HadAlready, DeliveredAlready, StepsThere)


class Offer(NamedTuple):
    """An offering that is on sale to a subscriber. `is_owned`: the subscriber has a live product of it. `can_order`: the
    subscriber can order it now, or after an act of its own, such as agreeing to the terms.
    """

    sold: SoldOffering
    is_owned: bool
    can_order: bool


class Eligibility:
    """What a subscriber may order, or change to. It asks the same checks as an order."""

    def __init__(self, connection: Connection, offerings: Offerings, rules: PrivacyRules) -> None:
        self._connection = connection
        self._offerings = offerings
        self._rules = rules

    def offers(self, subscriber: Subscriber) -> list[Offer]:
        """All that is on sale to the subscriber. An offering that the person had before is shown without its first month's price."""
        products = [
            p
            for p in product_store.products(self._connection, subscriber.subscriber_id)
            if p.state in LIVE_STATES
        ]
        live = {product.offering_id for product in products}
        owned = {product.offering_id for product in products if product.parent_id is None}
        found = []
        for sold in self._offerings.for_sale(subscriber.audiences):
            offering = sold.offering
            may_be_refused = offering.per_subscriber_max is not None or offering.parts or offering.id in live
            refused = bool(may_be_refused) and self.is_permanently_refused(subscriber, offering)
            found.append(
                Offer(self._as_priced(subscriber, sold), is_owned=offering.id in owned, can_order=not refused)
            )
        return found

    def _as_priced(self, subscriber: Subscriber, sold: SoldOffering) -> SoldOffering:
        if sold.offering.first_price is None:
            return sold
        people = privacy_store.same_identity(self._connection, subscriber.subscriber_id)
        if not product_store.times_had(self._connection, people, sold.offering.id):
            return sold
        return replace(sold, offering=sold.offering.model_copy(update={"first_price": None}))

    def change_options(self, subscriber: Subscriber, product: Product) -> list[SoldOffering]:
        """The offerings that a product can be changed to, now or after an act of the subscriber."""
        old = self._offerings.sold(product.offering_version).offering
        return [
            self._as_priced(subscriber, sold)
            for sold in self._offerings.for_sale(subscriber.audiences)
            if change_refusal(old, product, sold) is None
            and not self.is_permanently_refused(subscriber, sold.offering, product)
        ]

    def is_permanently_refused(
        self, subscriber: Subscriber, offering: Offering, instead_of: Product | None = None
    ) -> bool:
        """True if no act of the subscriber makes an order (`instead_of`: a change of this product) possible."""
        try:
            with self._connection.transaction(force_rollback=True):
                check_eligible(
                    self._connection, self._offerings, self._rules, subscriber, offering, confirm=True, instead_of=instead_of
                )  # fmt: skip
        except _PERMANENT_REFUSALS:
            return True
        except TokenworksError:
            return False
        return False


# A subscriber cannot pause what another system delivers: an add-on, or a bundle that may contain one.
_PAUSABLE_KINDS: Final = frozenset({"plan", "pay_as_you_go", "trial"})


class ProductActions(NamedTuple):
    """What a subscriber may do with a product in its present state."""

    change: bool
    pause: bool
    resume: bool
    # Withdraw the change, or the cancellation, that waits for the end of the cycle.
    keep: bool
    end_with_cycle: bool


def actions_on(product: Product, offering: Offering) -> ProductActions:
    """The actions that are open on a product. `offering`: the product's own."""
    is_active = product.state == "active"
    return ProductActions(
        change=offering.kind == "plan" and is_active,
        pause=offering.kind in _PAUSABLE_KINDS and is_active,
        resume=product.state == "suspended",
        keep=product.ends_after_cycle or product.next_version is not None,
        end_with_cycle=is_active
        and product.cycle_end is not None
        and product.renews
        and not product.ends_after_cycle,
    )


def change_refusal(old: Offering, product: Product, sold: SoldOffering) -> str | None:
    """The reason why a product of the offering `old` can't be changed to another one, for any subscriber; None if it can."""
    if old.kind != "plan" or sold.offering.kind != "plan" or product.parent_id is not None:
        return "only a plan of its own can be changed, and to a plan"
    if old.cycle != sold.offering.cycle:
        return "the plans have different cycles: cancel the old plan, and order the new one"
    if sold.offering_version == product.offering_version:
        return f"the product is {sold.offering.id} at this version already"
    return None


def check_deliverable(subscriber: Subscriber, offerings: Iterable[Offering], live: Collection[str]) -> None:
    """An offering for a broadband account needs the account's number; an add-on of another system is delivered once, even if the
    order is confirmed. `live`: ids of the offerings that the subscriber has. Raises `BroadbandMissing`, `DeliveredAlready`.
    """
    for offering in offerings:
        if offering.fulfilment == BROADBAND_PORT and subscriber.broadband is None:
            raise BroadbandMissing(f"{offering.id} needs a broadband account: set its number first")
        if offering.kind == "add_on" and offering.fulfilment is not None and offering.id in live:
            raise DeliveredAlready(f"the subscriber has {offering.id} already: it is delivered once")


def has_first_price(
    connection: Connection, subscriber: Subscriber, offering: Offering, product_id: UUID
) -> bool:
    """True if a product gets the offering's first month's price: no other product of the person was ever of this offering."""
    if offering.first_price is None:
        return False
    people = privacy_store.same_identity(connection, subscriber.subscriber_id)
    return not product_store.times_had(connection, people, offering.id, besides=product_id)


def check_may_buy(subscriber: Subscriber, what: str) -> None:
    """Check that a subscriber may buy. `what`: the beginning of the message. Raises `SubscriberNotActive`, which says what must
    happen first.
    """
    if subscriber.state == "closed":
        raise SubscriberNotActive(f"{what}: the subscriber is closed")
    others = [cause.replace("_", " ") for cause in subscriber.suspended_by if cause != "payment"]
    if others:
        raise SubscriberNotActive(f"{what}: the subscriber is suspended ({', '.join(others)})")
    if subscriber.state != "active" or subscriber.restricted:
        raise SubscriberNotActive(f"{what}: what is owed has to be paid first")


def check_live(product: Product) -> None:
    """Raises `ProductEnded`."""
    if product.state not in LIVE_STATES:
        raise ProductEnded(f"product {product.product_id} is {product.state} already")


def check_delivery(offering: Offering, delivery: str | None) -> None:
    """Raises `Invalid` if the offering has no such way of delivery."""
    if delivery is not None and offering.kind != "bundle" and delivery not in offering.deliveries:
        ways = ", ".join(offering.deliveries) or "nothing that is delivered so"
        raise Invalid(f"{offering.id} is delivered as: {ways}")


def checked_reason(reason: str | None) -> str | None:
    """The reason as it is kept. Raises `Invalid`."""
    return None if reason is None else check_reason(reason, optional=True)


def checked_cause(cause: SuspensionCause) -> SuspensionCause:
    """The cause, if callers other than dunning may set it. Raises `Invalid`."""
    if cause == "payment" or cause not in SUSPENSIONS:
        others = ", ".join(name for name in SUSPENSIONS if name != "payment")
        raise Invalid(
            f"a suspension's cause is {others}; dunning alone suspends by payment, and a payment lifts that"
        )
    return cause
