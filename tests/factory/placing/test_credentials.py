"""Which of a deployment's credentials a request takes."""

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory import CredentialRing

REFERENCES = ("env:TOKENWORKS_UPSTREAM_A", "file:b", "file:c")


def always(_reference):
    return True


def ring(*references):
    return CredentialRing("d1", references or REFERENCES)


def taken(made, now_s=0.0, usable=always):
    return made.take(now_s, usable).reference


def test_they_take_turns():
    made = ring()
    assert [taken(made) for _ in range(6)] == [*REFERENCES, *REFERENCES]


def test_the_least_busy_one_is_taken():
    made = ring()
    slots = [made.take(0.0, always) for _ in range(3)]
    slots[1].ended()
    assert taken(made) == "file:b"


def test_one_of_whose_limits_little_is_left_gets_little():
    made = ring("file:a", "file:b")
    made.slots[0].left = 0.25
    found = [taken(made) for _ in range(10)]
    assert (found.count("file:a"), found.count("file:b")) == (2, 8)


def test_one_that_rests_is_passed_over_until_its_time():
    made = ring("file:a", "file:b")
    made.slots[0].rest(0.0, 5.0)
    assert [taken(made, 4.9) for _ in range(3)] == ["file:b"] * 3
    assert taken(made, 5.0) == "file:a"
    made.slots[0].rest(5.0, 20.0)
    made.slots[0].rest(5.0, 1.0)
    assert made.slots[0].rests_until_s == 25.0, "no later answer shortens a rest"


def test_where_all_rest_the_first_to_come_back_is_taken_and_its_time_is_told():
    made = ring("file:a", "file:b")
    made.slots[0].rest(0.0, 9.0)
    assert made.resting_s(1.0, always) == 0.0
    made.slots[1].rest(0.0, 5.0)
    assert made.resting_s(1.0, always) == 4.0 and taken(made, 1.0) == "file:b"


def test_one_that_the_host_does_not_have_is_not_taken():
    made = ring("file:a", "file:b")
    assert {taken(made, usable=lambda name: name == "file:b") for _ in range(3)} == {"file:b"}
    made.slots[1].rest(0.0, 5.0)
    assert made.resting_s(0.0, lambda name: name == "file:b") == 5.0
    assert made.resting_s(0.0, lambda name: False) == 0.0


def test_times_of_other_workers_are_kept_by_the_slots_names():
    made = ring("file:a", "file:b")
    made.apply_pauses({"d1 file:a": 7.0, "d1": 99.0, "d2 file:b": 99.0}, 1.0)
    assert [slot.rests_until_s for slot in made.slots] == [7.0, 0.0]
    made.apply_pauses({"d1 file:a": 3.0}, 1.0)
    assert made.slots[0].rests_until_s == 7.0
    # What was said of a credential that was replaced is not said of the new one.
    made.slots[0].begin_anew()
    made.apply_pauses({"d1 file:a": 7.0}, 1.0)
    assert made.slots[0].rests_until_s == 0.0
    made.apply_pauses({"d1 file:a": 8.0}, 1.0)
    assert made.slots[0].rests_until_s == 8.0


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(("take", "end", "rest", "left")), st.floats(0, 10)),
        max_size=60,
    )
)
def test_requests_in_flight_are_counted_whatever_happens(steps):
    made, flying, now_s = ring(), [], 0.0
    for which, what, amount in steps:
        if what == "take":
            flying.append(made.take(now_s, always))
        elif what == "end" and flying:
            flying.pop(which % len(flying)).ended()
        elif what == "rest":
            made.slots[which].rest(now_s, amount)
            now_s += amount / 2
        else:
            made.slots[which].left = amount / 10
        assert sum(slot.in_flight for slot in made.slots) == len(flying)
        awake = [slot for slot in made.slots if slot.rests_until_s <= now_s]
        assert (made.resting_s(now_s, always) == 0.0) == bool(awake)
