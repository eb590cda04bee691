"""Charges: what a subscriber owes, the tax in it, and how it becomes revenue.

For every charge: net = amount - tax = recognised + broken (breakage) + refunded + what is still owed to the subscriber.
Every change is an entry in the ledger accounts receivable, tax, customer_liability, revenue, breakage, refund, rounding, and those
of payments. Methods run in the caller's transaction.
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
    """The charges, on one connection (autocommit). A method runs in the caller's transaction if there is one."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._settled: Callable[[Sequence[UUID]], object] = _no_listener

    def when_settled(self, listener: Callable[[Sequence[UUID]], object]) -> None:
        """Call `listener` with the subscribers whose bills a credit reduced, in the same transaction. Billing updates the bills' open
        amounts.
        """
        self._settled = listener

    def sell(self, sale: Sale) -> Charge | None:
        """Write a charge, its entry, and the buckets that it pays for (whole units; a part of a quantity is rounded down).

        Zeros are not stored: a quantity that rounds to zero makes no bucket, and a sale that costs nothing returns None, without a
        charge.
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
            store.notify_hosts(self._connection, sale.account_id)
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

    def credit_limit_check(self, account_id: UUID, limit_nano: int | None) -> Callable[[int], None]:
        """A check of the credit limit, to be made before charging, in a transaction that has locked the subscriber.

        The caller calls the returned function after charging, with the amount that will be charged later, in nano. It raises
        `CreditLimitReached` if the subscriber then owes more than the limit, and more than before: a smaller debt is always allowed.
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
        """Give back a part of a charge, as a negative charge. If the charge is on a bill, the credit reduces that bill, in whole fen;
        otherwise both come on the next bill.

        The credit first uses up what is still owed for the charge. The rest is posted to `refund`; recognised revenue stays. Raises
        `RefundTooMuch`.
        """
        with self._connection.transaction():
            found = charge_store.lock_charge(self._connection, charge.account_id, charge.charge_id)
            if found is None:
                raise ChargeNotFound(f"there is no charge {charge.charge_id}")
            if not 0 < amount_nano <= found.amount_nano - found.credited_nano:
                raise RefundTooMuch("the charge has less than that left to give back")
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
        """Give back `amount_nano` of a bill's line, in whole fen, by credits of its charges, oldest first.

        The credits have the exact amounts that make the line's rounded credits equal `amount_nano`. A credit of all that is left also
        gives back the line's rounding. `describe`: charge -> description of its credit, in both languages. Raises `RefundTooMuch`.
        """
        with self._connection.transaction():
            self.lock_accounts([account_id])
            charged, credited = charge_store.line_left(self._connection, account_id, bill_id, line_no)
            line, credited_before = fen_of(charged), min(fen_of(charged), fen_of(credited))
            if amount_nano > line - credited_before:
                raise RefundTooMuch(f"line {line_no} has less than that left to give back")
            credited_after = credited_before + amount_nano
            left = (charged if credited_after == line else credited_after) - credited
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
        """Post the revenue earned since the last run, by usage or by time, and close charges that have nothing left.

        Covers all open charges, or those of the given accounts. Returns how many charges changed. A second run without new usage or
        time changes nothing. Each batch has its own transaction; accounts are locked in ascending order.
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
        """End the periods of a product's charges that are earned by time: the rest is earned now. Runs in the caller's transaction."""
        charge_store.stop(self._connection, account_id, product_id, self._clock.now())

    def of_subscriber(
        self, subscriber_id: UUID, *, unbilled: bool = False, limit: int = 1000
    ) -> list[Charge]:
        """The charges of a subscriber, oldest first."""
        account_id = whose_store.of_subscriber(self._connection, subscriber_id)
        if account_id is None:
            return []
        return charge_store.charges(
            self._connection, account_id, subscriber_id, unbilled=unbilled, limit=limit
        )

    def of_bill(self, account_id: UUID, bill_id: UUID) -> Iterator[Charge]:
        """All charges of a bill. One batch is in memory at a time."""
        return _batches(
            lambda after: charge_store.charges_of_bill(
                self._connection, account_id, bill_id, after, READ_BATCH
            )
        )

    def unbilled_between(
        self, account_id: UUID, subscriber_id: UUID, begin: datetime, end: datetime
    ) -> Iterator[Charge]:
        """All charges from [begin, end) that are on no bill. One batch is in memory at a time."""
        return _batches(
            lambda after: charge_store.unbilled_between(
                self._connection, account_id, subscriber_id, begin, end, after, READ_BATCH
            )
        )

    def of_product(self, product_id: UUID) -> list[Charge]:
        """The charges of a product, oldest first."""
        account_id = whose_store.of_product(self._connection, product_id)
        return (
            []
            if account_id is None
            else charge_store.charges_of_product(self._connection, account_id, product_id)
        )

    def find_of_product(self, product_id: UUID, charge_id: UUID) -> Charge:
        """As `find`, for a caller that knows the product and not the account."""
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

    def kept_quantity(self, charge: Charge) -> int:
        """The quantity of a charge that was used or still exists, in thousandths of its unit: without what expired, was withdrawn or
        was taken by an adjustment. A refund of the unused part calls this first, and then withdraws the rest.
        """
        return charge_store.kept_quantity(
            self._connection, charge.account_id, charge.charge_id, self._clock.now()
        )

    def unused(self, charge: Charge, kept: int | None = None) -> tuple[int, int]:
        """(free, granted): the unused part of the `kept` quantity of a charge, and the quantity that is still granted to hosts."""
        if kept is None:
            kept = self.kept_quantity(charge)
        return charge_store.unused(self._connection, charge.account_id, charge.charge_id, kept)

    def was_charged(self, account_id: UUID, offering_id: str) -> bool:
        """True if a cycle of the offering, in any version, was charged before and not credited in full."""
        return charge_store.was_charged(self._connection, account_id, offering_id)

    def used(self, charge: Charge) -> int:
        """The settled use of the quantity that a charge brought, in thousandths of its unit."""
        return charge_store.used(self._connection, charge.account_id, charge.charge_id)

    def step_charges_since(self, account_id: UUID, since: datetime) -> int:
        """The gross price of pay-as-you-go steps since a time, less their credits, in nano."""
        return charge_store.step_charges_since(self._connection, account_id, since)

    def put_on_bills(self, bills: Sequence[tuple[UUID, UUID, UUID, datetime]]) -> list[BillLine]:
        """Put the unbilled charges from before each bill's end on the bills. Runs in the caller's transaction.

        `bills`: (subscriber, account, bill, end). Charges of one product, offering version, kind and tax rate become one line, which is
        rounded to fen once; the rounding of amount and tax is posted. Returns the lines, ordered by bill and number.
        """
        lines = charge_store.put_on_bills(self._connection, bills)
        # A credit can be younger than the period's end while its charge is now on the bill.
        charge_store.settle_credits(self._connection, [bill[1] for bill in bills])
        return lines

    def quantities(self, account_id: UUID, bill_id: UUID) -> dict[int, tuple[int, str]]:
        """The quantity that each line of a bill brought: line number -> (quantity in thousandths, unit)."""
        return charge_store.quantities(self._connection, account_id, bill_id)

    def receivable(self, account_id: UUID) -> int:
        """What the account owes now, in nano: all charges, billed or not, less credits and payments."""
        return charge_store.receivable(self._connection, account_id)

    def lock_accounts(self, account_ids: Sequence[UUID]) -> None:
        """Lock accounts before one transaction moves money of several. All callers lock in the same (ascending) order."""
        charge_store.lock_accounts(self._connection, account_ids)

    def paid_many(
        self, payments: Sequence[tuple[UUID, str, int]], method: str, currency: str, kind: str = "payment"
    ) -> list[UUID]:
        """Post payments, given as (account, ref, nano). Returns their entries in order. A write-off is posted as an expense."""
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
        """Post one payment. Returns its entry."""
        return self.paid_many([(account_id, ref, amount_nano)], method, currency, kind)[0]


def _batches(read: Callable[[UUID], list[Charge]]) -> Iterator[Charge]:
    """All charges that `read` returns, called with the last id of the batch before, until a batch is not full."""
    after = UUID(int=0)
    while True:
        batch = read(after)
        yield from batch
        if len(batch) < READ_BATCH:
            return
        after = batch[-1].charge_id


def _no_listener(_subscriber_ids: Sequence[UUID]) -> None:
    """The listener until `when_settled` sets one."""
