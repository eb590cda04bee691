"""Passkeys on several connections at once, and the text of what a browser sends. The rest is in `tests/web/test_passkeys.py`."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.authenticator import Authenticator
from tests.support.server import until
from tokenworks.app.database.connections import connect
from tokenworks.trust import Passkeys, PasskeySites, PasskeyWrong, SignInTooOld
from tokenworks.trust.identity.passkeys import decode, encode
from tokenworks.web.passkeys import MadeCredential, UsedCredential

HERE = "http://localhost:8000"


def test_one_answer_sent_many_times_at_once_signs_in_once(services, database_url):
    key, owner = Authenticator(), services.subscriptions.register("+8613800000001")
    passkeys, member_id = services.passkeys, services.subscriptions.owner_of(owner)
    services.identity.open_session(owner.subscriber_id, member_id)
    session_id = services.identity.sessions(owner.subscriber_id)[0].session_id
    asked = passkeys.options_to_add(HERE, session_id, member_id, "Li", "Shop")
    made = MadeCredential.model_validate(key.make(asked, HERE)).read()
    passkeys.add(HERE, session_id, owner.subscriber_id, member_id, made, "phone")
    answer = key.answer(passkeys.options_to_sign_in(HERE, "203.0.113.1"), HERE)
    credential = UsedCredential.model_validate(answer).read()

    def use(_number):
        with contextlib.closing(connect(database_url)) as connection:
            own = Passkeys(connection, services._peppers, services.clock, services.vault, PasskeySites())
            try:
                return own.use(HERE, "203.0.113.1", credential).is_cloned
            except PasskeyWrong:
                return "wrong"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(use, range(4)))
    assert sorted(map(str, found)) == ["False", "wrong", "wrong", "wrong"]


def test_bytes_are_base64url_with_or_without_padding():
    for length in range(70):
        content = bytes(range(180, 180 + length))
        assert decode(encode(content), 70) == content
        assert "=" not in encode(content)
    assert decode("AAA=", 2) == decode("AAA", 2) == b"\0\0"
    for text in ("A", "AAAAA", "é", "AAAA" * 20):
        with pytest.raises(PasskeyWrong):
            decode(text, 16)


def test_no_passkey_is_added_beside_the_end_of_all_sessions(services, database_url):
    """A lost phone: what ends the sessions removes the passkeys that it sees, and one that is added meanwhile must not outlive it."""
    key, owner = Authenticator(), services.subscriptions.register("+8613800000001")
    passkeys, member_id = services.passkeys, services.subscriptions.owner_of(owner)
    services.identity.open_session(owner.subscriber_id, member_id)
    session_id = services.identity.sessions(owner.subscriber_id)[0].session_id
    asked = passkeys.options_to_add(HERE, session_id, member_id, "Li", "Shop")
    made = MadeCredential.model_validate(key.make(asked, HERE)).read()
    with contextlib.closing(connect(database_url)) as other:
        rival = Passkeys(other, services._peppers, services.clock, services.vault, PasskeySites())
        pid = other.info.backend_pid

        def waits():
            (found,) = services.connection.execute(
                "SELECT cardinality(pg_blocking_pids(%s)) > 0", (pid,)
            ).fetchone()
            return found

        with ThreadPoolExecutor(1) as pool:
            with services.connection.transaction():
                services.identity.end_sessions(owner.subscriber_id)
                adding = pool.submit(
                    rival.add, HERE, session_id, owner.subscriber_id, member_id, made, "phone"
                )
                until(lambda: adding.done() or waits(), what="the addition to wait")
            with pytest.raises(SignInTooOld):
                adding.result(30)
    assert passkeys.of(owner.subscriber_id, member_id) == []
