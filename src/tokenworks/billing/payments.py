"""Payments of bills, their reversals, write-offs and payouts.

Invariant: what the carrier, a bank or a counter collected is booked, whatever is open. An amount beyond what is open is the
subscriber's credit, and a case that a person reconciles.
"""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import bill_store, case_store, charge_file_store, payment_store
from tokenworks.billing.bills import Bills
from tokenworks.billing.cases import Cases
from tokenworks.billing.charge_file import LAYOUT, line_of
from tokenworks.billing.errors import (
    BillSettled,
    CarrierNotAnswered,
    CaseClosed,
    CaseNotFound,
    ChannelNotAllowed,
    PaymentDeclined,
    PaymentNotFound,
    PaymentReused,
    PaymentReversed,
    PayoutNotAllowed,
)
from tokenworks.billing.model import Bill, Channel, Payment, Payout, ReconciliationCase, Reversal
from tokenworks.billing.open_items import OpenItems
from tokenworks.billing.providers import Collections, PaymentProvider, SecondConnection
from tokenworks.charging import FEN_NANO, Charges
from tokenworks.kernel import REFERENCE_CHARS_MAX, Clock, Invalid, check_name, check_reason, uuid7
from tokenworks.subscriptions import Subscriber, Subscriptions

PAGE_MAX: Final = 1000
PAYMENT_NANO_MAX: Final = 10**17
# Methods of payments that the services book themselves: a write-off, and a line of a charge file that the carrier accepted.
WRITE_OFF: Final = "write_off"
PHONE_BILL: Final = "phone_bill"


def _check_reference(reference: str) -> None:
    """Raises `Invalid`."""
    if check_name(reference, "a payment's reference", chars_max=REFERENCE_CHARS_MAX) != reference:
        raise Invalid("a payment's reference has no spaces around it")


class TestProvider:
    """A provider for trials: it moves no money, and declines amounts that end in 13 fen."""

    name = "test"

    def collect(self, reference: str, amount_nano: int, currency: str) -> None:
        if amount_nano // FEN_NANO % 100 == 13:
            raise PaymentDeclined("the test provider declines amounts that end in 13 fen")


class Payments:
    """Payments, reversals, write-offs, payouts and cases, on one connection."""

    def __init__(
        self,
        connection: Connection,
        bills: Bills,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        second_connection: SecondConnection,
    ) -> None:
        self._connection = connection
        self._bills = bills
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._open = OpenItems(connection, subscriptions, clock)
        self._cases = Cases(connection, clock)
        self._collections = Collections(
            connection, clock, second_connection, bills.lock_of, self._book_collected
        )

    def pay(self, bill: Bill, method: str, reference: str, amount_nano: int | None = None) -> Payment:
        """Book money that came in for a bill; without an amount, all that is open on it. An amount beyond what is open is the subscriber's
        credit, and a case to reconcile. Write-offs of the bill are reversed. The same reference gives the same payment. Raises
        `BillSettled` if no amount is given and nothing is open, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        if amount_nano is not None and (not 0 < amount_nano <= PAYMENT_NANO_MAX or amount_nano % FEN_NANO):
            raise Invalid("a payment is more than zero and at most 100,000,000 yuan, in whole fen")
        if method == WRITE_OFF:
            raise Invalid("a write-off is not money that came in: `tokenworks bill write-off` books one")
        with self._connection.transaction():
            found = self._bills.lock(bill)
            before = self._paid_before(found, method, reference, amount_nano)
            if before is not None:
                return before
            for written_off in payment_store.write_offs(self._connection, found.bill_id):
                self.take_back(written_off, found, "it is paid after all")
                found = self._bills.locked(bill)
            if amount_nano is None and not found.remaining_nano:
                raise BillSettled(f"bill {found.bill_no} is paid already")
            return self._book(found, method, reference, amount_nano)

    def _paid_before(
        self, bill: Bill, method: str, reference: str, amount_nano: int | None
    ) -> Payment | None:
        """The payment with this reference, if it is of this bill and amount. Raises `PaymentReused` if it is another payment."""
        before = payment_store.find_payment(self._connection, method, reference)
        if before is not None and (
            before.bill_id != bill.bill_id
            or (before.asked_nano if amount_nano is None else before.amount_nano) != amount_nano
        ):
            raise PaymentReused("the reference was used for another payment: take another one")
        return before

    def _book(
        self,
        bill: Bill,
        method: str,
        reference: str,
        asked_nano: int | None,
        reason: str | None = None,
        amount_nano: int | None = None,
    ) -> Payment:
        """Book a payment of a locked bill: `amount_nano`, else `asked_nano`, else all that is open."""
        amount_nano = amount_nano or asked_nano or bill.remaining_nano
        payment = Payment(
            uuid7(), bill.subscriber_id, bill.bill_id, method, amount_nano, bill.currency, reference,
            self._clock.now(), asked_nano=asked_nano, reason=reason,
        )  # fmt: skip
        entry_id = self._charges.paid(
            bill.account_id, str(payment.payment_id), method, payment.amount_nano, bill.currency
        )
        payment_store.add_payment(self._connection, payment, bill.account_id, entry_id)
        self._cases.surplus([(payment, bill)])
        self._open.settle([bill.subscriber_id])
        self._open.follow(bill.subscriber_id)
        return payment

    def collect(
        self,
        bill: Bill,
        provider: PaymentProvider,
        reference: str,
        amount_nano: int | None = None,
        *,
        dry_run: bool = False,
    ) -> Payment:
        """Have a provider take what is open on a bill; `amount_nano`, if given, must be that amount. An earlier request to the provider
        whose result is not known is repeated first: if the money was taken, it is booked and returned. Raises `PaymentDeclined`,
        `Invalid`, and what `pay` raises. After any other exception of a provider, the next call or `finish_collections` repeats the
        request. A dry run asks no provider.
        """
        _check_reference(reference)
        with self._connection.transaction(force_rollback=dry_run):
            # Under the bill's lock, so that the amount taken is the open amount and is booked before any other payment.
            found = self._bills.lock(bill)
            before = self._paid_before(found, provider.name, reference, amount_nano)
            if before is None and not dry_run:
                before = self._collections.unanswered(found, provider)
            if before is not None:
                return before
            if not found.remaining_nano:
                raise BillSettled(f"bill {found.bill_no} is paid already")
            if amount_nano not in {None, found.remaining_nano}:
                raise Invalid("a provider takes all that is open on a bill, no other amount")
            if dry_run:
                return self._book(found, provider.name, reference, amount_nano)
            return self._collections.take(found, provider, reference, amount_nano)

    def finish_collections(self, providers: Mapping[str, PaymentProvider]) -> int:
        """Repeat the requests to providers (by name) whose result is not known. Returns how many results are known now. Several hosts may
        run this at once.
        """
        return self._collections.finish(providers)

    def _book_collected(
        self, bill: Bill, method: str, reference: str, amount_nano: int, asked_nano: int | None
    ) -> Payment:
        return self._book(bill, method, reference, asked_nano, amount_nano=amount_nano)

    def find(self, payment_id: UUID) -> Payment:
        """Raises `PaymentNotFound`."""
        found = payment_store.payment(self._connection, payment_id)
        if found is None:
            raise PaymentNotFound(f"there is no payment {payment_id}: `tokenworks bill payments` shows them")
        return found

    def all(
        self, subscriber: Subscriber | None = None, offset: int = 0, limit: int = PAGE_MAX
    ) -> tuple[list[Payment], int]:
        """A page of payments, newest first, and how many there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return payment_store.payments(self._connection, subscriber_id, offset, min(limit, PAGE_MAX))

    # Reversals.

    def reverse(self, payment: Payment, reason: str) -> Reversal:
        """Reverse a payment after a chargeback or a mistake: its bill is open again, and so are the bills that its surplus paid; dunning
        that it ended is in force again and goes on from now. A payment that the carrier takes back may be sent again. Raises
        `PaymentNotFound`, `PaymentReversed`, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            known = self.find(payment.payment_id)
            assert known.bill_id is not None
            bill = self._bills.lock_of(known.subscriber_id, known.bill_id)
            known = self.find(
                payment.payment_id
            )  # read again under the lock: another reversal may have come first
            if known.reversed_at is not None:
                raise PaymentReversed("the payment is reversed already")
            reversal = self.take_back(known, bill, reason)
            self._open.follow(bill.subscriber_id)
        return reversal

    def take_back(self, payment: Payment, bill: Bill, reason: str) -> Reversal:
        """As `reverse`, for a locked bill; the caller lets dunning follow."""
        now = self._clock.now()
        before = self._open.settle([bill.subscriber_id])[bill.subscriber_id]
        reversal = Reversal(uuid7(), payment.payment_id, payment.amount_nano, reason, now)
        entry_id = self._charges.paid(
            bill.account_id, str(payment.payment_id), payment.method, -payment.amount_nano, payment.currency, "payment_reversal"
        )  # fmt: skip
        payment_store.add_reversal(self._connection, reversal, bill.account_id, entry_id)
        failed: list[Bill] = []
        line = line_of(payment.reference) if payment.method == PHONE_BILL else None
        if line is not None:
            charge_file_store.reverse_line(self._connection, LAYOUT, *line)
            failed = charge_file_store.add_failures(self._connection, [bill.bill_id])
        self._subscriptions.notify(
            bill.subscriber_id, "payment.failed", str(reversal.reversal_id),
            {"bill_no": bill.bill_no, "amount_nano": payment.amount_nano},
        )  # fmt: skip
        self._cases.payment_reversed(payment, now)
        free = self._open.settle([bill.subscriber_id])[bill.subscriber_id]
        self._cases.rejected([self._bills.locked(rejected) for rejected in failed])
        if free < min(0, before):
            # More was paid out than is left. The subscriber owes the difference although no bill has it.
            self._cases.paid_out(payment, bill, min(0, before) - free)
        return reversal

    def write_off(self, bill: Bill, reason: str, reference: str) -> Payment:
        """Write off what is open on a bill, as an expense. A later payment of the bill reverses the write-off. The same reference gives the
        same write-off. Raises `BillSettled`, `CarrierNotAnswered`, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        reason = check_reason(reason)
        with self._connection.transaction():
            found = self._bills.lock(bill)
            before = self._paid_before(found, WRITE_OFF, reference, None)
            if before is not None:
                if before.reason != reason:
                    raise PaymentReused("the reference was used for another reason: take another one")
                return before
            self._check_answered(found)
            if not found.remaining_nano:
                raise BillSettled(f"nothing is open on bill {found.bill_no}")
            made = self._book(found, WRITE_OFF, reference, None, reason)
            self._cases.resolve(found, f"written off: {reason}")
        return made

    # How a bill is collected.

    def resend(self, bill: Bill, reason: str) -> Bill:
        """Send a bill that was rejected too often to the carrier again: it counts as a new one from the next charge file on. Raises
        `BillSettled`, `ChannelNotAllowed`, `Invalid`.
        """
        return self.set_channel(bill, "phone", reason)

    def set_channel(self, bill: Bill, channel: Channel, reason: str) -> Bill:
        """Collect a bill by the phone bill, or directly from the subscriber. Raises `BillSettled`, `CarrierNotAnswered`,
        `ChannelNotAllowed` if the subscriber is closed and has no phone number any more, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            found = self._bills.lock(bill)
            self._check_answered(found)
            if not found.remaining_nano:
                raise BillSettled(f"nothing is open on bill {found.bill_no}")
            if channel == "phone" and self._subscriptions.find(str(found.subscriber_id)).state == "closed":
                raise ChannelNotAllowed(
                    "the subscriber is closed: its phone number may belong to another person by now"
                )
            bill_store.set_channel(self._connection, found.bill_id, channel)
            self._cases.resolve(
                found, f"{'sent again' if channel == 'phone' else 'collected directly'}: {reason}"
            )
            return self._bills.locked(found)

    def direct(self, offset: int = 0, limit: int = PAGE_MAX) -> tuple[list[Bill], int]:
        """A page of the open bills that are collected directly (those of closed subscribers are among them), oldest first, and how many
        there are.
        """
        return bill_store.direct_bills(self._connection, offset, min(limit, PAGE_MAX))

    def _check_answered(self, bill: Bill) -> None:
        """Raises `CarrierNotAnswered`."""
        if charge_file_store.is_sent(self._connection, bill.bill_id):
            raise CarrierNotAnswered(f"the carrier has bill {bill.bill_no} and has not answered")

    # Cases to reconcile.

    def cases(
        self, *, still_open: bool = True, offset: int = 0, limit: int = PAGE_MAX
    ) -> tuple[list[ReconciliationCase], int]:
        """A page of the cases to reconcile, oldest first, and how many there are."""
        return case_store.cases(
            self._connection, still_open=still_open, offset=offset, limit=min(limit, PAGE_MAX)
        )

    def close_case(self, case_id: UUID, resolution: str) -> ReconciliationCase:
        """Close a case whose money is assigned; no money moves. Raises `CaseNotFound`, `CaseClosed`, `Invalid`."""
        resolution = check_reason(resolution)
        with self._connection.transaction():
            found = case_store.lock_case(self._connection, case_id)
            if found is None:
                raise CaseNotFound(f"there is no case {case_id}: `tokenworks bill cases` shows them")
            if found.closed_at is not None:
                if found.resolution != resolution:
                    raise CaseClosed(f"the case is closed already: {found.resolution}")
                return found
            case_store.close_cases(self._connection, resolution, self._clock.now(), case_id=case_id)
            closed = case_store.lock_case(self._connection, case_id)
            assert closed is not None
        return closed

    # Payouts to closed subscribers.

    def pay_out(self, subscriber: Subscriber, method: str, reference: str) -> Payout:
        """Pay a closed subscriber its free credit, if no bill is open. The same reference gives the same payout. Raises
        `PayoutNotAllowed`, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        with self._connection.transaction():
            self._subscriptions.lock([subscriber.subscriber_id])
            self._charges.lock_accounts([subscriber.account_id])
            before = payment_store.find_payout(self._connection, method, reference)
            if before is not None:
                if before.subscriber_id != subscriber.subscriber_id:
                    raise PaymentReused("the reference was used for another payout")
                return before
            if self._subscriptions.find(str(subscriber.subscriber_id)).state != "closed":
                raise PayoutNotAllowed("the subscriber is not closed: its credits are on the next bill")
            # Less than a fen can be neither paid nor claimed.
            amount = -self._charges.receivable(subscriber.account_id) // FEN_NANO * FEN_NANO
            if amount <= 0:
                raise PayoutNotAllowed("the subscriber is owed nothing")
            if bill_store.has_unpaid(self._connection, subscriber.subscriber_id):
                raise PayoutNotAllowed("an unpaid bill is left: it is paid first")
            payout = Payout(
                uuid7(), subscriber.subscriber_id, method, amount, "CNY", reference, self._clock.now()
            )
            entry_id = self._charges.paid(
                subscriber.account_id, str(payout.payout_id), method, -amount, payout.currency
            )
            payment_store.add_payout(self._connection, payout, subscriber.account_id, entry_id)
            self._open.settle([subscriber.subscriber_id])
        return payout

    def forget(self, subscriber: Subscriber) -> None:
        """Erase the free text in the payments and cases of an erased subscriber."""
        payment_store.forget(self._connection, subscriber.account_id)
        case_store.forget(self._connection, subscriber.subscriber_id)
