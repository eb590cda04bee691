"""One-time codes: shared by those who ask at once, good once, and nobody else's asking shuts anybody out."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.trust import CodeWrong, TooManyCodes

PHONE = "+8613800000001"
NAT, LINE = "203.0.113.1", "2001:db8::1"


def test_a_shared_code_is_good_once_for_all_who_come_at_once(services, database_url, session_dir):
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    connections = [connect(database_url) for _ in range(2)]
    hosts = [make_works(settings, connection, services.clock) for connection in connections]
    with ThreadPoolExecutor(2) as pool:
        for number in range(10):
            phone = f"+86138000001{number:02d}"
            first = services.identity.request_code(phone, "203.0.113.1")
            second = services.identity.request_code(phone, "203.0.113.2")
            assert second.code is None
            together = threading.Barrier(2)

            def enter(host, challenge, phone=phone, code=first.code, together=together):
                together.wait(10)
                try:
                    host.identity.check_code(phone, code, challenge.text)
                except CodeWrong:
                    return False
                return True

            assert sorted(pool.map(enter, hosts, (first, second))) == [False, True]
    for connection in connections:
        connection.close()


def test_behind_one_ipv4_address_nobody_shuts_a_number_out(services, clock):
    """A carrier's NAT, or a proxy that is not named as one, puts many behind one address: what one of them asks for a number is
    not a switch for its owner.
    """
    sent = [services.identity.request_code(PHONE, NAT)]
    for _ in range(60):
        sent.append(services.identity.request_code(PHONE, NAT))
        clock.move(timedelta(seconds=61))
    # The phone does not ring all the time: at most once an hour, soon.
    assert 5 <= sum(one.code is not None for one in sent) <= 8
    # The owner's own asking gets in, with the code that was sent last, whatever is asked beside it.
    mine = services.identity.request_code(PHONE, NAT)
    code = next(one.code for one in reversed(sent) if one.code)
    for other in sent[-5:]:
        for guess in range(6):
            with pytest.raises(CodeWrong):
                services.identity.check_code(PHONE, f"{guess:010d}", other.text, NAT)
    services.identity.check_code(PHONE, code, mine.text, NAT)


def test_a_second_asking_within_a_minute_shares_the_code(services):
    first = services.identity.request_code(PHONE, NAT)
    second = services.identity.request_code(PHONE, NAT)
    assert second.code is None and second.text != first.text
    services.identity.check_code(PHONE, first.code, second.text, NAT)


def test_one_line_of_ipv6_is_one_asker(services, clock):
    for _ in range(5):
        services.identity.request_code(PHONE, LINE)
        with pytest.raises(TooManyCodes):
            services.identity.request_code(PHONE, "2001:db8::2")
        clock.move(timedelta(minutes=2))
    with pytest.raises(TooManyCodes):
        services.identity.request_code(PHONE, LINE)
    services.identity.request_code(PHONE, NAT)
