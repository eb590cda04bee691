"""What comes in for bills: payments, the phone bill's charge files, and dunning where nothing comes in."""

from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

from tokenworks.billing import store
from tokenworks.billing.charge_file import (
    LAYOUT,
    LINES_MAX,
    Answer,
    FileLine,
    phone_place,
    read_answer,
    sequence_of,
    with_phones,
    without_phones,
    write_file,
)
from tokenworks.billing.errors import (
    BillNotFound,
    BillSettled,
    ChargeFileAnswered,
    ChargeFileNotFound,
    PaymentDeclined,
    PaymentReused,
    PaymentTooMuch,
    PayoutNotAllowed,
)
from tokenworks.billing.model import DUNNING_STEPS, Bill, DunningPlan, DunningStep, Payment, Payout
from tokenworks.charging import FEN_NANO, Charges
from tokenworks.kernel import REFERENCE_CHARS_MAX, Clock, Invalid, check_line, uuid7
from tokenworks.subscriptions import BILLING_ZONE, Subscriber, Subscriptions
from tokenworks.trust import NOBODY, PersonVault

DUNNING_BATCH: Final = 500
PAGE_MAX: Final = 1000
ANSWER_BATCH: Final = 2000


def _check_reference(reference: str) -> None:
    """Raises `Invalid`."""
    if check_line(reference, "a payment's reference", chars_max=REFERENCE_CHARS_MAX) != reference:
        raise Invalid("a payment's reference has no spaces around it")


class PaymentProvider(Protocol):
    """Who takes money. `collect` is idempotent by its reference."""

    name: str

    def collect(self, reference: str, amount_nano: int, currency: str) -> None:
        """Raises `PaymentDeclined` where nothing was taken."""
        ...


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
        connection: store.Connection,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        dunning: DunningPlan | None,
        vault: PersonVault,
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._dunning = dunning or DunningPlan()

    def pay(self, bill: Bill, method: str, reference: str, amount_nano: int | None = None) -> Payment:
        """Money that came in for a bill: all that is left of it where no amount is said. The same reference again is the same
        payment. Raises `BillSettled`, `PaymentTooMuch`, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        if amount_nano is not None and (amount_nano <= 0 or amount_nano % FEN_NANO):
            raise Invalid("a payment is more than zero, in whole fen")
        with self._connection.transaction():
            found = self._lock(bill)
            before = store.find_payment(self._connection, method, reference)
            if before is not None:
                if before.bill_id != found.bill_id or amount_nano not in {None, before.amount_nano}:
                    raise PaymentReused("the reference was used for another payment")
                return before
            if not found.remaining_nano:
                raise BillSettled(f"bill {found.bill_no} is paid already")
            amount = found.remaining_nano if amount_nano is None else amount_nano
            if amount > found.remaining_nano:
                raise PaymentTooMuch(f"bill {found.bill_no} has less than that left to pay")
            now = self._clock.now()
            payment = Payment(
                uuid7(), found.subscriber_id, found.bill_id, method, amount, found.currency, reference, now
            )
            entry_id = self._charges.paid(
                found.account_id, str(payment.payment_id), method, amount, found.currency
            )
            store.add_payment(self._connection, payment, found.account_id, entry_id)
            store.pay_bill(self._connection, found.bill_id, amount)
            if amount == found.remaining_nano:
                self._lift(found)
        return payment

    def collect(self, bill: Bill, provider: PaymentProvider, reference: str) -> Payment:
        """Have a provider take what is left of a bill. Raises `PaymentDeclined` and what `pay` raises."""
        with self._connection.transaction():
            # Under the bill's lock: what is taken is what is left, and it is booked before anybody else can pay.
            found = self._lock(bill)
            if store.find_payment(self._connection, provider.name, reference) is not None:
                return self.pay(found, provider.name, reference)
            if not found.remaining_nano:
                raise BillSettled(f"bill {found.bill_no} is paid already")
            provider.collect(reference, found.remaining_nano, found.currency)
            return self.pay(found, provider.name, reference, found.remaining_nano)

    def _lock(self, bill: Bill) -> Bill:
        """The subscriber, its account, then the bill. Raises `BillNotFound`."""
        self._subscriptions.lock([bill.subscriber_id])
        self._charges.lock_accounts([bill.account_id])
        found = store.find_bill(self._connection, bill.bill_id, lock=True)
        if found is None:
            raise BillNotFound(f"there is no bill {bill.bill_no}")
        return found

    def all(
        self, subscriber: Subscriber | None = None, offset: int = 0, limit: int = PAGE_MAX
    ) -> tuple[list[Payment], int]:
        """A page, newest first, and how many there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return store.payments(self._connection, subscriber_id, offset, min(limit, PAGE_MAX))

    # The phone bill.

    def make_file(self, limit: int = LINES_MAX) -> tuple[int, str] | None:
        """(sequence, text) of a charge file with what no file has yet, or None where there is nothing. A bill is in one file;
        one whose line was rejected comes again, at most so often.
        """
        with self._connection.transaction():
            store.lock_files(self._connection)
            found = store.bills_for_file(self._connection, min(limit, LINES_MAX))
            if not found:
                return None
            sequence_no = store.last_sequence(self._connection, LAYOUT) + 1
            now, file_id = self._clock.now(), uuid7()
            keys = self._vault.keys(bill.subscriber_id for bill in found)
            # Without a number there is no line: who is being erased at this moment, say.
            found = [bill for bill in found if bill.subscriber_id in keys]
            if not found:
                return None
            phones = self._subscriptions.phones([bill.subscriber_id for bill in found])
            lines = [
                FileLine(
                    bill.bill_no, phones[bill.subscriber_id], bill.period_start.astimezone(BILLING_ZONE), bill.period_end.astimezone(BILLING_ZONE),
                    bill.remaining_nano // FEN_NANO, bill.tax_nano // FEN_NANO,
                )
                for bill in found
            ]  # fmt: skip
            text, digest = write_file(sequence_no, now, lines)
            works_key = self._vault.ensure(NOBODY)
            assert works_key is not None
            store.add_file(
                self._connection, file_id, LAYOUT, sequence_no, sum(bill.remaining_nano for bill in found),
                works_key.seal("charge_file.sha256", file_id, digest),
                without_phones(text), now,
                [
                    (no, bill.bill_id, bill.remaining_nano,
                     keys[bill.subscriber_id].seal(phone_place(no), file_id, phones[bill.subscriber_id]))
                    for no, bill in enumerate(found, 1)
                ],
            )  # fmt: skip
        return sequence_no, text

    def file(self, sequence_no: int) -> str:
        """A charge file again, byte for byte, but for the numbers of who was erased since. Raises `ChargeFileNotFound`."""
        found = store.file_content(self._connection, LAYOUT, sequence_no)
        if found is None:
            raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
        file_id, text = found
        rows = store.phones_of_file(self._connection, file_id)
        keys = self._vault.keys(subscriber_id for _, subscriber_id, _ in rows)
        phones = {
            no: keys[subscriber_id].open(phone_place(no), file_id, sealed)
            for no, subscriber_id, sealed in rows
            if sealed is not None and subscriber_id in keys
        }
        return with_phones(text, phones)

    def files(self, limit: int = PAGE_MAX) -> list[dict[str, object]]:
        """Newest first. Of one with a line of who was erased, the hash is not known any more: the number follows from it."""
        found = store.files(self._connection, min(limit, PAGE_MAX))
        key = self._vault.key(NOBODY)
        for file in found:
            file_id, sealed = file.pop("charge_file_id"), file.pop("sha256_sealed")
            file["sha256"] = (
                None if key is None or sealed is None else key.open("charge_file.sha256", file_id, sealed)
            )
        return found

    def forget(self, subscriber_id: UUID) -> None:
        """Of one who is erased: the hashes of files with its number, which with all other lines would tell it."""
        store.forget_file_hashes(self._connection, subscriber_id)

    def acknowledge(self, text: str, *, dry_run: bool = False) -> tuple[int, int]:
        """The carrier's answer: accepted lines are paid by the phone bill, rejected ones may be sent again. All of it or
        nothing. Returns (accepted, rejected). Raises `AcknowledgementFaulty`, `ChargeFileNotFound`, `ChargeFileAnswered`.
        """
        sequence_no = sequence_of(text)
        with self._connection.transaction(force_rollback=dry_run):
            file = store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            file_id, count, acknowledged_at = file
            if acknowledged_at is not None:
                raise ChargeFileAnswered(f"charge file {sequence_no} is acknowledged already")
            _, answers = read_answer(text, count)
            # As everybody: subscribers whose dunning may end, accounts in ascending order, bills.
            self._subscriptions.lock(store.dunned_of_file(self._connection, file_id))
            self._charges.lock_accounts(store.accounts_of_file(self._connection, file_id))
            for first in range(0, count, ANSWER_BATCH):
                self._take_answers(file_id, sequence_no, answers[first : first + ANSWER_BATCH])
            store.acknowledge_file(self._connection, file_id, self._clock.now())
        accepted = sum(answer.accepted for answer in answers)
        return accepted, len(answers) - accepted

    def _take_answers(self, file_id: UUID, sequence_no: int, answers: Sequence[Answer]) -> None:
        """A batch of an answer's lines, in order."""
        store.answer_lines(
            self._connection,
            file_id,
            [(a.line_no, "accepted" if a.accepted else "rejected", a.reason) for a in answers],
        )
        found = store.lock_bills_of_file(self._connection, file_id, answers[0].line_no, answers[-1].line_no)
        now = self._clock.now()
        # Something may have been paid otherwise meanwhile: the carrier collects the rest.
        paid = [
            (
                Payment(
                    uuid7(), bill.subscriber_id, bill.bill_id, "phone_bill", min(amount, bill.remaining_nano), bill.currency,
                    f"{LAYOUT}:{sequence_no}:{line_no}", now,
                ),
                bill,
            )
            for (line_no, amount, bill), answer in zip(found, answers, strict=True)
            if answer.accepted and bill.remaining_nano
        ]  # fmt: skip
        if not paid:
            return
        entries = self._charges.paid_many(
            [(bill.account_id, str(payment.payment_id), payment.amount_nano) for payment, bill in paid],
            "phone_bill",
            paid[0][0].currency,
        )
        store.add_payments(self._connection, [(payment, bill.account_id) for payment, bill in paid], entries)
        dunned = store.dunned(self._connection, [bill.bill_id for _, bill in paid])
        for payment, bill in paid:
            if bill.bill_id in dunned and payment.amount_nano == bill.remaining_nano:
                self._lift(bill)

    def pay_out(self, subscriber: Subscriber, method: str, reference: str) -> Payout:
        """What a closed subscriber is owed, paid to it: credits beyond what was charged. The same reference again is the same
        payout. Raises `PayoutNotAllowed`, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        with self._connection.transaction():
            self._charges.lock_accounts([subscriber.account_id])
            before = store.find_payout(self._connection, method, reference)
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
            if store.has_unpaid(self._connection, subscriber.subscriber_id):
                raise PayoutNotAllowed("an unpaid bill is left: it is paid first")
            payout = Payout(
                uuid7(), subscriber.subscriber_id, method, amount, "CNY", reference, self._clock.now()
            )
            entry_id = self._charges.paid(
                subscriber.account_id, str(payout.payout_id), method, -amount, payout.currency
            )
            store.add_payout(self._connection, payout, subscriber.account_id, entry_id)
        return payout

    # Dunning.

    def run_dunning(self) -> dict[DunningStep, int]:
        """Take the steps that unpaid bills have come to. Returns how many of each. Runs on many hosts at once."""
        taken: dict[DunningStep, int] = {}
        for step in DUNNING_STEPS:
            before = self._dunning.due_before(step, self._clock.now())
            while before is not None:
                found = store.overdue(self._connection, before, step, DUNNING_BATCH)
                for bill_id, subscriber_id in found:
                    taken[step] = taken.get(step, 0) + self._step(bill_id, subscriber_id, step)
                if len(found) < DUNNING_BATCH:
                    break
        return taken

    def _step(self, bill_id: UUID, subscriber_id: UUID, step: DunningStep) -> int:
        with self._connection.transaction():
            self._subscriptions.lock([subscriber_id])
            subscriber = self._subscriptions.find(str(subscriber_id))
            self._charges.lock_accounts([subscriber.account_id])
            bill = store.find_bill(self._connection, bill_id, lock=True)
            if bill is None or bill.state == "settled" or subscriber.state == "closed":
                return 0
            if not store.add_dunning(self._connection, bill_id, step, subscriber_id, self._clock.now()):
                return 0
            if step == "restrict":
                self._subscriptions.set_state(subscriber, subscriber.state, restricted=True)
            elif step == "suspend":
                self._subscriptions.set_state(subscriber, "suspended", restricted=True)
            elif step == "close":
                self._subscriptions.close(subscriber)
            self._subscriptions.notify(
                subscriber_id,
                f"dunning.{step}",
                str(bill_id),
                {
                    "bill_no": bill.bill_no,
                    "remaining_nano": bill.remaining_nano,
                    "due_at": bill.due_at.isoformat(),
                },
            )
        return 1

    def _lift(self, bill: Bill) -> None:
        """A bill is paid: what it was dunned with ends, where no other unpaid bill says the same."""
        if not store.was_dunned(self._connection, bill.bill_id):
            return
        left = store.lift_dunning(self._connection, bill.bill_id, bill.subscriber_id, self._clock.now())
        subscriber = self._subscriptions.find(str(bill.subscriber_id))
        if subscriber.state == "closed":
            return
        suspended = "suspend" in left
        self._subscriptions.set_state(
            subscriber,
            "suspended" if suspended else "active",
            restricted=bool(left & {"restrict", "suspend"}),
        )
