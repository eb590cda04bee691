"""Every door issues keys by one rule: as many live keys as may be, whatever was issued before."""

import re

import pytest
from click.testing import CliRunner

from tokenworks.cli.main import cli
from tokenworks.subscriptions import access


@pytest.fixture
def clock(clock):
    """Commands go by the time of now."""
    from datetime import UTC, datetime

    clock.move(datetime.now(UTC) - clock.now())
    return clock


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li")


@pytest.fixture
def doors(services, client, signed_in, li, database_url, session_dir, monkeypatch):
    """By door: issues a key of the owner. True where it was issued, False where it was refused as invalid."""
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    headers = signed_in(li)

    def by_api():
        answer = client.post("/api/keys", json={"name": "api"}, headers=headers)
        assert answer.status_code in {201, 400}, answer.text
        return answer.status_code == 201

    def by_page():
        client.cookies.set("tokenworks_session", headers["authorization"].split()[1])
        answer = client.post("/keys", data={"name": "page"})
        client.cookies.clear()
        assert answer.status_code in {200, 422}, answer.text
        return answer.status_code == 200

    def by_command():
        done = CliRunner().invoke(
            cli, ["--data-dir", str(session_dir / "seed"), "key", "create", "--subscriber", li.phone]
        )
        assert done.exit_code == 0 or "at most 3 keys" in str(done.exception), done.exception
        return done.exit_code == 0

    return {"api": by_api, "page": by_page, "command": by_command}


@pytest.mark.parametrize("door", ["api", "page", "command"])
def test_keys_that_have_ended_make_room_at_every_door(services, clock, li, doors, monkeypatch, door):
    monkeypatch.setattr(access, "MEMBER_KEYS_LIVE_MAX", 3)
    issue = doors[door]
    # More keys than may be live were issued and have ended: revoked ones, and one that has expired.
    for number in range(4):
        key_id, _ = services.access.issue_key(li, None, f"old {number}")
        services.keys.revoke(key_id)
    services.access.issue_key(li, None, "expired", expires_in_days=1)
    services.connection.execute(
        "UPDATE api_key SET expires_at = now() - interval '1 hour' WHERE name = 'expired'"
    )
    assert [issue() for _ in range(4)] == [True, True, True, False]
    live = [key for key in services.access.keys(li) if key.revoked_at is None and key.expires_at is None]
    assert len(live) == 3
    services.access.revoke_key(li, live[0].key_id)
    assert issue() and not issue()


def test_a_limit_is_of_one_member_and_of_the_account(services, li, client, signed_in, monkeypatch):
    monkeypatch.setattr(access, "MEMBER_KEYS_LIVE_MAX", 2)
    monkeypatch.setattr(access, "ACCOUNT_KEYS_LIVE_MAX", 3)
    invited = services.members.invite(li, "+8613800000002", "Mei")
    mei = services.members.accept("+8613800000002", invited.member_id)
    for _ in range(2):
        assert client.post("/api/keys", json={"name": "x"}, headers=signed_in(li)).status_code == 201
    theirs = signed_in(li, mei.member_id)
    assert client.post("/api/keys", json={"name": "x"}, headers=theirs).status_code == 201
    refused = client.post("/api/keys", json={"name": "x"}, headers=theirs)
    assert refused.status_code == 400 and "an account has at most 3 keys" in refused.json()["detail"]
    # A member sees and stops its own keys alone.
    (own,) = client.get("/api/keys", headers=theirs).json()
    others = {key["id"] for key in client.get("/api/keys", headers=signed_in(li)).json()} - {own["id"]}
    for key_id in others:
        assert client.delete(f"/api/keys/{key_id}", headers=theirs).status_code == 404
    assert client.delete(f"/api/keys/{own['id']}", headers=theirs).status_code == 204
    assert len(services.access.keys(li)) == 3 and services.access.keys(li, mei.member_id) == []


def test_the_shop_orders_without_a_key_where_there_are_as_many_as_may_be(
    services, li, client, signed_in, monkeypatch
):
    monkeypatch.setattr(access, "MEMBER_KEYS_LIVE_MAX", 1)
    client.cookies.set("tokenworks_session", signed_in(li)["authorization"].split()[1])
    keys = [
        re.findall(
            r"twk_[a-z]+_[0-9A-Za-z]{36}", client.post("/order", data={"offering": id_, "key": id_}).text
        )
        for id_ in ("ctc-light", "tianyi-coding-lite")
    ]
    assert keys[0] and not keys[1] and len(services.orders.products(li)) == 2
