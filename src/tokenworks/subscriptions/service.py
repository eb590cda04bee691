"""Registering subscribers, ordering, cancelling, the monthly cycle."""

import re
from datetime import datetime
from typing import Final
from uuid import UUID

from tokenworks.catalog import ChargingPolicy, Offerings, SoldOffering
from tokenworks.charging import Ledger
from tokenworks.kernel import Clock, Invalid, parse_money, uuid7
from tokenworks.subscriptions import store
from tokenworks.subscriptions.errors import (
    KeyReused,
    MemberExists,
    MemberNotFound,
    PhoneTaken,
    ProductEnded,
    ProductNotFound,
    SubscriberNotFound,
)
from tokenworks.subscriptions.model import (
    BillLine,
    CapPeriod,
    Member,
    Order,
    Product,
    Subscriber,
    cycle_end,
    parse_phone,
    period_of,
)

NAME_CHARS_MAX: Final = 100
CYCLE_BATCH: Final = 500
LIST_MAX: Final = 1000
MEMBERS_MAX: Final = 10_000
CAP_TOKENS_MAX: Final = 10**12
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")


class Subscriptions:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self, connection: store.Connection, offerings: Offerings, ledger: Ledger, clock: Clock
    ) -> None:
        self._connection = connection
        self._offerings = offerings
        self._ledger = ledger
        self._clock = clock

    def register(self, phone: str, name: str | None = None) -> Subscriber:
        """A subscriber, its account and its owner, in one transaction. Raises `Invalid` or `PhoneTaken`."""
        phone = parse_phone(phone)
        if name is not None and not 0 < len(name.strip()) <= NAME_CHARS_MAX:
            raise Invalid(f"a name has 1 to {NAME_CHARS_MAX} characters")
        with self._connection.transaction():
            account_id = self._ledger.open_account()
            subscriber = Subscriber(uuid7(), account_id, phone, name, self._clock.now())
            if not store.add_subscriber(self._connection, subscriber, uuid7()):
                raise PhoneTaken(
                    f"{subscriber.phone_masked} is registered already: `tokenworks subscriber show --phone` finds it"
                )
        return subscriber

    def find(self, reference: str) -> Subscriber:
        """By id or phone number. Raises `SubscriberNotFound`."""
        found: Subscriber | None = None
        if reference.startswith("+"):
            found = store.find_subscriber(self._connection, phone=parse_phone(reference))
        else:
            try:
                found = store.find_subscriber(self._connection, subscriber_id=UUID(reference))
            except ValueError:
                raise Invalid(f"a subscriber is named by id or phone number, not {reference!r}") from None
        if found is None:
            raise SubscriberNotFound("there is no such subscriber: `tokenworks subscriber list` shows them")
        return found

    def all(self, after: UUID | None = None, limit: int = LIST_MAX) -> list[Subscriber]:
        return store.subscribers(self._connection, after, min(limit, LIST_MAX))

    def owner_of(self, subscriber: Subscriber) -> UUID:
        return store.owner_of(self._connection, subscriber.subscriber_id)

    def order(self, subscriber: Subscriber, offering_id: str, idempotency_key: str | None = None) -> Order:
        """Order an offering: its product, its buckets and its line on the phone bill, in one transaction.

        The same idempotency key again gives the same order and does nothing. Raises `OfferingNotFound`,
        `OfferingNotActive`, `KeyReused`, `Invalid`.
        """
        if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise Invalid("an idempotency key is 1 to 200 visible ASCII characters")
        with self._connection.transaction():
            store.lock_subscriber(self._connection, subscriber.subscriber_id)
            if idempotency_key is not None:
                before = store.find_order(self._connection, subscriber.subscriber_id, idempotency_key)
                if before is not None:
                    if before.offering_id != offering_id:
                        raise KeyReused(
                            f"the idempotency key was used for {before.offering_id}: take another one"
                        )
                    return before
            sold = self._offerings.on_sale(offering_id)
            now = self._clock.now()
            offering = sold.offering
            price = parse_money(offering.first_price or offering.price, offering.currency)
            order = Order(
                uuid7(),
                uuid7(),
                offering_id,
                sold.offering_version,
                now,
                price.amount_nano,
                price.currency,
                new=True,
            )
            product = Product(
                product_id=order.product_id,
                order_id=order.order_id,
                offering_id=offering_id,
                offering_version=sold.offering_version,
                state="active",
                renews=offering.cycle != "once",
                cycle_no=1,
                started_at=now,
                cycle_start=now,
                cycle_end=cycle_end(offering.cycle, now, 1, now, offering.validity_days),
            )
            store.add_order(self._connection, subscriber, order, idempotency_key)
            store.add_product(self._connection, subscriber, product)
            self._begin_cycle(subscriber, product, sold)
            self._ledger.open_windows(
                account_id=subscriber.account_id,
                product_id=product.product_id,
                specs=offering.window_buckets(),
                rate_version=sold.rate_version,
                valid_from=now,
                valid_until=None if product.renews else product.cycle_end,
            )
        return order

    def _begin_cycle(self, subscriber: Subscriber, product: Product, sold: SoldOffering) -> None:
        offering = sold.offering
        text = offering.first_price if product.cycle_no == 1 and offering.first_price else offering.price
        price = parse_money(text, offering.currency)
        _, entry_id = self._ledger.issue(
            account_id=subscriber.account_id,
            product_id=product.product_id,
            specs=offering.cycle_buckets(),
            rate_version=sold.rate_version,
            valid_from=product.cycle_start,
            valid_until=product.cycle_end,
            price_nano=price.amount_nano,
            currency=price.currency,
        )
        assert entry_id is not None
        line = BillLine(
            uuid7(),
            product.product_id,
            product.cycle_no,
            product.cycle_start,
            offering.name,
            price.amount_nano,
            price.currency,
        )
        store.add_line(self._connection, subscriber, line, entry_id)

    def cancel(self, product_id: UUID) -> list[UUID]:
        """End a product now. What is unused is withdrawn; buckets with open grants follow when these close.

        Returns those buckets. Raises `ProductNotFound`, `ProductEnded`.
        """
        with self._connection.transaction():
            found = store.lock_product(self._connection, product_id)
            if found is None:
                raise ProductNotFound(
                    f"there is no product {product_id}: `tokenworks subscriber show` lists them"
                )
            product, subscriber_id = found
            if product.state != "active":
                raise ProductEnded(f"product {product_id} is {product.state} already")
            subscriber = store.find_subscriber(self._connection, subscriber_id=subscriber_id)
            assert subscriber is not None
            store.end_product(self._connection, product_id, "cancelled", self._clock.now())
            return self._ledger.withdraw_product(subscriber.account_id, product_id, "withdraw")

    def run_cycles(self) -> int:
        """Begin the next cycle of every product that is due, or expire it. Returns how many. Runs on many hosts at once."""
        total = 0
        while due := store.due_products(self._connection, self._clock.now(), CYCLE_BATCH):
            for product_id in due:
                with self._connection.transaction():
                    found = store.lock_product(self._connection, product_id)
                    assert found is not None
                    product, subscriber_id = found
                    if (
                        product.state != "active"
                        or product.cycle_end is None
                        or product.cycle_end > self._clock.now()
                    ):
                        continue
                    subscriber = store.find_subscriber(self._connection, subscriber_id=subscriber_id)
                    assert subscriber is not None
                    self._next_cycle(subscriber, product)
                total += 1
        self._ledger.expire_due()
        return total

    def _next_cycle(self, subscriber: Subscriber, product: Product) -> None:
        assert product.cycle_end is not None
        if not product.renews:
            store.end_product(self._connection, product.product_id, "expired", product.cycle_end)
            return
        sold = self._offerings.sold(product.offering_version)
        number = product.cycle_no + 1
        end = cycle_end(
            sold.offering.cycle, product.started_at, number, product.cycle_end, sold.offering.validity_days
        )
        store.begin_cycle(self._connection, product.product_id, number, product.cycle_end, end)
        renewed = Product(
            product.product_id, product.order_id, product.offering_id, product.offering_version, "active",
            product.renews, number, product.started_at, product.cycle_end, end,
        )  # fmt: skip
        self._begin_cycle(subscriber, renewed, sold)

    # Members of a pool.

    def members(self, subscriber: Subscriber) -> list[Member]:
        """The owner first, then by age."""
        return store.members(self._connection, subscriber.subscriber_id)

    def member(self, subscriber: Subscriber, reference: str) -> Member:
        """By id or by name. Raises `MemberNotFound`."""
        for member in self.members(subscriber):
            if reference in {str(member.member_id), member.member_id.hex, member.name}:
                return member
        raise MemberNotFound(f"there is no member {reference}: tokenworks member list --subscriber …")

    def add_member(
        self,
        subscriber: Subscriber,
        name: str,
        *,
        department: bool = False,
        parent: str | None = None,
        cap_tokens: int | None = None,
        cap_period: CapPeriod = "month",
    ) -> Member:
        """A person or a department, under a department where `parent` names one. Departments go two levels deep.

        Raises `MemberExists`, `MemberNotFound`, `Invalid`.
        """
        if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
            raise Invalid(f"a member's name is 1 to {NAME_CHARS_MAX} printable characters")
        if len(self.members(subscriber)) >= MEMBERS_MAX:
            raise Invalid(f"a subscriber has at most {MEMBERS_MAX} members")
        above = None if parent is None else self.member(subscriber, parent)
        if above is not None:
            if above.role != "department":
                raise Invalid(f"{above.name} is not a department")
            if department and above.parent_id is not None:
                raise Invalid("departments go two levels deep")
        _check_cap(cap_tokens)
        member = Member(
            uuid7(), subscriber.account_id, subscriber.subscriber_id, name, "department" if department else "member",
            None if above is None else above.member_id, cap_tokens, None if cap_tokens is None else cap_period, self._clock.now(),
        )  # fmt: skip
        if not store.add_member(self._connection, member):
            raise MemberExists(f"there is a member {name} already")
        return member

    def set_cap(self, member: Member, cap_tokens: int | None, cap_period: CapPeriod = "month") -> None:
        """A member's cap; None takes it away. What was used of a period stays used. Hosts hear of it."""
        _check_cap(cap_tokens)
        with self._connection.transaction():
            store.set_cap(
                self._connection, member.member_id, cap_tokens, None if cap_tokens is None else cap_period
            )
            self._ledger.tell_account(member.account_id)

    def caps(self, member_id: UUID) -> tuple[list[UUID], datetime | None]:
        """The buckets of the caps that a member spends under now, its own and its departments', and when the first of
        them ends.
        """
        now = self._clock.now()
        found: list[UUID] = []
        ends: list[datetime] = []
        for member in store.line_of(self._connection, member_id):
            if member.cap_tokens is None or member.cap_period is None:
                continue
            begin, end = period_of(member.cap_period, member.created_at, now)
            found.append(
                self._ledger.cap_bucket(member.account_id, member.member_id, begin, end, member.cap_tokens)
            )
            if end is not None:
                ends.append(end)
        return found, min(ends, default=None)

    def policy(self, account_id: UUID) -> ChargingPolicy:
        """The charging policy of the newest active product, else of the newest one: what it says of the end holds when it is used up."""
        version = store.newest_offering_version(self._connection, account_id)
        return ChargingPolicy() if version is None else self._offerings.sold(version).offering.policy

    def line_of(self, member_id: UUID) -> list[UUID]:
        """A member and the departments that it is under."""
        return [member.member_id for member in store.line_of(self._connection, member_id)]

    def counts_prompts(self, account_id: UUID) -> bool:
        """Whether a plan of the account counts prompts, so that a tool's result has to be told from one."""
        return self._ledger.counts_prompts(account_id)

    def products(self, subscriber: Subscriber) -> list[Product]:
        return store.products(self._connection, subscriber.subscriber_id)

    def bill_so_far(self, subscriber: Subscriber) -> list[BillLine]:
        """The phone bill's lines, oldest first."""
        return store.lines(self._connection, subscriber.subscriber_id)


def _check_cap(tokens: int | None) -> None:
    if tokens is not None and not 0 < tokens <= CAP_TOKENS_MAX:
        raise Invalid(f"a cap is 1 to {CAP_TOKENS_MAX} tokens")
