"""Issuing, listing and stopping keys of an account."""

import contextlib
import threading

import pytest

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import access


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li")


def test_a_key_has_its_cap_and_its_end(services, clock, li):
    key_id, text = services.access.issue_key(
        li, None, "laptop", models=["m"], cap_tokens=500, expires_in_days=30, origins=["https://a.example"]
    )
    (info,) = services.access.keys(li)
    assert (info.key_id, info.name, info.models, info.cap_tokens) == (key_id, "laptop", ("m",), 500)
    assert (info.expires_at - clock.now()).days == 30 and text.startswith("twk_")
    assert services.access.keys(li, services.subscriptions.owner_of(li)) == [info]


@pytest.mark.parametrize("wrong", [{"cap_tokens": 0}, {"cap_tokens": 10**30}, {"expires_in_days": 0}, {"expires_in_days": 36_501}, {"models": []}, {"name": "\n"}])  # fmt: skip
def test_what_is_refused_leaves_no_key_and_no_cap(services, li, wrong):
    buckets = services.ledger.buckets(li.account_id)
    with pytest.raises(Invalid):
        services.access.issue_key(li, None, **({"name": "x", "cap_tokens": 5} | wrong))
    assert services.access.keys(li) == [] and services.ledger.buckets(li.account_id) == buckets


def test_a_key_of_another_account_is_not_stopped(services, li):
    other = services.subscriptions.register("+8613800000002", "Wang")
    key_id, _ = services.access.issue_key(other, None, "x")
    with pytest.raises(NotFound):
        services.access.revoke_key(li, key_id)
    assert services.access.revoke_key(other, key_id) and not services.access.revoke_key(other, key_id)


def test_two_at_once_do_not_pass_the_limit(services, li, database_url, session_dir, clock, monkeypatch):
    monkeypatch.setattr(access, "MEMBER_KEYS_LIVE_MAX", 3)
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    start, refused = threading.Barrier(6), []

    def issue():
        with contextlib.closing(connect(database_url)) as connection:
            own = make_works(settings, connection, clock)
            start.wait()
            try:
                own.access.issue_key(li, None, "x")
            except Invalid as error:
                refused.append(error)

    threads = [threading.Thread(target=issue) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3 and len(services.access.keys(li)) == 3


def test_the_models_to_fall_back_to_are_the_accounts_own_to_set(services, li):
    other = services.subscriptions.register("+8613800000002", "Wu")
    key_id, _ = services.access.issue_key(li, None, "laptop", fallbacks=["a", "b"])
    assert services.access.keys(li)[0].fallbacks == ("a", "b")
    with pytest.raises(NotFound):
        services.access.set_fallbacks(other, key_id, ["c"])
    for wrong in ([f"m{n}" for n in range(9)], ["x y"], [""]):
        with pytest.raises(Invalid):
            services.access.set_fallbacks(li, key_id, wrong)
    services.access.set_fallbacks(li, key_id, [])
    assert services.access.keys(li)[0].fallbacks == ()
    services.access.set_fallbacks(li, key_id, None)
    assert services.access.keys(li)[0].fallbacks is None
    services.access.revoke_key(li, key_id)
    with pytest.raises(NotFound):
        services.access.set_fallbacks(li, key_id, ["a"])


def test_the_wish_for_the_cache_is_the_accounts_own_to_set(services, li):
    other = services.subscriptions.register("+8613800000002", "Wu")
    key_id, text = services.access.issue_key(li, None, "laptop")
    assert services.access.keys(li)[0].response_cache is False
    with pytest.raises(NotFound):
        services.access.set_response_cache(other, key_id, on=True)
    services.access.set_response_cache(li, key_id, on=True)
    assert services.access.keys(li)[0].response_cache
    assert services.key_standings.find(text).key.response_cache
    services.access.set_response_cache(li, key_id, on=False)
    assert not services.access.keys(li)[0].response_cache
    services.access.revoke_key(li, key_id)
    with pytest.raises(NotFound):
        services.access.set_response_cache(li, key_id, on=True)
