"""Pay-as-you-go on the phone bill: a prepaid block of tokens (a step) is bought when the last one runs out, up to the cap.

Invariant: in a calendar month, the prices of the steps (less credits) never exceed the subscriber's cap. No step is bought while
spending is locked, beyond the credit limit, or beside a plan without the subscriber's consent.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offerings, SoldOffering
from tokenworks.charging import PER_UNIT, Charges, Ledger, Need, Sale, most
from tokenworks.kernel import Clock, Invalid, format_money_exact, uuid7
from tokenworks.subscriptions import top_up_store
from tokenworks.subscriptions.errors import CapBelowSpent, SubscriberNotActive, TopUpNotAllowed, TopUpNotFound
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import (
    BILLING_ZONE,
    Product,
    Subscriber,
    TopUp,
    check_idempotency_key,
    cycle_end,
    month_start,
)
from tokenworks.subscriptions.orders import product_store
from tokenworks.subscriptions.orders.eligibility import LIVE_STATES, check_may_buy
from tokenworks.subscriptions.orders.sales import price_for
from tokenworks.subscriptions.people import people_store, privacy_store
from tokenworks.trust import PersonVault
from tokenworks.trust.identity.answers import KeyReused

STEPS_AT_ONCE_MAX: Final = 1000
CAP_NANO_MAX: Final = 10**15
ALERTS_PERCENT: Final = (50, 80, 100)


def payg_standing(
    kinds: Collection[str], *, locked: bool, spill_over: bool, cap_nano: int
) -> tuple[str, int] | None:
    """The standing of pay-as-you-go for a subscriber with offerings of these kinds: see `PayAsYouGo.standing`."""
    if "pay_as_you_go" not in kinds:
        return None
    if locked:
        return "locked", cap_nano
    if "plan" in kinds and not spill_over:
        return "no_consent", cap_nano
    return "open", cap_nano


class PayAsYouGo:
    """Buys steps, for requests and by hand, and controls what may be spent, on one connection."""

    def __init__(
        self,
        connection: Connection,
        offerings: Offerings,
        ledger: Ledger,
        charges: Charges,
        clock: Clock,
        vault: PersonVault,
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._offerings = offerings
        self._ledger = ledger
        self._charges = charges
        self._clock = clock

    def buy(self, account_id: UUID, model: str, need: Need) -> bool:
        """Buy the steps that a request needs, or none if the cap does not allow all of them. Return True if the buckets now have
        enough for the request.

        Several hosts may call this at once: the subscriber's lock lets the second one find what the first one bought.
        """
        with self._connection.transaction():
            subscriber = people_store.lock_subscriber_of(self._vault, account_id)
            if subscriber is None or subscriber.state != "active":
                return False
            if subscriber.spend_locked or subscriber.restricted:
                return False
            found = self._product(subscriber)
            if found is None:
                return False
            product, sold = found
            spec = sold.offering.buckets[0]
            card = self._offerings.rate_card(sold.rate_version)
            rate = card.rate_for(model)
            if rate is None or ("*" not in spec.model_classes and rate.model_class not in spec.model_classes):
                return False
            missing = most(rate.weights(), need) - self._ledger.free_of(account_id, product.product_id)
            if missing <= 0:
                return True
            steps = -(-missing // (spec.quantity * PER_UNIT))
            return self._buy(subscriber, product, sold, steps)

    def top_up(self, subscriber: Subscriber, amount_nano: int, idempotency_key: str) -> TopUp:
        """Buy steps by hand, for an amount in nano that is a multiple of their price. Cap and lock hold here, too. A repeated
        idempotency key returns the first top-up. Raises `TopUpNotAllowed`, `Invalid`, `KeyReused`.
        """
        check_idempotency_key(idempotency_key)
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            assert found is not None
            before = top_up_store.top_up(self._connection, found.subscriber_id, idempotency_key)
            if before is not None:
                if before.amount_nano != amount_nano:
                    raise KeyReused("the idempotency key was used for another top-up: take another one")
                return before
            product = next(
                (
                    (p, sold)
                    for p in product_store.products(self._connection, found.subscriber_id)
                    if p.state == "active"
                    and (sold := self._offerings.sold(p.offering_version)).offering.kind == "pay_as_you_go"
                ),
                None,
            )
            if product is None:
                raise TopUpNotAllowed("order a pay-as-you-go offering first")
            try:
                check_may_buy(found, "nothing can be bought")
            except SubscriberNotActive as error:
                raise TopUpNotAllowed(str(error)) from None
            if found.spend_locked:
                raise TopUpNotAllowed("spending is locked")
            price = price_for(self._connection, found, product[1].offering, self._clock.now())
            if not price:  # a contract from before prices of zero were refused
                raise TopUpNotAllowed("a step costs nothing here: there is nothing to buy")
            steps, rest = divmod(amount_nano, price)
            if rest or not 0 < steps <= STEPS_AT_ONCE_MAX:
                raise Invalid(
                    f"a top-up is 1 to {STEPS_AT_ONCE_MAX} steps of {format_money_exact(price)} yuan"
                )
            if not self._buy(found, *product, steps):
                raise TopUpNotAllowed("that is more than the monthly cap, or the credit limit, allows")
            new_top_up = TopUp(
                uuid7(), found.subscriber_id, product[0].product_id, steps, amount_nano, self._clock.now()
            )
            top_up_store.add_top_up(self._connection, new_top_up, idempotency_key)
        return new_top_up

    def top_ups(self, subscriber: Subscriber | None, offset: int, limit: int) -> tuple[list[TopUp], int]:
        """A page of top-ups (None: of all subscribers), newest first, and the number of all of them."""
        return top_up_store.top_ups(
            self._connection, None if subscriber is None else subscriber.subscriber_id, offset, limit
        )

    def find_top_up(self, top_up_id: UUID) -> TopUp:
        """Raises `TopUpNotFound`."""
        found = top_up_store.find_top_up(self._connection, top_up_id)
        if found is None:
            raise TopUpNotFound("there is no such top-up")
        return found

    def _product(self, subscriber: Subscriber) -> tuple[Product, SoldOffering] | None:
        """The oldest active pay-as-you-go product; None beside a live plan, unless the subscriber has consented to that."""
        live = [
            (product, self._offerings.sold(product.offering_version))
            for product in product_store.products(self._connection, subscriber.subscriber_id)
            if product.state in LIVE_STATES
        ]
        if any(sold.offering.kind == "plan" for _, sold in live) and not subscriber.spill_over:
            return None
        return next(
            ((p, s) for p, s in live if p.state == "active" and s.offering.kind == "pay_as_you_go"), None
        )

    def _buy(self, subscriber: Subscriber, product: Product, sold: SoldOffering, steps: int) -> bool:
        """Charge steps. Return False, and charge nothing, if the cap or the credit limit does not allow all of them."""
        offering, now = sold.offering, self._clock.now()
        price = price_for(self._connection, subscriber, offering, now)
        spent = self._charges.step_charges_since(subscriber.account_id, month_start(now))
        limit = subscriber.credit_limit_nano
        over_cap = spent + steps * price > subscriber.cap_nano
        if over_cap or (
            limit is not None
            and self._charges.receivable(subscriber.account_id) + steps * price > limit
        ) or steps > STEPS_AT_ONCE_MAX:  # fmt: skip
            if over_cap:
                self._alert(subscriber, 100, spent, now)
            return False
        uncharged = 0
        for number in range(product.step_no + 1, product.step_no + steps + 1):
            charge = self._charges.sell(
                Sale(
                    account_id=subscriber.account_id,
                    subscriber_id=subscriber.subscriber_id,
                    product_id=product.product_id,
                    offering_version=sold.offering_version,
                    rate_version=sold.rate_version,
                    kind="step",
                    number=number,
                    period_start=now,
                    period_end=cycle_end("once", now, now, offering.validity_days),
                    description=offering.name,
                    description_zh=offering.name_zh,
                    price_nano=price,
                    currency=offering.currency,
                    vat_percent=offering.vat_percent,
                    specs=offering.buckets,
                    recognise="usage",
                )
            )
            uncharged += charge is None
        if uncharged:
            product_store.add_uncharged(self._connection, product.product_id, uncharged)
        product_store.set_product(self._connection, product.product_id, step_no=product.step_no + steps)
        spent_now = spent + steps * price
        for percent in ALERTS_PERCENT:
            if spent_now * 100 >= subscriber.cap_nano * percent:
                self._alert(subscriber, percent, spent_now, now)
        return True

    def _alert(self, subscriber: Subscriber, percent: int, spent_nano: int, now: datetime) -> None:
        """Add the notice of a threshold: once a month, and once more after each raise of the cap."""
        month = f"{now.astimezone(BILLING_ZONE):%Y-%m}"
        raises = f":{subscriber.cap_raises}" if subscriber.cap_raises else ""
        notice_store.add_notification(
            self._connection,
            subscriber.subscriber_id,
            "spend",
            f"{month}:{percent}{raises}",
            {"month": month, "percent": percent, "spent_nano": spent_nano, "cap_nano": subscriber.cap_nano},
            now,
        )

    def standing(self, subscriber: Subscriber) -> tuple[str, int] | None:
        """(`open`, `locked` or `no_consent`; the monthly cap in nano) of a subscriber's pay-as-you-go; None if it has none."""
        kinds = {
            self._offerings.sold(product.offering_version).offering.kind
            for product in product_store.products(self._connection, subscriber.subscriber_id)
            if product.state in LIVE_STATES
        }
        locked = subscriber.spend_locked or subscriber.restricted
        return payg_standing(
            kinds, locked=locked, spill_over=subscriber.spill_over, cap_nano=subscriber.cap_nano
        )

    def spent(self, subscriber: Subscriber) -> int:
        """The cost of the steps of this calendar month, in nano."""
        return self._charges.step_charges_since(subscriber.account_id, month_start(self._clock.now()))

    def control(
        self,
        subscriber: Subscriber,
        *,
        cap_nano: int | None = None,
        locked: bool | None = None,
        spill_over: bool | None = None,
        said_by: str | None = None,
    ) -> Subscriber:
        """Set the monthly cap, the spend lock, and the consent to buy steps when a plan is used up; None leaves a value as it is.
        `said_by`: the person who gave the consent, for its evidence.

        Raises `Invalid`, and `CapBelowSpent` if this month has cost more already.
        """
        if cap_nano is not None and not 0 <= cap_nano <= CAP_NANO_MAX:
            raise Invalid("a monthly cap is 0 to 1,000,000 yuan")
        with self._connection.transaction():
            known = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            assert known is not None
            if cap_nano is not None and cap_nano < self.spent(subscriber):
                raise CapBelowSpent("this month has cost more already: take a higher cap, or lock spending")
            given = {"cap_nano": cap_nano, "spend_locked": locked, "spill_over": spill_over}
            fields = {name: value for name, value in given.items() if value is not None}
            if cap_nano is not None and cap_nano > known.cap_nano:
                fields["cap_raises"] = known.cap_raises + 1
            if fields:
                people_store.set_subscriber(self._connection, subscriber.subscriber_id, **fields)
            if spill_over is not None:
                privacy_store.add_consent(
                    self._connection,
                    subscriber.subscriber_id,
                    "spill_over",
                    spill_over,
                    self._clock.now(),
                    said_by=said_by,
                )
            self._ledger.notify_hosts(subscriber.account_id)
        found = people_store.find_subscriber(self._vault, subscriber_id=subscriber.subscriber_id)
        assert found is not None
        return found
