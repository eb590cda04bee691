"""Having a provider take money: what is asked is written down and committed before it is asked.

A provider is another system: it answers, and our transaction may die before it commits. What is `asked` and not answered is
therefore asked again, with the same reference and the same amount, before anything else is asked for the bill: a provider takes
one reference once, so the money is booked, and is taken once.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Protocol
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import collection_store
from tokenworks.billing.errors import PaymentDeclined
from tokenworks.billing.model import Bill, Collection, Payment
from tokenworks.charging import FailedJobs
from tokenworks.kernel import Clock, uuid7

BATCH: Final = 500
# A connection beside the one of the transaction: what is written there stays, whatever becomes of that.
SecondConnection = Callable[[], AbstractContextManager[Connection]]


class PaymentProvider(Protocol):
    """Who takes money. `collect` is idempotent by its reference."""

    name: str

    def collect(self, reference: str, amount_nano: int, currency: str) -> None:
        """Raises `PaymentDeclined` where nothing was taken. Whatever else it raises, money may have been taken."""
        ...


class Collections:
    """On one connection. `lock` gives a bill as it is, locked with its subscriber and account; `book` books what was taken."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        beside: SecondConnection,
        lock: Callable[[UUID, UUID], Bill],
        book: Callable[[Bill, str, str, int, int | None], Payment],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._beside = beside
        self._lock = lock
        self._book = book
        self._failed = FailedJobs(connection, clock)

    def take(self, bill: Bill, provider: PaymentProvider, reference: str, asked_nano: int | None) -> Payment:
        """What is open on a locked bill. Raises `PaymentDeclined`."""
        made = Collection(
            uuid7(), bill.subscriber_id, bill.bill_id, provider.name, reference, bill.remaining_nano, asked_nano,
            bill.currency, "asked", self._clock.now(),
        )  # fmt: skip
        with self._beside() as beside:
            collection_store.add(beside, made)
        payment = self._ask(bill, provider, made)
        if payment is None:
            raise PaymentDeclined("the provider declined, and took nothing")
        return payment

    def unanswered(self, bill: Bill, provider: PaymentProvider) -> Payment | None:
        """What a provider was asked for on a locked bill, and what came of it is not known here: it is asked again, and booked
        where it was taken. None where there is nothing, or nothing was taken.
        """
        found = collection_store.asked_of(self._connection, bill.bill_id, provider.name)
        return None if found is None else self._ask(bill, provider, found)

    def finish(self, providers: Mapping[str, PaymentProvider]) -> int:
        """Ask again for whatever has no answer. Returns how many have one now. Runs on many hosts at once."""
        total, after = 0, UUID(int=0)
        while found := collection_store.asked(
            self._connection, list(providers), after, self._failed.waiting("collection"), BATCH
        ):
            for one in found:
                step = partial(self._finish, one, providers[one.method])
                total += self._failed.run("collection", one.collection_id, step)
            after = found[-1].collection_id
        return total

    def _finish(self, known: Collection, provider: PaymentProvider) -> None:
        bill = self._lock(known.subscriber_id, known.bill_id)
        found = collection_store.asked_of(self._connection, bill.bill_id, provider.name)
        if found is not None and found.collection_id == known.collection_id:
            self._ask(bill, provider, found)
        self._failed.done("collection", known.collection_id)

    def _ask(self, bill: Bill, provider: PaymentProvider, made: Collection) -> Payment | None:
        """None where the provider declined."""
        try:
            provider.collect(made.reference, made.amount_nano, made.currency)
        except PaymentDeclined:
            with self._beside() as beside:
                collection_store.answer(beside, made.collection_id, "declined", self._clock.now())
            return None
        # With the payment: both are there, or neither is, and it is asked again.
        collection_store.answer(self._connection, made.collection_id, "booked", self._clock.now())
        return self._book(bill, made.method, made.reference, made.amount_nano, made.asked_nano)
