"""The command line finds people as people name them; two persons and hosts with different peppers, as an operator meets them."""

import json
import shutil

import pytest

from tests.support.server import Server, until


@pytest.fixture(scope="module")
def works_server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("people"), two_persons_above_yuan=1) as server:
        server.services.subscriptions.register("+8613800000001", "Wang Wei", broadband="sh12345678")
        server.services.subscriptions.register("+8613800000002", "Wang Fang")
        server.services.subscriptions.register("+8613500070003", "100%_real")
        yield server


@pytest.mark.parametrize(
    ("reference", "ends"),
    [
        ("13800000001", "0001"), ("+8613800000001", "0001"), ("sh12345678", "0001"), ("Wang Wei", "0001"), ("wei", "0001"),
        ("Fang", "0002"), ("100%_", "0003"), ("_real", "0003"), ("0003", "0003"),
    ],
)  # fmt: skip
def test_a_subscriber_is_found_as_people_say_it(works_server, reference, ends):
    shown = json.loads(works_server.cli("subscriber", "show", "--subscriber", reference, "--json").stdout)
    assert shown["subscriber"]["phone"].endswith(ends)


def test_more_than_one_is_asked_about_and_nobody_is_nobody(works_server):
    done = works_server.cli("balance", "--subscriber", "Wang", check=False)
    assert done.returncode == 1 and "more than one" in done.stderr and "0001" in done.stderr
    assert "13800000001" not in done.stderr
    for nobody in ("13800000009", "Wang_Wei", "Wangwei", "Zhao"):
        assert works_server.cli("balance", "--subscriber", nobody, check=False).returncode == 1, nobody
    found = json.loads(works_server.cli("subscriber", "find", "wang", "--json").stdout)
    assert [one["name"] for one in found] == ["Wang Wei", "Wang Fang"]


def test_a_refund_above_the_limit_needs_another_operator(works_server):
    subscriber = works_server.services.subscriptions.register("+8613800000010", "Li")
    # A days' share of it is above the limit, too, on the last day of a month.
    order = works_server.services.orders.place(subscriber, "ctc-premium")
    refund = ("refund", "--order", str(order.order_id), "--part", "whole", "--reason", "sorry")
    assert "dry" not in works_server.cli(*refund, "--dry-run").stderr
    done = works_server.cli(*refund, check=False)
    assert done.returncode == 1 and "tokenworks approval give" in done.stderr
    assert works_server.services.refunds.of_order(order.order_id) == []
    (asked,) = json.loads(works_server.cli("approval", "list", "--json").stdout)
    own = works_server.cli("approval", "give", asked["approval_id"], check=False)
    assert own.returncode == 1 and "second person" in own.stderr
    from uuid import UUID

    works_server.services.approvals.decide(UUID(asked["approval_id"]), "Bo", approve=True)
    works_server.cli(*refund)
    assert len(works_server.services.refunds.of_order(order.order_id)) == 1


def test_secrets_in_urls_are_not_shown(works_server):
    env = works_server.env
    works_server.env = env | {"TOKENWORKS_WEBHOOK_URL": "https://me:pw@hooks.example/x?token=s3cr3t"}
    try:
        for form in ((), ("--json",)):
            out = works_server.cli("config", "show", *form).stdout
            assert "s3cr3t" not in out and "pw@" not in out and "hooks.example" in out
    finally:
        works_server.env = env


def test_a_key_says_when_it_was_used_last(works_server, upstream):
    works_server.add_deployment("stub", "stub", upstream.url)
    subscriber, key = works_server.subscriber()
    idle = works_server.key(subscriber)
    assert works_server.chat(key)[0] == 200

    def used():
        keys = json.loads(works_server.cli("key", "list", "--subscriber", subscriber.phone, "--json").stdout)
        return [one["used_at"] for one in keys if one["used_at"]]

    assert len(until(used, what="the key's last use")) == 1
    assert idle


def test_sessions_are_listed_and_ended_by_an_operator(works_server):
    identity, found = works_server.services.identity, works_server.services.subscriptions.find("13800000001")
    text, _ = identity.open_session(
        found.subscriber_id, works_server.services.subscriptions.owner_of(found), "203.0.113.1", "Phone"
    )
    (listed,) = json.loads(
        works_server.cli("session", "list", "--subscriber", "13800000001", "--json").stdout
    )
    assert listed["address"] == "203.0.113.1"
    works_server.cli("session", "end", "--subscriber", "Wang Wei")
    assert identity.session(text) is None


def test_a_host_with_another_pepper_does_not_start(works_server, tmp_path):
    """Two hosts of one database: the second one made its own pepper, is refused, is told, and starts with the right one."""
    other = Server(tmp_path / "other", env={"TOKENWORKS_DATABASE_URL": works_server.url})
    other.data_dir.mkdir()
    refused = other.init(check=False)
    assert refused.returncode == 1 and "copy pepper-" in refused.stderr
    secrets = other.data_dir / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "pepper-1").write_bytes(b"x" * 32)
    (secrets / "pepper-1").chmod(0o600)
    for command in (
        ("init",),
        ("subscriber", "list"),
        ("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
    ):
        done = other.init(check=False) if command == ("init",) else other.cli(*command, check=False)
        assert done.returncode == 1, command
        assert "is not the pepper of this works" in done.stderr, command
    shutil.copy(works_server.data_dir / "secrets/pepper-1", secrets / "pepper-1")
    # The keys of the person vault are its own still: it is refused for them, too.
    assert "person-wrap-1 of this host is not the one" in other.init(check=False).stderr
    for path in (works_server.data_dir / "secrets").glob("person-*"):
        shutil.copy(path, secrets / path.name)
    other.init()
    assert other.cli("subscriber", "list").returncode == 0
