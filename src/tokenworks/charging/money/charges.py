"""Charges: what a subscriber owes, its tax, and how it becomes revenue.

For every charge: net = amount - tax = recognised + broken (breakage) + refunded + what is still owed to the subscriber.
Everything moves by entries in money: receivable, tax, customer_liability, revenue, breakage, refund, rounding, and
where payments come from. Runs in the caller's transactions.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.errors import ChargeNotFound, CreditLimitReached, RefundTooMuch
from tokenworks.charging.ledger import bucket_store, store, whose_store
from tokenworks.charging.model import PER_UNIT
from tokenworks.charging.money import charge_store
from tokenworks.charging.money.model import BillLine, Charge, Sale
from tokenworks.charging.money.revenue import fen_of, share, tax_in
from tokenworks.kernel import Clock, uuid7

RECOGNISE_BATCH: Final = 1000
READ_BATCH: Final = 1000


class Charges:
    """On one connection (autocommit), in the caller's transaction where there is one."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._settled: Callable[[Sequence[UUID]], object] = _nobody

    def when_settled(self, listener: Callable[[Sequence[UUID]], object]) -> None:
        """Whom to tell, in the same transaction, whose bills a credit took something off: billing keeps what is open on them."""
        self._settled = listener

    def sell(self, sale: Sale) -> Charge | None:
        """The charge, its entry, and the buckets that it pays for (whole units, rounded down where it is a part).

        A zero is not a row: what rounds to nothing makes no bucket, and what costs nothing makes no charge (None).
        """
        assert 0 <= sale.share_num <= sale.share_den
        amount = 0 if sale.free else share(sale.price_nano, sale.share_num, sale.share_den)
        charge_id = uuid7() if amount else None
        total = 0
        with self._connection.transaction():
            for spec in sale.specs:
                quantity = share(spec.quantity, sale.share_num, sale.share_den) * PER_UNIT
                if not quantity:
                    continue
                total += quantity
                bucket_store.add_bucket(
                    self._connection,
                    account_id=sale.account_id,
                    product_id=sale.product_id,
                    kind="balance",
                    unit=spec.unit,
                    total=quantity,
                    priority=spec.priority,
                    valid_from=sale.period_start,
                    valid_until=sale.period_end,
                    model_classes=spec.model_classes,
                    rate_version=sale.rate_version,
                    charge_id=charge_id,
                    rollover=sale.rollover
                    and (min(quantity, (sale.rollover[0] or spec.quantity) * PER_UNIT), sale.rollover[1]),
                )
            store.tell_account(self._connection, sale.account_id)
            if charge_id is None:
                return None
            tax = tax_in(amount, sale.vat_percent)
            entry_id = store.post(
                self._connection,
                sale.account_id,
                "charge",
                str(charge_id),
                [
                    ("receivable", sale.currency, None, amount),
                    ("tax", sale.currency, None, -tax),
                    ("customer_liability", sale.currency, None, tax - amount),
                ],
            )
            by_usage = sale.recognise == "usage" and total > 0
            charge = Charge(
                charge_id, sale.account_id, sale.subscriber_id, sale.product_id, sale.offering_version, sale.kind, sale.number,
                self._clock.now(), sale.period_start, sale.period_end, sale.description, sale.description_zh, sale.price_nano,
                sale.share_num, sale.share_den, amount, sale.vat_percent, tax, sale.currency, entry_id, None, total if by_usage else 0,
                "usage" if by_usage else "time", 0, 0, 0, 0, None, None, None,
            )  # fmt: skip
            charge_store.add_charge(self._connection, charge)
        return charge

    def limited(self, account_id: UUID, limit_nano: int | None) -> Callable[[int], None]:
        """Before something is charged in this transaction, which has locked the subscriber: what it returns is called when that is
        done, with what is charged for it later, in nano. That raises `CreditLimitReached` where more is owed than the limit allows,
        and more than before: what makes the debt smaller is always allowed.
        """
        if limit_nano is None:
            return lambda _to_come_nano: None
        before = self.receivable(account_id)

        def check(to_come_nano: int) -> None:
            owed = self.receivable(account_id) + to_come_nano
            if owed > max(limit_nano, before):
                raise CreditLimitReached(
                    "that is more than the credit limit allows: something has to be paid first, or the operator raises the limit"
                )

        return check

    def credit(
        self,
        charge: Charge,
        amount_nano: int,
        kind: Literal["credit", "refund"],
        description: str,
        description_zh: str,
    ) -> Charge:
        """Give a part of a charge back: a negative charge. Where the charge is on a bill, it takes its amount off that bill, in
        fen; else both come on the next one. First what is still owed for it goes, then revenue (posted to `refund`, never taken
        from what was recognised). Raises `RefundTooMuch`.
        """
        with self._connection.transaction():
            found = charge_store.lock_charge(self._connection, charge.account_id, charge.charge_id)
            if found is None:
                raise ChargeNotFound(f"there is no charge {charge.charge_id}")
            if not 0 < amount_nano <= found.amount_nano - found.credited_nano:
                raise RefundTooMuch("more than what is left of the charge can't be given back")
            tax = tax_in(found.credited_nano + amount_nano, found.vat_percent) - tax_in(
                found.credited_nano, found.vat_percent
            )
            net = amount_nano - tax
            owed = min(net, found.owed_nano)
            credit_id = uuid7()
            entry_id = store.post(
                self._connection,
                found.account_id,
                kind,
                str(credit_id),
                [
                    ("receivable", found.currency, None, -amount_nano),
                    ("tax", found.currency, None, tax),
                    ("customer_liability", found.currency, None, owed),
                    ("refund", found.currency, None, net - owed),
                ],
            )
            charge_store.add_refunded(
                self._connection, found.account_id, found.charge_id, owed, amount_nano, self._clock.now()
            )
            now = self._clock.now()
            made = Charge(
                credit_id, found.account_id, found.subscriber_id, found.product_id, found.offering_version, kind, 0, now, now, None,
                description, description_zh, amount_nano, 1, 1, -amount_nano, found.vat_percent, -tax, found.currency, entry_id,
                found.charge_id, 0, "none", 0, 0, 0, 0, now, None, None,
            )  # fmt: skip
            charge_store.add_charge(self._connection, made)
            if found.bill_id is not None:
                self._settle_credits([found.account_id])
                made = self.find(found.account_id, credit_id)
        return made

    def credit_line(
        self,
        account_id: UUID,
        bill_id: UUID,
        line_no: int,
        amount_nano: int,
        describe: Callable[[Charge], tuple[str, str]],
    ) -> list[Charge]:
        """Give back so much of a bill's line, in whole fen: credits of its charges, oldest first. What is exact of them is what
        makes the line's credits come to that; all that is left of a line takes its rounding with it.

        `describe`: a charge -> what its credit is called, in both languages. Raises `RefundTooMuch`.
        """
        with self._connection.transaction():
            self.lock_accounts([account_id])
            charged, credited = charge_store.line_left(self._connection, account_id, bill_id, line_no)
            line, before = fen_of(charged), min(fen_of(charged), fen_of(credited))
            if amount_nano > line - before:
                raise RefundTooMuch(f"line {line_no} has less than that left to give back")
            left = (charged if before + amount_nano == line else before + amount_nano) - credited
            made = []
            for charge in charge_store.charges_of_line(self._connection, account_id, bill_id, line_no):
                part = min(left, charge.amount_nano - charge.credited_nano)
                if part > 0:
                    made.append(self.credit(charge, part, "credit", *describe(charge)))
                    left -= part
            assert sum(credit.settled_nano or 0 for credit in made) == amount_nano, "a line's credits differ"
        return made

    def _settle_credits(self, account_ids: Sequence[UUID]) -> None:
        subscriber_ids = charge_store.settle_credits(self._connection, account_ids)
        if subscriber_ids:
            self._settled(subscriber_ids)

    def recognise(self, account_ids: Sequence[UUID] | None = None) -> int:
        """Post what became revenue since the last time: by what was used, or by time; and close what has nothing left.

        Of all open charges, or of these accounts'. Returns how many charges moved. Once per state: running twice moves
        nothing more. Each batch is a transaction of its own, accounts in ascending order.
        """
        moved = 0
        after: UUID | None = UUID(int=0)
        while after is not None:
            with self._connection.transaction():
                count, after = charge_store.recognise(
                    self._connection, self._clock.now(), account_ids, after, RECOGNISE_BATCH
                )
            moved += count
        return moved

    def stop(self, account_id: UUID, product_id: UUID) -> None:
        """A product ended: what is earned by time is earned now. In the caller's transaction."""
        charge_store.stop(self._connection, account_id, product_id, self._clock.now())

    def of_subscriber(
        self, subscriber_id: UUID, *, unbilled: bool = False, limit: int = 1000
    ) -> list[Charge]:
        """Oldest first."""
        account_id = whose_store.of_subscriber(self._connection, subscriber_id)
        if account_id is None:
            return []
        return charge_store.charges(
            self._connection, account_id, subscriber_id, unbilled=unbilled, limit=limit
        )

    def of_bill(self, account_id: UUID, bill_id: UUID) -> Iterator[Charge]:
        """All charges of a bill, a batch in memory at a time."""
        return _batches(
            lambda after: charge_store.charges_of_bill(
                self._connection, account_id, bill_id, after, READ_BATCH
            )
        )

    def unbilled_between(
        self, account_id: UUID, subscriber_id: UUID, begin: datetime, end: datetime
    ) -> Iterator[Charge]:
        """All charges of a time that no bill has, a batch in memory at a time."""
        return _batches(
            lambda after: charge_store.unbilled_between(
                self._connection, account_id, subscriber_id, begin, end, after, READ_BATCH
            )
        )

    def of_product(self, product_id: UUID) -> list[Charge]:
        """Oldest first."""
        account_id = whose_store.of_product(self._connection, product_id)
        return (
            []
            if account_id is None
            else charge_store.charges_of_product(self._connection, account_id, product_id)
        )

    def find_of_product(self, product_id: UUID, charge_id: UUID) -> Charge:
        """As `find`, of a product whose account is not at hand."""
        account_id = whose_store.of_product(self._connection, product_id)
        if account_id is None:
            raise ChargeNotFound(f"there is no product {product_id}")
        return self.find(account_id, charge_id)

    def find(self, account_id: UUID, charge_id: UUID) -> Charge:
        """Raises `ChargeNotFound`."""
        found = charge_store.find_charge(self._connection, account_id, charge_id)
        if found is None:
            raise ChargeNotFound(f"there is no charge {charge_id}: `tokenworks bill show` lists them")
        return found

    def kept(self, charge: Charge) -> int:
        """Of what a charge brought, what was used or is still there, in thousandths of its unit: not what expired, was withdrawn
        or was taken away by hand. Whoever gives back what is unused asks first, and withdraws what is there then.
        """
        return charge_store.kept(self._connection, charge.account_id, charge.charge_id, self._clock.now())

    def unused(self, charge: Charge, kept: int | None = None) -> tuple[int, int]:
        """(free, granted) of what a charge brought: what nobody used of what was `kept`, and what is still granted of it."""
        if kept is None:
            kept = self.kept(charge)
        return charge_store.unused(self._connection, charge.account_id, charge.charge_id, kept)

    def had(self, account_id: UUID, offering_id: str) -> bool:
        """Whether a cycle of an offering was charged before, at whatever version, and not credited in full."""
        return charge_store.had(self._connection, account_id, offering_id)

    def used(self, charge: Charge) -> int:
        """What was used of what a charge brought, settled, in thousandths of its unit."""
        return charge_store.used(self._connection, charge.account_id, charge.charge_id)

    def stepped_since(self, account_id: UUID, since: datetime) -> int:
        """What steps of pay-as-you-go cost since a time, gross, credits for them taken off."""
        return charge_store.stepped_since(self._connection, account_id, since)

    def put_on_bills(self, bills: Sequence[tuple[UUID, UUID, UUID, datetime]]) -> list[BillLine]:
        """Make lines of all that is charged before each bill's end and not billed yet. In the caller's transaction.

        `bills`: (subscriber, account, bill, end). Charges of one product, offering version, kind and tax are one line,
        rounded to fen once; the rounding of amount and tax is posted. Returns the lines, by bill and number.
        """
        lines = charge_store.put_on_bills(self._connection, bills)
        # A credit from after the period's end, of a charge from before it.
        charge_store.settle_credits(self._connection, [bill[1] for bill in bills])
        return lines

    def quantities(self, account_id: UUID, bill_id: UUID) -> dict[int, tuple[int, str]]:
        """(quantity in thousandths, unit) that each line of a bill brought, by its number."""
        return charge_store.quantities(self._connection, account_id, bill_id)

    def receivable(self, account_id: UUID) -> int:
        """What the subscriber owes now in nano: charges less credits and payments, billed or not."""
        return charge_store.receivable(self._connection, account_id)

    def lock_accounts(self, account_ids: Sequence[UUID]) -> None:
        """Before what moves money of many accounts in one transaction: in ascending order, as everybody locks them."""
        charge_store.lock_accounts(self._connection, account_ids)

    def paid_many(
        self, payments: Sequence[tuple[UUID, str, int]], method: str, currency: str, kind: str = "payment"
    ) -> list[UUID]:
        """The entries of payments, (account, ref, nano) each, in their order. What is written off is an expense."""
        against = "bad_debt" if method == "write_off" else f"paid:{method}"
        return store.post_many(
            self._connection,
            kind,
            [
                (
                    account_id,
                    ref,
                    [(against, currency, None, nano), ("receivable", currency, None, -nano)],
                )
                for account_id, ref, nano in payments
            ],
        )

    def paid(
        self, account_id: UUID, ref: str, method: str, amount_nano: int, currency: str, kind: str = "payment"
    ) -> UUID:
        """The entry of a payment."""
        return self.paid_many([(account_id, ref, amount_nano)], method, currency, kind)[0]


def _batches(read: Callable[[UUID], list[Charge]]) -> Iterator[Charge]:
    """What `read` gives after an id, until it gives less than a batch."""
    after = UUID(int=0)
    while True:
        found = read(after)
        yield from found
        if len(found) < READ_BATCH:
            return
        after = found[-1].charge_id


def _nobody(_subscriber_ids: Sequence[UUID]) -> None:
    """Where no room keeps bills."""
