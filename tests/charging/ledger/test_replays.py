"""Stored answers on real PostgreSQL, with hosts and workers that die at any step, against an oracle.

Invariants: an answer that is given again is the answer of a complete record of its account, under the same name and for the same
request; under one idempotency key at most one request is charged for a complete answer; what is stored is within its limits.
"""

from collections import defaultdict
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.charging.ledger.test_accounts import IDS, first_attempt, settle, settling
from tokenworks.catalog import Catalogue, Counts, Service, seed_catalogue
from tokenworks.charging import (
    HostRecords,
    ReplayLimits,
    ReplayLookup,
    ReplayName,
    Replays,
    ReplayToKeep,
    verify,
)
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import Loss, Part, UsageRecord
from tokenworks.kernel import uuid7

LIMITS = ReplayLimits(answer_bytes_max=200, account_bytes_max=900, account_rows_max=6, claim_s=60)
MEMBER = IDS[1]
CHECK = "usage: a replayed record repeats a complete record of its account, for the declared share of that record's charge"


class Request:
    def __init__(self, host, worker, account, kind, name, body):
        self.host, self.worker, self.account = host, worker, account
        self.kind, self.name, self.body = kind, name, body
        self.id = uuid7().hex
        self.answer = self.id.encode()
        self.stage = "running"

    def replay_name(self):
        return ReplayName(self.account.hex, self.kind, self.name.encode(), self.id)


class Host:
    def __init__(self, services):
        self.journal_id = uuid7()
        self.seq = 0
        self.workers = {uuid7().hex for _ in range(2)}
        self.unsettled = {}
        services.ledger.register_journal(self.journal_id, "test")

    def records(self, account):
        ours = {id_: record for id_, record in self.unsettled.items() if record.account_id == account.hex}
        return HostRecords(self.journal_id, frozenset(self.workers), ours)


class Repeats(RuleBasedStateMachine):
    """Requests with idempotency keys and for the cache, of two accounts, on two hosts."""

    def __init__(self, services, clock):
        super().__init__()
        self.services, self.clock = services, clock
        self.replays = Replays(services.connection, clock, services.vault, LIMITS)
        self.accounts, self.people = [], {}
        for _ in range(2):
            made = services.subscriptions.register(f"+8613{uuid7().int % 10**9:09}")
            self.accounts.append(made.account_id)
            self.people[made.account_id] = made.subscriber_id
        self.hosts = [Host(services), Host(services)]
        self.running = []
        self.complete = {}  # usage id -> request
        self.charged = defaultdict(int)  # (account, key) -> complete records since the key was free
        self.moved = timedelta(0)

    def lookup(self, request):
        return ReplayLookup(request.replay_name(), request.body.encode(), MEMBER, request.worker, 3600)

    @rule(
        account=st.integers(0, 1), host=st.integers(0, 1), key=st.sampled_from("ab"), body=st.sampled_from("xy"),
        cached=st.booleans(), pick=st.integers(0, 9),
    )  # fmt: skip
    def ask(self, account, host, key, body, cached, pick):
        host = self.hosts[host]
        workers = sorted(host.workers)
        if not workers:
            host.workers.add(uuid7().hex)
            return
        kind = "response_cache" if cached else "idempotency_key"
        request = Request(
            host, workers[pick % len(workers)], self.accounts[account], kind, key, "" if cached else body
        )
        found = self.replays.find(self.lookup(request), host.records(request.account))
        if found.verdict == "found":
            first = self.complete[found.usage_id]
            assert found.answer == first.answer
            assert (first.account, first.kind, first.name, first.body) == (
                request.account,
                kind,
                key,
                request.body,
            )
        elif found.verdict == "none":
            self.running.append(request)
        else:
            assert not cached

    def of_stage(self, *stages):
        return [request for request in self.running if request.stage in stages]

    @precondition(lambda self: self.of_stage("running"))
    @rule(pick=st.integers(0, 9), size=st.sampled_from((1, 4, 40)))
    def keep(self, pick, size):
        request = self.of_stage("running")[pick % len(self.of_stage("running"))]
        request.answer *= size
        kept = ReplayToKeep(
            request.replay_name(), request.body.encode(), MEMBER, request.worker, request.id, "application/json",
            request.answer, 3600,
        )  # fmt: skip
        stored = self.replays.keep(kept, self.people[request.account])
        assert not stored or len(request.answer) <= LIMITS.answer_bytes_max
        request.stage = "kept"

    @precondition(lambda self: self.of_stage("running"))
    @rule(pick=st.integers(0, 9))
    def keep_is_not_answered(self, pick):
        """The database is away: the answer is not stored, and the record is written all the same."""
        self.of_stage("running")[pick % len(self.of_stage("running"))].stage = "kept"

    @precondition(lambda self: self.of_stage("kept"))
    @rule(pick=st.integers(0, 9))
    def record(self, pick):
        request = self.of_stage("kept")[pick % len(self.of_stage("kept"))]
        self.running.remove(request)
        self.complete[request.id] = request
        if request.kind == "idempotency_key":
            self.charged[request.account, request.name] += 1
        self._write(request, "complete")

    @precondition(lambda self: self.of_stage("running"))
    @rule(pick=st.integers(0, 9), interrupted=st.booleans(), lost=st.booleans())
    def fail(self, pick, interrupted, lost):
        """The request is refused or interrupted, and frees its key, unless that message is lost."""
        request = self.of_stage("running")[pick % len(self.of_stage("running"))]
        self.running.remove(request)
        if interrupted:
            self._write(request, "interrupted")
        if not lost and request.kind == "idempotency_key":
            self.replays.drop(request.replay_name())

    @rule(host=st.integers(0, 1), pick=st.integers(0, 1), released=st.booleans())
    def kill(self, host, pick, released):
        """A worker dies: what it has in flight comes to nothing, or to an interrupted record."""
        host = self.hosts[host]
        if not host.workers:
            return
        worker = sorted(host.workers)[pick % len(host.workers)]
        host.workers.remove(worker)
        lost = [one for one in self.running if one.worker == worker]
        for request in lost:
            self.running.remove(request)
            if pick:
                self._write(request, "interrupted")
        if released:
            # With requests of the worker that are over: their keys stay as they are.
            for request in [*lost, *self.complete.values()]:
                if request.worker == worker:
                    self.replays.release_lost(
                        request.account, [UUID(request.id)], host.records(request.account)
                    )

    def _write(self, request, state):
        host = request.host
        record = UsageRecord(
            request.account.hex, *first_attempt(request.id), *IDS, "chat", "m", "d", state, "completed", "provider",
            1_790_000_000_000, 1_790_000_000_500, 100, 500, Counts(), None, [], [Loss("empty_answer", 1, Counts())], [], None,
        )  # fmt: skip
        host.unsettled[record.usage_id] = record

    @rule(host=st.integers(0, 1))
    def settles(self, host):
        host = self.hosts[host]
        for record in host.unsettled.values():
            host.seq += 1
            settle_store.settle(
                self.services.connection,
                host.journal_id,
                host.seq,
                [settling(host.seq, record)],
                lambda *_: None,
            )
        host.unsettled = {}

    @rule(times=st.integers(1, 2))
    def time_goes_on(self, times):
        """Requests that are in flight have ended by then."""
        if not self.running:
            self.clock.move(timedelta(seconds=times * LIMITS.claim_s + 1))

    @rule()
    def keys_are_over(self):
        if self.running or any(host.unsettled for host in self.hosts):
            return
        self.clock.move(timedelta(seconds=3601))
        self.replays.delete_over()
        (left,) = self.services.connection.execute("SELECT count(*) FROM replay_answer").fetchone()
        assert left == 0
        self.charged.clear()

    @invariant()
    def nothing_is_charged_twice(self):
        assert max(self.charged.values(), default=0) <= 1

    @invariant()
    def the_limits_hold(self):
        for account in self.accounts:
            rows, size = self.services.connection.execute(
                "SELECT count(*), coalesce(sum(answer_bytes), 0) FROM replay_answer WHERE account_id = %s",
                (account,),
            ).fetchone()
            assert rows <= LIMITS.account_rows_max
            assert size <= LIMITS.account_bytes_max


def repeats(services, clock, examples, steps):
    run_state_machine_as_test(
        lambda: Repeats(services, clock),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=examples < 100,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_no_answer_is_free_and_none_is_charged_twice(services, clock):
    repeats(services, clock, 12, 25)


@pytest.mark.nightly
def test_no_answer_is_free_and_none_is_charged_twice_long(services, clock):
    repeats(services, clock, 400, 60)


# Another host, and an erased person.


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001")


def asked(replays, host, account, key="k", worker=None):
    request = Request(host, worker or sorted(host.workers)[0], account, "idempotency_key", key, "x")
    look = ReplayLookup(request.replay_name(), b"x", MEMBER, request.worker, 3600)
    return request, replays.find(look, host.records(account))


def kept(replays, request, person):
    answer = ReplayToKeep(
        request.replay_name(), b"x", MEMBER, request.worker, request.id, "application/json", b"{}", 3600
    )
    return replays.keep(answer, person)


def test_a_record_that_is_on_another_host_is_waited_for_and_never_guessed(services, clock, subscriber):
    replays = Replays(services.connection, clock, services.vault, LIMITS)
    here, there = Host(services), Host(services)
    request, found = asked(replays, here, subscriber.account_id)
    assert found.verdict == "none"
    assert kept(replays, request, subscriber.subscriber_id)
    # The answer is stored, and its record is not there: neither host gives it.
    assert asked(replays, here, subscriber.account_id)[1].verdict == "in_flight"
    assert asked(replays, there, subscriber.account_id)[1].verdict == "in_flight"
    clock.move(timedelta(seconds=LIMITS.claim_s + 1))
    assert asked(replays, there, subscriber.account_id)[1].verdict == "spent"
    # The host of the dead worker knows that there is no record.
    here.workers = {uuid7().hex}
    assert asked(replays, here, subscriber.account_id)[1].verdict == "none"


def test_a_key_whose_worker_died_is_free_on_every_host_unless_its_answer_was_charged(
    services, clock, subscriber
):
    replays = Replays(services.connection, clock, services.vault, LIMITS)
    here, there = Host(services), Host(services)
    account = subscriber.account_id
    requests = [asked(replays, here, account, key)[0] for key in ("running", "kept", "charged")]
    for request in requests[1:]:
        assert kept(replays, request, subscriber.subscriber_id)
    here.unsettled[requests[2].id] = UsageRecord(
        account.hex, *first_attempt(requests[2].id), *IDS, "chat", "m", "d", "complete", "completed", "provider",
        0, 0, None, 0, Counts(output=2), None, [], [], [], None,
    )  # fmt: skip
    here.workers = {uuid7().hex}
    ids = [UUID(request.id) for request in requests]
    assert (
        replays.release_lost(
            services.subscriptions.register("+8613800000009").account_id, ids, here.records(account)
        )
        == 0
    )
    assert asked(replays, there, account, "running")[1].verdict == "in_flight"
    assert replays.release_lost(account, ids, here.records(account)) == 2
    assert [asked(replays, there, account, key)[1].verdict for key in ("running", "kept", "charged")] == ["none", "none", "in_flight"]  # fmt: skip
    assert asked(replays, here, account, "charged")[1].verdict == "found"


def test_a_key_whose_release_was_lost_is_free_when_its_request_can_not_be_in_flight_any_more(
    services, clock, subscriber
):
    replays = Replays(services.connection, clock, services.vault, LIMITS)
    here, there = Host(services), Host(services)
    asked(replays, here, subscriber.account_id)
    clock.move(timedelta(seconds=LIMITS.claim_s + 1))
    assert asked(replays, here, subscriber.account_id)[1].verdict == "spent"
    clock.move(timedelta(seconds=LIMITS.claim_s))
    assert asked(replays, there, subscriber.account_id)[1].verdict == "spent"
    assert asked(replays, here, subscriber.account_id)[1].verdict == "none"


def test_a_request_that_asks_again_has_its_own_claim(services, clock, subscriber):
    """Its recorder went after the claim and before the answer, so that the worker asks the next recorder."""
    replays = Replays(services.connection, clock, services.vault, LIMITS)
    host = Host(services)
    request, _ = asked(replays, host, subscriber.account_id)
    again = ReplayLookup(request.replay_name(), b"x", MEMBER, request.worker, 3600)
    assert replays.find(again, host.records(subscriber.account_id)).verdict == "none"
    assert asked(replays, host, subscriber.account_id)[1].verdict == "in_flight"
    assert kept(replays, request, subscriber.subscriber_id)


@pytest.mark.parametrize("settled", [False, True])
def test_a_key_whose_answer_could_not_be_stored_is_spent(services, clock, subscriber, settled):
    """The database was away when the answer was to be stored, and the request was charged; its worker died later."""
    replays = Replays(services.connection, clock, services.vault, LIMITS)
    host = Host(services)
    request, _ = asked(replays, host, subscriber.account_id)
    # The record of its second attempt.
    record = UsageRecord(
        subscriber.account_id.hex, uuid7().hex, request.id, 2, *IDS, "chat", "m", "d", "complete", "completed", "provider",
        0, 0, None, 0, Counts(), None, [], [Loss("empty_answer", 1, Counts())], [], None,
    )  # fmt: skip
    if settled:
        settle(services.connection, host.journal_id, 1, [(1, record)])
    else:
        host.unsettled[record.usage_id] = record
    for workers in (host.workers, {uuid7().hex}):
        host.workers = workers
        assert asked(replays, host, subscriber.account_id)[1].verdict == "spent"
    replays.drop(ReplayName(subscriber.account_id.hex, "idempotency_key", b"k", uuid7().hex))
    assert asked(replays, host, subscriber.account_id)[1].verdict == "spent"


def test_an_answer_of_an_erased_person_is_not_given(services, clock, subscriber):
    replays = Replays(services.connection, clock, services.vault, LIMITS)
    host = Host(services)
    request, _ = asked(replays, host, subscriber.account_id)
    assert kept(replays, request, subscriber.subscriber_id)
    host.unsettled[request.id] = UsageRecord(
        subscriber.account_id.hex, *first_attempt(request.id), *IDS, "chat", "m", "d", "complete", "completed", "provider",
        0, 0, None, 0, Counts(output=2), None, [], [], [], None,
    )  # fmt: skip
    found = asked(replays, host, subscriber.account_id)[1]
    assert (found.verdict, found.answer, found.charged) == ("found", b"{}", Counts(output=2))
    services.vault.destroy([subscriber.subscriber_id])
    assert asked(replays, host, subscriber.account_id)[1].verdict == "spent"
    assert not kept(replays, request, subscriber.subscriber_id)
    replays.forget_member(subscriber.account_id, UUID(MEMBER))
    assert asked(replays, host, subscriber.account_id)[1].verdict == "none"


def test_what_is_stored_of_a_member_goes_with_the_member(services, clock, subscriber):
    """One who is erased in this account, and one whose own account is erased."""
    child = services.members.invite(subscriber, "+8613911112222", "Ottoline Quimby")
    services.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    guest = services.members.invite(subscriber, "+8613955556666", "Cousin Ludovica")
    host = Host(services)
    for number, member_id in enumerate((child.member_id, guest.member_id, UUID(MEMBER))):
        request = Request(
            host, sorted(host.workers)[0], subscriber.account_id, "idempotency_key", f"k{number}", "x"
        )
        look = ReplayLookup(request.replay_name(), b"x", member_id.hex, request.worker, 3600)
        assert services.replays.find(look, host.records(subscriber.account_id)).verdict == "none"

    def members():
        rows = services.connection.execute(
            "SELECT member_id FROM replay_answer WHERE account_id = %s", (subscriber.account_id,)
        )
        return {row[0] for row in rows}

    assert members() == {child.member_id, guest.member_id, UUID(MEMBER)}
    services.privacy.members.erase(child)
    assert members() == {guest.member_id, UUID(MEMBER)}
    services.privacy.erase(services.subscriptions.find("+8613955556666"))
    assert members() == {UUID(MEMBER)}
    services.privacy.erase(subscriber)
    assert members() == set()


# The auditor.


@pytest.fixture
def books(services):
    """(services, account, bucket, settle a record) of a subscriber whose plan has a cache at 50 %."""
    card = next(card for card in seed_catalogue().rate_cards if card.id == "one-price")
    like = next(offering for offering in seed_catalogue().offerings if offering.id == "sample-trial")
    offering = like.model_copy(update={"id": "half-cached", "service": Service(cache_percent=50)})
    services.offerings.load(Catalogue(catalogue="test", rate_cards=(card,), offerings=(offering,)))
    account = services.subscriptions.register("+8613800000001").account_id
    services.orders.place(services.subscriptions.of_account(account), "half-cached")
    bucket = services.ledger.buckets(account)[0]
    journal_id = uuid7()
    services.ledger.register_journal(journal_id, "test")
    granted = services.ledger.grant(
        account_id=account.hex, bucket_id=bucket.bucket_id.hex, journal_id=journal_id, grant_id=None, amount=1_000_000,
        spend_for_s=900,
    )  # fmt: skip
    seq = 0

    def put(counts, state="complete", reason="completed", free=False, **more):
        nonlocal seq
        seq += 1
        amount = 1000 * sum(counts)
        part = Part(
            bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, "token", "balance", amount, 1, None
        )
        replayed = state == "replayed"
        record = UsageRecord(
            account.hex, *first_attempt(), *IDS, "chat", "m", "" if replayed else "d", state, reason, "provider",
            1_790_000_000_000, 1_790_000_000_500, 100, 500, counts, None if replayed else sum(counts),
            [] if free else [part], more.pop("loss", []), [], None,
        )  # fmt: skip
        for name, value in more.items():
            setattr(record, name, value)
        settle(services.connection, journal_id, seq, [(seq, record)])
        return record.usage_id

    return services, put


def found(services):
    return [finding.invariant for finding in verify(services.connection, services.offerings.rate_cards())]


def test_the_auditor_recomputes_the_charge_of_a_replay_from_its_original(books):
    services, put = books
    original = put(Counts(fresh_input=7, output=10))
    replay = {"state": "replayed", "reason": "response_cache", "replay_of": original, "replay_percent": 50}
    put(Counts(fresh_input=3, output=5), **replay)
    put(Counts(), "replayed", "idempotency_key", free=True, replay_of=original, replay_percent=0)
    assert found(services) == []


@pytest.mark.parametrize(
    ("counts", "change"),
    [
        (Counts(fresh_input=4, output=5), {}),
        (Counts(fresh_input=3, output=4), {}),
        (Counts(fresh_input=3, output=5), {"replay_percent": 49}),
        (Counts(fresh_input=2, output=4), {"replay_percent": 40}),
        (Counts(fresh_input=3, output=5), {"reason": "idempotency_key"}),
        (Counts(fresh_input=3, output=5), {"replay_of": uuid7().hex}),
        (Counts(fresh_input=3, output=5), {"provider_total": 8}),
        (Counts(fresh_input=3, output=5), {"deployment": "d"}),
        (Counts(fresh_input=3, output=5), {"upstream_id": "chatcmpl-1"}),
        (Counts(fresh_input=3, output=5), {"replay_of": None, "replay_percent": None}),
    ],
)
def test_the_auditor_names_a_replay_that_is_not_what_its_original_says(books, counts, change):
    services, put = books
    original = put(Counts(fresh_input=7, output=10))
    replay = {"state": "replayed", "reason": "response_cache", "replay_of": original, "replay_percent": 50}
    put(counts, **replay | change)
    assert found(services) == [CHECK]


def test_the_auditor_names_a_replay_of_what_is_no_answer(books):
    services, put = books
    cut = put(Counts(fresh_input=7, output=10), state="interrupted", reason="client_gone")
    put(Counts(fresh_input=3, output=5), "replayed", "response_cache", replay_of=cut, replay_percent=50)
    assert found(services) == [CHECK]


def test_a_replay_of_a_waived_answer_is_for_what_was_charged(books):
    services, put = books
    original = put(
        Counts(fresh_input=7, output=10),
        free=True,
        loss=[Loss("content_filtered", 1, Counts(fresh_input=7, output=10))],
    )
    put(Counts(), "replayed", "idempotency_key", free=True, replay_of=original, replay_percent=0)
    assert found(services) == []
    put(Counts(output=1), "replayed", "response_cache", replay_of=original, replay_percent=50)
    assert found(services) == [CHECK]
