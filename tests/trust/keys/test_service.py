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
def issued(works):
    subscriber = works.subscriptions.register("+8613800000001")
    key_id, text = works.keys.issue(
        account_id=subscriber.account_id, member_id=works.subscriptions.owner_of(subscriber), name="one"
    )
    return works, subscriber, key_id, text


def mac(works, text):
    return key_mac(works.keys._peppers[1], text)


def test_only_a_mac_is_stored(issued):
    works, _, _, text = issued
    row = works.connection.execute("SELECT * FROM api_key").fetchone()
    assert not any(text in str(value) or text[10:40] in str(value) for value in row)
    assert works.keys.find([mac(works, text)])


def test_a_revoked_key_is_not_found(issued):
    works, _, key_id, text = issued
    assert works.keys.revoke(key_id)
    assert not works.keys.revoke(key_id)
    assert works.keys.find([mac(works, text)]) == {}
    with pytest.raises(KeyNotFound):
        works.keys.revoke(__import__("uuid").uuid4())


def test_expiry_and_names_are_checked(issued):
    works, subscriber, _, _ = issued
    for bad in (
        {"expires_at": works.clock.now() - timedelta(seconds=1)},
        {"name": ""},
        {"name": "x" * 101},
        {"models": []},
    ):
        with pytest.raises(Invalid):
            works.keys.issue(
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
