"""What comes in for bills: payments, the phone bill's charge files, and dunning where nothing comes in.

Invariant: what the carrier, a bank or a counter collected is booked, whatever is open. What is more than that is the
subscriber's credit, and a case that a person reconciles.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from tokenworks.billing import open_store, store
from tokenworks.billing.charge_file import (
    LAYOUT,
    LINES_MAX,
    Answer,
    FileLine,
    decode_answer,
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
    CarrierNotAnswered,
    CaseClosed,
    CaseNotFound,
    ChannelNotAllowed,
    ChargeFileAnswered,
    ChargeFileNotFound,
    PaymentDeclined,
    PaymentNotFound,
    PaymentReused,
    PaymentReversed,
    PayoutNotAllowed,
)
from tokenworks.billing.model import (
    DUNNING_STEPS,
    Bill,
    CaseKind,
    Channel,
    DunningPlan,
    DunningStep,
    Payment,
    Payout,
    ReconciliationCase,
    Reversal,
    tax_of_part,
)
from tokenworks.billing.open_items import OpenItems
from tokenworks.billing.providers import Beside, Collections, PaymentProvider
from tokenworks.charging import FEN_NANO, Charges
from tokenworks.kernel import REFERENCE_CHARS_MAX, Clock, Invalid, check_name, check_reason, uuid7
from tokenworks.subscriptions import Subscriber, Subscriptions, day_of, last_day
from tokenworks.trust import NOBODY, PersonVault

DUNNING_BATCH: Final = 500
PAGE_MAX: Final = 1000
ANSWER_BATCH: Final = 2000
PAYMENT_NANO_MAX: Final = 10**17
# Booked by what happens, never as money that came in.
WRITE_OFF: Final = "write_off"
PHONE_BILL: Final = "phone_bill"
_LINE_REFERENCE: Final = re.compile(rf"{LAYOUT}:([0-9]{{1,9}}):([0-9]{{1,9}})(#[0-9]{{1,9}})?")


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
        connection: store.Connection,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        dunning: DunningPlan | None,
        vault: PersonVault,
        beside: Beside,
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._dunning = dunning or DunningPlan()
        self._open = OpenItems(connection, subscriptions, clock)
        self._collections = Collections(connection, clock, beside, self._lock_of, self._book_collected)

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
            found = self._lock(bill)
            before = self._paid_before(found, method, reference, amount_nano)
            if before is not None:
                return before
            for written_off in store.write_offs(self._connection, found.bill_id):
                self._take_back(written_off, found, "it is paid after all")
                found = self._locked(bill)
            if amount_nano is None and not found.remaining_nano:
                raise BillSettled(f"bill {found.bill_no} is paid already")
            return self._book(found, method, reference, amount_nano)

    def _paid_before(
        self, bill: Bill, method: str, reference: str, amount_nano: int | None
    ) -> Payment | None:
        """The payment that has this reference. Raises `PaymentReused` where another one has it."""
        before = store.find_payment(self._connection, method, reference)
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
        store.add_payment(self._connection, payment, bill.account_id, entry_id)
        self._open_surplus([(payment, bill)])
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
            found = self._lock(bill)
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
        found = store.payment(self._connection, payment_id)
        if found is None:
            raise PaymentNotFound(f"there is no payment {payment_id}: `tokenworks bill payments` shows them")
        return found

    # What is taken back.

    def reverse(self, payment: Payment, reason: str) -> Reversal:
        """A payment did not last (a chargeback), or was booked by mistake: its bill is open again, and so is what its surplus
        paid; dunning that it ended is in force again, and goes on from now. What the carrier takes back may be sent again. Raises `PaymentNotFound`, `PaymentReversed`, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            known = self.find(payment.payment_id)
            assert known.bill_id is not None
            bill = self._lock_of(known.subscriber_id, known.bill_id)
            known = self.find(payment.payment_id)  # as it is now that nobody else can take it back
            if known.reversed_at is not None:
                raise PaymentReversed("the payment is reversed already")
            reversal = self._take_back(known, bill, reason)
            self._open.follow(bill.subscriber_id)
        return reversal

    def _take_back(self, payment: Payment, bill: Bill, reason: str) -> Reversal:
        """Of a locked bill."""
        now = self._clock.now()
        before = self._open.settle([bill.subscriber_id])[bill.subscriber_id]
        reversal = Reversal(uuid7(), payment.payment_id, payment.amount_nano, reason, now)
        entry_id = self._charges.paid(
            bill.account_id, str(payment.payment_id), payment.method, -payment.amount_nano, payment.currency, "payment_reversal"
        )  # fmt: skip
        store.add_reversal(self._connection, reversal, bill.account_id, entry_id)
        failed: list[Bill] = []
        line = _LINE_REFERENCE.fullmatch(payment.reference) if payment.method == PHONE_BILL else None
        if line is not None:
            store.reverse_line(self._connection, LAYOUT, int(line[1]), int(line[2]))
            failed = store.add_failures(self._connection, [bill.bill_id])
        open_store.close_cases(
            self._connection, "the payment was reversed", now, payment_id=payment.payment_id
        )
        free = self._open.settle([bill.subscriber_id])[bill.subscriber_id]
        self._open_cases("rejected", [self._locked(one) for one in failed])
        if free < min(0, before):
            # More was paid out than there is now. No bill says so: the subscriber owes it all the same.
            self._add_cases([self._case("paid_out", bill, min(0, before) - free, payment.payment_id)])
        return reversal

    def write_off(self, bill: Bill, reason: str, reference: str) -> Payment:
        """Give up what is open on a bill: an expense. Where it is paid after all, it is a debt again. The same reference again is
        the same. Raises `BillSettled`, `CarrierNotAnswered`, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        reason = check_reason(reason)
        with self._connection.transaction():
            found = self._lock(bill)
            before = self._paid_before(found, WRITE_OFF, reference, None)
            if before is not None:
                if before.reason != reason:
                    raise PaymentReused("the reference was used for another reason: take another one")
                return before
            self._check_answered(found)
            if not found.remaining_nano:
                raise BillSettled(f"nothing is open on bill {found.bill_no}")
            made = self._book(found, WRITE_OFF, reference, None, reason)
            self._resolve(found, f"written off: {reason}")
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
            found = self._lock(bill)
            self._check_answered(found)
            if not found.remaining_nano:
                raise BillSettled(f"nothing is open on bill {found.bill_no}")
            if channel == "phone" and self._subscriptions.find(str(found.subscriber_id)).state == "closed":
                raise ChannelNotAllowed("the subscriber is closed: its number may be somebody else's")
            store.set_channel(self._connection, found.bill_id, channel)
            self._resolve(found, f"{'sent again' if channel == 'phone' else 'collected directly'}: {reason}")
            return self._locked(found)

    def direct(self, offset: int = 0, limit: int = PAGE_MAX) -> tuple[list[Bill], int]:
        """Bills that are collected from subscribers themselves, of whom those are that are closed, oldest first: a page, and how
        many there are.
        """
        return store.direct_bills(self._connection, offset, min(limit, PAGE_MAX))

    def _check_answered(self, bill: Bill) -> None:
        """Raises `CarrierNotAnswered`."""
        if store.is_sent(self._connection, bill.bill_id):
            raise CarrierNotAnswered(f"the carrier has bill {bill.bill_no} and has not answered")

    # Cases to reconcile.

    def cases(
        self, *, still_open: bool = True, offset: int = 0, limit: int = PAGE_MAX
    ) -> tuple[list[ReconciliationCase], int]:
        """A page, oldest first, and how many there are."""
        return open_store.cases(
            self._connection, still_open=still_open, offset=offset, limit=min(limit, PAGE_MAX)
        )

    def close_case(self, case_id: UUID, resolution: str) -> ReconciliationCase:
        """It is known where the money belongs. Moves none. Raises `CaseNotFound`, `CaseClosed`, `Invalid`."""
        resolution = check_reason(resolution)
        with self._connection.transaction():
            found = open_store.lock_case(self._connection, case_id)
            if found is None:
                raise CaseNotFound(f"there is no case {case_id}: `tokenworks bill cases` shows them")
            if found.closed_at is not None:
                if found.resolution != resolution:
                    raise CaseClosed(f"the case is closed already: {found.resolution}")
                return found
            open_store.close_cases(self._connection, resolution, self._clock.now(), case_id=case_id)
            closed = open_store.lock_case(self._connection, case_id)
            assert closed is not None
        return closed

    def _open_surplus(self, payments: Sequence[tuple[Payment, Bill]]) -> None:
        """Cases of payments that were more than what was open, as their bills say that still."""
        self._add_cases(
            [
                self._case("surplus", bill, payment.amount_nano - bill.remaining_nano, payment.payment_id)
                for payment, bill in payments
                if payment.amount_nano > bill.remaining_nano
            ]
        )

    def _open_cases(self, kind: CaseKind, bills: Sequence[Bill]) -> None:
        self._add_cases(
            [self._case(kind, bill, bill.remaining_nano) for bill in bills if bill.remaining_nano]
        )

    def _case(
        self, kind: CaseKind, bill: Bill, amount_nano: int, payment_id: UUID | None = None
    ) -> ReconciliationCase:
        return ReconciliationCase(
            uuid7(), bill.subscriber_id, bill.bill_id, payment_id, kind, amount_nano, self._clock.now()
        )

    def _add_cases(self, cases: Sequence[ReconciliationCase]) -> None:
        if cases:
            open_store.add_cases(self._connection, cases)

    def _resolve(self, bill: Bill, resolution: str) -> None:
        """What became of a bill that the carrier did not collect."""
        open_store.close_cases(self._connection, resolution, self._clock.now(), rejected_bill_id=bill.bill_id)

    def _lock(self, bill: Bill) -> Bill:
        """The subscriber, its account, then the bill. Raises `BillNotFound`."""
        return self._lock_of(bill.subscriber_id, bill.bill_id)

    def _lock_of(self, subscriber_id: UUID, bill_id: UUID) -> Bill:
        self._subscriptions.lock([subscriber_id])
        found = store.find_bill(self._connection, bill_id)
        if found is None:
            raise BillNotFound(f"there is no bill {bill_id}")
        self._charges.lock_accounts([found.account_id])
        return self._locked(found)

    def _locked(self, bill: Bill) -> Bill:
        """A bill of a locked account, as it is now."""
        found = store.find_bill(self._connection, bill.bill_id, lock=True)
        assert found is not None
        return found

    def all(
        self, subscriber: Subscriber | None = None, offset: int = 0, limit: int = PAGE_MAX
    ) -> tuple[list[Payment], int]:
        """A page, newest first, and how many there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return store.payments(self._connection, subscriber_id, offset, min(limit, PAGE_MAX))

    # The phone bill.

    def make_file(self, limit: int = LINES_MAX) -> tuple[int, str] | None:
        """(sequence, text) of a charge file with what is open and no file waits for an answer of, or None where there is nothing.
        A line says what is open and the VAT in that. What was rejected comes again, at most so often: then it is a case.
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
            left = open_store.lines_left(self._connection, [bill.bill_id for bill in found])
            lines = [
                FileLine(
                    bill.bill_no, phones[bill.subscriber_id], day_of(bill.period_start), last_day(bill.period_end),
                    bill.remaining_nano // FEN_NANO, tax_of_part(bill.remaining_nano, [left[bill.bill_id]]) // FEN_NANO,
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

    def forget(self, subscriber: Subscriber) -> None:
        """Of one who is erased: the hashes of files with its number, which with all other lines would tell it, and what was
        written about it in free text.
        """
        store.forget_file_hashes(self._connection, subscriber.subscriber_id)
        store.forget_texts(self._connection, subscriber.subscriber_id, subscriber.account_id)

    def acknowledge(self, text: str | bytes, *, dry_run: bool = False) -> tuple[int, int]:
        """The carrier's answer: accepted lines are paid by the phone bill, all that was sent, whatever is open by now; rejected
        ones may be sent again. All of it or nothing. Another answer to the same file corrects the first one: what it accepts is
        booked then, what it rejects now is reversed. Returns (accepted, rejected).

        Raises `AcknowledgementFaulty`, `ChargeFileNotFound`, and `ChargeFileAnswered` where it says nothing that is new.
        """
        if isinstance(text, bytes):
            text = decode_answer(text)
        sequence_no = sequence_of(text)
        with self._connection.transaction(force_rollback=dry_run):
            file = store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            file_id, count, acknowledged_at = file
            _, answers = read_answer(text, count)
            known = store.line_states(self._connection, file_id)
            # What was collected and taken back was accepted, too: an old answer does not collect it anew.
            news = [a for a in answers if known[a.line_no] not in ({"accepted", "reversed"} if a.accepted else {"rejected", "reversed"})]  # fmt: skip
            if acknowledged_at is not None and not news:
                raise ChargeFileAnswered(f"charge file {sequence_no} is acknowledged already")
            # As everybody: subscribers whose dunning may end, accounts in ascending order, bills.
            dunned = store.dunned_of_file(self._connection, file_id)
            self._subscriptions.lock(dunned)
            self._charges.lock_accounts(store.accounts_of_file(self._connection, file_id))
            for first in range(0, len(news), ANSWER_BATCH):
                self._take_answers(file_id, sequence_no, news[first : first + ANSWER_BATCH], known)
            for subscriber_id in dunned:
                self._open.follow(subscriber_id)
            if acknowledged_at is None:
                store.acknowledge_file(self._connection, file_id, self._clock.now())
        accepted = sum(answer.accepted for answer in answers)
        return accepted, len(answers) - accepted

    def lapse(self, sequence_no: int, reason: str) -> int:
        """Wait no longer for the carrier's answer to a file: what it has not answered may be sent again, as what it rejected. An
        answer that comes later is taken all the same. Returns how many lines. Raises `ChargeFileNotFound`, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            file = store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            known = store.line_states(self._connection, file[0])
            waiting = [Answer(no, False, f"no answer: {reason}") for no in sorted(known) if known[no] == "sent"]  # fmt: skip
            self._charges.lock_accounts(store.accounts_of_file(self._connection, file[0]))
            for first in range(0, len(waiting), ANSWER_BATCH):
                self._take_answers(file[0], sequence_no, waiting[first : first + ANSWER_BATCH], known)
        return len(waiting)

    def _take_answers(
        self, file_id: UUID, sequence_no: int, answers: Sequence[Answer], known: Mapping[int, str]
    ) -> None:
        """A batch of an answer's lines, in order. `known`: what each line's state was."""
        store.answer_lines(
            self._connection,
            file_id,
            [(a.line_no, "accepted" if a.accepted else "rejected", a.reason) for a in answers],
        )
        found = store.lock_bills_of_file(self._connection, file_id, [answer.line_no for answer in answers])
        now = self._clock.now()
        # Something may have been paid otherwise meanwhile: the carrier has collected what it was asked for all the same.
        paid = [
            (
                Payment(
                    uuid7(), bill.subscriber_id, bill.bill_id, PHONE_BILL, amount, bill.currency,
                    self._line_reference(bill, sequence_no, line_no, anew=known[line_no] != "sent"), now, asked_nano=amount,
                ),
                bill,
            )
            for (line_no, amount, bill), answer in zip(found, answers, strict=True)
            if answer.accepted
        ]  # fmt: skip
        if paid:
            entries = self._charges.paid_many(
                [(bill.account_id, str(payment.payment_id), payment.amount_nano) for payment, bill in paid],
                PHONE_BILL,
                paid[0][0].currency,
            )
            store.add_payments(
                self._connection, [(payment, bill.account_id) for payment, bill in paid], entries
            )
            self._open_surplus(paid)
        refused = [
            (line_no, bill)
            for (line_no, _, bill), answer in zip(found, answers, strict=True)
            if not answer.accepted
        ]
        for line_no, bill in refused:
            if known[line_no] == "accepted":
                line = f"{LAYOUT}:{sequence_no}:{line_no}"
                *_, collected = store.line_payments(self._connection, bill.bill_id, line)
                self._take_back(collected, bill, "the carrier says now that it did not collect it")
        failed = store.add_failures(
            self._connection, [bill.bill_id for line_no, bill in refused if known[line_no] == "sent"]
        )
        self._open.settle([bill.subscriber_id for _, _, bill in found])
        self._open_cases("rejected", [self._locked(bill) for bill in failed])

    def _line_reference(self, bill: Bill, sequence_no: int, line_no: int, *, anew: bool) -> str:
        """What a line's payment is known by. `anew`: an answer before this one said otherwise."""
        reference = f"{LAYOUT}:{sequence_no}:{line_no}"
        before = store.line_payments(self._connection, bill.bill_id, reference) if anew else []
        return f"{reference}#{len(before) + 1}" if before else reference

    def pay_out(self, subscriber: Subscriber, method: str, reference: str) -> Payout:
        """What a closed subscriber is owed, paid to it: its free credit, where nothing is open. The same reference again is the
        same payout. Raises `PayoutNotAllowed`, `PaymentReused`, `Invalid`.
        """
        _check_reference(reference)
        with self._connection.transaction():
            self._subscriptions.lock([subscriber.subscriber_id])
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
            self._open.settle([subscriber.subscriber_id])
        return payout

    # Dunning.

    def run_dunning(self) -> dict[DunningStep, int]:
        """Take the steps that unpaid bills have come to. Returns how many of each. Runs on many hosts at once."""
        self._end_dunning()
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
            if bill is None or not bill.remaining_nano or subscriber.state == "closed":
                return 0
            if store.is_sent(self._connection, bill_id):
                return 0  # the carrier may have collected it: its answer comes first
            if not store.add_dunning(self._connection, bill_id, step, subscriber_id, self._clock.now()):
                return 0
            if step == "restrict":
                suspended = "payment" in subscriber.suspended_by
                self._subscriptions.set_dunned(subscriber, restricted=True, suspended=suspended)
            elif step == "suspend":
                self._subscriptions.set_dunned(subscriber, restricted=True, suspended=True)
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

    def _end_dunning(self) -> None:
        """Of bills that a credit of an order or a refund has settled meanwhile."""
        for subscriber_id in store.dunned_for_nothing(self._connection, DUNNING_BATCH):
            with self._connection.transaction():
                self._subscriptions.lock([subscriber_id])
                self._open.follow(subscriber_id)
