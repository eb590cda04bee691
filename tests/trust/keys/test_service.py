import os
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.kernel import Invalid, Unavailable
from tokenworks.trust import KeyNotFound, ensure_pepper, is_key, key_mac, load_peppers
from tokenworks.trust.model import format_key


@given(st.integers(0, 2**178 - 1))
def test_a_key_has_its_checksum(secret):
    text = format_key("dev", secret)
    assert text.startswith("twk_dev_")
    assert len(text) == len("twk_dev_") + 36
    assert is_key(text)


@given(st.integers(0, 2**178 - 1), st.integers(8, 43), st.sampled_from("0aZz9"))
def test_a_typo_is_noticed(secret, at, other):
    text = format_key("dev", secret)
    if text[at] != other:
        assert not is_key(text[:at] + other + text[at + 1 :])


@pytest.mark.parametrize("text", ["", "twk_", "sk-abc", "twk_dev_é" + "0" * 35, "x" * 1000])
def test_what_is_no_key(text):
    assert not is_key(text)


@pytest.fixture
def issued(services):
    subscriber = services.subscriptions.register("+8613800000001")
    key_id, text = services.keys.issue(
        account_id=subscriber.account_id, member_id=services.subscriptions.owner_of(subscriber), name="one"
    )
    return services, subscriber, key_id, text


def mac(services, text):
    return key_mac(services.keys._peppers[1], text)


def test_only_a_mac_is_stored(issued):
    services, _, _, text = issued
    row = services.connection.execute("SELECT * FROM api_key").fetchone()
    assert not any(text in str(value) or text[10:40] in str(value) for value in row)
    assert services.keys.find([mac(services, text)])


def test_a_revoked_key_is_not_found(issued):
    services, _, key_id, text = issued
    assert services.keys.revoke(key_id)
    assert not services.keys.revoke(key_id)
    assert services.keys.find([mac(services, text)]) == {}
    with pytest.raises(KeyNotFound):
        services.keys.revoke(__import__("uuid").uuid4())


def test_expiry_and_names_are_checked(issued):
    services, subscriber, _, _ = issued
    for bad in (
        {"expires_at": services.clock.now() - timedelta(seconds=1)},
        {"name": ""},
        {"name": "x" * 101},
        {"models": []},
    ):
        with pytest.raises(Invalid):
            services.keys.issue(
                **(
                    {"account_id": subscriber.account_id, "member_id": subscriber.account_id, "name": "x"}
                    | bad
                )
            )


def test_the_pepper_is_for_its_owner_only(tmp_path):
    ensure_pepper(tmp_path)
    before = load_peppers(tmp_path)
    ensure_pepper(tmp_path)
    assert load_peppers(tmp_path) == before
    assert (tmp_path / "pepper-1").stat().st_mode & 0o777 == 0o600
    os.chmod(tmp_path / "pepper-1", 0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        load_peppers(tmp_path)
