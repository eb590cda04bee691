from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory import Place, carry_over, choose, make_deployment
from tokenworks.factory.placement import COOL_DOWN_S, FAILURES_TO_OPEN


def place(name, **more):
    return Place(
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


def test_the_least_outstanding_is_chosen_and_ties_go_round():
    places = [place("a"), place("b"), place("c")]
    chosen = []
    for now in range(6):
        best = choose(places, [], float(now))
        best.began(float(now) + 0.5)
        chosen.append(best.name)
    assert chosen == ["a", "b", "c", "a", "b", "c"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.sets(st.integers(0, 7)))
def test_what_was_tried_is_not_tried_again(outstanding, tried):
    places = [place(str(n)) for n in range(len(outstanding))]
    for one, count in zip(places, outstanding, strict=True):
        one.outstanding = count
    best = choose(places, [str(n) for n in tried], 0.0)
    left = [one for one in places if int(one.name) not in tried]
    if best is None:
        assert not left
    else:
        assert best in left
        assert best.outstanding == min(one.outstanding for one in left)


def test_a_circuit_opens_tries_once_and_closes():
    bad, good = place("bad"), place("good")
    for _ in range(FAILURES_TO_OPEN):
        bad.failed(100.0)
    good.outstanding = 10
    assert choose([bad, good], [], 100.1) is good
    after = 100.0 + COOL_DOWN_S + 0.1
    assert choose([bad, good], [], after) is bad
    bad.began(after)
    assert choose([bad, good], [], after) is good  # one trial, no more
    bad.succeeded()
    bad.ended()
    assert choose([bad, good], [], after) is bad


def test_where_every_circuit_is_open_the_first_to_cool_is_tried():
    one, two = place("one"), place("two")
    for at in range(FAILURES_TO_OPEN):
        one.failed(100.0 + at)
        two.failed(50.0 + at)
    assert choose([one, two], [], 105.0) is two


def test_a_vendors_retry_after_rests_it():
    one, two = place("one"), place("two")
    one.rest(0.0, 30)
    assert all(choose([one, two], [], now) is two for now in (0.0, 10.0, 29.0))


def test_a_snapshot_keeps_what_is_unchanged():
    old = [place("a"), place("b")]
    old[0].outstanding = 3
    new = carry_over(old, [place("a"), place("b", region="cn-sh")])
    assert new[0] is old[0]
    assert new[1] is not old[1]
