"""What a cycle or a change costs a subscriber, and what comes back of it: every operation's money goes through here.

Prices are the contract's, the first month's, or the offering's; a bundle's is shared out among its parts anew in every cycle. Which
part of a price is charged, or comes back, says `proration`.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offering, Offerings, Proration, SoldOffering
from tokenworks.charging import Charge, Charges, Ledger, Sale, share
from tokenworks.kernel import Clock, parse_money
from tokenworks.subscriptions.model import Product, Subscriber, cycle_begin, cycle_end
from tokenworks.subscriptions.orders import price_store, product_store, proration
from tokenworks.subscriptions.orders.eligibility import has_first_price
from tokenworks.subscriptions.orders.proration import WHOLE, Part

# What is written behind the description of a credit.
_WHY = {"changed": ("changed", "变更退费"), "cancelled": ("cancelled", "退订退费")}
Why = Literal["changed", "cancelled"]


def price_for(
    connection: Connection,
    subscriber: Subscriber,
    offering: Offering,
    at: datetime,
    *,
    first: bool = False,
) -> int:
    """What a cycle or a step costs a subscriber at a time, in nano: the contract's price, the first month's, or the offering's."""
    contract = price_store.contract_price(connection, subscriber.subscriber_id, offering.id, at)
    if contract is not None:
        return contract
    text = offering.first_price if first and offering.first_price else offering.price
    return parse_money(text, offering.currency).amount_nano


def end_of_cycle(offering: Offering, started_at: datetime, cycle_start: datetime) -> datetime | None:
    """Of pay-as-you-go only the steps end."""
    if offering.kind == "pay_as_you_go":
        return None
    return cycle_end(offering.cycle, started_at, cycle_start, offering.validity_days)


class Sales:
    """On one connection, in the caller's transaction, with the subscriber and the product locked."""

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
        """Charge a cycle and open its buckets; `joined`: the product begins in it, or again. Returns what was charged.

        A bundle is charged by its parts, pay-as-you-go by its steps.
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
        """Charge another plan for the rest of a product's cycle, and open its buckets. Returns what was charged."""
        assert product.cycle_end is not None
        begin = cycle_begin(sold.offering.cycle, product.started_at, now)
        part = proration.changed_to(sold.offering.proration, begin, product.cycle_end, now)
        price = self.price(subscriber, product, sold.offering, now)
        before = sum(c.kind == "change" for c in self._charges.of_product(product.product_id))
        return self._sell(subscriber, product, sold, "change", before + 1, now, price, part)

    def policy(self, product: Product, offering: Offering) -> Proration:
        """A part of a bundle goes by the bundle's."""
        if product.parent_id is None:
            return offering.proration
        return self._bundle(product).offering.proration

    def price(self, subscriber: Subscriber, product: Product, offering: Offering, at: datetime) -> int:
        """Of a cycle, or a change, that begins at a time. The first month's price is for the first cycle of an offering that is
        charged to a person, whatever began it, once.
        """
        if product.parent_id is not None:
            return self._share_of_bundle(subscriber, product, at)
        return self.own_price(subscriber, offering, product.product_id, at)

    def own_price(self, subscriber: Subscriber, offering: Offering, product_id: UUID, at: datetime) -> int:
        """`price`, of what is no part of a bundle."""
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
        """What a bundle consists of that begins at a time as a product: the parts that were on sale when it was ordered, each
        with its share of the price.
        """
        parts = [self._offerings.on_sale(part, ordered_at) for part in sold.offering.parts]
        if not parts:
            return []
        first = has_first_price(self._connection, subscriber, sold.offering, product_id)
        price = price_for(self._connection, subscriber, sold.offering, at, first=first)
        return list(zip(parts, _shared_out(price, parts), strict=True))

    def _bundle(self, product: Product) -> SoldOffering:
        assert product.parent_id is not None
        parent = product_store.product(self._connection, product.parent_id)
        assert parent is not None
        return self._offerings.sold(parent[0].offering_version)

    def _share_of_bundle(self, subscriber: Subscriber, product: Product, at: datetime) -> int:
        """A part's, of what the bundle costs at a time: its first month's price until the part was charged once, a contract's
        while the contract lasts.
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
        return _shared_out(price, parts)[at_index]

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

    # What comes back.

    def credits(self, product: Product, now: datetime) -> list[dict[str, Any]]:
        """What a product that is changed or cancelled now gives back, by its offering's policy: to be asked before its buckets
        are withdrawn and its charge's time is ended, and given to `give_back` after that.
        """
        offering = self._offerings.sold(product.offering_version).offering
        policy = self.policy(product, offering)
        found = []
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
        """The charge of a product's running cycle; of pay-as-you-go those of steps of which something is left."""
        if product.charge_id is not None:
            return [self._charges.find_of_product(product.product_id, product.charge_id)]
        return [
            charge
            for charge in self._charges.of_product(product.product_id)
            if charge.kind == "step"
            and charge.credited_nano < charge.amount_nano
            and any(self._charges.unused(charge))
        ]

    def give_back(self, account_id: UUID, asked: dict[str, Any], *, at_most: bool = False) -> int | None:
        """Credit what a change or a cancellation took away. Returns how much, None while something of it is granted: nobody knows
        whether that is unused. `at_most`: as if nothing of what is granted was used.

        Of a charge that is earned with usage, the lesser of the part of its time and the part of its quantity that were left:
        nobody uses a plan up and gets its price back.
        """
        amounts = []
        for item in asked["credits"]:
            charge = self._charges.find(account_id, UUID(item["charge_id"]))
            kept = int(item.get("kept", charge.quantity))
            free, granted = self._charges.unused(charge, kept)
            if charge.quantity and granted and not at_most:
                return None
            free += granted
            amount = share(charge.amount_nano, int(item["num"]), int(item["den"]))
            if charge.quantity:
                amount = min(amount, share(charge.amount_nano, free, charge.quantity))
            amounts.append((charge, min(amount, charge.amount_nano - charge.credited_nano)))
        en, zh = _WHY[asked["why"]]
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
        """What a product's next cycle will cost, as things are; a bundle's is that of its parts together."""
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


def _shared_out(price: int, parts: list[SoldOffering]) -> list[int]:
    """A bundle's price by its parts' own (IFRS 15.76); the last one has what rounding leaves."""
    own = [parse_money(part.offering.price).amount_nano for part in parts]
    shares = [share(price, one, sum(own)) for one in own[:-1]]
    return [*shares, price - sum(shares)]
