"""Which deployment gets a request: which may have it, what is predicted there, and what is learned."""

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory import (
    COOL_DOWN_S,
    FAILURES_TO_OPEN,
    TRIVIAL_REQUEST,
    DeploymentView,
    Placement,
    PlacementRequest,
    Price,
    make_deployment,
)


def view(name, **more):
    return DeploymentView(
        make_deployment(
            **(
                {
                    "name": name,
                    "model": "m",
                    "upstream_model": "m",
                    "base_url": "https://x.example/v1",
                    "protocols": ("chat",),
                }
                | more
            )
        )
    )


PLAIN = PlacementRequest(1, 2)


class Router:
    """A placement over some deployments, with what happens to its requests."""

    def __init__(self, *views):
        self.views = list(views)
        self.placement = Placement()
        self.placement.set_views(self.views)
        self.tickets = 0

    def choose(self, request=PLAIN, now_s=0.0, tried=()):
        found = self.placement.choose(self.views, tried, request, now_s)
        return None if found is None else found.view

    def send(self, request=PLAIN, now_s=0.0, tried=()):
        found = self.placement.choose(self.views, tried, request, now_s)
        self.tickets += 1
        found.view.began(now_s)
        self.placement.sent(self.tickets, found, request, now_s)
        return self.tickets, found.view

    def first(self, ticket, at, now_s):
        self.placement.first_token(ticket, at, now_s)


def prompt(name, tokens, objective="latency", **more):
    """A prompt of blocks of 512 tokens; equal names are equal beginnings."""
    return PlacementRequest(
        tokens, 100, [hash((name, n)) for n in range(tokens // 512)], 512, objective, **more
    )


def test_equal_deployments_take_turns():
    router = Router(view("a"), view("b"), view("c"))
    chosen = []
    for now in range(6):
        ticket, at = router.send(now_s=float(now))
        router.first(ticket, at, now + 0.1)
        chosen.append(at.name)
        at.ended()
    assert chosen == ["a", "b", "c", "a", "b", "c"]


def test_one_deployment_without_a_rule_costs_no_forecast():
    only = view("only")
    router = Router(only)
    ticket, at = router.send(TRIVIAL_REQUEST)
    assert at is only and not only.forecast.busy
    router.first(ticket, at, 1.0)
    router.placement.dropped(ticket, at)
    assert router.choose(TRIVIAL_REQUEST, tried=["only"]) is None
    for _ in range(FAILURES_TO_OPEN):
        only.failed(1.0)
    assert router.choose(TRIVIAL_REQUEST, now_s=1.1) is only, "a wrong guess costs one request"


def test_running_answers_decide_between_equals():
    router = Router(view("a"), view("b"))
    router.views[0].outstanding = 3
    assert router.choose() is router.views[1]


def test_a_prompt_goes_where_its_beginning_is():
    router = Router(view("a"), view("b"), view("c"))
    first, at = router.send(prompt("chat", 10_240))
    router.first(first, at, 2.6)
    for turn in range(1, 5):
        ticket, again = router.send(prompt("chat", 10_240 + 512 * turn), now_s=10.0 * turn)
        assert again is at
        router.first(ticket, again, 10.0 * turn + 0.3)


def test_a_popular_beginning_does_not_pile_everything_on_one_deployment():
    """Every request has the same first block: when the deployment that holds it is busy, another deployment reads the block again."""
    router = Router(*(view(str(n)) for n in range(4)))
    common = [1, 2]
    used = [
        router.send(PlacementRequest(4096, 100, [*common, *range(100 * n, 100 * n + 6)], 512))[1].name
        for n in range(40)
    ]
    assert {used.count(str(n)) for n in range(4)} <= {8, 9, 10, 11, 12}


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.sets(st.integers(0, 7)))
def test_what_was_tried_is_not_tried_again(up, tried):
    views = [view(str(n)) for n in range(len(up))]
    for one, healthy in zip(views, up, strict=True):
        if not healthy:
            one.cool_down(0.0, 30.0)
    best = Router(*views).choose(tried=[str(n) for n in tried])
    left = [one for one in views if int(one.name) not in tried]
    if best is None:
        assert not left
    else:
        assert best in left
        assert up[int(best.name)] or not any(up[int(one.name)] for one in left)


def test_a_circuit_opens_tries_once_and_closes():
    bad, good = view("bad"), view("good")
    router = Router(bad, good)
    for _ in range(FAILURES_TO_OPEN):
        bad.failed(100.0)
    good.outstanding = 10
    assert router.choose(now_s=100.1) is good
    after = 100.0 + COOL_DOWN_S + 0.1
    assert router.choose(now_s=after) is bad
    bad.began(after)
    assert router.choose(now_s=after) is good  # one trial, no more
    bad.succeeded(200.0)
    bad.ended()
    assert router.choose(now_s=after) is bad


def test_where_every_circuit_is_open_the_first_to_cool_is_tried():
    one, two = view("one"), view("two")
    for at in range(FAILURES_TO_OPEN):
        one.failed(100.0 + at)
        two.failed(50.0 + at)
    assert Router(one, two).choose(now_s=105.0) is two


def test_the_first_come_before_the_others_as_long_as_one_of_them_can_take_a_request():
    dear = Price(fresh_input_nano=10**9)
    views = [view("native", price=dear), view("other"), view("last")]
    placement = Placement()
    placement.set_views(views)

    def chosen(now_s=0.0, tried=(), request=PLAIN):
        found = placement.choose(views, tried, request, now_s, 1)
        ahead = placement.explain(views, tried, request, now_s, 1)[0].view
        assert found is None or ahead is found.view or ahead.open(now_s)
        return None if found is None else found.view.name

    assert chosen() == "native" and placement.choose(views, (), PLAIN, 0.0).view.name != "native"
    assert chosen(tried=("native",)) in {"other", "last"}
    for _ in range(9):
        views[0].failed(0.0)
    assert chosen() in {"other", "last"}
    for at in views[1:]:
        for _ in range(9):
            at.failed(0.0)
    # None can take it: the first are tried first, whoever cools down before them.
    views[0].cool_until_s = 1e9
    assert chosen(1.0) == "native"


def test_a_vendors_retry_after_rests_it():
    one, two = view("one"), view("two")
    one.rest(0.0, 30)
    assert all(Router(one, two).choose(now_s=now) is two for now in (0.0, 10.0, 29.0))


def test_a_deployment_that_goes_takes_what_is_known_of_its_cache_with_it():
    a, b = view("a"), view("b")
    router = Router(a, b)
    _, first = router.send(prompt("chat", 4096))
    router.placement.set_views([b])
    router.placement.set_views([a, b])
    found = router.placement.explain([a, b], (), prompt("chat", 4096), 100.0)
    assert {c.view.name: c.matched_blocks for c in found}[first.name] == (0 if first is a else 8)


def test_requests_that_go_on_at_deployments_that_are_gone_are_heard_by_nobody():
    a, b = view("a"), view("b")
    router = Router(a, b)
    sent = [router.send(prompt(str(n), 4096)) for n in range(4)]
    changed = view("a", region="cn-sh")
    router.placement.set_views([changed, b])
    assert router.placement.busy == 1
    late = router.placement.choose([a, b], (), prompt("late", 100), 0.0)  # by the snapshot that it began with
    a.began(0.0)
    router.placement.sent("late", late._replace(view=a), prompt("late", 100), 0.0)
    for ticket, at in [*sent, ("late", a)]:
        router.placement.dropped(ticket, at)
        at.ended()
    assert router.placement.busy == 0
    assert all(c.wait_ms == 0.0 for c in router.placement.explain([changed, b], (), PLAIN, 1.0))


def test_a_context_that_seems_too_short_is_the_last_resort():
    small, large = view("small", context_tokens=4096), view("large", context_tokens=100_000)
    large.outstanding = 9
    router = Router(small, large)
    assert router.choose(prompt("p", 5000)) is large
    # The estimate may be wrong: the deployment says so itself.
    assert router.choose(prompt("p", 5000), tried=["large"]) is small


# Money and time.


def test_the_objective_weighs_time_against_money():
    near = view("near", prefill_tokens_per_s=8000, price={"fresh_input_nano": 4000, "output_nano": 16_000})
    far = view(
        "far",
        prefill_tokens_per_s=2000,
        round_trip_ms=800,
        price={"fresh_input_nano": 500, "output_nano": 2000},
    )
    router = Router(near, far)
    assert router.choose(prompt("p", 2000)) is near
    assert router.choose(prompt("p", 2000, "cost")) is far
    assert router.choose(prompt("p", 2000, "balance")) is near
    # A long prompt costs more than the wait for it is worth.
    far.forecast.ms_per_token = near.forecast.ms_per_token
    assert router.choose(prompt("p", 100_000, "balance")) is far


def test_committed_capacity_costs_nothing_more():
    price = {"fresh_input_nano": 4000, "cached_input_nano": 400, "output_nano": 16_000}
    request = prompt("p", 2048)
    paid, metered = view("paid", price=price, committed=True), view("metered", price=price)
    router = Router(paid, metered)

    def costs():
        return {c.view.name: c.cost_nano for c in router.placement.explain(router.views, (), request, 1.0)}

    assert costs() == {"paid": 0, "metered": 2048 * 4000 + 100 * 16_000}
    router.send(request, tried=("paid",))
    # All of it but the last token may be cached there.
    assert costs() == {"paid": 0, "metered": 4000 + 2047 * 400 + 100 * 16_000}


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(1, 9000), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_explained_is_what_is_done(steps):
    """The best of the explanation is the choice, whatever has been sent, cached, learned or failed."""
    router = Router(
        *(view(str(n), prefill_tokens_per_s=1000 * (n + 1), round_trip_ms=10 * n) for n in range(5))
    )
    for at, (failing, chat, tokens, answers) in enumerate(steps):
        if failing < 5:
            router.views[failing].cool_down(float(at), 1.5)
        request = prompt(str(chat), tokens)
        best = router.placement.explain(router.views, (), request, float(at))[0]
        ticket, chosen = router.send(request, float(at))
        if best.excluded is None:
            assert chosen is best.view
        if answers:
            router.first(ticket, chosen, at + 0.4)
        if not answers or chosen.trial:
            chosen.ended()


def test_every_candidate_is_explained():
    a, b, c, d = view("a"), view("b", region="sg"), view("c", region="cn-sh"), view("d", region="cn-bj")
    d.rest(0.0, 60.0)
    request = prompt("p", 1000, regions=("cn",))
    found = Router(a, b, c, d).placement.explain([a, b, c, d], ("x",), request, 1.0)
    assert (found[0].view.name, found[0].excluded) == ("c", None)
    said = {f.view.name: f.excluded.partition(":")[0] for f in found[1:]}
    assert said == {"a": "residency", "b": "residency", "d": "health"}
    # To explain is no request: nothing is counted, or learned.
    assert found == Router(a, b, c, d).placement.explain([a, b, c, d], ("x",), request, 1.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5000)), max_size=60))
def test_the_count_of_busy_deployments_is_right_whatever_comes(steps):
    router = Router(view("a"), view("b"), view("c"))
    live = []
    now = 0.0
    for what, which, tokens in steps:
        now += 0.5
        if what in (0, 1) or not live:
            live.append(router.send(prompt(str(which), tokens), now))
        else:
            ticket, at = live.pop(which % len(live))
            if what == 2:
                router.first(ticket, at, now)
            router.placement.dropped(ticket, at)
            at.ended()
        busy = sum(one.forecast.busy for one in router.views)
        assert router.placement.busy == busy
        assert all(one.outstanding == sum(at is one for _, at in live) for one in router.views)
