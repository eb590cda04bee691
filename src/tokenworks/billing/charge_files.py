"""The phone bill: charge files with the open amounts of bills, and the carrier's answers to them.

Invariant: a bill is in at most one unanswered file; a file's text never changes; an answer is applied whole or not at all, and a later
answer corrects it. A bill that is rejected too often becomes a case to reconcile.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import charge_file_store, open_store, payment_store
from tokenworks.billing.bills import Bills
from tokenworks.billing.cases import Cases
from tokenworks.billing.charge_file import (
    LAYOUT,
    LINES_MAX,
    FileLine,
    LineAnswer,
    decode_answer,
    line_reference,
    phone_field,
    read_answer,
    sequence_of,
    with_phones,
    without_phones,
    write_file,
)
from tokenworks.billing.errors import ChargeFileAnswered, ChargeFileNotFound
from tokenworks.billing.model import Bill, Payment, tax_of_part
from tokenworks.billing.open_items import OpenItems
from tokenworks.billing.payments import PHONE_BILL, Payments
from tokenworks.charging import FEN_NANO, Charges
from tokenworks.kernel import Clock, check_reason, uuid7
from tokenworks.subscriptions import Subscriber, Subscriptions, day_of, last_day
from tokenworks.trust import NO_PERSON, PersonVault

PAGE_MAX: Final = 1000
ANSWER_BATCH: Final = 2000


class ChargeFiles:
    """Charge files and the carrier's answers, on one connection."""

    def __init__(
        self,
        connection: Connection,
        bills: Bills,
        payments: Payments,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        vault: PersonVault,
    ) -> None:
        self._connection = connection
        self._bills = bills
        self._payments = payments
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._vault = vault
        self._open = OpenItems(connection, subscriptions, clock)
        self._cases = Cases(connection, clock)

    def make_file(self, limit: int = LINES_MAX) -> tuple[int, str] | None:
        """(sequence, text) of a new charge file with the bills that are open and in no unanswered file; None if there are none. A line
        has the open amount and the VAT in it. A rejected bill is sent again until it has been rejected `REJECTIONS_MAX` times.
        """
        with self._connection.transaction():
            charge_file_store.lock_files(self._connection)
            found = charge_file_store.bills_for_file(self._connection, min(limit, LINES_MAX))
            if not found:
                return None
            sequence_no = charge_file_store.last_sequence(self._connection, LAYOUT) + 1
            now, file_id = self._clock.now(), uuid7()
            keys = self._vault.keys(bill.subscriber_id for bill in found)
            # A subscriber without a key has no phone number any more (it is just being erased), so its bills get no line.
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
            common_key = self._vault.ensure(NO_PERSON)
            assert common_key is not None
            charge_file_store.add_file(
                self._connection, file_id, LAYOUT, sequence_no, sum(bill.remaining_nano for bill in found),
                common_key.seal("charge_file.sha256", file_id, digest),
                without_phones(text), now,
                [
                    (no, bill.bill_id, bill.remaining_nano,
                     keys[bill.subscriber_id].seal(phone_field(no), file_id, phones[bill.subscriber_id]))
                    for no, bill in enumerate(found, 1)
                ],
            )  # fmt: skip
        return sequence_no, text

    def file(self, sequence_no: int) -> str:
        """The text of a charge file, byte for byte, except the phone numbers of erased subscribers. Raises `ChargeFileNotFound`."""
        found = charge_file_store.file_content(self._connection, LAYOUT, sequence_no)
        if found is None:
            raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
        file_id, text = found
        rows = charge_file_store.phones_of_file(self._connection, file_id)
        keys = self._vault.keys(subscriber_id for _, subscriber_id, _ in rows)
        phones = {
            no: keys[subscriber_id].open(phone_field(no), file_id, sealed)
            for no, subscriber_id, sealed in rows
            if sealed is not None and subscriber_id in keys
        }
        return with_phones(text, phones)

    def files(self, limit: int = PAGE_MAX) -> list[dict[str, object]]:
        """Charge files, newest first. The hash of a file with an erased subscriber is None, because the phone number follows from it."""
        found = charge_file_store.files(self._connection, min(limit, PAGE_MAX))
        key = self._vault.key(NO_PERSON)
        for file in found:
            file_id, sealed = file.pop("charge_file_id"), file.pop("sha256_sealed")
            assert isinstance(file_id, UUID)
            if key is None or sealed is None:
                file["sha256"] = None
                continue
            assert isinstance(sealed, bytes)
            file["sha256"] = key.open("charge_file.sha256", file_id, sealed)
        return found

    # The carrier's answer.

    def acknowledge(self, text: str | bytes, *, dry_run: bool = False) -> tuple[int, int]:
        """Apply the carrier's answer, whole or not at all. An accepted line is booked as a payment of the amount that was sent, whatever
        is open by now; a rejected line may be sent again. A later answer to the same file corrects the first one: lines that it newly
        accepts are booked, and payments of lines that it newly rejects are reversed. Returns (accepted, rejected).

        Raises `AcknowledgementFaulty`, `ChargeFileNotFound`, and `ChargeFileAnswered` if the answer says nothing new.
        """
        if isinstance(text, bytes):
            text = decode_answer(text)
        sequence_no = sequence_of(text)
        with self._connection.transaction(force_rollback=dry_run):
            file = charge_file_store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            file_id, count, acknowledged_at = file
            _, answers = read_answer(text, count)
            known = charge_file_store.line_states(self._connection, file_id)
            # A reversed line was accepted before, so neither answer to it is new: an old answer must not book it again.
            news = [a for a in answers if known[a.line_no] not in ({"accepted", "reversed"} if a.accepted else {"rejected", "reversed"})]  # fmt: skip
            if acknowledged_at is not None and not news:
                raise ChargeFileAnswered(f"charge file {sequence_no} is acknowledged already")
            # The order of locks: subscribers whose dunning may end, accounts in ascending order, bills.
            dunned = charge_file_store.dunned_of_file(self._connection, file_id)
            self._subscriptions.lock(dunned)
            self._charges.lock_accounts(charge_file_store.accounts_of_file(self._connection, file_id))
            for first in range(0, len(news), ANSWER_BATCH):
                self._take_answers(file_id, sequence_no, news[first : first + ANSWER_BATCH], known)
            for subscriber_id in dunned:
                self._open.follow(subscriber_id)
            if acknowledged_at is None:
                charge_file_store.acknowledge_file(self._connection, file_id, self._clock.now())
        accepted = sum(answer.accepted for answer in answers)
        return accepted, len(answers) - accepted

    def lapse(self, sequence_no: int, reason: str) -> int:
        """Wait no longer for the carrier's answer to a file: unanswered lines count as rejected and may be sent again. An answer that
        comes later is still applied. Returns how many lines. Raises `ChargeFileNotFound`, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            file = charge_file_store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            known = charge_file_store.line_states(self._connection, file[0])
            unanswered = [LineAnswer(no, False, f"no answer: {reason}") for no in sorted(known) if known[no] == "sent"]  # fmt: skip
            self._charges.lock_accounts(charge_file_store.accounts_of_file(self._connection, file[0]))
            for first in range(0, len(unanswered), ANSWER_BATCH):
                self._take_answers(file[0], sequence_no, unanswered[first : first + ANSWER_BATCH], known)
        return len(unanswered)

    def _take_answers(
        self, file_id: UUID, sequence_no: int, answers: Sequence[LineAnswer], known: Mapping[int, str]
    ) -> None:
        """Apply a batch of an answer's lines, in order. `known`: the state of each line before the answer."""
        charge_file_store.answer_lines(
            self._connection,
            file_id,
            [(a.line_no, "accepted" if a.accepted else "rejected", a.reason) for a in answers],
        )
        found = charge_file_store.lock_bills_of_file(
            self._connection, file_id, [answer.line_no for answer in answers]
        )
        now = self._clock.now()
        # The payment is the amount that was sent even if the bill was paid otherwise meanwhile: the carrier has collected it.
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
            payment_store.add_payments(
                self._connection, [(payment, bill.account_id) for payment, bill in paid], entries
            )
            self._cases.surplus(paid)
        refused = [
            (line_no, bill)
            for (line_no, _, bill), answer in zip(found, answers, strict=True)
            if not answer.accepted
        ]
        for line_no, bill in refused:
            if known[line_no] == "accepted":
                line = line_reference(sequence_no, line_no)
                *_, collected = payment_store.line_payments(self._connection, bill.bill_id, line)
                self._payments.take_back(collected, bill, "the carrier says now that it did not collect it")
        failed = charge_file_store.add_failures(
            self._connection, [bill.bill_id for line_no, bill in refused if known[line_no] == "sent"]
        )
        self._open.settle([bill.subscriber_id for _, _, bill in found])
        self._cases.rejected([self._bills.locked(bill) for bill in failed])

    def _line_reference(self, bill: Bill, sequence_no: int, line_no: int, *, anew: bool) -> str:
        """The reference of a line's payment. `anew`: an earlier answer had another result for the line."""
        reference = line_reference(sequence_no, line_no)
        before = payment_store.line_payments(self._connection, bill.bill_id, reference) if anew else []
        return f"{reference}#{len(before) + 1}" if before else reference

    def forget(self, subscriber: Subscriber) -> None:
        """Erase, for an erased subscriber, the hashes of files with its phone number (with the other lines they would reveal it) and the
        carrier's free text about it.
        """
        charge_file_store.forget_file_hashes(self._connection, subscriber.subscriber_id)
        charge_file_store.forget_reasons(self._connection, subscriber.subscriber_id)
