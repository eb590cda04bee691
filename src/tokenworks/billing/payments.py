"""What comes in for bills, and what is taken back or written off of it.

Invariant: what the carrier, a bank or a counter collected is booked, whatever is open. What is more than that is the
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
# Booked by what happens, never as money that came in.
WRITE_OFF: Final = "write_off"
PHONE_BILL: Final = "phone_bill"


def _check_reference(reference: str) -> None:
    """Raises `Invalid`."""
    if check_name(reference, "a payment's reference", chars_max=REFERENCE_CHARS_MAX) != reference:
        raise Invalid("a payment's reference has no spaces around it")


class TestProvider:
    """Takes everything but amounts that end in 13 fen, and moves nothing: for trying things out."""

    name = "test"

    def collect(self, reference: str, amount_nano: int, currency: str) -> None:
        if amount_nano // FEN_NANO % 100 == 13:
            raise PaymentDeclined("the test provider declines amounts that end in 13 fen")


class Payments:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: Connection,
        bills: Bills,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        beside: SecondConnection,
    ) -> None:
        self._connection = connection
        self._bills = bills
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._open = OpenItems(connection, subscriptions, clock)
        self._cases = Cases(connection, clock)
        self._collections = Collections(connection, clock, beside, bills.lock_of, self._book_collected)

    def pay(self, bill: Bill, method: str, reference: str, amount_nano: int | None = None) -> Payment:
        """Money that came in for a bill: all that is open on it where no amount is said. What is more than that is the
        subscriber's credit, and a case to reconcile. A debt that was written off is one again. The same reference again is the
        same payment. Raises `BillSettled` where no amount is said and nothing is open, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        if amount_nano is not None and (not 0 < amount_nano <= PAYMENT_NANO_MAX or amount_nano % FEN_NANO):
            raise Invalid("a payment is more than zero and at most 100,000,000 yuan, in whole fen")
        if method == WRITE_OFF:
            raise Invalid("what is written off did not come in")
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
        """The payment that has this reference. Raises `PaymentReused` where another one has it."""
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
        """A payment of a locked bill, and what follows from it. `amount_nano`: where it is not what was asked for, or is open."""
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
        """Have a provider take what is open on a bill; `amount_nano`, where it is said, must be that. Where the provider was asked
        before, and it is not known here what it answered, that is asked again first: where it was taken, it is booked, and is
        the answer. Raises `PaymentDeclined`, `Invalid`, and what `pay` raises. Whatever else a provider raises, the same is
        asked again, by the next call or by `finish_collections`. A dry run asks nobody.
        """
        _check_reference(reference)
        with self._connection.transaction(force_rollback=dry_run):
            # Under the bill's lock: what is taken is what is open, and it is booked before anybody else can pay.
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
        """Ask providers (by their names) again for what they were asked for, where their answer is not known here. Returns how
        many have one now. Runs on many hosts at once.
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
        """A page, newest first, and how many there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return payment_store.payments(self._connection, subscriber_id, offset, min(limit, PAGE_MAX))

    # What is taken back.

    def reverse(self, payment: Payment, reason: str) -> Reversal:
        """A payment did not last (a chargeback), or was booked by mistake: its bill is open again, and so is what its surplus
        paid; dunning that it ended is in force again, and goes on from now. What the carrier takes back may be sent again. Raises `PaymentNotFound`, `PaymentReversed`, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            known = self.find(payment.payment_id)
            assert known.bill_id is not None
            bill = self._bills.lock_of(known.subscriber_id, known.bill_id)
            known = self.find(payment.payment_id)  # as it is now that nobody else can take it back
            if known.reversed_at is not None:
                raise PaymentReversed("the payment is reversed already")
            reversal = self.take_back(known, bill, reason)
            self._open.follow(bill.subscriber_id)
        return reversal

    def take_back(self, payment: Payment, bill: Bill, reason: str) -> Reversal:
        """As `reverse`, of a locked bill; dunning does not follow yet."""
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
        self._cases.payment_reversed(payment, now)
        free = self._open.settle([bill.subscriber_id])[bill.subscriber_id]
        self._cases.rejected([self._bills.locked(one) for one in failed])
        if free < min(0, before):
            # More was paid out than there is now. No bill says so: the subscriber owes it all the same.
            self._cases.paid_out(payment, bill, min(0, before) - free)
        return reversal

    def write_off(self, bill: Bill, reason: str, reference: str) -> Payment:
        """Give up what is open on a bill: an expense. Where it is paid after all, it is a debt again. The same reference again is
        the same. Raises `BillSettled`, `CarrierNotAnswered`, `PaymentReused`, `Invalid`.
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
        """Send a bill to the carrier again that was rejected too often: the next charge file has it, so often as a new one.
        Raises `BillSettled`, `ChannelNotAllowed`, `Invalid`.
        """
        return self.set_channel(bill, "phone", reason)

    def set_channel(self, bill: Bill, channel: Channel, reason: str) -> Bill:
        """Collect a bill by the phone bill, or from the subscriber itself. Raises `BillSettled`, `CarrierNotAnswered`,
        `ChannelNotAllowed` where the subscriber has no number any more, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            found = self._bills.lock(bill)
            self._check_answered(found)
            if not found.remaining_nano:
                raise BillSettled(f"nothing is open on bill {found.bill_no}")
            if channel == "phone" and self._subscriptions.find(str(found.subscriber_id)).state == "closed":
                raise ChannelNotAllowed("the subscriber is closed: its number may be somebody else's")
            bill_store.set_channel(self._connection, found.bill_id, channel)
            self._cases.resolve(
                found, f"{'sent again' if channel == 'phone' else 'collected directly'}: {reason}"
            )
            return self._bills.locked(found)

    def direct(self, offset: int = 0, limit: int = PAGE_MAX) -> tuple[list[Bill], int]:
        """Bills that are collected from subscribers themselves, of whom those are that are closed, oldest first: a page, and how
        many there are.
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
        """A page, oldest first, and how many there are."""
        return case_store.cases(
            self._connection, still_open=still_open, offset=offset, limit=min(limit, PAGE_MAX)
        )

    def close_case(self, case_id: UUID, resolution: str) -> ReconciliationCase:
        """It is known where the money belongs. Moves none. Raises `CaseNotFound`, `CaseClosed`, `Invalid`."""
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

    # What is owed to those who are closed.

    def pay_out(self, subscriber: Subscriber, method: str, reference: str) -> Payout:
        """What a closed subscriber is owed, paid to it: its free credit, where nothing is open. The same reference again is the
        same payout. Raises `PayoutNotAllowed`, `PaymentReused`, `Invalid`.
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
                raise PayoutNotAllowed("who is no closed subscriber has credits on the next bill")
            # What is finer than a fen can't be paid, and is nothing that anybody could ask for.
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
        """Of one who is erased: what was written about its payments in free text."""
        payment_store.forget(self._connection, subscriber.account_id)
        case_store.forget(self._connection, subscriber.subscriber_id)
