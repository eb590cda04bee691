"""Collects money by a payment provider. Each request to a provider is stored and committed before it is sent.

A provider is another system: our transaction may fail after the provider has answered. A request without a stored answer is therefore
repeated, with the same reference and amount, before any other request for the bill. A provider takes each reference once, so the money
is taken once and is booked.
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
# Opens a second connection beside that of the transaction: what it commits stays if the transaction is rolled back.
SecondConnection = Callable[[], AbstractContextManager[Connection]]


class PaymentProvider(Protocol):
    """A system that takes money. `collect` is idempotent by its reference."""

    name: str

    def collect(self, reference: str, amount_nano: int, currency: str) -> None:
        """Take an amount. Raises `PaymentDeclined` if nothing was taken. After any other exception money may have been taken."""
        ...


class Collections:
    """On one connection. `lock` reads a bill and locks it with its subscriber and account; `book` books what a provider took."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        second_connection: SecondConnection,
        lock: Callable[[UUID, UUID], Bill],
        book: Callable[[Bill, str, str, int, int | None], Payment],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._second_connection = second_connection
        self._lock = lock
        self._book = book
        self._failed = FailedJobs(connection, clock)

    def take(self, bill: Bill, provider: PaymentProvider, reference: str, asked_nano: int | None) -> Payment:
        """Have the provider take what is open on a locked bill. Raises `PaymentDeclined`."""
        collection = Collection(
            uuid7(), bill.subscriber_id, bill.bill_id, provider.name, reference, bill.remaining_nano, asked_nano,
            bill.currency, "asked", self._clock.now(),
        )  # fmt: skip
        with self._second_connection() as second:
            collection_store.add(second, collection)
        payment = self._ask(bill, provider, collection)
        if payment is None:
            raise PaymentDeclined("the provider declined, and took nothing")
        return payment

    def unanswered(self, bill: Bill, provider: PaymentProvider) -> Payment | None:
        """Repeat the request for a locked bill whose result is not known, and book it if the money was taken. None if there is no such
        request, or the provider declined it.
        """
        found = collection_store.unanswered_of_bill(self._connection, bill.bill_id, provider.name)
        return None if found is None else self._ask(bill, provider, found)

    def finish(self, providers: Mapping[str, PaymentProvider]) -> int:
        """Repeat all requests without a stored answer. Returns how many have one now. Several hosts may run this at once."""
        total, after = 0, UUID(int=0)
        while found := collection_store.unanswered(
            self._connection, list(providers), after, self._failed.waiting("collection"), BATCH
        ):
            for collection in found:
                step = partial(self._finish, collection, providers[collection.method])
                total += self._failed.run("collection", collection.collection_id, step)
            after = found[-1].collection_id
        return total

    def _finish(self, known: Collection, provider: PaymentProvider) -> None:
        bill = self._lock(known.subscriber_id, known.bill_id)
        found = collection_store.unanswered_of_bill(self._connection, bill.bill_id, provider.name)
        if found is not None and found.collection_id == known.collection_id:
            self._ask(bill, provider, found)
        self._failed.done("collection", known.collection_id)

    def _ask(self, bill: Bill, provider: PaymentProvider, collection: Collection) -> Payment | None:
        """Ask the provider and book what it took. None if the provider declined."""
        try:
            provider.collect(collection.reference, collection.amount_nano, collection.currency)
        except PaymentDeclined:
            with self._second_connection() as second:
                collection_store.answer(second, collection.collection_id, "declined", self._clock.now())
            return None
        # In the transaction of the payment: either both are stored, or neither and the request is repeated.
        collection_store.answer(self._connection, collection.collection_id, "booked", self._clock.now())
        return self._book(
            bill, collection.method, collection.reference, collection.amount_nano, collection.asked_nano
        )
