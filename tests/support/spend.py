"""Spending as the data plane does, without one: grants, a settled record, grants closed; steps are bought as they are needed."""

from tests.charging.ledger.test_accounts import IDS, first_attempt, settling
from tests.support.auditor import verify
from tokenworks.catalog import Counts
from tokenworks.charging import Need
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import Part, UsageRecord
from tokenworks.kernel import uuid7


def balances(services):
    """Every invariant of the ledger holds."""
    found = verify(services.connection, services.offerings.rate_cards())
    assert found == [], found
    return True


class Spender:
    def __init__(self, services):
        self.services = services
        self.journal_id = uuid7()
        self.seq = 0
        services.ledger.register_journal(self.journal_id, "test")

    def usable(self, account_id):
        """Balances that can be spent now, in the order in which they are."""
        now = self.services.clock.now()
        found = [
            b for b in self.services.ledger.buckets(account_id)
            if b.kind == "balance" and b.closing is None and b.remaining
            and b.valid_from <= now and (b.valid_until is None or b.valid_until > now)
        ]  # fmt: skip
        return sorted(found, key=lambda b: (b.priority, b.valid_until is None, b.valid_until, b.bucket_id))

    def open(self, account_id, bucket, amount):
        return self.services.ledger.grant(
            account_id=account_id.hex, bucket_id=bucket.bucket_id.hex, journal_id=self.journal_id, grant_id=None,
            amount=amount, spend_for_s=900,
        )  # fmt: skip

    def settle(self, account_id, drawn, ids=IDS, at=None):
        """`drawn`: (bucket, grant, tokens). `ids`: of the key and of the member. `at`: when the request ended."""
        ended_ms = 1_790_000_000_500 if at is None else int(at.timestamp() * 1000)
        self.seq += 1
        total = sum(tokens for _, _, tokens in drawn)
        parts = [
            Part(b.bucket_id.hex, grant_id, b.rate_version, b.unit, "balance", tokens * 1000, int(at == 0), Counts(output=tokens))
            for at, (b, grant_id, tokens) in enumerate(drawn)
        ]  # fmt: skip
        record = UsageRecord(
            account_id.hex, *first_attempt(), *ids, "chat", "m", "d", "complete", "completed", "provider",
            ended_ms - 500, ended_ms, 100, 500, Counts(output=total), total, parts, [], [], None,
        )  # fmt: skip
        settle_store.settle(
            self.services.connection, self.journal_id, self.seq, [settling(self.seq, record)], lambda *_: None
        )

    def close(self, account_id, grant_id):
        self.services.ledger.close_grant(account_id.hex, grant_id, self.journal_id, self.seq)

    def spend(self, account_id, tokens, ids=IDS, at=None):
        """Whether all of it could be had; else nothing is spent."""
        drawn = self._take(account_id, tokens)
        lacks = tokens - sum(part for _, _, part in drawn)
        # What there was is granted to us by now; what the ledger has beside is another host's doing.
        if lacks and self.services.payg.buy(account_id, "m", Need(1, 0, lacks)):
            drawn += self._take(account_id, lacks)
            lacks = tokens - sum(part for _, _, part in drawn)
            assert not lacks
        if not lacks:
            self.settle(account_id, drawn, ids, at)
        for _, grant_id, _ in drawn:
            self.close(account_id, grant_id)
        return not lacks

    def _take(self, account_id, tokens):
        drawn = []
        for bucket in self.usable(account_id):
            part = min(tokens, bucket.remaining // 1000)
            if part:
                drawn.append((bucket, self.open(account_id, bucket, part * 1000).grant_id, part))
                tokens -= part
        return drawn
