"""The phone bill: charge files of what is open, and the carrier's answers to them.

Invariant: a bill is in one file at a time that waits for its answer; a file's text never changes; an answer is taken whole or not
at all, and another one corrects it. What is rejected too often is a case.
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
    Answer,
    FileLine,
    decode_answer,
    line_reference,
    phone_place,
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
    """On one connection, with the rooms that it uses."""

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
        """(sequence, text) of a charge file with what is open and no file waits for an answer of, or None where there is nothing.
        A line says what is open and the VAT in that. What was rejected comes again, at most so often: then it is a case.
        """
        with self._connection.transaction():
            charge_file_store.lock_files(self._connection)
            found = charge_file_store.bills_for_file(self._connection, min(limit, LINES_MAX))
            if not found:
                return None
            sequence_no = charge_file_store.last_sequence(self._connection, LAYOUT) + 1
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
            works_key = self._vault.ensure(NO_PERSON)
            assert works_key is not None
            charge_file_store.add_file(
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
        found = charge_file_store.file_content(self._connection, LAYOUT, sequence_no)
        if found is None:
            raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
        file_id, text = found
        rows = charge_file_store.phones_of_file(self._connection, file_id)
        keys = self._vault.keys(subscriber_id for _, subscriber_id, _ in rows)
        phones = {
            no: keys[subscriber_id].open(phone_place(no), file_id, sealed)
            for no, subscriber_id, sealed in rows
            if sealed is not None and subscriber_id in keys
        }
        return with_phones(text, phones)

    def files(self, limit: int = PAGE_MAX) -> list[dict[str, object]]:
        """Newest first. Of one with a line of who was erased, the hash is not known any more: the number follows from it."""
        found = charge_file_store.files(self._connection, min(limit, PAGE_MAX))
        key = self._vault.key(NO_PERSON)
        for file in found:
            file_id, sealed = file.pop("charge_file_id"), file.pop("sha256_sealed")
            file["sha256"] = (
                None if key is None or sealed is None else key.open("charge_file.sha256", file_id, sealed)
            )
        return found

    # The carrier's answer.

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
            file = charge_file_store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            file_id, count, acknowledged_at = file
            _, answers = read_answer(text, count)
            known = charge_file_store.line_states(self._connection, file_id)
            # What was collected and taken back was accepted, too: an old answer does not collect it anew.
            news = [a for a in answers if known[a.line_no] not in ({"accepted", "reversed"} if a.accepted else {"rejected", "reversed"})]  # fmt: skip
            if acknowledged_at is not None and not news:
                raise ChargeFileAnswered(f"charge file {sequence_no} is acknowledged already")
            # As everybody: subscribers whose dunning may end, accounts in ascending order, bills.
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
        """Wait no longer for the carrier's answer to a file: what it has not answered may be sent again, as what it rejected. An
        answer that comes later is taken all the same. Returns how many lines. Raises `ChargeFileNotFound`, `Invalid`.
        """
        reason = check_reason(reason)
        with self._connection.transaction():
            file = charge_file_store.lock_file(self._connection, LAYOUT, sequence_no)
            if file is None:
                raise ChargeFileNotFound(f"there is no charge file {sequence_no}: `tokenworks bill files`")
            known = charge_file_store.line_states(self._connection, file[0])
            waiting = [Answer(no, False, f"no answer: {reason}") for no in sorted(known) if known[no] == "sent"]  # fmt: skip
            self._charges.lock_accounts(charge_file_store.accounts_of_file(self._connection, file[0]))
            for first in range(0, len(waiting), ANSWER_BATCH):
                self._take_answers(file[0], sequence_no, waiting[first : first + ANSWER_BATCH], known)
        return len(waiting)

    def _take_answers(
        self, file_id: UUID, sequence_no: int, answers: Sequence[Answer], known: Mapping[int, str]
    ) -> None:
        """A batch of an answer's lines, in order. `known`: what each line's state was."""
        charge_file_store.answer_lines(
            self._connection,
            file_id,
            [(a.line_no, "accepted" if a.accepted else "rejected", a.reason) for a in answers],
        )
        found = charge_file_store.lock_bills_of_file(
            self._connection, file_id, [answer.line_no for answer in answers]
        )
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
        """What a line's payment is known by. `anew`: an answer before this one said otherwise."""
        reference = line_reference(sequence_no, line_no)
        before = payment_store.line_payments(self._connection, bill.bill_id, reference) if anew else []
        return f"{reference}#{len(before) + 1}" if before else reference

    def forget(self, subscriber: Subscriber) -> None:
        """Of one who is erased: the hashes of files with its number, which with all other lines would tell it, and what the
        carrier wrote about it in free text.
        """
        charge_file_store.forget_file_hashes(self._connection, subscriber.subscriber_id)
        charge_file_store.forget_reasons(self._connection, subscriber.subscriber_id)
