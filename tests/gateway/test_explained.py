"""What `route explain` says is what a worker in the same state does, for random states."""

import random

import pytest

from tokenworks.factory import (  # fmt: skip
    Placement,
    Requirements,
    SubscriberPolicy,
    make_deployment,
    make_intent,
    make_model,
    options,
    placement_request,
    rank,
    single_deployment_request,
)
from tokenworks.gateway.explained import explain_route
from tokenworks.gateway.seen import read_seen, write_seen
from tokenworks.gateway.snapshot import Snapshot

REGIONS = (None, "cn-sh", "cn-gd", "eu-de", "cn-sh-pudong")
STATES = 240


def declared(random):
    """Deployments of one to three models, of all kinds; a model may have a single deployment."""
    made = []
    for number in range(random.randint(1, 7)):
        price = random.choice(
            (None, {"fresh_input_nano": random.randint(1, 9), "output_nano": random.randint(1, 99)})
        )
        more = {} if price is None else {"price": price}
        made.append(
            make_deployment(
                name=f"d{number}", upstream_model="m", model=random.choice(("small", "large", "other")), base_url="https://a.example/v1",
                region=random.choice(REGIONS), kind=random.choice(("hub", "vendor", "edge")), draining=random.random() < 0.1,
                context_tokens=random.choice((500, 32_000)), max_output_tokens=400,
                round_trip_ms=random.choice((None, 5, 300)), prefill_tokens_per_s=random.choice((None, 900)),
                protocols=random.choice((("chat",), ("chat", "messages"), ("messages",))), **more,
            )
        )  # fmt: skip
    return made


def live(random, placement, views):
    """What a worker observes in a minute: answers, failures, rests, slow starts. Returns the time at the end."""
    now_s, open_ = random.uniform(10, 1000), []
    for number in range(random.randint(0, 60)):
        now_s += random.expovariate(2)
        view = random.choice(views)
        what = random.random()
        if what < 0.5:
            request = placement_request(
                "latency",
                True,
                None,
                None,
                random.randint(1, 4000),
                100,
                tuple(range(random.randint(0, 9))),
                512.0,
            )
            candidate = placement.explain([view], (), request, now_s)[0]
            view.began(now_s)
            placement.sent(number, candidate, request, now_s)
            open_.append((number, view))
        elif what < 0.7 and open_:
            ticket, view = open_.pop(random.randrange(len(open_)))
            placement.first_token(ticket, view, now_s)
            view.succeeded(now_s)
            view.ended()
        elif what < 0.8:
            view.failed(now_s)
        elif what < 0.85:
            view.rest(now_s, random.uniform(0.1, 60))
        elif what < 0.9:
            view.cool_down(now_s, random.uniform(0.1, 60))
        elif what < 0.95:
            view.begin_slowly(now_s)
        else:
            placement.choose(
                views, (), placement_request("latency", True, None, None, 900, 9, (1, 2, 3), 512.0), now_s
            )
    return now_s


def as_the_gateway(snapshot, placement, now_s, name, policy, requirements, broken, filing):
    """As the gateway chooses: the model by its name or its intent, then the deployment; the next one if a credential is broken."""
    protocol = next((p for p in ("chat", "completions", "embeddings", "responses", "messages") if snapshot.native_of(snapshot.model_for(name, "chat", None, policy.default_model), p)), "chat")  # fmt: skip
    model = snapshot.model_for(name, protocol, None, policy.default_model)
    intent = snapshot.intents.get(model)
    models = [model]
    if intent is not None and not snapshot.views_of(model, protocol):
        request = placement_request(
            intent.objective, policy.edge_first, policy.regions, policy.home, max(1, requirements.input_tokens), max(1, requirements.output_tokens)
        )  # fmt: skip

        found, _ = options(
            snapshot, protocol, intent, requirements, request, placement, now_s, lambda model: (len(model), "x", True), filing_required=filing
        )  # fmt: skip
        models = [choice.model for choice in rank(intent, requirements, found)]
    elif filing and snapshot.card_of(model).filing not in {"filed", "exempt"}:
        return None
    for model in models:
        views, native, tried = snapshot.views_of(model, protocol), snapshot.native_of(model, protocol), []
        while views:
            request = placement_request(
                policy.objective, policy.edge_first, policy.regions, policy.home, max(1, requirements.input_tokens), max(1, requirements.output_tokens)
            )  # fmt: skip

            if len(views) == 1:
                request = single_deployment_request(policy.regions, policy.home)
            chosen = placement.choose(views, tried, request, now_s, native)
            if chosen is None:
                break
            if chosen.view.name not in broken:
                return chosen.view.name
            tried.append(chosen.view.name)
    return None


@pytest.mark.parametrize("part", range(4))
def test_both_say_the_same_of_many_states(tmp_path, part):
    chosen, nowhere, kinds = 0, 0, set()
    for seed in range(part * STATES // 4, (part + 1) * STATES // 4):
        r = random.Random(seed)
        deployments = declared(r)
        cards = [
            make_model(name=name, quality=quality, filing=r.choice(("filed", "none")))
            for name, quality in (("small", 40), ("large", 90))
            if r.random() < 0.9
        ]
        intents = [make_intent(name="auto:mine", objective="cost", models=("small", "other"), quality_min=30)]
        aliases = {"short": "small", "claude-*": "large"}

        def make_snapshot(deployments=deployments, aliases=aliases, cards=cards, intents=intents):
            return Snapshot(0, deployments, aliases, {}, {}, models=cards, intents=intents)

        snapshot, placement = make_snapshot(), Placement()
        placement.set_views(snapshot.views)
        now_s = live(r, placement, snapshot.views)
        broken = {view.name for view in snapshot.views if r.random() < 0.1}
        write_seen(tmp_path / "worker-0.places", placement, now_s, broken)
        seen = read_seen(tmp_path, stale_s=3600)
        assert len(seen["0"]) == len(deployments)
        for name in (
            "small",
            "large",
            "other",
            "short",
            "claude-9",
            "auto",
            "auto:fast",
            "auto:mine",
            "none",
        ):
            policy = SubscriberPolicy(
                r.choice(("latency", "balance", "cost", "quality")), r.random() < 0.8,
                r.choice((None, None, ("cn",), ("eu",), ())), r.choice((None, "cn-sh", "eu")), r.choice((None, "small")),
            )  # fmt: skip
            requirements = Requirements(
                r.random(), frozenset(), False, r.choice((10, 2000)), r.choice((1, 300))
            )
            filing = r.random() < 0.2
            expected = as_the_gateway(snapshot, placement, now_s, name, policy, requirements, broken, filing)
            ((worker, decision),) = explain_route(
                make_snapshot, seen, name, policy, requirements, lambda model: (len(model), "x", True), filing_required=filing
            )  # fmt: skip
            found = None if decision.chosen is None else decision.chosen.name
            assert (worker, found) == ("0", expected), (seed, name, policy, decision)
            if expected is None:
                nowhere += 1
                assert decision.refused or all(c.excluded for c in decision.candidates), (seed, name)
            else:
                chosen += 1
                kinds.add((name, len(snapshot.views_of(decision.model, "chat")) > 1))
    assert chosen > STATES // 4 and nowhere > STATES // 8 and len(kinds) >= 10, (chosen, nowhere, kinds)


def test_a_worker_of_the_release_before_is_left_out():
    seen = {"0": {"a": {"latency_ms": 1, "ms_per_token": 1, "running_ms": 1, "answers": 0}}}
    deployment = make_deployment(
        name="a", model="m", upstream_model="m", base_url="https://a.example/v1", protocols=("chat",)
    )
    ((worker, decision),) = explain_route(
        lambda: Snapshot(0, [deployment], {}, {}, {}),
        seen,
        "m",
        SubscriberPolicy(),
        Requirements(),
        lambda _: (0, "", False),
    )
    assert (worker, decision.chosen.name) == ("", "a")
