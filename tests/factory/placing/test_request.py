"""Where data may go: residency and vendors, at the first attempt and at every other one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factory.placing.test_placement import Router, prompt, view
from tokenworks.factory import may_have

REGIONS = ["cn-sh", "cn-bj", "cn", "sg", "us-west", "cnx-1", None]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(REGIONS), st.booleans(), st.integers(0, 9)), min_size=1, max_size=10),
    st.one_of(st.none(), st.lists(st.sampled_from(["cn", "cn-sh", "sg", "eu"]), min_size=1, max_size=3)),
    st.integers(1, 400_000),
)
def test_data_never_goes_where_it_may_not_fail_over_included(fleet, allowed, tokens):
    """Over random fleets, health and rules: every deployment that is tried, to the last one, may have the request."""
    views = [view(str(at), region=region) for at, (region, _, _) in enumerate(fleet)]
    for one, (_, broken, busy) in zip(views, fleet, strict=True):
        one.outstanding = busy
        if broken:
            one.cool_down(0.0, 60.0)
    router = Router(*views)
    request = prompt("p", tokens, regions=None if allowed is None else tuple(allowed))
    tried = []
    while (found := router.choose(request, 1.0, tried)) is not None:
        region = found.deployment.region
        assert allowed is None or (
            region is not None and any(region == a or region.startswith(f"{a}-") for a in allowed)
        )
        tried.append(found.name)
    may = [one.name for one in views if may_have(one.deployment, request) is None]
    assert sorted(tried) == sorted(may), "who may have it is tried, everybody, and nobody else"


def test_a_deployment_that_does_not_say_where_it_is_gets_nothing_that_must_stay():
    somewhere = view("somewhere")
    assert Router(somewhere).choose(prompt("p", 1000)) is somewhere
    assert Router(somewhere).choose(prompt("p", 1000, regions=("cn",))) is None


def test_vendors():
    ours, other = view("ours", vendor="works"), view("other")
    request = prompt("p", 1000, vendors=frozenset({"works"}))
    router = Router(other, ours)
    assert router.choose(request) is ours
    assert router.choose(request, tried=["ours"]) is None
    reasons = {c.view.name: c.excluded for c in router.placement.explain(router.views, (), request, 0.0)}
    assert reasons["ours"] is None and reasons["other"].startswith("vendor:")
