"""Between members: what one cap loses another one gains, nothing is made of nothing, and both caps hold."""

import contextlib
import threading
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.charging import TransferNotAllowed
from tokenworks.kernel import Invalid, uuid7
from tokenworks.subscriptions import MemberNotFound


@pytest.fixture
def family(services):
    subscriber = services.subscriptions.register("+8613800000001")
    services.orders.place(subscriber, "ctc-light")
    return subscriber


def caps(services, subscriber):
    """(total, remaining) of each member's cap, in tokens."""
    return {
        b.cap_of: (b.total // 1000, b.remaining // 1000)
        for b in services.ledger.buckets(subscriber.account_id)
        if b.kind == "cap" and b.valid_from <= services.clock.now()
        and (b.valid_until is None or b.valid_until > services.clock.now())
    }  # fmt: skip


def give(services, subscriber, giver, taker, tokens, key, **more):
    return services.members.transfer(
        subscriber, giver, taker, tokens, "pocket money", made_by="test", idempotency_key=key, **more
    )


def grant_of(services, subscriber, member, journal_id, tokens):
    (cap, *_), _ = services.members.caps(member.member_id)
    return services.ledger.grant(
        account_id=subscriber.account_id.hex, bucket_id=cap.hex, journal_id=journal_id, grant_id=None, amount=tokens * 1000,
        spend_for_s=900,
    )  # fmt: skip


def test_what_one_cap_loses_another_one_gains(services, family):
    add = services.members.add
    son, daughter = add(family, "son", cap_tokens=100), add(family, "daughter", cap_tokens=50)
    made = give(services, family, son, daughter, 30, "a")
    assert caps(services, family) == {son.member_id: (70, 70), daughter.member_id: (80, 80)}
    assert give(services, family, son, daughter, 30, "a") == made
    with pytest.raises(TransferNotAllowed, match="another transfer"):
        give(services, family, son, daughter, 31, "a")
    # A cap that is looked at again, or set anew, keeps what was given.
    services.members.caps(son.member_id)
    services.members.set_cap(daughter, 60, "month")
    services.members.caps(daughter.member_id)
    assert caps(services, family) == {son.member_id: (70, 70), daughter.member_id: (90, 90)}
    with pytest.raises(TransferNotAllowed, match="70 tokens left"):
        give(services, family, son, daughter, 71, "b")
    give(services, family, son, daughter, 70, "c")
    assert caps(services, family)[son.member_id] == (0, 0)
    assert balances(services)


def test_the_next_period_begins_with_the_caps_that_were_set(services, family, clock):
    add = services.members.add
    son, daughter = add(family, "son", cap_tokens=100), add(family, "daughter", cap_tokens=50)
    give(services, family, son, daughter, 30, "a")
    clock.move(timedelta(days=40))
    for member in (son, daughter):
        services.members.caps(member.member_id)
    assert caps(services, family) == {son.member_id: (100, 100), daughter.member_id: (50, 50)}
    # The key of another period is still that transfer's.
    assert give(services, family, son, daughter, 30, "a").amount == 30_000
    assert caps(services, family)[son.member_id] == (100, 100)
    assert balances(services)


def another_host(services):
    journal_id = uuid7()
    services.ledger.register_journal(journal_id, "another")
    return journal_id


def test_what_a_host_has_is_not_moved_but_asked_back(services, family):
    add = services.members.add
    son, daughter = add(family, "son", cap_tokens=100), add(family, "daughter", cap_tokens=50)
    journal_id = uuid7()
    services.ledger.register_journal(journal_id, "test")
    granted = grant_of(services, family, son, journal_id, 80)
    with pytest.raises(TransferNotAllowed, match="20 tokens of the cap are free at this moment"):
        give(services, family, son, daughter, 50, "a")
    # Nobody else is kept waiting for it: who draws on the account gets what is there.
    assert grant_of(services, family, daughter, another_host(services), 10).added == 10_000
    ((recall_id, account),) = services.ledger.recalls_for(journal_id)
    assert account == family.account_id.hex
    services.ledger.close_grant(account, granted.grant_id, journal_id, 0)
    services.ledger.answer_recall(recall_id, journal_id)
    give(services, family, son, daughter, 50, "a")
    assert caps(services, family) == {son.member_id: (50, 50), daughter.member_id: (100, 90)}
    assert balances(services)


def test_who_can_t_give_or_take(services, family):
    add = services.members.add
    son, free = add(family, "son", cap_tokens=100), add(family, "free")
    guest = services.members.invite(family, "+8613800000009", "guest", cap_tokens=5)
    other = services.subscriptions.register("+8613800000002")
    stranger = add(other, "stranger", cap_tokens=5)
    for giver, taker, tokens, error in [
        (son, free, 1, Invalid), (free, son, 1, Invalid), (son, son, 1, Invalid), (son, guest, 1, MemberNotFound),
        (stranger, son, 1, MemberNotFound), (son, stranger, 1, MemberNotFound), (son, free, 0, Invalid),
    ]:  # fmt: skip
        with pytest.raises(error):
            give(services, family, giver, taker, tokens, "k")
    services.members.caps(son.member_id)
    assert caps(services, family) == {son.member_id: (100, 100)}
    assert services.transfers.of_account(family.account_id) == []


def test_departments_move_quota_too(services, family):
    add = services.members.add
    sales = add(family, "sales", department=True, cap_tokens=1000)
    research = add(family, "research", department=True, cap_tokens=1000)
    person = add(family, "person", parent="research", cap_tokens=500)
    give(services, family, sales, research, 400, "a")
    assert caps(services, family) == {sales.member_id: (600, 600), research.member_id: (1400, 1400)}
    services.members.set_department(family, person, "sales")
    assert services.members.line_of(person.member_id) == [person.member_id, sales.member_id]
    services.members.set_department(family, person, None)
    assert services.members.line_of(person.member_id) == [person.member_id]
    for reference, error in (("person", Invalid), ("nowhere", MemberNotFound)):
        with pytest.raises(error):
            services.members.set_department(family, person, reference)
    with pytest.raises(Invalid):
        services.members.set_department(family, research, "sales")


def test_two_at_once_take_it_once(services, family, database_url, session_dir):
    add = services.members.add
    son, daughter = add(family, "son", cap_tokens=100), add(family, "daughter", cap_tokens=50)
    options = load_settings({"data_dir": str(session_dir / "seed")}).settings
    start, outcomes = threading.Barrier(4), []

    def take(number):
        with contextlib.closing(connect(database_url)) as connection:
            mine = make_works(options, connection, services.clock, {1: b"x" * 32})
            start.wait()
            for _ in range(5):
                try:
                    give(mine, family, *((son, daughter) if number % 2 else (daughter, son)), 60, f"{number}")
                    outcomes.append("moved")
                    break
                except TransferNotAllowed:
                    outcomes.append("refused")
                mine.members.caps(son.member_id)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes.count("moved") == len(services.transfers.of_account(family.account_id)) >= 1
    found = caps(services, family)
    assert sum(total for total, _ in found.values()) == 150
    assert all(total == remaining >= 0 for total, remaining in found.values())
    for member in (son, daughter):
        services.members.caps(member.member_id)
    assert caps(services, family) == found
    assert balances(services)


def test_one_key_at_once_is_one_transfer(services, family, database_url, session_dir):
    """A client that lost the reply asks again while the first is still on its way."""
    add = services.members.add
    son, daughter = add(family, "son", cap_tokens=100), add(family, "daughter", cap_tokens=50)
    options = load_settings({"data_dir": str(session_dir / "seed")}).settings
    start, found = threading.Barrier(4), []

    def take():
        with contextlib.closing(connect(database_url)) as connection:
            mine = make_works(options, connection, services.clock, {1: b"x" * 32})
            start.wait()
            found.append(give(mine, family, son, daughter, 20, "one"))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4 and len(set(found)) == 1
    assert caps(services, family) == {son.member_id: (80, 80), daughter.member_id: (70, 70)}


def test_a_history_of_what_came_and_went(services, family, clock):
    add = services.members.add
    son, daughter = add(family, "son", cap_tokens=100), add(family, "daughter", cap_tokens=50)
    give(services, family, son, daughter, 30, "a")
    bucket = next(b for b in services.ledger.buckets(family.account_id) if b.kind == "balance")
    asked = services.adjustments.ask(bucket.bucket_id, -500, "too much", "one")
    services.adjustments.decide(asked.adjustment_id, "two", do=True)
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    services.ledger.expire_due()
    moves, count = services.transfers.history(family.account_id, 0, 100)
    assert count == len(moves)
    assert {m.kind for m in moves} >= {"issue", "transfer", "adjust", "expire"}
    for bucket in services.ledger.buckets(family.account_id):
        if bucket.kind == "balance":
            left = sum(m.amount for m in moves if m.bucket_id == bucket.bucket_id)
            assert left == bucket.remaining, "nothing was used: the history is the balance"
    assert sum(m.amount for m in moves if m.kind == "transfer") == 0
    first, again = services.transfers.history(family.account_id, 1, 2)
    assert (first, again) == (moves[1:3], count)
    found = services.transfers.find_move(family.account_id, moves[0].move_id, moves[0].bucket_id)
    assert found == moves[0]


def test_a_transfer_is_history(services, owner, family):
    add = services.members.add
    made = give(services, family, add(family, "a", cap_tokens=100), add(family, "b", cap_tokens=50), 30, "a")
    with pytest.raises(psycopg.errors.RaiseException):
        owner.execute("DELETE FROM transfer WHERE transfer_id = %s", (made.transfer_id,))


class Pool(RuleBasedStateMachine):
    """Members give each other, spend, are granted, are given other caps; against plain arithmetic."""

    services = None
    spender = None

    @initialize()
    def begin(self):
        number = uuid7().int % 10**9
        self.subscriber = self.services.subscriptions.register(f"+86{number + 10**10:011d}")
        add = self.services.members.add
        self.members = [add(self.subscriber, name, cap_tokens=100) for name in "abc"]
        self.limit = [100, 100, 100]
        self.used = [0, 0, 0]
        self.grants = [None, None, None]
        self.keys = 0
        for member in self.members:
            self.services.members.caps(member.member_id)

    who = st.integers(0, 2)

    def free(self, at):
        return self.limit[at] - self.used[at] - (self.grants[at][1] if self.grants[at] else 0)

    @rule(giver=who, taker=who, tokens=st.integers(1, 120))
    def give(self, giver, taker, tokens):
        self.keys += 1
        people = self.members[giver], self.members[taker]
        if giver == taker or tokens > self.free(giver):
            with pytest.raises((Invalid, TransferNotAllowed)):
                give(self.services, self.subscriber, *people, tokens, str(self.keys))
            return
        give(self.services, self.subscriber, *people, tokens, str(self.keys))
        self.limit[giver] -= tokens
        self.limit[taker] += tokens

    @rule(at=who, tokens=st.integers(1, 120))
    def grant(self, at, tokens):
        if self.grants[at] is not None or not self.free(at):
            return
        free = self.free(at)
        made = grant_of(self.services, self.subscriber, self.members[at], self.spender.journal_id, tokens)
        assert made.added == 1000 * min(tokens, free)
        self.grants[at] = (made.grant_id, made.added // 1000)

    @rule(at=who)
    def give_back(self, at):
        if self.grants[at] is None:
            return
        self.spender.close(self.subscriber.account_id, self.grants[at][0])
        self.grants[at] = None

    @rule(at=who, tokens=st.integers(50, 150))
    def set_cap(self, at, tokens):
        if self.grants[at] is not None:
            return
        member = self.services.members.find(self.subscriber, str(self.members[at].member_id))
        self.services.members.set_cap(member, tokens, "month")
        change = max(tokens - member.cap_tokens, -self.free(at))
        self.services.members.caps(member.member_id)
        if change == tokens - member.cap_tokens:
            self.limit[at] += change
        else:
            # Less than what was given away: put back what it was, which no other rule then meets.
            self.services.members.set_cap(member, member.cap_tokens, "month")
            self.services.members.caps(member.member_id)

    @invariant()
    def each_cap_is_what_it_should_be(self):
        found = caps(self.services, self.subscriber)
        for at, member in enumerate(self.members):
            assert found[member.member_id] == (self.limit[at], self.free(at))


def test_members_give_and_spend_in_any_order(services, spender):
    Pool.services, Pool.spender = services, spender
    run_state_machine_as_test(
        Pool,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert balances(services)
