"""The claims on traffic: against least-outstanding and against a cache-aware router, by the gateway's own placement code."""

import gzip
import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

from tokenworks.factory import (
    EngineSpec,
    TraceFaulty,
    TraceRequest,
    machines_for,
    read_trace,
    simulate,
    traffic_for,
)
from tokenworks.factory.simulation.engine import Engine
from tokenworks.factory.simulation.simulate import CacheAware

TRACES = Path(__file__).parents[3] / "shared/traces"
FLEET = [EngineSpec(count=16)]
SEEDS = range(20)


def public(name):
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"the public trace is not here: shared/traces/{name}")
    return read_trace(str(path))


@pytest.fixture(scope="module")
def mooncake():
    return public("mooncake-conversation.jsonl.gz")


def test_the_claim_on_the_public_trace(mooncake):
    """Sixteen engines, declared speeds and caches wrong by up to 30 %, first tokens seen 50 ms late; over six seeds."""
    ours = [simulate(mooncake, FLEET, "predicted", seed=seed) for seed in range(6)]
    first, whole = fmean(o.mean_first_token_s for o in ours), fmean(o.mean_end_to_end_s for o in ours)
    least = simulate(mooncake, FLEET, "least_outstanding")
    aware = simulate(mooncake, FLEET, "cache_aware")
    assert first <= 0.5 * least.mean_first_token_s
    assert whole <= 0.75 * least.mean_end_to_end_s
    assert first <= 0.75 * aware.mean_first_token_s
    assert fmean(o.first_token_s(0.99) for o in ours) < min(
        least.first_token_s(0.99), aware.first_token_s(0.99)
    )


def test_so_many_times_the_traffic_on_the_same_machines(mooncake):
    """With a mean time to first token of at most three seconds."""
    least = traffic_for(mooncake, FLEET, "least_outstanding", 3.0)
    aware = traffic_for(mooncake, FLEET, "cache_aware", 3.0)
    for seed in range(2):
        assert (
            simulate(mooncake, FLEET, "predicted", traffic=4.0 * least, seed=seed).mean_first_token_s <= 3.0
        )
        assert (
            simulate(mooncake, FLEET, "predicted", traffic=1.6 * aware, seed=seed).mean_first_token_s <= 3.0
        )


@pytest.mark.parametrize(
    "name", ["synthetic:conversation", "synthetic:uniform", "synthetic:festival", "mooncake", "azure-conv", "azure-code"]
)  # fmt: skip
def test_never_worse_than_least_outstanding(name, request):
    """By more than 3 % in mean or 99th percentile of the time to first token: 95 % interval over 20 seeds."""
    files = {"mooncake": "mooncake-conversation.jsonl.gz", "azure-conv": "azure-2023-conv.csv.gz",
             "azure-code": "azure-2023-code.csv.gz"}  # fmt: skip
    trace = (public(files[name]) if name in files else read_trace(name))[:4000]
    least = simulate(trace, FLEET, "least_outstanding")
    ours = [simulate(trace, FLEET, "predicted", seed=seed) for seed in SEEDS]
    for what in (lambda o: o.mean_first_token_s, lambda o: o.first_token_s(0.99)):
        ratios = [what(o) / what(least) for o in ours]
        upper = fmean(ratios) + 2.093 * stdev(ratios) / len(ratios) ** 0.5
        assert upper <= 1.03, (name, fmean(ratios), upper)


def test_the_claim_holds_on_traffic_made_here():
    trace = read_trace("synthetic:conversation")
    ours = simulate(trace, FLEET, "predicted")
    for policy, ratio in (("least_outstanding", 0.5), ("round_robin", 0.5), ("cache_aware", 0.9)):
        assert ours.mean_first_token_s <= ratio * simulate(trace, FLEET, policy).mean_first_token_s, policy


# The engine.


def run(spec, *services):
    """(first token, end) of each, in ms."""
    outcome = simulate(list(services), [spec], "round_robin", late_ms=0.0)
    return list(zip(outcome.first_token_ms, outcome.end_to_end_ms, strict=True))


def test_one_request_takes_what_the_figures_say():
    ((first, end),) = run(EngineSpec(), TraceRequest(0.0, 1000, 11))
    assert first == pytest.approx(30 + 0.25 * 1000)
    assert end == pytest.approx(first + 10 * 12.4)


def test_prompts_take_turns_and_answers_share_a_batch():
    (first_a, end_a), (first_b, end_b) = run(
        EngineSpec(), TraceRequest(0.0, 1000, 101), TraceRequest(0.0, 1000, 1)
    )
    assert (first_a, first_b) == pytest.approx((280.0, 560.0))
    assert end_b == pytest.approx(first_b)
    assert end_a == pytest.approx(280 + 100 * 12.4)


def test_a_prompt_that_shares_a_step_slows_the_answers():
    alone = run(EngineSpec(), TraceRequest(0.0, 10, 101), TraceRequest(100.0, 4000, 1))
    shared = run(EngineSpec(step_tokens=512), TraceRequest(0.0, 10, 101), TraceRequest(100.0, 4000, 1))
    assert shared[0][1] > alone[0][1] + 500.0
    assert shared[1][0] > alone[1][0]


def test_what_was_read_is_read_once_and_what_is_old_is_evicted_tail_first():
    spec = EngineSpec(cache_blocks=8)
    chat = lambda at, n, first=0: TraceRequest(at, 512 * n, 1, tuple(range(first, first + n)))
    times = [first for first, _ in run(spec, chat(0.0, 4), chat(1e4, 4), chat(2e4, 6, 100), chat(3e4, 4))]
    assert times[1] < 0.1 * times[0], "all of it but the last token is cached"
    # Six new blocks beside four (and a block for the answer) in eight: the first chat's end is gone, its beginning is there.
    assert 0.1 * times[0] < times[3] < times[0]


def test_what_runs_is_not_evicted_and_a_request_waits_for_room():
    spec = EngineSpec(cache_blocks=10)
    long, other = (
        TraceRequest(0.0, 512 * 8, 400, tuple(range(8))),
        TraceRequest(10.0, 512 * 8, 1, tuple(range(100, 108))),
    )
    (_, end), (first, _) = run(spec, long, other)
    assert first + 10.0 > end, "there is room for one of them"


def test_slots_round_trips_cold_starts_and_limits():
    (_, end), (first, _) = run(
        EngineSpec(slots_max=1), TraceRequest(0.0, 100, 100), TraceRequest(1.0, 100, 1)
    )
    assert first + 1.0 > end
    assert run(EngineSpec(round_trip_ms=200), TraceRequest(0.0, 1000, 1))[0][0] == pytest.approx(480.0)
    cold = simulate([TraceRequest(0.0, 1000, 1)], [EngineSpec(ready_at_s=5.0)], "round_robin")
    assert cold.first_token_ms[0] == pytest.approx(5280.0, abs=1000.0)
    vendor, own = EngineSpec(name="vendor", requests_max=1), EngineSpec(name="own")
    both = simulate([TraceRequest(0.0, 1000, 50) for _ in range(6)], [vendor, own], "predicted")
    assert both.refusals and both.engines.count(0) < both.engines.count(1)
    alone = simulate([TraceRequest(0.0, 1000, 50) for _ in range(3)], [vendor], "predicted")
    assert alone.refusals and min(alone.end_to_end_ms) > 0, "all of them are served in the end"


def test_cost_and_energy_add_up():
    spec = EngineSpec(hour_nano=3_600_000_000, output_nano=5, input_nano=2, idle_watts=100, busy_watts=700)
    outcome = simulate([TraceRequest(0.0, 1000, 100)], [spec], "least_outstanding", late_ms=0.0)
    assert outcome.cost_nano == int(3_600_000_000 * outcome.until_ms / 3_600_000) + 2000 + 500
    # What a cache has is paid at its own price, the last token of a prompt at the full one.
    chat = [TraceRequest(0.0, 1024, 1, (1, 2)), TraceRequest(10_000.0, 1024, 1, (1, 2))]
    for cached, expected in ((None, 2 * 1024 * 10), (1, 1024 * 10 + 10 + 1023)):
        vendor = EngineSpec(input_nano=10, cached_input_nano=cached)
        assert simulate(chat, [vendor], "round_robin").cost_nano == expected
    assert outcome.energy_wh == pytest.approx(outcome.busy_ms[0] * 700 / 3_600_000, rel=0.01)
    assert outcome.busy_ms[0] == pytest.approx(outcome.end_to_end_ms[0])


def test_every_request_ends_once_whatever_the_policy():
    trace = read_trace("synthetic:conversation")[:800]
    fleet = [
        EngineSpec(count=2, requests_max=3),
        EngineSpec(name="edge", cache_blocks=200, slots_max=2, step_tokens=256),
    ]
    for policy in (
        "predicted",
        "least_outstanding",
        "round_robin",
        "cache_aware",
        lambda specs: CacheAware(len(specs), smallest_tree=True),
    ):
        outcome = simulate(trace, fleet, policy)
        assert min(outcome.first_token_ms) > 0
        assert all(
            end >= first for first, end in zip(outcome.first_token_ms, outcome.end_to_end_ms, strict=True)
        )
        assert set(outcome.engines) <= {0, 1, 2}
        again = simulate(trace, fleet, policy)
        assert again == outcome, "the same seed, the same day"


def test_an_engine_that_is_asked_late_has_not_gone_on():
    engine = Engine(EngineSpec())
    engine.add(1, TraceRequest(0.0, 1000, 10))
    assert engine.next_ms() == pytest.approx(280.0)
    engine.advance(100.0)
    assert engine.take_first_tokens() == []
    engine.advance(engine.next_ms())
    assert engine.take_first_tokens() == [1]


def test_how_many_machines():
    trace = read_trace("synthetic:conversation")[:1500]
    ours = machines_for(trace, EngineSpec(), "predicted", 0.9, 8.0)
    least = machines_for(trace, EngineSpec(), "least_outstanding", 0.9, 8.0)
    assert ours < least
    assert simulate(trace, [EngineSpec(count=ours)], "predicted").in_time(8.0) >= 0.9
    assert simulate(trace, [EngineSpec(count=ours - 1)], "predicted").in_time(8.0) < 0.9
    assert (
        machines_for(trace, EngineSpec(prefill_ms_per_token=100.0), "predicted", 1.0, 0.001, most=4) is None
    )


# Traces.


def test_the_two_scenarios():
    festival = read_trace("synthetic:festival")
    per_slot = [0] * 24
    for work in festival:
        per_slot[min(23, int(work.at_ms / (72 * 60_000.0) * 24))] += 1
    assert max(per_slot) > 8 * min(per_slot[:12])
    day = read_trace("synthetic:day-800m")
    assert sum(w.input_tokens + w.output_tokens for w in day) == pytest.approx(800_000_000, rel=0.01)
    assert day[-1].at_ms == pytest.approx(86_400_000.0, rel=0.02)
    assert read_trace("synthetic:festival:1") != festival == read_trace("synthetic:festival")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", '{"timestamp": 0}\n', ":1: it is an object"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 5, "output_length": 1}\n[]\n', ":2: it is an object"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 0, "output_length": 1}\n', "a count of tokens"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 5, "output_length": true}\n', "a count of tokens"),
        ("a.jsonl", '{"timestamp": NaN, "input_length": 5, "output_length": 1}\n', "a timestamp is a number"),
        (
            "a.jsonl",
            '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": ["x"]}\n',
            "hash_ids are integers",
        ),
        ("a.jsonl", "\n", "has no requests"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nnever,1,1\n", ":2: it has TIMESTAMP"),
        ("a.csv", "a,b\n1,2\n", "it has TIMESTAMP"),
        ("a.txt", "x", "is .jsonl or .csv"),
        ("a.jsonl.gz", "not gzip", "can't be read"),
    ],
)
def test_a_faulty_trace_is_refused(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(TraceFaulty, match=reason):
        read_trace(str(path))


def test_traces_are_read_as_they_are(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    rows = [
        {"timestamp": 5000, "input_length": 9, "output_length": 2},
        {"timestamp": 4000, "input_length": 8, "output_length": 1, "hash_ids": [1]},
    ]
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    assert read_trace(str(path)) == [TraceRequest(0.0, 8, 1, (1,)), TraceRequest(1000.0, 9, 2)]
    for name in ("synthetic:nothing", "synthetic:uniform:x", "nowhere.jsonl"):
        with pytest.raises(TraceFaulty):
            read_trace(name)
