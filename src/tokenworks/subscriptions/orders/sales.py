"""What a cycle or a change costs a subscriber, and what is credited of it. All operations on orders charge and credit through
`Sales`.

The price is the contract's, the first month's, or the offering's; in every cycle a bundle's price is divided among its parts
anew. `proration` says which part of a price is charged or credited.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offering, Offerings, Proration, SoldOffering
from tokenworks.charging import Charge, Charges, Ledger, Sale, share
from tokenworks.kernel import Clock, parse_money
from tokenworks.subscriptions.model import (
    ChargeCredit,
    CreditReason,
    CreditRequest,
    Product,
    Subscriber,
    cycle_begin,
    cycle_end,
)
from tokenworks.subscriptions.orders import price_store, product_store, proration
from tokenworks.subscriptions.orders.eligibility import has_first_price
from tokenworks.subscriptions.orders.proration import WHOLE, Part

# What a credit's description adds to its charge's, in English and in Chinese.
_REASON_TEXTS: Final[dict[CreditReason, tuple[str, str]]] = {
    "changed": ("changed", "变更退费"),
    "cancelled": ("cancelled", "退订退费"),
}


def price_for(
    connection: Connection,
    subscriber: Subscriber,
    offering: Offering,
    at: datetime,
    *,
    first: bool = False,
) -> int:
    """What a cycle or a step costs a subscriber at a time, in nano: the price of the contract, else of the first month (where
    `first`), else of the offering.
    """
    contract = price_store.contract_price(connection, subscriber.subscriber_id, offering.id, at)
    if contract is not None:
        return contract
    text = offering.first_price if first and offering.first_price else offering.price
    return parse_money(text, offering.currency).amount_nano


def end_of_cycle(offering: Offering, started_at: datetime, cycle_start: datetime) -> datetime | None:
    """When a cycle of an offering ends; None for pay-as-you-go, of which only the steps end."""
    if offering.kind == "pay_as_you_go":
        return None
    return cycle_end(offering.cycle, started_at, cycle_start, offering.validity_days)


class Sales:
    """Charges and credits of products. All methods run in the caller's transaction, with the subscriber and the product locked."""

    def __init__(
        self,
        connection: Connection,
        offerings: Offerings,
        ledger: Ledger,
        charges: Charges,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._offerings = offerings
        self._ledger = ledger
        self._charges = charges
        self._clock = clock

    # What is charged.

    def cycle(
        self,
        subscriber: Subscriber,
        product: Product,
        sold: SoldOffering,
        *,
        joined: bool,
        price: int | None = None,
    ) -> int:
        """Charge a cycle and open its buckets. `joined`: the product begins, or is resumed, in this cycle. Return the charge in
        nano.

        A bundle is charged by its parts and pay-as-you-go by its steps, so that both return 0.
        """
        offering = sold.offering
        if offering.kind in {"bundle", "pay_as_you_go"}:
            return 0
        part = WHOLE
        if joined and product.cycle_end is not None and offering.cycle != "once":
            begin = cycle_begin(offering.cycle, product.started_at, product.cycle_start)
            part = proration.joined(
                self.policy(product, offering), begin, product.cycle_end, product.cycle_start
            )
        if price is None:
            price = self.price(subscriber, product, offering, product.cycle_start)
        return self._sell(
            subscriber, product, sold, "cycle", product.cycle_no, product.cycle_start, price, part
        )

    def change(self, subscriber: Subscriber, product: Product, sold: SoldOffering, now: datetime) -> int:
        """Charge another plan for the rest of a product's cycle, and open its buckets. Return the charge in nano."""
        assert product.cycle_end is not None
        begin = cycle_begin(sold.offering.cycle, product.started_at, now)
        part = proration.changed_to(sold.offering.proration, begin, product.cycle_end, now)
        price = self.price(subscriber, product, sold.offering, now)
        before = sum(c.kind == "change" for c in self._charges.of_product(product.product_id))
        return self._sell(subscriber, product, sold, "change", before + 1, now, price, part)

    def policy(self, product: Product, offering: Offering) -> Proration:
        """The proration policy of a product: its offering's, or, for a part of a bundle, the bundle's."""
        if product.parent_id is None:
            return offering.proration
        return self._bundle(product).offering.proration

    def price(self, subscriber: Subscriber, product: Product, offering: Offering, at: datetime) -> int:
        """The price in nano of a cycle, or a change, that begins at a time. A person pays the first month's price once, for the
        first cycle of an offering that is charged, whichever operation began it.
        """
        if product.parent_id is not None:
            return self._share_of_bundle(subscriber, product, at)
        return self.own_price(subscriber, offering, product.product_id, at)

    def own_price(self, subscriber: Subscriber, offering: Offering, product_id: UUID, at: datetime) -> int:
        """As `price`, for a product that is not a part of a bundle."""
        first = has_first_price(
            self._connection, subscriber, offering, product_id
        ) and not self._charges.was_charged(subscriber.account_id, offering.id)
        return price_for(self._connection, subscriber, offering, at, first=first)

    def parts(
        self,
        subscriber: Subscriber,
        sold: SoldOffering,
        product_id: UUID,
        at: datetime,
        ordered_at: datetime,
    ) -> list[tuple[SoldOffering, int]]:
        """The parts of a bundle that begins at a time as a product: (the part at the version that was on sale at the order, its
        share of the price in nano).
        """
        parts = [self._offerings.on_sale(part, ordered_at) for part in sold.offering.parts]
        if not parts:
            return []
        first = has_first_price(self._connection, subscriber, sold.offering, product_id)
        price = price_for(self._connection, subscriber, sold.offering, at, first=first)
        return list(zip(parts, _divided(price, parts), strict=True))

    def _bundle(self, product: Product) -> SoldOffering:
        assert product.parent_id is not None
        parent = product_store.product(self._connection, product.parent_id)
        assert parent is not None
        return self._offerings.sold(parent[0].offering_version)

    def _share_of_bundle(self, subscriber: Subscriber, product: Product, at: datetime) -> int:
        """The share of a part in what its bundle costs at a time: in the first month's price until the part was charged once, in
        a contract's price while the contract lasts.
        """
        bundle = self._bundle(product)
        assert product.parent_id is not None
        siblings = {
            part.offering_id: self._offerings.sold(part.offering_version)
            for part in product_store.products(self._connection, subscriber.subscriber_id)
            if part.parent_id == product.parent_id
        }
        first = has_first_price(self._connection, subscriber, bundle.offering, product.parent_id) and not any(
            charge.kind == "cycle" for charge in self._charges.of_product(product.product_id)
        )
        price = price_for(self._connection, subscriber, bundle.offering, at, first=first)
        parts = [siblings[part] for part in bundle.offering.parts]
        at_index = bundle.offering.parts.index(product.offering_id)
        return _divided(price, parts)[at_index]

    def _sell(
        self,
        subscriber: Subscriber,
        product: Product,
        sold: SoldOffering,
        kind: Literal["cycle", "change"],
        number: int,
        begin: datetime,
        price: int,
        part: Part,
    ) -> int:
        offering, end = sold.offering, product.cycle_end
        rollover = None
        if offering.rollover is not None and end is not None:
            until = end_of_cycle(offering, product.started_at, end)
            assert until is not None
            rollover = (offering.rollover.quantity_max, until)
        charge = self._charges.sell(
            Sale(
                account_id=subscriber.account_id,
                subscriber_id=subscriber.subscriber_id,
                product_id=product.product_id,
                offering_version=sold.offering_version,
                rate_version=sold.rate_version,
                kind=kind,
                number=number,
                period_start=begin,
                period_end=end,
                description=offering.name,
                description_zh=offering.name_zh,
                price_nano=price,
                currency=offering.currency,
                vat_percent=offering.vat_percent,
                specs=offering.cycle_buckets(),
                recognise=offering.earned,
                share_num=part.num,
                share_den=part.den,
                rollover=rollover,
                free=part.free,
            )
        )
        fields: dict[str, object] = {"charge_id": charge and charge.charge_id}
        if product.parent_id is not None:
            fields["price_nano"] = price
        product_store.set_product(self._connection, product.product_id, **fields)
        if charge is None and kind == "cycle":
            product_store.add_uncharged(self._connection, product.product_id, 1)
        return 0 if charge is None else charge.amount_nano

    # What is credited.

    def credits(self, product: Product, now: datetime) -> list[ChargeCredit]:
        """The credits for a product that is changed or cancelled now, by its offering's policy. Call this before the product's
        buckets are withdrawn and its charge's time is ended; `give_back` takes the result after that.
        """
        offering = self._offerings.sold(product.offering_version).offering
        policy = self.policy(product, offering)
        found: list[ChargeCredit] = []
        for charge in self.paying(product):
            part = proration.given_back(policy, charge.period_start, charge.period_end, now)
            if part.num:
                found.append(
                    {
                        "charge_id": str(charge.charge_id),
                        "num": part.num,
                        "den": part.den,
                        "kept": self._charges.kept_quantity(charge),
                    }
                )
        return found

    def paying(self, product: Product) -> list[Charge]:
        """The charge of a product's running cycle; for pay-as-you-go, the charges of the steps that are not used up."""
        if product.charge_id is not None:
            return [self._charges.find_of_product(product.product_id, product.charge_id)]
        return [
            charge
            for charge in self._charges.of_product(product.product_id)
            if charge.kind == "step"
            and charge.credited_nano < charge.amount_nano
            and any(self._charges.unused(charge))
        ]

    def give_back(self, account_id: UUID, request: CreditRequest, *, at_most: bool = False) -> int | None:
        """Book the credits of a change or a cancellation. Return the amount in nano, or None while a grant of it is open: what
        of a grant is used is known when it closes. `at_most`: count all that is granted as unused.

        A charge that is earned with usage gives back the lesser of two parts: of its time and of its quantity that were left. So
        a plan that is used up gives nothing back.
        """
        amounts = []
        for credit in request["credits"]:
            charge = self._charges.find(account_id, UUID(credit["charge_id"]))
            kept = int(credit.get("kept", charge.quantity))
            free, granted = self._charges.unused(charge, kept)
            if charge.quantity and granted and not at_most:
                return None
            free += granted
            amount = share(charge.amount_nano, int(credit["num"]), int(credit["den"]))
            if charge.quantity:
                amount = min(amount, share(charge.amount_nano, free, charge.quantity))
            amounts.append((charge, min(amount, charge.amount_nano - charge.credited_nano)))
        en, zh = _REASON_TEXTS[request["why"]]
        for charge, amount in amounts:
            if amount:
                self._charges.credit(
                    charge,
                    amount,
                    "credit",
                    f"{charge.description}: {en}",
                    f"{charge.description_zh}（{zh}）",
                )
        return sum(amount for _, amount in amounts)

    def next_price(self, subscriber: Subscriber, product: Product, at: datetime) -> int:
        """What a product's next cycle will cost as far as it is known now, in nano; of a bundle, all its parts together."""
        sold = self._offerings.sold(product.next_version or product.offering_version)
        if sold.offering.kind == "bundle":
            parts = product_store.products(self._connection, subscriber.subscriber_id)
            return sum(
                self.price(subscriber, part, sold.offering, at)
                for part in parts
                if part.parent_id == product.product_id
            )
        changed = replace(product, offering_id=sold.offering.id)
        return self.price(subscriber, changed, sold.offering, at)


def _divided(price: int, parts: list[SoldOffering]) -> list[int]:
    """A bundle's price, divided in proportion to its parts' own prices (IFRS 15.76); the last part takes the rounding difference."""
    own_prices = [parse_money(part.offering.price).amount_nano for part in parts]
    shares = [share(price, own_price, sum(own_prices)) for own_price in own_prices[:-1]]
    return [*shares, price - sum(shares)]
