"""Sessions of staff: of one listener, ended by idleness, by age, by their person, by an administrator."""

from datetime import timedelta

import pytest

from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Unavailable
from tokenworks.trust import Peppers, StaffSessionLimits, StaffSessions
from tokenworks.trust.identity.staff_sessions import STAFF_SESSIONS_MAX

IDLE, LIFE = timedelta(minutes=30), timedelta(hours=12)


@pytest.fixture
def sessions(services):
    return services.staff_sessions


@pytest.fixture
def ann(services):
    services.identity.add_staff("Ann", "finance")
    return services.staff_sign_in.staff_id_of("Ann")


def opened(sessions, staff_id, listener="staff"):
    return sessions.open(staff_id, listener, "totp", "203.0.113.7", "Firefox \x1b[2J" + "x" * 300)[0]


def test_a_session_is_of_one_listener(sessions, ann):
    on_staff, on_public = opened(sessions, ann), opened(sessions, ann, "public")
    assert sessions.find(on_staff, "staff").name == "Ann" and sessions.find(on_public, "public")
    assert sessions.find(on_staff, "public") is None and sessions.find(on_public, "staff") is None
    for text in ("", "two_", "two_" + "x" * 43, "tws_x", on_staff + "x", "two_" + "x" * 200):
        assert sessions.find(text, "staff") is None


def test_it_ends_when_it_is_idle_and_in_any_case(sessions, ann, clock):
    idle, busy = opened(sessions, ann), opened(sessions, ann)
    began = clock.now()
    clock.move(IDLE - timedelta(minutes=2))
    assert sessions.find(busy, "staff")
    clock.move(timedelta(minutes=2))
    assert sessions.find(idle, "staff") is None
    while clock.now() - began < LIFE - IDLE / 2:
        assert sessions.find(busy, "staff")
        clock.move(IDLE / 2)
    clock.move(LIFE - (clock.now() - began))
    assert sessions.find(busy, "staff") is None and sessions.live() == []


def test_where_it_was_used_last_is_stored(sessions, ann, clock):
    text = opened(sessions, ann)
    clock.move(timedelta(minutes=5))
    sessions.find(text, "staff", "198.51.100.1")
    (found,) = sessions.live(ann)
    assert (found.address, found.seen_address, found.seen_at) == ("203.0.113.7", "198.51.100.1", clock.now())
    assert "\x1b" not in found.client and len(found.client) <= 200


def test_it_is_ended_by_its_person_and_by_nobody_else(sessions, services, ann):
    services.identity.add_staff("Bo", "operator")
    bo = services.staff_sign_in.staff_id_of("Bo")
    mine, other, theirs = opened(sessions, ann), opened(sessions, ann), opened(sessions, bo)
    ids = {text: sessions.find(text, "staff").session_id for text in (mine, other, theirs)}
    assert not sessions.end(ann, ids[theirs]) and sessions.find(theirs, "staff")
    assert sessions.is_of(bo, ids[theirs]) and not sessions.is_of(ann, ids[theirs])
    assert sessions.end_all(ann, ids[mine]) == 1 and sessions.find(other, "staff") is None
    assert sessions.end(ann, ids[mine]) and not sessions.end(ann, ids[mine])
    assert [session.name for session in sessions.live()] == ["Bo"]


def test_there_are_so_many_of_one_person_at_most(sessions, ann):
    texts = [opened(sessions, ann) for _ in range(STAFF_SESSIONS_MAX + 3)]
    found = [sessions.find(text, "staff") is not None for text in texts]
    assert found == [False] * 3 + [True] * STAFF_SESSIONS_MAX


def test_the_text_is_not_stored(sessions, ann, services):
    text = opened(sessions, ann)
    assert text not in str(services.connection.execute("SELECT t::text FROM staff_session t").fetchall())


def test_a_host_without_a_pepper_says_that_it_cannot_know(sessions, ann, services, clock):
    lacking = StaffSessions(services.connection, {9: b"x" * 32}, clock, StaffSessionLimits(IDLE, LIFE))
    peppers = Peppers({9: b"x" * 32})
    peppers.lacking = (1,)
    lacking._peppers = peppers
    with pytest.raises(Unavailable):
        lacking.find("two_" + "x" * 43, "staff")


def test_limits_are_settings_and_old_rows_go(services, session_dir, ann, clock):
    given = {"data_dir": str(session_dir / "seed"), "staff_session_idle_min": 5, "staff_session_hours": 1}
    short = make_works(load_settings(given).settings, services.connection, clock).staff_sessions
    text = opened(short, ann)
    clock.move(timedelta(minutes=5))
    assert short.find(text, "staff") is None
    clock.move(timedelta(days=31))
    short.forget_old()
    assert services.connection.execute("SELECT count(*) FROM staff_session").fetchone() == (0,)
