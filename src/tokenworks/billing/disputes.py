"""Questions about lines of bills: a subscriber asks, staff answers. Neither moves money: a correction is a credit note.

Invariant: a line has one open question at a time; a question and its answer are never edited.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import dispute_store as store
from tokenworks.billing.bills import Bills
from tokenworks.billing.errors import BillNotFound, DisputeAnswered, DisputeNotFound, DisputeOpen
from tokenworks.billing.model import Bill, Dispute
from tokenworks.kernel import Clock, Invalid, flaw, uuid7
from tokenworks.subscriptions import Subscriber, Subscriptions

QUESTION_CHARS_MAX: Final = 1000
QUESTIONS_OF_LINE_MAX: Final = 10
PAGE_MAX: Final = 1000
State = Literal["open", "answered"]


class Disputes:
    """Disputes of bills, on one connection."""

    def __init__(
        self, connection: Connection, bills: Bills, subscriptions: Subscriptions, clock: Clock
    ) -> None:
        self._connection = connection
        self._bills = bills
        self._subscriptions = subscriptions
        self._clock = clock

    def ask(self, bill: Bill, line_no: int, question: str) -> Dispute:
        """Question a line of an issued bill. The same question while the first one is open gives the same dispute.

        Raises `BillNotFound`, `DisputeOpen` if another question about the line is open, `Invalid`.
        """
        question = _checked(question, "a question")
        with self._connection.transaction():
            if line_no not in {line.line_no for line in self._bills.lines(bill)}:
                raise BillNotFound(f"bill {bill.bill_no} has no line {line_no}")
            before = store.of_line(self._connection, bill.bill_id, line_no)
            unanswered = next((dispute for dispute in before if dispute.state == "open"), None)
            if unanswered is not None and unanswered.question == question:
                return unanswered
            if unanswered is None and len(before) >= QUESTIONS_OF_LINE_MAX:
                raise Invalid(f"a line of a bill is questioned at most {QUESTIONS_OF_LINE_MAX} times")
            dispute_id = uuid7()
            if unanswered is not None or not store.add(
                self._connection, dispute_id, bill.subscriber_id, bill.bill_id, line_no, question, self._clock.now()
            ):  # fmt: skip
                raise DisputeOpen(f"line {line_no} of bill {bill.bill_no} has an open question already")
        return replace(self.find(dispute_id), new=True)

    def answer(self, dispute_id: UUID, text: str, by: str) -> Dispute:
        """Answer a question and notify the subscriber. `by`: the staff member. Raises `DisputeNotFound`, `DisputeAnswered`, `Invalid`."""
        text = _checked(text, "an answer")
        with self._connection.transaction():
            found = self.find(dispute_id)
            if not store.answer(self._connection, dispute_id, text, by, self._clock.now()):
                raise DisputeAnswered(f"dispute {dispute_id} is answered already")
            self._subscriptions.notify(
                found.subscriber_id, "dispute.answered", str(dispute_id), {"bill_no": found.bill_no, "line_no": found.line_no}
            )  # fmt: skip
            return self.find(dispute_id)

    def find(self, dispute_id: UUID) -> Dispute:
        """Raises `DisputeNotFound`."""
        found = store.find(self._connection, dispute_id)
        if found is None:
            raise DisputeNotFound(
                f"there is no dispute {dispute_id}: `tokenworks bill dispute list` shows them"
            )
        return found

    def of_bills(self, bills: Sequence[Bill]) -> list[Dispute]:
        """The disputes of some bills, oldest first."""
        return store.of_bills(self._connection, [bill.bill_id for bill in bills])

    def all(
        self,
        subscriber: Subscriber | None = None,
        state: State | None = None,
        offset: int = 0,
        limit: int = PAGE_MAX,
    ) -> tuple[list[Dispute], int]:
        """A page, oldest first, and how many disputes there are."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        return store.page(self._connection, subscriber_id, state, offset, min(limit, PAGE_MAX))

    def forget(self, subscriber: Subscriber) -> None:
        """Erase the questions and answers of an erased subscriber, because they may name the person."""
        store.forget(self._connection, subscriber.subscriber_id)


def _checked(text: str, what: str) -> str:
    """A text of one or more lines, as it is stored. Raises `Invalid`."""
    text = text.replace("\r\n", "\n").strip()
    found = flaw(text, lines=True)
    if found is not None:
        raise Invalid(f"{what} has {found}: leave it out")
    if not 1 <= len(text) <= QUESTION_CHARS_MAX:
        raise Invalid(f"{what} has 1 to {QUESTION_CHARS_MAX} characters, not {len(text)}")
    return text
