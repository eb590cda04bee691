"""What goes wrong between a host and the ledger, on real PostgreSQL: refused records, lost hosts, recall, freezing."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from tests.charging.ledger.test_accounts import findings, grant, settle, usage_record
from tokenworks.catalog import Counts
from tokenworks.charging.errors import (
    GrantNotFound,
    GrantNotInDoubt,
    GrantStillOpen,
    QuarantineNotFound,
    RecordRefused,
)
from tokenworks.charging.ledger import recall_store, settle_store
from tokenworks.charging.model import encode_record
from tokenworks.kernel import ManualClock, uuid7

LONG_AGO_MS = 1_700_000_000_000  # November 2023: no partition is made for it ahead


@pytest.fixture
def clock():
    """The database's time: a grant is in doubt when that is past its end."""
    return ManualClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def sold(services):
    """A trial of 10 000 tokens, two journals, and how models are rated."""
    subscriber = services.subscriptions.register("+8613800000001")
    services.orders.place(subscriber, "sample-trial")
    journals = [uuid7(), uuid7()]
    for number, journal_id in enumerate(journals):
        services.ledger.register_journal(journal_id, f"host-{number}")
    cards = services.offerings.rate_cards()

    def rates(version, model):
        rate = cards[version].rate_for(model)
        return None if rate is None else (rate.model_class, rate.weights())

    def record(seq, granted, output, **more):
        bucket = services.ledger.buckets(subscriber.account_id)[0]
        part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, output * 1000)
        return usage_record(seq, subscriber.account_id, part, Counts(output=output), **more)

    return SimpleNamespace(
        services=services, account_id=subscriber.account_id, a=journals[0], b=journals[1], rates=rates, record=record,
        bucket=lambda: services.ledger.buckets(subscriber.account_id)[0],
    )  # fmt: skip


def apply(sold, journal_id, up_to, records, **more):
    return settle(sold.services.connection, journal_id, up_to, records, sold.rates, **more)


def test_a_record_of_a_month_without_partition_is_settled(sold):
    granted = grant(sold.services, sold.account_id, sold.bucket(), sold.a, 5_000_000)
    late = sold.record(1, granted, 2, usage_id=uuid7(LONG_AGO_MS).hex)
    with pytest.raises(settle_store.REFUSALS):
        apply(sold, sold.a, 1, [late])
    batch = [(1, sold.account_id.hex, [], encode_record(late[1]))]
    settle_store.ensure_usage_months(sold.services.connection, settle_store.months_of(batch, 10))
    assert apply(sold, sold.a, 1, [late]) == 1
    assert findings(sold.services) == []


def test_refused_records_are_bisected_out_and_the_others_settled(sold):
    services = sold.services
    granted = grant(services, sold.account_id, sold.bucket(), sold.a, 1_000_000)
    records = [sold.record(seq, granted, 1) for seq in range(1, 40)]
    twice = sold.record(40, granted, 1, usage_id=records[7][1].usage_id)
    beyond = sold.record(41, granted, 5_000)
    theirs = grant(services, sold.account_id, sold.bucket(), sold.b, 1_000)
    foreign = sold.record(42, theirs, 1)
    refused = {}
    batch = [*records, twice, beyond, foreign, sold.record(43, granted, 1)]
    with pytest.raises(settle_store.REFUSALS):
        apply(sold, sold.a, 43, batch)
    assert apply(sold, sold.a, 43, batch, quarantine=refused) == 40
    assert len(refused) == 3
    held = services.ledger.quarantined()
    assert sorted(row["seq"] for row in held) == [40, 41, 42]
    assert sold.bucket().spent == 40_000
    assert findings(services) == []
    # Its grant is in doubt: nothing goes back to the account that a record may still claim.
    with pytest.raises(GrantStillOpen, match="quarantine"):
        services.ledger.close_grant(sold.account_id.hex, granted.grant_id, sold.a, 43)
    open_grant = next(row for row in services.ledger.grants(sold.account_id) if row["journal_id"] == sold.a)
    assert open_grant["in_doubt"] == "quarantine"
    services.ledger.close_grant(sold.account_id.hex, theirs.grant_id, sold.b, 0)
    # What still can't be settled stays; what is dropped is never charged; then the grant can be closed.
    with pytest.raises(RecordRefused):
        services.ledger.decide_quarantine(held[0]["quarantine_id"], release=True, rates=sold.rates)
    for row in held:
        services.ledger.decide_quarantine(row["quarantine_id"], release=False, rates=sold.rates)
    with pytest.raises(QuarantineNotFound):
        services.ledger.decide_quarantine(held[0]["quarantine_id"], release=False, rates=sold.rates)
    services.ledger.close_grant(sold.account_id.hex, granted.grant_id, sold.a, 43)
    assert sold.bucket().left == 10_000_000 - 40_000
    assert findings(services) == []


def test_a_released_record_is_settled_once(sold):
    services = sold.services
    granted = grant(services, sold.account_id, sold.bucket(), sold.a, 1_000_000)
    refused = {}
    apply(sold, sold.a, 1, [sold.record(1, granted, 3, usage_id=uuid7(LONG_AGO_MS).hex)], quarantine=refused)
    (held,) = services.ledger.quarantined()
    services.ledger.decide_quarantine(held["quarantine_id"], release=True, rates=sold.rates)
    assert services.ledger.quarantined() == []
    assert sold.bucket().spent == 3_000
    services.ledger.close_grant(sold.account_id.hex, granted.grant_id, sold.a, 1)
    assert findings(services) == []


def test_records_of_one_frame_are_at_one_place_and_one_of_them_may_be_refused(sold):
    """A worker reports many records at once: they have the frame's sequence, whether they are settled or set apart."""
    services = sold.services
    granted = grant(services, sold.account_id, sold.bucket(), sold.a, 1_000_000)
    frame = [sold.record(7, granted, output) for output in (1, 2, 3)]
    refused = sold.record(7, granted, 3, usage_id=uuid7(LONG_AGO_MS).hex)
    assert apply(sold, sold.a, 7, [*frame, refused], quarantine={}) == 3
    (held,) = services.ledger.quarantined()
    assert held["seq"] == 7
    assert findings(services) == []
    services.ledger.decide_quarantine(held["quarantine_id"], release=True, rates=sold.rates)
    services.ledger.close_grant(sold.account_id.hex, granted.grant_id, sold.a, 7)
    assert sold.bucket().spent == 9_000
    assert findings(services) == []
    # A release that nobody settled, and a record that nobody released.
    for wrong in ("held", "dropped"):
        services.connection.execute("UPDATE quarantine SET state = %s", (wrong,))
        assert any(f.invariant.startswith("quarantine:") for f in findings(services))
    services.connection.execute("UPDATE quarantine SET state = 'released', seq = 6")
    assert any(f.invariant.startswith("quarantine:") for f in findings(services))


def test_what_is_settled_record_by_record_says_how_far_it_went(sold):
    """Progress that comes after the last record is settled with it, whether the batch was refused at first or not."""
    granted = grant(sold.services, sold.account_id, sold.bucket(), sold.a, 1_000_000)
    records = [sold.record(seq, granted, 1) for seq in (2, 3)]
    assert apply(sold, sold.a, 5, records, quarantine={}) == 2
    refs = sold.services.connection.execute("SELECT ref FROM entry WHERE kind = 'usage'").fetchall()
    assert refs == [(f"{sold.a}:1-5",)]
    assert findings(sold.services) == []


def test_an_attempt_of_a_request_is_recorded_once(sold):
    granted = grant(sold.services, sold.account_id, sold.bucket(), sold.a, 1_000_000)
    one, two, three = (sold.record(seq, granted, 1) for seq in (1, 2, 3))
    for attempt_no, (_, record) in enumerate((one, two, three), 1):
        record.request_id, record.attempt_no = one[1].usage_id, attempt_no
    apply(sold, sold.a, 3, [one, two, three])
    assert findings(sold.services) == []
    again = sold.record(4, granted, 1)
    again[1].request_id, again[1].attempt_no = one[1].usage_id, 3
    first = sold.record(5, granted, 1)
    first[1].request_id = one[1].usage_id
    apply(sold, sold.a, 5, [again, first])
    found = [f.detail for f in findings(sold.services)]
    assert [
        sum(f"attempt {n} of request {one[1].usage_id}" in detail for detail in found) for n in (1, 2, 3)
    ] == [2, 0, 1]


def test_what_is_not_a_record_is_quarantined_as_it_is(sold):
    settle_store.settle(
        sold.services.connection,
        sold.a,
        1,
        [(1, sold.account_id.hex, [], b'{"torn')],
        sold.rates,
        quarantine={},
    )
    (held,) = sold.services.ledger.quarantined()
    assert held["record"] == '{"torn'
    assert findings(sold.services) == []


def expire(sold):
    sold.services.connection.execute("UPDATE grants SET spend_until = now() - interval '1 minute'")


def test_a_lost_hosts_grant_is_written_off_only_in_doubt(sold):
    services = sold.services
    granted = grant(services, sold.account_id, sold.bucket(), sold.a, 4_000_000)
    apply(sold, sold.a, 1, [sold.record(1, granted, 100)])
    grant_id = services.ledger.grants()[0]["grant_id"]
    with pytest.raises(GrantNotInDoubt):
        services.ledger.write_off(grant_id)
    expire(sold)
    # Time alone gives nothing back.
    assert sold.bucket().remaining == 6_000_000
    assert services.ledger.in_doubt()[:2] == (1, 3_900_000)
    assert services.ledger.write_off(grant_id) == 3_900_000
    with pytest.raises(GrantNotFound):
        services.ledger.write_off(grant_id)
    assert (sold.bucket().remaining, sold.bucket().used) == (9_900_000, 100_000)
    assert findings(services) == []


def test_a_lost_journal_is_given_up_whole_or_not_at_all(sold):
    services = sold.services
    granted = grant(services, sold.account_id, sold.bucket(), sold.a, 4_000_000)
    apply(sold, sold.a, 1, [sold.record(1, granted, 100)])
    grant(services, sold.account_id, sold.bucket(), sold.b, 1_000_000)
    (known,) = services.ledger.journals(sold.a)
    assert (known.settled_seq, {row.journal_id for row in services.ledger.journals()}) == (
        1,
        {sold.a, sold.b},
    )
    (reserved,) = services.ledger.reserved(sold.a)
    assert (reserved.grants, reserved.accounts, reserved.quantity) == (1, 1, 3_900_000)
    # Its host may still spend it, as far as anybody knows.
    with pytest.raises(GrantNotInDoubt):
        services.ledger.give_up_journal(sold.a, ended=False)
    assert services.ledger.reserved(sold.a) == [reserved]
    assert services.ledger.give_up_journal(sold.a, ended=True) == 1
    assert services.ledger.reserved(sold.a) == [] and services.ledger.give_up_journal(sold.a, ended=True) == 0
    assert sold.bucket().remaining == 10_000_000 - 100_000 - 1_000_000, "another host's stays"
    # Late, and once.
    apply(
        sold,
        sold.a,
        2,
        [sold.record(2, granted, 50)],
    )
    assert sold.bucket().used == 150_000
    assert findings(services) == []


def test_what_a_lost_host_settles_after_all_is_late(sold):
    """It draws on what is free, never below zero, and the rest is the operator's."""
    services = sold.services
    lost = grant(services, sold.account_id, sold.bucket(), sold.a, 4_000_000)
    expire(sold)
    services.ledger.write_off(services.ledger.grants()[0]["grant_id"])
    other = grant(services, sold.account_id, sold.bucket(), sold.b, 9_998_500)
    assert apply(sold, sold.a, 2, [sold.record(1, lost, 1), sold.record(2, lost, 7)]) == 2
    by_output = {record["output"]: record for record in services.ledger.usage(sold.account_id)}
    assert [part[5] for part in by_output[1]["parts"]] == [1_000]
    assert by_output[1]["loss"] == []
    # 500 millitokens are left: not a whole token.
    assert [part[5] for part in by_output[7]["parts"]] == [0]
    assert by_output[7]["loss"] == [{"cause": "late", "requests": 0, "counts": {"output": 7}}]
    assert all("late" in record["flags"] for record in by_output.values())
    assert sold.bucket().remaining == 500
    assert findings(services) == []
    services.ledger.close_grant(sold.account_id.hex, other.grant_id, sold.b, 0)
    assert findings(services) == []


def test_a_grant_that_a_restore_lost_is_settled_late(sold, owner):
    """The database went back to before it made the grant: what was spent of it draws on what is free."""
    services = sold.services
    lost = grant(services, sold.account_id, sold.bucket(), sold.a, 4_000_000)
    owner.execute("DELETE FROM grants")
    services.connection.execute("UPDATE bucket SET remaining = total, granted = 0")
    other = grant(services, sold.account_id, sold.bucket(), sold.b, 9_994_000)
    assert apply(sold, sold.a, 2, [sold.record(1, lost, 5), sold.record(2, lost, 5)]) == 2
    records = services.ledger.usage(sold.account_id)
    assert all("late" in record["flags"] for record in records)
    assert sum(part[5] for record in records for part in record["parts"]) == 6_000
    assert sum(loss["counts"]["output"] for record in records for loss in record["loss"]) == 4
    assert (sold.bucket().remaining, sold.bucket().used) == (0, 6_000)
    assert services.ledger.quarantined() == []
    services.ledger.close_grant(sold.account_id.hex, other.grant_id, sold.b, 0)
    assert findings(services) == []


def test_a_record_of_a_strangers_bucket_is_refused(sold):
    services = sold.services
    stranger = services.subscriptions.register("+8613800000009")
    services.orders.place(stranger, "sample-trial")
    theirs = services.ledger.buckets(stranger.account_id)[0]
    part = (theirs.bucket_id.hex, uuid7().hex, theirs.rate_version, 1000)
    record = usage_record(1, sold.account_id, part, Counts(output=1))
    with pytest.raises(RecordRefused, match="does not have"):
        apply(sold, sold.a, 1, [record])
    assert findings(services) == []


def test_a_frozen_account_is_granted_nothing(sold):
    services = sold.services
    services.ledger.set_frozen(sold.account_id, frozen=True)
    assert services.ledger.load_terms(sold.account_id.hex) == []
    assert grant(services, sold.account_id, sold.bucket(), sold.a, 1_000) is None
    services.ledger.set_frozen(sold.account_id, frozen=False)
    assert grant(services, sold.account_id, sold.bucket(), sold.a, 1_000).added == 1_000


def test_a_part_of_a_grant_goes_back(sold):
    services, account = sold.services, sold.account_id.hex
    granted = grant(services, sold.account_id, sold.bucket(), sold.a, 4_000_000)
    apply(sold, sold.a, 1, [sold.record(1, granted, 100)])
    assert services.ledger.return_grant(account, granted.grant_id, sold.a, 3_000_000)
    assert sold.bucket().remaining == 9_000_000
    # Not what was used, not what another host has, not what is closed.
    assert not services.ledger.return_grant(account, granted.grant_id, sold.a, 950_000)
    assert not services.ledger.return_grant(account, granted.grant_id, sold.b, 1)
    services.ledger.close_grant(account, granted.grant_id, sold.a, 1)
    assert not services.ledger.return_grant(account, granted.grant_id, sold.a, 1)
    assert sold.bucket().left == 9_900_000
    assert findings(services) == []


def test_who_waits_first_is_served_first(sold):
    services, account = sold.services, sold.account_id.hex
    held = grant(services, sold.account_id, sold.bucket(), sold.a, 10_000_000)
    c = uuid7()
    services.ledger.register_journal(c, "host-2")
    first = services.ledger.request_recall(account, sold.b)
    second = services.ledger.request_recall(account, c)
    assert services.ledger.recalls_for(sold.a) == [(first, account), (second, account)]
    assert services.ledger.recalls_for(sold.b) == []  # it has nothing of this account
    assert not services.ledger.recall_answered(first, account, sold.b)
    services.ledger.return_grant(account, held.grant_id, sold.a, 6_000_000)
    services.ledger.answer_recall(first, sold.a)
    assert services.ledger.recall_answered(first, account, sold.b)
    # The later one gets nothing before the first has had its turn.
    late = grant(services, sold.account_id, sold.bucket(), c, 1_000)
    assert (late.added, late.behind) == (0, True)
    assert grant(services, sold.account_id, sold.bucket(), sold.b, 1_000).added == 1_000
    services.ledger.end_recall(first)
    assert grant(services, sold.account_id, sold.bucket(), c, 1_000).added == 1_000
    assert findings(services) == []


def test_a_waiter_that_is_gone_holds_up_nobody(sold):
    services, account = sold.services, sold.account_id.hex
    services.ledger.request_recall(account, sold.a)
    services.connection.execute("UPDATE recall SET asked_at = asked_at - make_interval(secs => 5)")
    assert (
        recall_store.first_waiter(services.connection, sold.account_id, recall_store.RECALL_WAIT_MAX_S)
        is None
    )
    assert grant(services, sold.account_id, sold.bucket(), sold.b, 1_000).added == 1_000
    services.connection.execute("UPDATE recall SET asked_at = asked_at - %s", (timedelta(hours=1),))
    services.ledger.delete_old_recalls()
    assert services.connection.execute("SELECT count(*) FROM recall").fetchone()[0] == 0


def test_usage_replayed_twice_late_and_out_of_order_counts_once(sold):
    granted = grant(sold.services, sold.account_id, sold.bucket(), sold.a, 1_000_000)
    records = [sold.record(seq, granted, seq) for seq in range(1, 6)]
    assert apply(sold, sold.a, 3, records[:3]) == 3
    assert apply(sold, sold.a, 2, records[:2]) == 0  # once more
    assert (
        apply(sold, sold.a, 5, [records[4], records[0], records[3], records[2]]) == 2
    )  # out of order, and again
    assert apply(sold, sold.a, 5, list(reversed(records))) == 0
    assert sold.bucket().spent == 15_000
    with pytest.raises(settle_store.LedgerWentBack):
        apply(sold, sold.a, 6, [], expected=9)
    assert findings(sold.services) == []
