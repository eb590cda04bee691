"""Real names, and erasure: what is left of a person, and what is not."""

import hashlib
import json
from datetime import timedelta

import psycopg
import pytest

from tests.support.people import NAME, PHONE, balances, exported, member_with_key, named, rich, settle, where
from tokenworks.app.database.text_columns import columns_that
from tokenworks.kernel import Invalid, Unavailable, uuid7
from tokenworks.subscriptions import RealNameNeeded, RealNameRefused, SubscriberNotActive, SubscriberNotFound
from tokenworks.subscriptions.orders.eligibility import check_eligible
from tokenworks.subscriptions.people.privacy import CHECKS_A_DAY_MAX

ID_NUMBER = "11010519491231002X"


def eligible(works, subscriber, offering):
    rules = works.orders._context.rules
    check_eligible(works.connection, works.offerings, rules, subscriber, offering, confirm=True)


def test_a_real_name_gates_what_the_law_gates(works, subscriber, remade):
    works.subscriptions.set_profile(subscriber, real_name="refused")
    with pytest.raises(RealNameNeeded, match="refused"):
        works.orders.place(subscriber, "ctc-light")
    works.subscriptions.set_profile(subscriber, real_name="pending")
    works.orders.place(subscriber, "ctc-light")
    strict = remade(real_name_required="true")
    with pytest.raises(RealNameNeeded, match="pending"):
        strict.orders.place(subscriber, "ctc-standard")
    sold = works.offerings.on_sale("ctc-standard")
    gated = sold.offering.model_copy(update={"real_name_only": True})
    with pytest.raises(RealNameNeeded, match="verified real name"):
        eligible(works, works.subscriptions.find(PHONE), gated)
    verified = strict.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    assert verified.real_name == "verified"
    eligible(works, verified, gated)
    strict.orders.place(verified, "ctc-standard")
    assert balances(works)


def test_the_document_number_is_not_kept_and_tells_one_person(works, subscriber, clock):
    works.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    assert where(works.connection, ID_NUMBER, hashlib.sha256(ID_NUMBER.encode()).hexdigest()) == set()
    second = works.subscriptions.register("+8613800000007")
    assert works.privacy.same_person(second) == [second.subscriber_id]
    named = works.privacy.check_real_name(second, "Li Lei", ID_NUMBER.lower())
    assert named.name == "Li Lei"
    assert works.privacy.same_person(second) == [subscriber.subscriber_id, second.subscriber_id]
    with pytest.raises(RealNameRefused, match="another identity"):
        works.privacy.check_real_name(second, "Li Lei", "110105194912310038")
    with pytest.raises(Invalid):
        works.privacy.check_real_name(second, "Li Lei", "1")
    for _ in range(CHECKS_A_DAY_MAX - 1):
        works.privacy.check_real_name(second, "Li Lei", ID_NUMBER)
    with pytest.raises(RealNameRefused, match="too often"):
        works.privacy.check_real_name(second, "Li Lei", ID_NUMBER)
    clock.move(timedelta(days=1, seconds=1))
    works.privacy.check_real_name(second, "Li Lei", ID_NUMBER)


def test_a_check_that_does_not_answer_changes_nothing(works, subscriber, remade):
    away = remade(real_name_check="http://127.0.0.1:9/check")
    with pytest.raises(Unavailable, match="does not answer"):
        away.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    assert works.subscriptions.find(PHONE).real_name == "unknown"
    nowhere = remade(environment="prod")
    with pytest.raises(Unavailable, match="real_name_check"):
        nowhere.privacy.check_real_name(subscriber, NAME, ID_NUMBER)


def test_an_erasure_leaves_nothing_readable_and_the_books_whole(works, spender, subscriber, clock):
    other = works.subscriptions.register("+8613800000002", "Somebody Else")
    subscriber = rich(works, spender, subscriber, clock)
    works.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    settle(works, subscriber, clock)
    before = {
        table: works.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("bill", "bill_line", "charge", "entry", "posting", "payment", "audit", "usage")
    }
    sealed = works.connection.execute(
        "SELECT subscriber_id, name_sealed FROM subscriber WHERE subscriber_id = %s",
        (subscriber.subscriber_id,),
    ).fetchone()
    trial = works.privacy.erase(subscriber, dry_run=True)
    assert trial.state == "erased" and works.subscriptions.find(PHONE) == works.subscriptions.find(
        str(subscriber.subscriber_id)
    )
    done = works.privacy.erase(subscriber)
    assert done.state == "erased" and done.backups_forget_at == clock.now() + timedelta(days=30)
    # The key is gone: what a copy of the database has can't be opened by all secrets of all hosts.
    assert works.vault.key(subscriber.subscriber_id) is None
    assert works.vault.open(subscriber.subscriber_id, "subscriber.name", sealed[0], bytes(sealed[1])) is None
    gone = works.subscriptions.find(str(subscriber.subscriber_id))
    assert (gone.phone, gone.name, gone.broadband, gone.state) == ("", None, None, "closed")
    assert gone.phone_masked == "(erased)"
    assert {(m.name, m.phone, m.state) for m in works.members.of(gone)} == {("", None, "left")}
    for text in (PHONE, "3210", "Wilhelmina"):
        with pytest.raises(SubscriberNotFound):
            works.subscriptions.find(text)
    assert works.members.memberships(PHONE) == []
    trail, _ = works.identity.audited(str(subscriber.subscriber_id))
    assert [row["after"] for row in trail] == [None] and trail[0]["erased"]
    text = works.charge_files.file(1)
    assert "3876543210" not in text and "|@|" in text
    assert works.charge_files.files()[0]["sha256"] is None
    assert [key.name for key in works.keys.of_account(subscriber.account_id, {})] == ["erased"]
    found, _ = exported(works, gone)
    assert "Wilhelmina" not in json.dumps(found) and "13876543210" not in json.dumps(found)
    # What the law keeps is there, and adds up; others lost nothing.
    for table, count in before.items():
        assert works.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == count, table
    assert balances(works)
    assert works.subscriptions.find("0002") == other
    # The same again does nothing; nothing new is written of the person.
    assert works.privacy.erase(gone).state == "erased"
    with pytest.raises(SubscriberNotActive):
        works.subscriptions.set_profile(gone, name="Back Again")
    # Nothing that is left of it in any table leads back by the lookup key.
    hashes = {works.vault.lookup.phone(PHONE), works.vault.lookup.tail(PHONE), *works.vault.lookup.name(NAME)}
    assert not where(
        works.connection, *[one.decode("latin-1") for one in hashes if one != works.vault.lookup.tail("3210")]
    )
    # The number is its next holder's.
    works.subscriptions.register(PHONE, "Next Holder")


def filled(works, owner, subscriber):
    """All free texts about a person say who it is: in a row of each table that has one, made where there is none."""
    one = uuid7()
    ids = {"s": subscriber.subscriber_id, "a": subscriber.account_id, "i": one}
    make = {
        "adjustment": """(adjustment_id, account_id, bucket_id, amount, unit, reason, asked_by, asked_at, state)
            VALUES (%(i)s, %(a)s, %(i)s, 1, 'CNY', 'r', 'li', now(), 'asked')""",
        "credit_note": """(credit_note_id, credit_note_no, bill_id, account_id, charge_id, amount_nano, tax_nano, reason, issued_at)
            VALUES (%(i)s, 'C1', %(i)s, %(a)s, %(i)s, 1, 0, 'r', now())""",
        "payment": """(payment_id, subscriber_id, account_id, method, amount_nano, currency, entry_id, reference, paid_at)
            VALUES (%(i)s, %(s)s, %(a)s, 'cash', 1, 'CNY', %(i)s, 'x', now())""",
        "payment_reversal": """(reversal_id, payment_id, amount_nano, reason, reversed_at, account_id, entry_id)
            VALUES (%(i)s, %(i)s, 1, 'r', now(), %(a)s, %(i)s)""",
        "refund": """(refund_id, order_id, account_id, charge_id, part, reason, state, asked_at)
            VALUES (%(i)s, %(i)s, %(a)s, %(i)s, 'whole', 'r', 'done', now())""",
        "reconciliation_case": """(case_id, subscriber_id, kind, amount_nano, opened_at, closed_at, resolution)
            VALUES (%(i)s, %(s)s, 'unbooked', 1, now(), now(), 'r')""",
        "contract_price": """(subscriber_id, offering_id, price_nano, valid_from, contract)
            VALUES (%(s)s, 'ctc-light', 1, now(), 'K')""",
        "dispute": """(dispute_id, subscriber_id, bill_id, line_no, question, asked_at, state, answer, answered_by, answered_at)
            VALUES (%(i)s, %(s)s, %(i)s, 1, 'q', now(), 'answered', 'r', 'li', now())""",
        "transfer": """(transfer_id, account_id, from_bucket_id, to_bucket_id, from_member_id, to_member_id, amount, reason,
            made_by, made_at, idempotency_key) VALUES (%(i)s, %(a)s, %(i)s, %(a)s, %(i)s, %(a)s, 1, 'r', 'member:x', now(), 'k')""",
        "suspension": """(suspension_id, subscriber_id, cause, reason, began_at, ended_at, end_reason)
            VALUES (%(i)s, %(s)s, 'operator', 'r', now(), now(), 'r')""",
    }  # fmt: skip
    about = {
        "charge_file_line": "bill_id IN (SELECT bill_id FROM bill WHERE subscriber_id = %(s)s)",
        "api_key": "account_id = %(a)s", "adjustment": "account_id = %(a)s", "credit_note": "account_id = %(a)s",
        "payment_reversal": "account_id = %(a)s", "refund": "account_id = %(a)s", "transfer": "account_id = %(a)s",
    }  # fmt: skip
    marked = {}
    # The rows alone matter here: neither what they refer to, nor that some are history.
    owner.execute("SET session_replication_role = replica")
    for table, column in columns_that("erased"):
        where_about = about.get(table, "subscriber_id = %(s)s")
        if table in make and table not in marked:
            owner.execute(f"INSERT INTO {table} {make[table]} ON CONFLICT DO NOTHING", ids)
        value = "ARRAY['Zanzibar']" if column == "audiences" else "'Zanzibar'"
        marked[table] = owner.execute(
            f"UPDATE {table} SET {column} = {value} WHERE {where_about}", ids
        ).rowcount
        assert marked[table], (table, column)
    owner.execute("SET session_replication_role = origin")


def test_an_erasure_takes_out_every_free_text_about_the_person(works, owner, spender, subscriber, clock):
    other = works.subscriptions.register("+8613800000002", "Somebody Else")
    works.subscriptions.suspend(other, "operator", reason="kept")
    subscriber = rich(works, spender, subscriber, clock)
    settle(works, subscriber, clock)
    filled(works, owner, subscriber)
    assert where(works.connection, "zanzibar") == set(columns_that("erased"))
    assert works.privacy.erase(subscriber).state == "erased"
    assert where(works.connection, "zanzibar") == set()
    assert where(works.connection, "kept") >= {("suspension", "reason")}
    # History is history still: nothing else is changed, and the text is not changed to another one.
    for statement in (
        "UPDATE payment SET amount_nano = amount_nano + 1, reason = '(erased)'",
        "UPDATE payment SET reason = 'another'",
        "DELETE FROM payment_reversal",
        "UPDATE transfer SET amount = 2",
        "DELETE FROM credit_note",
    ):
        with pytest.raises(psycopg.errors.RaiseException, match="history"):
            owner.execute(statement)
    # Of that text the role that serves has the right, and the trigger holds it to it.
    with pytest.raises(psycopg.errors.RaiseException, match="history"):
        works.connection.execute("UPDATE payment SET reason = 'another'")


def test_while_something_is_owed_an_erasure_waits(works, subscriber, clock):
    works.orders.place(subscriber, "ctc-light")
    clock.move(timedelta(days=40))
    works.orders.run_cycles()
    done = works.privacy.erase(subscriber)
    assert done.state == "waiting" and done.owes_nano > 0 and done.backups_forget_at is None
    closed = works.subscriptions.find(str(subscriber.subscriber_id))
    assert (closed.state, closed.name) == ("closed", NAME)
    assert works.privacy.run_erasures() == 0
    settle(works, closed, clock)
    assert works.privacy.run_erasures() == 1
    assert works.subscriptions.find(str(subscriber.subscriber_id)).name is None
    assert works.privacy.run_erasures() == 0
    assert balances(works)


def test_the_operator_may_give_up_what_is_owed(works, subscriber, clock):
    works.orders.place(subscriber, "ctc-light")
    clock.move(timedelta(days=40))
    works.orders.run_cycles()
    works.bills.run()
    assert works.privacy.erase(subscriber, even_if_owed=True).state == "erased"
    # Nobody is left to send a line for.
    assert works.charge_files.make_file() is None
    assert balances(works)


def test_the_identity_outlives_an_erasure_as_declared(works, subscriber, remade, clock):
    works.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    kept = works.privacy.erase(subscriber)
    assert kept.identity_kept_until == clock.now() + timedelta(days=1095)
    again = works.subscriptions.register("+8613800000008")
    works.privacy.check_real_name(again, NAME, ID_NUMBER)
    assert works.privacy.same_person(again) == [subscriber.subscriber_id, again.subscriber_id]
    clock.move(timedelta(days=1096))
    works.privacy.run_erasures()
    assert works.privacy.same_person(again) == [again.subscriber_id]
    forgetful = remade(identity_hash_days="0").privacy.erase(again)
    assert forgetful.identity_kept_until is None
    hashes = works.connection.execute(
        "SELECT count(*) FROM subscriber WHERE identity_hash IS NOT NULL"
    ).fetchone()
    assert hashes == (0,)


def test_who_was_erased_is_erased_again_after_a_restore(works, subscriber):
    """A backup of before brings the key back: the list that is kept beside it erases again."""
    row = works.connection.execute(
        "SELECT wrapped, wrap_version FROM person_key WHERE person_id = %s", (subscriber.subscriber_id,)
    ).fetchone()
    before = works.connection.execute(
        "SELECT phone_sealed, phone_hash, name_sealed FROM subscriber WHERE subscriber_id = %s",
        (subscriber.subscriber_id,),
    ).fetchone()
    works.privacy.erase(subscriber)
    listed = [str(one) for one in works.privacy.erased()]
    assert listed == [str(subscriber.subscriber_id)]
    assert not works.privacy.erase_again(listed[0]) and not works.privacy.erase_again("0" * 32)
    works.connection.execute(
        "UPDATE person_key SET wrapped = %s, destroyed_at = NULL WHERE person_id = %s",
        (row[0], subscriber.subscriber_id),
    )
    works.connection.execute(
        """UPDATE subscriber SET phone_sealed = %s, phone_hash = %s, name_sealed = %s, erased_at = NULL
           WHERE subscriber_id = %s""",
        (*before, subscriber.subscriber_id),
    )
    assert works.subscriptions.find(listed[0]).name == NAME
    assert works.privacy.erase_again(listed[0])
    assert works.subscriptions.find(listed[0]).name is None
    assert works.vault.key(subscriber.subscriber_id) is None


def test_an_erasure_of_a_former_holder_takes_nothing_from_the_next_one(works, subscriber):
    host = works.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    works.subscriptions.close(subscriber)
    former = works.subscriptions.find(str(subscriber.subscriber_id))
    works.subscriptions.register(PHONE, "Next Holder")
    member, key_id = member_with_key(works, host, PHONE, "Cousin Vasilisa")
    challenge = works.identity.request_code(PHONE, "203.0.113.9")
    # What is the next one's is not exported to the former one, either.
    found, _ = exported(works, former)
    assert found["memberships_elsewhere"] == [] and found["sign_in_codes"] == []
    assert works.privacy.erase(former).state == "erased"
    assert named(works, host) == {"Cousin Vasilisa": "active"}
    assert key_id in works.keys.of_member(member.member_id)
    assert works.members.memberships(PHONE) != []
    works.identity.check_code(PHONE, challenge.code, challenge.text, "203.0.113.9")


@pytest.mark.parametrize("owes", [False, True])
def test_an_erasure_takes_the_person_out_of_other_accounts(works, subscriber, clock, owes):
    host = works.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    member, key_id = member_with_key(works, host, PHONE, "Cousin Vasilisa")
    if owes:
        works.orders.place(subscriber, "ctc-light")
        clock.move(timedelta(days=40))
        works.orders.run_cycles()
    assert works.privacy.erase(subscriber).state == ("waiting" if owes else "erased")
    assert named(works, host) == {"": "left"}
    assert works.vault.key(member.member_id) is None
    assert works.keys.of_member(member.member_id) == set()
    assert works.keys.info(key_id).name == "erased"


def test_what_the_carrier_does_not_know_yet_is_nobodys_identity(works, subscriber, remade, tmp_path):
    """Whoever types another person's number would use up what that person may have once."""
    (tmp_path / "holders.csv").write_text("")
    waits = remade(real_name_check=(tmp_path / "holders.csv").as_uri()).privacy
    owner = works.subscriptions.register("+8613800000007", "Li Lei")
    works.privacy.check_real_name(owner, "Li Lei", ID_NUMBER)
    assert waits.check_real_name(subscriber, NAME, ID_NUMBER).real_name == "pending"
    assert works.privacy.same_person(owner) == [owner.subscriber_id]
    # And nobody who is verified is less so because an answer is "not known yet".
    assert waits.check_real_name(owner, "Li Lei", ID_NUMBER).real_name == "verified"


def test_who_is_erased_while_the_carrier_answers_leaves_no_identity(works, subscriber, monkeypatch):
    def answers_late(phone, name, number):
        works.privacy.erase(subscriber)
        return "verified"

    monkeypatch.setattr(works.privacy, "_real_name_check", lambda: answers_late)
    with pytest.raises(SubscriberNotActive):
        works.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    hashes = works.connection.execute("SELECT identity_hash, real_name FROM subscriber").fetchall()
    assert hashes == [(None, "unknown")]
