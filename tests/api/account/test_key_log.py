"""The log of a key by its doors: the member and the owner turn it on, read and delete it; nobody else does, and each of it is audited."""

import base64

import pytest

from tokenworks.charging import ContentToLog
from tokenworks.kernel import uuid7

PHONE, MEI, ANN, BEN = "+8613800000001", "+8613876543210", "+8613876540002", "+8613876540003"
SAID, ANSWERED = b'{"messages": "open sesame"}', b"hello"


@pytest.fixture
def family(services, signed_in):
    """(the owner's account, Mei's key, request ids of its entries, headers by person)"""
    payer = services.subscriptions.register(PHONE, "Li")
    heads = {"owner": signed_in(payer)}
    for name, role, phone in (("mei", "member", MEI), ("ann", "admin", ANN), ("ben", "member", BEN)):
        made = services.members.invite(payer, phone, name, role=role)
        member = services.members.accept(phone, made.member_id)
        heads[name] = signed_in(payer, member.member_id)
        if name == "mei":
            key_id, _ = services.access.issue_key(payer, member.member_id, "tablet")
            mei = member
    ids = []
    for _ in range(3):
        entry = ContentToLog(
            payer.account_id.hex, uuid7().hex, key_id.hex, mei.member_id.hex, "chat", "m", "complete", 27, 5, SAID, ANSWERED
        )  # fmt: skip
        assert services.content_log.keep(entry, payer.subscriber_id, lambda: True)
        ids.insert(0, entry.request_id)
    heads["other"] = signed_in(services.subscriptions.register("+8613800000009", "Wu"))
    return payer, key_id, ids, heads


def trail(services, key_id):
    rows = services.connection.execute(
        "SELECT action, actor FROM audit WHERE ref = %s ORDER BY audit_id", (str(key_id),)
    )
    return [row[0] for row in rows.fetchall()]


@pytest.mark.parametrize("who", ["owner", "mei"])
def test_the_owner_and_the_member_turn_it_on_and_both_see_it(client, services, family, who):
    _, key_id, _, heads = family
    assert [key["content_log"] for key in client.get("/api/keys", headers=heads["mei"]).json()] == [False]
    answer = client.put(f"/api/keys/{key_id}/log", json={"on": True}, headers=heads[who])
    assert answer.json() == {"id": str(key_id), "content_log": True} and services.keys.logs_content(key_id)
    for person in ("owner", "mei"):
        assert [key["content_log"] for key in client.get("/api/keys", headers=heads[person]).json()] == [True]
    client.put(f"/api/keys/{key_id}/log", json={"on": False}, headers=heads[who])
    assert not services.keys.logs_content(key_id) and trail(services, key_id) == ["key.log"] * 2


@pytest.mark.parametrize("who", ["owner", "mei"])
def test_it_is_read_entry_by_entry_and_deleted(client, services, family, who):
    _, key_id, ids, heads = family
    path, head = f"/api/keys/{key_id}/log", heads[who]
    listed = client.get(path, params={"limit": 2}, headers=head)
    assert [one["request_id"] for one in listed.json()] == ids[:2] and "sesame" not in listed.text
    rest = client.get(path, params={"before": ids[1]}, headers=head).json()
    assert [one["request_id"] for one in rest] == ids[2:]
    read = client.get(f"{path}/{ids[0]}", headers=head).json()
    assert (base64.b64decode(read["request"]), base64.b64decode(read["answer"])) == (SAID, ANSWERED)
    assert (read["model"], read["outcome"], read["request_bytes"]) == ("m", "complete", 27)
    assert client.delete(f"{path}/{ids[0]}", headers=head).status_code == 204
    assert client.get(f"{path}/{ids[0]}", headers=head).status_code == 404
    assert client.delete(path, headers=head).status_code == 204
    assert client.get(path, headers=head).json() == []
    assert trail(services, key_id) == ["key.log.read", "key.log.delete", "key.log.delete"]


def test_what_is_stored_is_read_and_deleted_after_the_key_was_stopped_too(client, services, family):
    payer, key_id, ids, heads = family
    services.access.revoke_key(payer, key_id)
    path, head = f"/api/keys/{key_id}/log", heads["mei"]
    assert [one["request_id"] for one in client.get(path, headers=head).json()] == ids
    assert client.get(f"{path}/{ids[0]}", headers=head).status_code == 200
    assert client.get(path, headers=heads["ben"]).status_code == 404
    assert client.put(path, json={"on": True}, headers=head).status_code == 404
    assert client.delete(path, headers=head).status_code == 204
    assert services.content_log.entries(payer.account_id, key_id) == []


@pytest.mark.parametrize(("who", "status"), [("ann", 403), ("ben", 404), ("other", 404)])
def test_nobody_else_has_a_door_to_it(client, services, family, who, status):
    payer, key_id, ids, heads = family
    path, head = f"/api/keys/{key_id}/log", heads[who]
    for method, url, body in (
        ("GET", path, None),
        ("PUT", path, {"on": True}),
        ("DELETE", path, None),
        ("GET", f"{path}/{ids[0]}", None),
        ("DELETE", f"{path}/{ids[0]}", None),
    ):
        assert client.request(method, url, json=body, headers=head).status_code == status, (method, url)
    assert len(services.content_log.entries(payer.account_id, key_id)) == 3
    assert not services.keys.logs_content(key_id) and trail(services, key_id) == []
