from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenworks.catalog import Counts, Weights, amount
from tokenworks.charging.model import BucketTerms, Need, cost, cover
from tokenworks.charging.slices import Slices

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
    hold_rate = terms("b", rate).hold_rate(lookup, "m")
    taken, left = cover(hold_rate, available, need)
    assert 0 <= taken <= available
    assert taken + cost(hold_rate, left) == cost(hold_rate, need)
    if available >= cost(hold_rate, need):
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
        self.loss = 0

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
    @rule(at=st.integers(0, 100), share=st.integers(0, 130))
    def commit(self, at, share):
        hold, need = self.holds.pop(at % len(self.holds))
        counts = Counts(
            fresh_input=need.input_tokens * share // 100, output=need.output_tokens * share // 100
        )
        parts, loss = self.slices.commit(hold, counts, lambda: 50)
        paid = [0] * 8
        for part in parts:
            self.used[part.bucket_id] = self.used.get(part.bucket_id, 0) + part.amount
            if part.kind == "balance":
                tokens = counts if part.counts is None else part.counts
                rate = RATES[part.rate_version][1]
                assert part.amount == amount(rate, tokens) - rate.request * (1 - part.requests)
                paid = [a + b for a, b in zip(paid, tokens, strict=True)]
        lost = loss[1] if loss else Counts()
        assert [a + b for a, b in zip(paid, lost, strict=True)] == list(counts)
        if share <= 100:
            assert loss is None  # within the hold nothing is ever lost

    @precondition(lambda self: self.holds)
    @rule(at=st.integers(0, 100))
    def release(self, at):
        hold, _ = self.holds.pop(at % len(self.holds))
        self.slices.release(hold)

    @rule(bucket=st.sampled_from(["a", "b", "c", "cap"]), closing=st.booleans())
    def recall(self, bucket, closing):
        if closing and self.holds:
            closing = False
        for bucket_id, _, quantity in self.slices.recall("acc", [bucket], closing):
            self.back[bucket_id] = self.back.get(bucket_id, 0) + quantity

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
