"""The bill run, bills and their corrections.

Invariants: every charge is on at most one bill, in one line; a line is its charges rounded to fen once, and the rounding is
posted; a bill is issued once for a subscriber and a period, and never edited.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import bill_store, credit_note_store, open_store
from tokenworks.billing.errors import BillNotFound
from tokenworks.billing.model import Bill, BillRun, CreditNote, tax_of_part
from tokenworks.billing.open_items import OpenItems
from tokenworks.charging import FEN_NANO, BillLine, Charge, Charges, FailedJobs
from tokenworks.kernel import Clock, Invalid, check_reason, uuid7
from tokenworks.subscriptions import (
    BILLING_ZONE,
    KeyReused,
    Subscriber,
    Subscriptions,
    bill_period_end,
    check_idempotency_key,
)

RUN_BATCH: Final = 2000
# The batch after one that raised has this part of its size.
_SMALLER: Final = 8
PAGE_MAX: Final = 1000
_DAYS: Final = range(1, 29)


class Bills:
    """The bill run, bills and credit notes, on one connection."""

    def __init__(
        self,
        connection: Connection,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        *,
        due_days: int = 15,
        batch: int = RUN_BATCH,
    ) -> None:
        self._connection = connection
        self._charges = charges
        self._subscriptions = subscriptions
        self._clock = clock
        self._open = OpenItems(connection, subscriptions, clock)
        self._due_days = due_days
        self._batch_size = batch
        self._failed = FailedJobs(connection, clock)

    def run_by_hand(self, progress: Callable[[int], None] | None = None) -> BillRun:
        """A bill run by command: revenue is recognised up to now first."""
        self._charges.recognise()
        return self.run(progress)

    def run(
        self, progress: Callable[[int], None] | None = None, *, batches_max: int | None = None
    ) -> BillRun:
        """Bill every subscriber whose period has ended and that owes something for it.

        A batch of subscribers is one transaction: whatever ends a run, the next run continues there, and no subscriber is billed twice
        or left out. Memory is bounded by one batch. `progress` is called with the number of bills so far. A run ends after
        `batches_max` batches as well. A batch that raises is made smaller until one subscriber is left; that subscriber is noted in
        `FailedJobs`, tried again later and finally quarantined, and all others get their bills.
        """
        ends = [bill_period_end(day, self._clock.now()) for day in _DAYS]
        bills = lines = amount = batches = 0
        after: UUID | None = UUID(int=0)
        size = self._batch_size
        excluded = self._failed.waiting("bill")
        retried = {failed.ref for failed in self._failed.all() if failed.job == "bill"}
        while after is not None and (batches_max is None or batches < batches_max):
            try:
                with self._connection.transaction():
                    made, made_lines, last = self._batch(ends, after, excluded, size)
                    for subscriber_id in retried & {bill.subscriber_id for bill in made}:
                        self._failed.done("bill", subscriber_id)
            except Exception as error:  # one subscriber of the batch fails: smaller batches find it
                if self._connection.closed or self._connection.broken:
                    raise
                if size > 1:
                    size = -(-size // _SMALLER)
                    continue
                after = next(
                    iter(bill_store.next_due(self._connection, list(_DAYS), ends, after, excluded, 1)), None
                )
                if after is not None:
                    self._failed.note("bill", after, error)
                continue
            after = last
            size = min(self._batch_size, size * 2)
            if made:
                bills += len(made)
                lines += made_lines
                amount += sum(bill.amount_nano for bill in made)
                batches += 1
            if progress is not None:
                progress(bills)
        return BillRun(bills, lines, amount, batches)

    def _batch(
        self, ends: list[datetime], after: UUID, excluded: list[UUID], limit: int
    ) -> tuple[list[Bill], int, UUID | None]:
        due, last = bill_store.lock_due_subscribers(
            self._connection, list(_DAYS), ends, after, excluded, limit
        )
        if not due:
            return [], 0, last
        ids = {subscriber_id: uuid7() for subscriber_id, _, _, _ in due}
        lines = self._charges.put_on_bills(
            [
                (subscriber_id, account_id, ids[subscriber_id], end)
                for subscriber_id, account_id, _, end in due
            ]
        )
        amounts: dict[UUID, int] = {}
        taxes: dict[UUID, int] = {}
        for line in lines:
            amounts[line.bill_id] = amounts.get(line.bill_id, 0) + line.amount_nano
            taxes[line.bill_id] = taxes.get(line.bill_id, 0) + line.tax_nano
        now = self._clock.now()
        numbers = bill_store.next_numbers(self._connection, "bill", len(due))
        made = []
        for (subscriber_id, account_id, begin, end), number in zip(due, numbers, strict=True):
            bill_id = ids[subscriber_id]
            # Charges below half a fen in all are rounded to lines of zero.
            owed = max(0, amounts[bill_id])
            made.append(
                Bill(
                    bill_id, subscriber_id, account_id, f"{end.astimezone(BILLING_ZONE):%Y%m%d}-{number:09d}", begin, end, now,
                    now + timedelta(days=self._due_days), "CNY", amounts[bill_id], taxes[bill_id], owed,
                    "new" if owed else "settled",
                )
            )  # fmt: skip
        bill_store.add_bills(self._connection, made, lines)
        self._subscriptions.notify_many(
            "bill.ready",
            [
                (bill.subscriber_id, str(bill.bill_id),
                 {"bill_no": bill.bill_no, "amount_nano": bill.remaining_nano, "at": bill.due_at.isoformat()})
                for bill in made
                if bill.remaining_nano
            ],
        )  # fmt: skip
        # Earlier free credit pays the new bills.
        self._open.settle([bill.subscriber_id for bill in made])
        return made, len(lines), last

    def due(self) -> tuple[int, int]:
        """The dry run: (bills, nano) that a run would make now."""
        now = self._clock.now()
        return bill_store.count_due(
            self._connection, list(_DAYS), [bill_period_end(day, now) for day in _DAYS]
        )

    def find(self, reference: str) -> Bill:
        """A bill by id or number. Raises `BillNotFound`."""
        try:
            found = bill_store.find_bill(self._connection, UUID(reference))
        except ValueError:
            found = bill_store.bill_by_number(self._connection, reference)
        if found is None:
            raise BillNotFound(f"there is no bill {reference[:60]}: `tokenworks bill list` shows them")
        return found

    def lock(self, bill: Bill) -> Bill:
        """Read a bill and lock it in the caller's transaction: the subscriber first, then the account, then the bill. Raises
        `BillNotFound`.
        """
        return self.lock_of(bill.subscriber_id, bill.bill_id)

    def lock_of(self, subscriber_id: UUID, bill_id: UUID) -> Bill:
        """As `lock`, by ids. Raises `BillNotFound`."""
        self._subscriptions.lock([subscriber_id])
        found = bill_store.find_bill(self._connection, bill_id)
        if found is None:
            raise BillNotFound(f"there is no bill {bill_id}")
        self._charges.lock_accounts([found.account_id])
        return self.locked(found)

    def locked(self, bill: Bill) -> Bill:
        """Read and lock a bill whose account is locked."""
        found = bill_store.find_bill(self._connection, bill.bill_id, lock=True)
        assert found is not None
        return found

    def all(
        self, subscriber: Subscriber | None = None, offset: int = 0, limit: int = PAGE_MAX
    ) -> tuple[list[Bill], int]:
        """A page of bills, newest first, and how many there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return bill_store.bills(self._connection, subscriber_id, offset, min(limit, PAGE_MAX))

    def lines(self, bill: Bill) -> list[BillLine]:
        return bill_store.lines(self._connection, bill.bill_id)

    def line(self, bill: Bill, line_no: int) -> BillLine:
        """Raises `BillNotFound`."""
        for line in self.lines(bill):
            if line.line_no == line_no:
                return line
        raise BillNotFound("there is no such line")

    def open_nano(self, bill: Bill) -> int:
        """What is open on a bill now: its lines less credits and payments; the subscriber's free credit pays the oldest bills first.
        Raises `BillNotFound`.
        """
        return self.find(str(bill.bill_id)).remaining_nano

    def open_tax_nano(self, bill: Bill) -> int:
        """The VAT in what is open on a bill now, in whole fen: a partial payment settles every line in proportion."""
        left = open_store.lines_left(self._connection, [bill.bill_id])
        return tax_of_part(self.open_nano(bill), [left[bill.bill_id]])

    def credit_notes(self, bill: Bill) -> list[CreditNote]:
        """The credit notes of a bill, oldest first."""
        return credit_note_store.credit_notes(self._connection, bill.bill_id)

    def correct(
        self, bill: Bill, line_no: int, amount_nano: int, reason: str, idempotency_key: str | None = None
    ) -> CreditNote:
        """Issue a credit note: give back a part of a line of an issued bill, in whole fen. The bill itself does not change; the note
        reduces what is open on it, and an excess is the subscriber's credit.

        Raises `BillNotFound`, `Invalid`, `KeyReused`, `RefundTooMuch`. The same idempotency key gives the same note.
        """
        reason = check_reason(reason)
        check_idempotency_key(idempotency_key)
        if amount_nano <= 0 or amount_nano % FEN_NANO:
            raise Invalid("a credit note gives back more than zero, in whole fen")
        with self._connection.transaction():
            self._subscriptions.lock([bill.subscriber_id])
            self._charges.lock_accounts([bill.account_id])
            bill_store.find_bill(self._connection, bill.bill_id, lock=True)
            before = (
                credit_note_store.credit_note_of_key(self._connection, idempotency_key)
                if idempotency_key
                else None
            )
            if before is not None:
                if (before.bill_id, before.line_no, before.amount_nano, before.reason) != (
                    bill.bill_id, line_no, amount_nano, reason
                ):  # fmt: skip
                    raise KeyReused("the idempotency key was used for another credit note: take another one")
                return before
            if all(line.line_no != line_no for line in self.lines(bill)):
                raise BillNotFound(f"bill {bill.bill_no} has no line {line_no}")

            def describe(charge: Charge) -> tuple[str, str]:
                # Without the reason, which is on the note: it may name a person, and a bill's lines are never changed.
                return f"{charge.description}: correction", f"{charge.description_zh}（更正）"

            made = self._charges.credit_line(bill.account_id, bill.bill_id, line_no, amount_nano, describe)
            tax = sum(credit.settled_tax_nano or 0 for credit in made)
            (number,) = bill_store.next_numbers(self._connection, "credit_note", 1)
            now = self._clock.now()
            note = CreditNote(
                uuid7(), f"C{now.astimezone(BILLING_ZONE):%Y%m%d}-{number:09d}", bill.bill_id, made[0].charge_id, amount_nano, tax,
                reason, now, line_no, tuple(credit.charge_id for credit in made),
            )  # fmt: skip
            if not credit_note_store.add_credit_note(
                self._connection, note, bill.account_id, idempotency_key
            ):
                raise KeyReused("the idempotency key was used for another credit note: take another one")
            self._open.follow(bill.subscriber_id)
        return note

    def forget(self, subscriber: Subscriber) -> None:
        """Erase the free text of an erased subscriber's credit notes."""
        credit_note_store.forget(self._connection, subscriber.account_id)
