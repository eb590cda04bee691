import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenworks.catalog import Counts, Weights, amount
from tokenworks.charging.messages import BucketTerms, Loss, Need
from tokenworks.charging.model import cost, cover, hold_rate
from tokenworks.charging.worker.slices import Slices

FLAT = Weights(0, *[1000] * 8)
HEAVY = Weights(5000, 1000, 250, 1250, 2000, 4000, 4000, 8000, 2000)
RATES = {"flat": ("standard", FLAT), "heavy": ("standard", HEAVY)}


def lookup(version, model):
    return RATES.get(version) if model == "m" else None


def terms(bucket_id, rate="flat", priority=10, kind="balance"):
    return BucketTerms(
        bucket_id, "acc", kind, "token", priority, None, ("*",), "cap" if kind == "cap" else rate
    )


@given(st.integers(0, 10**7), st.integers(0, 3000), st.integers(0, 3000), st.sampled_from(["flat", "heavy"]))
def test_cover_takes_no_more_than_there_is_and_loses_nothing(available, inputs, outputs, rate):
    need = Need(1, inputs, outputs)
    held_rate = hold_rate(terms("b", rate), lookup, "m")
    taken, left = cover(held_rate, available, need)
    assert 0 <= taken <= available
    assert taken + cost(held_rate, left) == cost(held_rate, need)
    if available >= cost(held_rate, need):
        assert left == Need(0, 0, 0)


class SlicesMachine(RuleBasedStateMachine):
    """A worker's slices against a plain sum: given = free + held + used + given back, per bucket; never negative."""

    def __init__(self):
        super().__init__()
        self.slices = Slices(lookup)
        self.given = {}
        self.used = {}
        self.back = {}
        self.holds = []

    @rule(bucket=st.sampled_from(["a", "b", "c"]), quantity=st.integers(1, 5_000_000))
    def receive(self, bucket, quantity):
        rate, priority = {"a": ("flat", 1), "b": ("heavy", 5), "c": ("flat", 9)}[bucket]
        self.slices.receive("acc", f"grant-{bucket}", terms(bucket, rate, priority), quantity, 100)
        self.given[bucket] = self.given.get(bucket, 0) + quantity

    @rule(quantity=st.integers(1, 3_000_000))
    def receive_cap(self, quantity):
        self.slices.receive("acc", "grant-cap", terms("cap", kind="cap"), quantity, 100)
        self.given["cap"] = self.given.get("cap", 0) + quantity

    @rule(inputs=st.integers(0, 1500), outputs=st.integers(0, 1500), capped=st.booleans())
    def hold(self, inputs, outputs, capped):
        account = self.slices.account("acc")
        need = Need(1, inputs, outputs)
        hold = self.slices.hold(account, ("cap",) if capped else (), "m", need, 50)
        if hold is not None:
            assert bool(hold.caps) == capped
            self.holds.append((hold, need))

    @precondition(lambda self: self.holds)
    @rule(at=st.integers(0, 100), share=st.integers(0, 130), hours=st.integers(0, 100))
    def commit(self, at, share, hours):
        hold, need = self.holds.pop(at % len(self.holds))
        counts = self.counts(need, share, hours)
        caps = len(hold.caps)
        parts, unpaid = self.slices.commit(hold, counts, lambda: 50)
        self.check(parts, unpaid, counts, 1, caps)
        if share <= 100:
            assert unpaid is None  # within the hold everything is paid

    @precondition(lambda self: self.holds)
    @rule(
        at=st.integers(0, 100), share=st.integers(0, 130), hours=st.integers(0, 100),
        waived=st.lists(st.integers(0, 100), min_size=8, max_size=8), request=st.booleans(), causes=st.booleans(),
    )  # fmt: skip
    def commit_charged(self, at, share, hours, waived, request, causes):
        hold, need = self.holds.pop(at % len(self.holds))
        counts = self.counts(need, share, hours)
        caps = len(hold.caps)
        lost = Counts(*(count * percent // 100 for count, percent in zip(counts, waived, strict=True)))
        half = Counts(*(count // 2 for count in lost))
        losses = [Loss("client_gone", int(request), lost)]
        if causes:
            rest = Counts(*(a - b for a, b in zip(lost, half, strict=True)))
            losses = [Loss("cache_hit", 0, half), Loss("implausible", int(request), rest)]
        parts, unpaid = self.slices.commit_charged(hold, counts, losses, lambda: 50)
        charged = Counts(*(a - b for a, b in zip(counts, lost, strict=True)))
        if request and not any(charged):
            assert (parts, unpaid) == ([], None)
            return
        assert all(part.counts is not None for part in parts)
        self.check(parts, unpaid, charged, 1 - request, caps)
        if share <= 100:
            assert unpaid is None

    @staticmethod
    def counts(need, share, hours):
        """So much of what was needed, a part of the input written to the hour's cache."""
        inputs = need.input_tokens * share // 100
        written = inputs * hours // 100
        return Counts(
            fresh_input=inputs - written, output=need.output_tokens * share // 100, cache_write_1h=written
        )

    def check(self, parts, unpaid, charged, requests, caps):
        """What is charged is paid by parts or unpaid, class by class, and caps count what the balance pays."""
        paid, capped = [0] * 9, []
        for part in parts:
            self.used[part.bucket_id] = self.used.get(part.bucket_id, 0) + part.amount
            tokens = charged if part.counts is None else part.counts
            if part.kind == "balance":
                rate = RATES[part.rate_version][1]
                assert part.amount == amount(rate, tokens) - rate.request * (1 - part.requests)
                paid = [a + b for a, b in zip(paid, [part.requests, *tokens], strict=True)]
            else:
                capped.append((part.amount, tokens))
        left = [unpaid[0], *unpaid[1]] if unpaid else [0] * 9
        assert [a + b for a, b in zip(paid, left, strict=True)] == [requests, *charged]
        assert capped == [(1000 * sum(paid[1:]), Counts(*paid[1:]))] * caps

    @precondition(lambda self: self.holds)
    @rule(at=st.integers(0, 100))
    def release(self, at):
        hold, _ = self.holds.pop(at % len(self.holds))
        self.slices.release(hold)

    @rule(bucket=st.sampled_from(["a", "b", "c", "cap"]), closing=st.booleans())
    def recall(self, bucket, closing):
        if closing and self.holds:
            closing = False
        for back in self.slices.recall("acc", [bucket], closing):
            self.back[back.bucket_id] = self.back.get(back.bucket_id, 0) + back.amount

    @invariant()
    def sums(self):
        here = {row[1]: row[3] for row in self.slices.outstanding()}
        for bucket, total in self.given.items():
            assert total == here.get(bucket, 0) + self.used.get(bucket, 0) + self.back.get(bucket, 0)
        for account in self.slices.accounts.values():
            assert all(s.free >= 0 and s.held >= 0 for s in account.all())


TestSlices = SlicesMachine.TestCase


def test_a_lease_that_ended_is_not_spent():
    slices = Slices(lookup)
    slices.receive("acc", "g", terms("a"), 10**9, spend_until_ns=100)
    account = slices.account("acc")
    assert slices.hold(account, (), "m", Need(1, 1, 1), 99) is not None
    assert slices.hold(account, (), "m", Need(1, 1, 1), 100) is None


def test_buckets_are_spent_by_priority_then_expiry_then_id():
    slices = Slices(lookup)
    late = BucketTerms("b", "acc", "balance", "token", 10, 2000, ("*",), "flat")
    soon = BucketTerms("z", "acc", "balance", "token", 10, 1000, ("*",), "flat")
    first = BucketTerms("y", "acc", "balance", "token", 1, None, ("*",), "flat")
    for terms_ in (late, soon, first):
        slices.receive("acc", f"g{terms_.bucket_id}", terms_, 2_000, 100)
    hold = slices.hold(slices.account("acc"), (), "m", Need(1, 2, 3), 50)
    assert [part[0].terms.bucket_id for part in hold.parts] == ["y", "z", "b"]
    assert [part[1] for part in hold.parts] == [2_000, 2_000, 1_000]


def test_a_bucket_pays_only_for_its_model_classes():
    slices = Slices(lookup)
    slices.receive(
        "acc", "g", BucketTerms("a", "acc", "balance", "token", 1, None, ("premium",), "flat"), 10**9, 100
    )
    assert slices.hold(slices.account("acc"), (), "m", Need(1, 1, 1), 50) is None


def test_what_a_cap_has_not_is_not_charged():
    slices = Slices(lookup)
    slices.receive("acc", "g", terms("a"), 100_000, 100)
    slices.receive("acc", "c", terms("cap", kind="cap"), 12_000, 100)
    hold = slices.hold(slices.account("acc"), ("cap",), "m", Need(1, 5, 5), 50)
    parts, unpaid = slices.commit(hold, Counts(fresh_input=20), lambda: 50)
    assert [(part.kind, part.amount) for part in parts] == [("balance", 12_000), ("cap", 12_000)]
    assert unpaid == (0, Counts(fresh_input=8))


def test_beyond_the_hold_every_slice_that_sells_the_model_pays():
    """Also where its card weighs otherwise than the one that the hold is of."""
    slices = Slices(lookup)
    slices.receive("acc", "g1", terms("a", "flat", 1), 10_000, 100)
    slices.receive("acc", "g2", terms("b", "heavy", 2), 8_000, 100)
    slices.receive("acc", "g3", terms("c", "flat", 3), 1_000, 100)
    hold = slices.hold(slices.account("acc"), (), "m", Need(1, 5, 5), 50)
    parts, unpaid = slices.commit(hold, Counts(fresh_input=5, output=8), lambda: 50)
    assert [(part.bucket_id, part.amount) for part in parts] == [("a", 10_000), ("b", 8_000), ("c", 1_000)]
    assert unpaid is None


def test_losses_beyond_the_record_are_refused():
    slices = Slices(lookup)
    slices.receive("acc", "g", terms("a"), 100_000, 100)
    hold = slices.hold(slices.account("acc"), (), "m", Need(1, 5, 5), 50)
    with pytest.raises(AssertionError, match="more than"):
        slices.commit_charged(hold, Counts(output=3), [Loss("client_gone", 0, Counts(output=4))], lambda: 50)
