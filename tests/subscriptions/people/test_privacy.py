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


def eligible(services, subscriber, offering):
    rules = services.orders._context.rules
    check_eligible(services.connection, services.offerings, rules, subscriber, offering, confirm=True)


def test_a_real_name_gates_what_the_law_gates(services, subscriber, remade):
    services.subscriptions.set_profile(subscriber, real_name="refused")
    with pytest.raises(RealNameNeeded, match="refused"):
        services.orders.place(subscriber, "ctc-light")
    services.subscriptions.set_profile(subscriber, real_name="pending")
    services.orders.place(subscriber, "ctc-light")
    strict = remade(real_name_required="true")
    with pytest.raises(RealNameNeeded, match="pending"):
        strict.orders.place(subscriber, "ctc-standard")
    sold = services.offerings.on_sale("ctc-standard")
    gated = sold.offering.model_copy(update={"real_name_only": True})
    with pytest.raises(RealNameNeeded, match="verified real name"):
        eligible(services, services.subscriptions.find(PHONE), gated)
    verified = strict.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    assert verified.real_name == "verified"
    eligible(services, verified, gated)
    strict.orders.place(verified, "ctc-standard")
    assert balances(services)


def test_the_document_number_is_not_kept_and_tells_one_person(services, subscriber, clock):
    services.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    assert where(services.connection, ID_NUMBER, hashlib.sha256(ID_NUMBER.encode()).hexdigest()) == set()
    second = services.subscriptions.register("+8613800000007")
    assert services.privacy.same_person(second) == [second.subscriber_id]
    named = services.privacy.check_real_name(second, "Li Lei", ID_NUMBER.lower())
    assert named.name == "Li Lei"
    assert services.privacy.same_person(second) == [subscriber.subscriber_id, second.subscriber_id]
    with pytest.raises(RealNameRefused, match="another identity"):
        services.privacy.check_real_name(second, "Li Lei", "110105194912310038")
    with pytest.raises(Invalid):
        services.privacy.check_real_name(second, "Li Lei", "1")
    for _ in range(CHECKS_A_DAY_MAX - 1):
        services.privacy.check_real_name(second, "Li Lei", ID_NUMBER)
    with pytest.raises(RealNameRefused, match="too often"):
        services.privacy.check_real_name(second, "Li Lei", ID_NUMBER)
    clock.move(timedelta(days=1, seconds=1))
    services.privacy.check_real_name(second, "Li Lei", ID_NUMBER)


def test_a_check_that_does_not_answer_changes_nothing(services, subscriber, remade):
    away = remade(real_name_check="http://127.0.0.1:9/check")
    with pytest.raises(Unavailable, match="does not answer"):
        away.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    assert services.subscriptions.find(PHONE).real_name == "unknown"
    nowhere = remade(environment="prod")
    with pytest.raises(Unavailable, match="real_name_check"):
        nowhere.privacy.check_real_name(subscriber, NAME, ID_NUMBER)


def test_an_erasure_leaves_nothing_readable_and_the_books_whole(services, spender, subscriber, clock):
    other = services.subscriptions.register("+8613800000002", "Somebody Else")
    subscriber = rich(services, spender, subscriber, clock)
    services.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    settle(services, subscriber, clock)
    before = {
        table: services.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("bill", "bill_line", "charge", "entry", "posting", "payment", "audit", "usage")
    }
    sealed = services.connection.execute(
        "SELECT subscriber_id, name_sealed FROM subscriber WHERE subscriber_id = %s",
        (subscriber.subscriber_id,),
    ).fetchone()
    trial = services.privacy.erase(subscriber, dry_run=True)
    assert trial.state == "erased" and services.subscriptions.find(PHONE) == services.subscriptions.find(
        str(subscriber.subscriber_id)
    )
    done = services.privacy.erase(subscriber)
    assert done.state == "erased" and done.backups_forget_at == clock.now() + timedelta(days=30)
    # The key is gone: what a copy of the database has can't be opened by all secrets of all hosts.
    assert services.vault.key(subscriber.subscriber_id) is None
    assert (
        services.vault.open(subscriber.subscriber_id, "subscriber.name", sealed[0], bytes(sealed[1])) is None
    )
    gone = services.subscriptions.find(str(subscriber.subscriber_id))
    assert (gone.phone, gone.name, gone.broadband, gone.state) == ("", None, None, "closed")
    assert gone.phone_masked == "(erased)"
    assert {(m.name, m.phone, m.state) for m in services.members.of(gone)} == {("", None, "left")}
    for text in (PHONE, "3210", "Wilhelmina"):
        with pytest.raises(SubscriberNotFound):
            services.subscriptions.find(text)
    assert services.members.memberships(PHONE) == []
    trail, _ = services.identity.audited(str(subscriber.subscriber_id))
    assert [row["after"] for row in trail] == [None] and trail[0]["erased"]
    text = services.charge_files.file(1)
    assert "3876543210" not in text and "|@|" in text
    assert services.charge_files.files()[0]["sha256"] is None
    assert [key.name for key in services.keys.of_account(subscriber.account_id, {})] == ["erased"]
    found, _ = exported(services, gone)
    assert "Wilhelmina" not in json.dumps(found) and "13876543210" not in json.dumps(found)
    # What the law keeps is there, and adds up; others lost nothing.
    for table, count in before.items():
        assert services.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == count, table
    assert balances(services)
    assert services.subscriptions.find("0002") == other
    # The same again does nothing; nothing new is written of the person.
    assert services.privacy.erase(gone).state == "erased"
    with pytest.raises(SubscriberNotActive):
        services.subscriptions.set_profile(gone, name="Back Again")
    # Nothing that is left of it in any table leads back by the lookup key.
    hashes = {
        services.vault.lookup.phone(PHONE),
        services.vault.lookup.tail(PHONE),
        *services.vault.lookup.name(NAME),
    }
    assert not where(
        services.connection,
        *[one.decode("latin-1") for one in hashes if one != services.vault.lookup.tail("3210")],
    )
    # The number is its next holder's.
    services.subscriptions.register(PHONE, "Next Holder")


def filled(services, owner, subscriber):
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
        "passkey": """(passkey_id, subscriber_id, member_id, credential_id, public_key, rp_id, sign_count, transports, is_synced,
            created_at) VALUES (%(i)s, %(s)s, %(i)s, 'c', 'k', 'localhost', 0, '{}', false, now())""",
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


def test_an_erasure_takes_out_every_free_text_about_the_person(services, owner, spender, subscriber, clock):
    other = services.subscriptions.register("+8613800000002", "Somebody Else")
    services.subscriptions.suspend(other, "operator", reason="kept")
    subscriber = rich(services, spender, subscriber, clock)
    settle(services, subscriber, clock)
    filled(services, owner, subscriber)
    assert where(services.connection, "zanzibar") == set(columns_that("erased"))
    assert services.privacy.erase(subscriber).state == "erased"
    assert where(services.connection, "zanzibar") == set()
    assert where(services.connection, "kept") >= {("suspension", "reason")}
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
        services.connection.execute("UPDATE payment SET reason = 'another'")


def test_while_something_is_owed_an_erasure_waits(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    done = services.privacy.erase(subscriber)
    assert done.state == "waiting" and done.owes_nano > 0 and done.backups_forget_at is None
    closed = services.subscriptions.find(str(subscriber.subscriber_id))
    assert (closed.state, closed.name) == ("closed", NAME)
    assert services.privacy.run_erasures() == 0
    settle(services, closed, clock)
    assert services.privacy.run_erasures() == 1
    assert services.subscriptions.find(str(subscriber.subscriber_id)).name is None
    assert services.privacy.run_erasures() == 0
    assert balances(services)


def test_the_operator_may_give_up_what_is_owed(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    services.bills.run()
    assert services.privacy.erase(subscriber, even_if_owed=True).state == "erased"
    # Nobody is left to send a line for.
    assert services.charge_files.make_file() is None
    assert balances(services)


def test_the_identity_outlives_an_erasure_as_declared(services, subscriber, remade, clock):
    services.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    kept = services.privacy.erase(subscriber)
    assert kept.identity_kept_until == clock.now() + timedelta(days=1095)
    again = services.subscriptions.register("+8613800000008")
    services.privacy.check_real_name(again, NAME, ID_NUMBER)
    assert services.privacy.same_person(again) == [subscriber.subscriber_id, again.subscriber_id]
    clock.move(timedelta(days=1096))
    services.privacy.run_erasures()
    assert services.privacy.same_person(again) == [again.subscriber_id]
    forgetful = remade(identity_hash_days="0").privacy.erase(again)
    assert forgetful.identity_kept_until is None
    hashes = services.connection.execute(
        "SELECT count(*) FROM subscriber WHERE identity_hash IS NOT NULL"
    ).fetchone()
    assert hashes == (0,)


def test_who_was_erased_is_erased_again_after_a_restore(services, subscriber):
    """A backup of before brings the key back: the list that is kept beside it erases again."""
    row = services.connection.execute(
        "SELECT wrapped, wrap_version FROM person_key WHERE person_id = %s", (subscriber.subscriber_id,)
    ).fetchone()
    before = services.connection.execute(
        "SELECT phone_sealed, phone_hash, name_sealed FROM subscriber WHERE subscriber_id = %s",
        (subscriber.subscriber_id,),
    ).fetchone()
    services.privacy.erase(subscriber)
    listed = [str(one) for one in services.privacy.erased()]
    assert listed == [str(subscriber.subscriber_id)]
    assert not services.privacy.erase_again(listed[0]) and not services.privacy.erase_again("0" * 32)
    services.connection.execute(
        "UPDATE person_key SET wrapped = %s, destroyed_at = NULL WHERE person_id = %s",
        (row[0], subscriber.subscriber_id),
    )
    services.connection.execute(
        """UPDATE subscriber SET phone_sealed = %s, phone_hash = %s, name_sealed = %s, erased_at = NULL
           WHERE subscriber_id = %s""",
        (*before, subscriber.subscriber_id),
    )
    assert services.subscriptions.find(listed[0]).name == NAME
    assert services.privacy.erase_again(listed[0])
    assert services.subscriptions.find(listed[0]).name is None
    assert services.vault.key(subscriber.subscriber_id) is None


def test_an_erasure_of_a_former_holder_takes_nothing_from_the_next_one(services, subscriber):
    host = services.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    services.subscriptions.close(subscriber)
    former = services.subscriptions.find(str(subscriber.subscriber_id))
    services.subscriptions.register(PHONE, "Next Holder")
    member, key_id = member_with_key(services, host, PHONE, "Cousin Vasilisa")
    challenge = services.identity.request_code(PHONE, "203.0.113.9")
    # What is the next one's is not exported to the former one, either.
    found, _ = exported(services, former)
    assert found["memberships_elsewhere"] == [] and found["sign_in_codes"] == []
    assert services.privacy.erase(former).state == "erased"
    assert named(services, host) == {"Cousin Vasilisa": "active"}
    assert key_id in services.keys.of_member(member.member_id)
    assert services.members.memberships(PHONE) != []
    services.identity.check_code(PHONE, challenge.code, challenge.text, "203.0.113.9")


@pytest.mark.parametrize("owes", [False, True])
def test_an_erasure_takes_the_person_out_of_other_accounts(services, subscriber, clock, owes):
    host = services.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    member, key_id = member_with_key(services, host, PHONE, "Cousin Vasilisa")
    if owes:
        services.orders.place(subscriber, "ctc-light")
        clock.move(timedelta(days=40))
        services.orders.run_cycles()
    assert services.privacy.erase(subscriber).state == ("waiting" if owes else "erased")
    assert named(services, host) == {"": "left"}
    assert services.vault.key(member.member_id) is None
    assert services.keys.of_member(member.member_id) == set()
    assert services.keys.info(key_id).name == "erased"


def test_what_the_carrier_does_not_know_yet_is_nobodys_identity(services, subscriber, remade, tmp_path):
    """Whoever types another person's number would use up what that person may have once."""
    (tmp_path / "holders.csv").write_text("")
    waits = remade(real_name_check=(tmp_path / "holders.csv").as_uri()).privacy
    owner = services.subscriptions.register("+8613800000007", "Li Lei")
    services.privacy.check_real_name(owner, "Li Lei", ID_NUMBER)
    assert waits.check_real_name(subscriber, NAME, ID_NUMBER).real_name == "pending"
    assert services.privacy.same_person(owner) == [owner.subscriber_id]
    # And nobody who is verified is less so because an answer is "not known yet".
    assert waits.check_real_name(owner, "Li Lei", ID_NUMBER).real_name == "verified"


def test_who_is_erased_while_the_carrier_answers_leaves_no_identity(services, subscriber, monkeypatch):
    def answers_late(phone, name, number):
        services.privacy.erase(subscriber)
        return "verified"

    monkeypatch.setattr(services.privacy, "_real_name_check", lambda: answers_late)
    with pytest.raises(SubscriberNotActive):
        services.privacy.check_real_name(subscriber, NAME, ID_NUMBER)
    hashes = services.connection.execute("SELECT identity_hash, real_name FROM subscriber").fetchall()
    assert hashes == [(None, "unknown")]
