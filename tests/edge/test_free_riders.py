"""Twelve ways to get tokens for nothing, each against an honest upstream: what the operator loses, of what was made.

Where the deployment reports usage as it goes or has a tokenizer, under a thousandth. Where it has neither, the rate is printed,
and the budget of loss bounds it.
"""

import asyncio
import time
from dataclasses import dataclass

import pytest

from tests.edge.honest import Honest, Truth, write_tokenizer
from tests.edge.riders import STRATEGIES, Rider, ride
from tests.edge.run import Bench
from tokenworks.app.settings import Settings

KINDS = {"as it goes": ["--profile", "vllm"], "tokenizer": ["--tokenizer", "words"], "neither": []}
LOSS_MAX_PERMILLE = 1
BUDGET_TOKENS = 60_000
# The largest that one request of the riders can make: a long prompt and an answer.
REQUEST_TOKENS = 10_000
CI_S, NIGHTLY_S = 1.5, 60


@dataclass
class Outcome:
    truth: Truth
    drawn: int
    asked: int

    @property
    def lost(self):
        return self.truth.total - self.drawn

    def __str__(self):
        rate = self.lost / max(1, self.truth.total)
        return f"{self.asked} requests, {self.truth.total:,} tokens made, {self.drawn:,} drawn, {self.lost:,} lost: {rate:.3%}"


class Ridden:
    """All strategies on all kinds of deployment, beside each other, once."""

    def __init__(self, folder, seconds):
        budget = (
            {"operator_loss_budget_tokens": BUDGET_TOKENS}
            if "operator_loss_budget_tokens" in Settings.model_fields
            else {}
        )
        self.outcomes, self.wrong, self.metrics = {}, {}, {}
        with Bench(folder, **budget) as bench:
            write_tokenizer(bench.server.settings.tokenizers / "words")
            honest = Honest()
            bench.await_(honest.open())
            riders = [
                self._rider(bench, honest, strategy, kind, seconds)
                for kind in KINDS for strategy in STRATEGIES
            ]  # fmt: skip
            riders = [each for each in riders if each is not None]
            bench.visible([rider.model for rider, *_ in riders])
            for rider, *_ in riders:
                rider.until_s = time.monotonic() + seconds
            bench.await_(self._all(riders), timeout_s=seconds * 4 + 60)
            bench.settled()
            for rider, strategy, kind, subscriber in riders:
                drawn = sum(bucket.spent for bucket in bench.server.buckets(subscriber)) // 1000
                self.outcomes[strategy, kind] = Outcome(
                    honest.truths.get(rider.model, Truth()), drawn, rider.asked
                )
            for _, _, metric in STRATEGIES.values():
                self.metrics[metric] = sum(bench.server.metrics(metric))
            self.findings = bench.server.findings()

    def _rider(self, bench, honest, strategy, kind, seconds):
        model = f"{strategy}-{kind}".replace(" ", "-")
        done = bench.server.cli(
            "deployment", "add", "--name", model, "--model", model, "--base-url", f"http://127.0.0.1:{honest.port}/v1", "--allow-private",
            "--protocol", "chat", "--protocol", "messages", *KINDS[kind], check=False,
        )  # fmt: skip
        if done.returncode:
            self.wrong[strategy, kind] = done.stderr.strip().splitlines()[-1]
            return None
        subscriber, key = bench.server.subscriber(STRATEGIES[strategy][1])
        return Rider(bench.server.port, key, model, 0.0), strategy, kind, subscriber

    @staticmethod
    async def _all(riders):
        await asyncio.gather(*(ride(rider, strategy) for rider, strategy, *_ in riders))

    def outcome(self, strategy, kind):
        assert (strategy, kind) not in self.wrong, self.wrong[strategy, kind]
        return self.outcomes[strategy, kind]


@pytest.fixture(scope="module")
def ridden(tmp_path_factory):
    return Ridden(tmp_path_factory.mktemp("riders"), CI_S)


@pytest.fixture(scope="module")
def ridden_long(tmp_path_factory):
    return Ridden(tmp_path_factory.mktemp("riders-long"), NIGHTLY_S)


def assert_paid(ridden, strategy, kind):
    outcome = ridden.outcome(strategy, kind)
    print(f"{strategy}, {kind}: {outcome}")
    assert outcome.truth.requests, "nothing reached the upstream"
    assert outcome.drawn <= outcome.truth.total, f"more was drawn than was made: {outcome}"
    if kind == "neither":
        assert outcome.lost <= BUDGET_TOKENS + REQUEST_TOKENS, str(outcome)
    else:
        assert outcome.lost * 1000 < outcome.truth.total * LOSS_MAX_PERMILLE, str(outcome)


@pytest.mark.xdist_group("edge-riders")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_free_rider(ridden, strategy, kind):
    assert_paid(ridden, strategy, kind)


@pytest.mark.nightly
@pytest.mark.xdist_group("edge-riders")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_free_rider_for_a_minute(ridden_long, strategy, kind):
    assert_paid(ridden_long, strategy, kind)


@pytest.mark.xdist_group("edge-riders")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_metric_names_it(ridden, strategy):
    metric = STRATEGIES[strategy][2]
    assert ridden.metrics[metric] > 0, f"tokenworks_{metric}_total did not move"


@pytest.mark.xdist_group("edge-riders")
def test_the_ledger_balances_after_all_riders(ridden):
    assert ridden.findings == []


def test_the_budget_of_loss_is_a_setting():
    assert "operator_loss_budget_tokens" in Settings.model_fields
