"""Stored responses on real PostgreSQL: whose they are, when they count, when they are gone."""

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tests.charging.ledger.test_accounts import IDS, first_attempt, settle
from tests.charging.ledger.test_replays import MEMBER, Host
from tokenworks.catalog import Counts
from tokenworks.charging import STORED_CUT, ReplayLimits, ReplayLookup, ReplayName, Replays, ReplayToKeep
from tokenworks.charging.messages import Loss, UsageRecord
from tokenworks.kernel import uuid7

WHOLE = "application/json"
ANSWER = b'{"response":{},"input":[]}'
ROOM = ReplayLimits(answer_bytes_max=2_000, account_bytes_max=4_000, account_rows_max=6, claim_s=60)


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001")


@pytest.fixture
def replays(services, clock):
    return Replays(services.connection, clock, services.vault, ROOM)


def name_of(account, id_="a"):
    return ReplayName(account.hex, "stored_response", id_.encode(), uuid7().hex)


def keep(
    replays, subscriber, id_="a", answer=ANSWER, usage_id=None, expires_in_s=3600, member=MEMBER, kind=WHOLE
):
    name = name_of(subscriber.account_id, id_)
    usage_id = usage_id or uuid7().hex
    kept = ReplayToKeep(name, b"", member, uuid7().hex, usage_id, kind, answer, expires_in_s)
    return usage_id, replays.keep(kept, subscriber.subscriber_id)


def record(subscriber, usage_id, state="complete"):
    return UsageRecord(
        subscriber.account_id.hex, *first_attempt(usage_id), *IDS, "responses", "m", "d", state, "completed", "provider",
        0, 0, None, 0, Counts(), None, [], [Loss("empty_answer", 1, Counts())], [], None,
    )  # fmt: skip


def find(replays, host, account, id_="a"):
    look = ReplayLookup(name_of(account, id_), b"", MEMBER, uuid7().hex, 0)
    return replays.find(look, host.records(account))


@pytest.mark.parametrize(("state", "kind"), [("complete", WHOLE), ("interrupted", STORED_CUT)])
def test_it_counts_beside_its_record_alone(services, clock, subscriber, replays, state, kind):
    """The worker or its host was killed between the two, or another host has the record and has not settled it."""
    host, other = Host(services), Host(services)
    usage_id, is_kept = keep(replays, subscriber, kind=kind)
    assert is_kept and find(replays, host, subscriber.account_id).verdict == "in_flight"
    host.unsettled[usage_id] = record(subscriber, usage_id, state)
    found = find(replays, host, subscriber.account_id)
    assert (found.verdict, found.answer, found.usage_id) == ("found", ANSWER, usage_id)
    assert find(replays, other, subscriber.account_id).verdict == "in_flight"
    clock.move(timedelta(seconds=ROOM.claim_s))
    assert find(replays, other, subscriber.account_id).verdict == "none"
    assert find(replays, host, subscriber.account_id).verdict == "found"


@pytest.mark.parametrize(("state", "kind"), [("interrupted", WHOLE), ("replayed", WHOLE), ("complete", STORED_CUT)])  # fmt: skip
def test_it_does_not_count_beside_a_record_of_another_end(services, subscriber, replays, state, kind):
    """A worker that is killed between the two leaves a record of what it had reported of the stream, which may be next to nothing."""
    host = Host(services)
    usage_id, _ = keep(replays, subscriber, kind=kind)
    host.unsettled[usage_id] = record(subscriber, usage_id, state)
    assert find(replays, host, subscriber.account_id).verdict == "none"


def test_a_settled_record_is_seen_by_every_host(services, subscriber, replays):
    here, other = Host(services), Host(services)
    usage_id, _ = keep(replays, subscriber)
    settle(services.connection, here.journal_id, 1, [(1, record(subscriber, usage_id))])
    assert find(replays, other, subscriber.account_id).verdict == "found"


def test_another_account_does_not_find_it(services, subscriber, replays):
    host = Host(services)
    usage_id, _ = keep(replays, subscriber)
    host.unsettled[usage_id] = record(subscriber, usage_id)
    stranger = services.subscriptions.register("+8613800000002")
    assert find(replays, host, stranger.account_id).verdict == "none"
    assert find(replays, host, subscriber.account_id, "b").verdict == "none"


def test_it_is_gone_when_its_days_are_over_it_is_deleted_or_its_member_or_person_is(services, clock, subscriber, replays):  # fmt: skip
    host = Host(services)
    account = subscriber.account_id

    def kept(id_, **how):
        usage_id, is_kept = keep(replays, subscriber, id_, **how)
        host.unsettled[usage_id] = record(subscriber, usage_id)
        assert is_kept and find(replays, host, account, id_).verdict == "found"

    kept("over", expires_in_s=60)
    clock.move(timedelta(seconds=60))
    assert find(replays, host, account, "over").verdict == "none" and replays.delete_over() == 1
    kept("deleted")
    kept("stays")
    replays.drop(name_of(account, "deleted"))
    assert find(replays, host, account, "deleted").verdict == "none"
    assert find(replays, host, account, "stays").verdict == "found"
    replays.forget_member(account, subscriber.account_id)
    assert find(replays, host, account, "stays").verdict == "found", "another member's"
    services.vault.destroy([subscriber.subscriber_id])
    assert find(replays, host, account, "stays").verdict == "none", "its key is destroyed"
    replays.forget_account(account)
    left = services.connection.execute("SELECT count(*) FROM replay_answer WHERE account_id = %s", (account,))
    assert left.fetchone()[0] == 0


def test_it_displaces_answers_of_the_cache_and_no_other_stored_response(services, clock, subscriber, replays):
    cached = ReplayName(subscriber.account_id.hex, "response_cache", b"c", uuid7().hex)
    assert replays.keep(ReplayToKeep(cached, b"", MEMBER, uuid7().hex, uuid7().hex, "x", b"y", 3600), subscriber.subscriber_id)  # fmt: skip
    for key in "xy":
        assert claimed(replays, Host(services), subscriber, key) == "none"
    kept = [keep(replays, subscriber, id_)[1] for id_ in "abcd"]
    assert kept == [True, True, True, False]
    rows = "SELECT kind, count(*) FROM replay_answer GROUP BY kind ORDER BY kind"
    assert services.connection.execute(rows).fetchall() == [("idempotency_key", 2), ("response_cache", 1), ("stored_response", 3)]  # fmt: skip
    assert claimed(replays, Host(services), subscriber, "z") == "none"
    assert services.connection.execute(rows).fetchall() == [("idempotency_key", 3), ("stored_response", 3)]
    assert not keep(replays, subscriber, "e")[1]


def claimed(replays, host, subscriber, key):
    name = ReplayName(subscriber.account_id.hex, "idempotency_key", key.encode(), uuid7().hex)
    return replays.find(ReplayLookup(name, b"", MEMBER, uuid7().hex, 3600), host.records(subscriber.account_id)).verdict  # fmt: skip


def test_stored_responses_leave_half_of_an_accounts_room_to_idempotency_keys(services, clock, subscriber, replays):  # fmt: skip
    """They stay for weeks: without that, a client that stores all its responses would soon have no room for a key, nor for its answer."""
    host = Host(services)
    assert [keep(replays, subscriber, id_, answer=b"x" * 1_500)[1] for id_ in "ab"] == [True, False]
    assert not keep(replays, subscriber, "c", answer=b"x" * 2_001)[1]
    for number, id_ in enumerate("defg"):
        keep(replays, subscriber, id_, expires_in_s=60)
        assert claimed(replays, host, subscriber, str(number)) == ("none" if number < 3 else "full")
    clock.move(timedelta(seconds=60))
    assert keep(replays, subscriber, "h")[1], "those that are over take no room"


def test_what_is_stored_can_not_be_read_without_the_persons_key(services, subscriber, replays):
    keep(replays, subscriber, answer=b'{"input":["a secret word"]}')
    (sealed,) = services.connection.execute("SELECT answer_sealed FROM replay_answer").fetchone()
    assert b"secret" not in bytes(sealed)


def test_a_request_that_was_in_flight_when_its_member_was_erased_leaves_nothing(
    services, subscriber, replays
):
    child = services.members.invite(subscriber, "+8613911112222", "Ottoline Quimby")
    assert keep(replays, subscriber, "before", member=child.member_id.hex)[1]
    services.privacy.members.erase(child)
    assert not keep(replays, subscriber, "after", member=child.member_id.hex)[1]
    assert keep(replays, subscriber, "other")[1], "of another member"
    rows = services.connection.execute("SELECT member_id FROM replay_answer").fetchall()
    assert rows == [(UUID(MEMBER),)]


def test_no_response_is_stored_while_its_member_is_being_erased(services, clock, subscriber, replays):
    with psycopg.connect(services.connection.info.dsn, autocommit=True) as other:
        other.execute("SET lock_timeout = '50ms'")
        elsewhere = Replays(other, clock, services.vault, ROOM)
        with services.connection.transaction():
            replays.forget_member(subscriber.account_id, UUID(MEMBER))
            with pytest.raises(psycopg.errors.LockNotAvailable):
                keep(elsewhere, subscriber)
        assert keep(elsewhere, subscriber)[1]
