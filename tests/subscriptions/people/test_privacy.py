"""Consents, real names, finding, export and erasure; and that no table has a number or a name in plain text."""

import hashlib
import json
from datetime import timedelta

import psycopg
import pytest

from tests.support.auditor import verify
from tests.support.receiver import Receiver
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.text_columns import MEANINGS, TEXT_COLUMNS, columns_that
from tokenworks.app.ports.notify import deliver
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, Unavailable, uuid7
from tokenworks.subscriptions import (
    ConsentNeeded,
    ConsentTextChanged,
    MemberExists,
    PhoneTaken,
    PrivacyRules,
    RealNameNeeded,
    RealNameRefused,
    SeveralFound,
    SubscriberNotActive,
    SubscriberNotFound,
)
from tokenworks.subscriptions.orders.eligibility import check_eligible
from tokenworks.subscriptions.people.privacy import CHECKS_A_DAY_MAX
from tokenworks.trust import KeptAnswer

PHONE, NAME = "+8613876543210", "Wilhelmina Xylander"
ID_NUMBER = "11010519491231002X"


def balances(works):
    return verify(works.connection, works.offerings.rate_cards()) == []


def dumped(connection, with_keys=False):
    """Every value of every column that can hold a text, of every table: (table, column, text)."""
    columns = connection.execute(
        """SELECT table_name, column_name, data_type FROM information_schema.columns
           WHERE table_schema = current_schema() AND data_type IN ('text', 'jsonb', 'bytea', 'ARRAY', 'character varying')"""
    ).fetchall()
    found = []
    for table, column, kind in columns:
        if table == "person_key" and not with_keys:
            continue
        for (value,) in connection.execute(
            f'SELECT DISTINCT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL'
        ):
            if kind == "bytea":
                text = bytes(value).decode("latin-1")
            elif kind == "ARRAY":
                text = " ".join(
                    part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in value
                )
            else:
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((table, column, text))
    return found


def where(connection, *texts):
    """Where any of the texts is, whatever its case."""
    wanted = [text.casefold() for text in texts]
    return {
        (table, column)
        for table, column, value in dumped(connection)
        if any(text in value.casefold() for text in wanted)
    }


@pytest.fixture
def remade(works):
    """All rooms again, on the same connection, with other settings."""

    def make(**options):
        settings = load_settings({"data_dir": str(works.session_dir / "seed")} | options).settings
        return make_works(settings, works.connection, works.clock)

    return make


@pytest.fixture
def works(works, session_dir):
    class WithDir:
        def __getattr__(self, name):
            return session_dir if name == "session_dir" else getattr(works, name)

    return WithDir()


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register(PHONE, NAME, broadband="bb-778899xy")


def rich(works, spender, subscriber, clock):
    """What a person does in two months, and what is done about it."""
    works.identity.audit("li", "operator", "subscriber.register", str(subscriber.subscriber_id), None,
                         {"phone": PHONE, "name": NAME}, person_id=subscriber.subscriber_id)  # fmt: skip
    works.consents.keep(subscriber, "terms", given=True)
    works.members.invite(subscriber, "+8613911112222", "Ottoline Quimby", cap_tokens=1000)
    works.members.add(subscriber, "Research Zephyrs", department=True)
    host = works.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    works.members.invite(host, PHONE, "Cousin Vasilisa")
    owner = works.subscriptions.owner_of(subscriber)
    works.keys.issue(account_id=subscriber.account_id, member_id=owner, name="a laptop")
    works.identity.request_code(PHONE, "203.0.113.9")
    works.identity.open_session(subscriber.subscriber_id, owner)
    works.orders.place(subscriber, "ctc-light")
    works.orders.place(subscriber, "shanghai-mobile-payg")
    spender.spend(subscriber.account_id, 1_000_000)
    subscriber = works.subscriptions.change_phone(subscriber, "+8613876500077")
    subscriber = works.subscriptions.change_phone(subscriber, PHONE)
    clock.move(timedelta(days=40))
    works.orders.run_cycles()
    works.charges.recognise()
    works.bills.run()
    sequence, text = works.charge_files.make_file()
    assert works.charge_files.file(sequence) == text and PHONE in text
    assert works.charge_files.files()[0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    works.subscriptions.notify(subscriber.subscriber_id, "spend", "1", {"percent": 50})
    told(works, subscriber)
    return subscriber


def told(works, subscriber):
    """What another system delivers, and a listener that is told of it; nothing arrives there."""
    works.hub._allow_private = True
    works.hub.subscribe("serviceOrdering", "http://127.0.0.1:9/listener", "", "test")
    works.orders.place(subscriber, "uplink-acceleration")
    works.orders.answer(works.orders.work_orders()[-1].work_order_id, done=True)
    options = {"webhook_url": "http://127.0.0.1:9/own", "webhook_allow_private": "true"}
    settings = load_settings({"data_dir": str(works.session_dir / "seed")} | options).settings
    assert deliver(works, settings) == 0
    told = works.connection.execute("SELECT count(*), count(subscriber_id) FROM hub_delivery").fetchone()
    assert told == (3, 3)
    # What came under an idempotency key is answered again for a month.
    works.answers.begin("member:x", "k", b"asked")
    answer = KeptAnswer(201, {}, json.dumps({"name": NAME, "phone": PHONE}).encode())
    works.answers.keep("member:x", "k", answer, subscriber.subscriber_id)
    assert works.answers.begin("member:x", "k", b"asked") == answer


def settle(works, subscriber, clock):
    """End what renews, and pay all that is owed when its period has ended."""
    for product in works.orders.products(subscriber):
        if product.state == "active":
            works.orders.cancel(product.product_id)
    for work in works.orders.work_orders():
        works.orders.answer(work.work_order_id, done=True)
    clock.move(timedelta(days=40))
    works.orders.run_cycles()
    works.refunds.finish()
    works.bills.run()
    for bill in works.bills.all(subscriber)[0]:
        if bill.remaining_nano > 0:
            works.payments.pay(bill, "cash", f"r-{bill.bill_no}")


def test_no_table_has_a_number_or_a_name(works, spender, subscriber, clock):
    subscriber = rich(works, spender, subscriber, clock)
    assert where(
        works.connection, "13876543210", "3876543210", "13876500077", "13911112222", "13955556666", "Wilhelmina", "Xylander",
        "Ottoline", "Zephyrs", "Ludovica", "Vasilisa", "778899xy",
    ) == set()  # fmt: skip
    # The test would see them: it sees what is not personal.
    assert where(works.connection, "a laptop") == {("api_key", "name")}
    # And all of it can still be read by who has the keys.
    assert works.subscriptions.find(PHONE) == subscriber
    assert (subscriber.phone, subscriber.name, subscriber.broadband) == (PHONE, NAME, "bb-778899xy")
    assert [m.name for m in works.members.of(subscriber)] == [
        NAME,
        "Ottoline Quimby",
        "Research Zephyrs",
    ]
    (row,), _ = works.identity.audited(str(subscriber.subscriber_id))
    assert row["after"] == {"phone": PHONE, "name": NAME}
    assert balances(works)


def test_every_text_column_is_classified(works):
    rows = works.connection.execute(
        """SELECT c.table_name, c.column_name FROM information_schema.columns c
           WHERE c.table_schema = current_schema() AND c.table_name NOT IN (SELECT relname FROM pg_class WHERE relispartition)
               AND c.data_type IN ('text', 'character varying', 'json', 'jsonb', 'bytea', 'ARRAY')"""
    ).fetchall()
    declared = [
        (table, column) for table, kinds in TEXT_COLUMNS.items() for names in kinds.values() for column in names.split()
    ]  # fmt: skip
    assert len(declared) == len(set(declared)), "a column holds one thing"
    assert set(declared) == set(rows)
    assert {holds for kinds in TEXT_COLUMNS.values() for holds in kinds} <= set(MEANINGS)


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


def test_plain_text_is_refused_by_the_database(works, subscriber):
    for statement in (
        "INSERT INTO hub_delivery (delivery_id, event_id, event_type, body, created_at, begun_at, next_at) "
        "VALUES (uuidv7(), uuidv7(), 'x', 'plain', now(), now(), now())",
        "UPDATE subscriber SET phone = '+8613800000009'",
        "UPDATE subscriber SET name = 'x'",
        "UPDATE member SET name = 'x'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            works.connection.execute(statement)


def test_a_ciphertext_of_another_row_does_not_decrypt(works, subscriber):
    other = works.subscriptions.register("+8613800000002", "Other")
    works.connection.execute(
        "UPDATE subscriber SET name_sealed = (SELECT name_sealed FROM subscriber WHERE subscriber_id = %s) WHERE subscriber_id = %s",
        (other.subscriber_id, subscriber.subscriber_id),
    )
    with pytest.raises(Unavailable, match=r"subscriber\.name"):
        works.subscriptions.find(str(subscriber.subscriber_id))
    # Another column of the same row, too.
    works.connection.execute(
        "UPDATE subscriber SET name_sealed = phone_sealed WHERE subscriber_id = %s", (other.subscriber_id,)
    )
    with pytest.raises(Unavailable, match=r"subscriber\.name"):
        works.subscriptions.find(str(other.subscriber_id))


@pytest.mark.parametrize(
    "text", [PHONE, "13876543210", "+86 138-7654-3210", "3210", "bb-778899xy", "Wilhelmina", "xyl", "xylander wil"]
)  # fmt: skip
def test_a_subscriber_is_found_by_number_and_name(works, subscriber, text):
    works.subscriptions.register("+8613800000002", "Somebody Else")
    assert works.subscriptions.find(text) == subscriber
    assert works.subscriptions.search(text) == [subscriber]


def test_what_names_several_is_asked_about_and_what_names_none_is_not_there(works, subscriber):
    other = works.subscriptions.register("+8613800003210", "Wilhelm Xaver")
    for text in ("3210", "wil"):
        with pytest.raises(SeveralFound) as refused:
            works.subscriptions.find(text)
        assert str(other.subscriber_id) in str(refused.value) and "13800003210" not in str(refused.value)
        assert works.subscriptions.search(text) == [subscriber, other]
    for text in (
        "9999",
        "helmina",
        "13800000009",
        "+8613800000009",
        "Q",
        "12345678-x",
        str(subscriber.account_id),
    ):
        with pytest.raises(SubscriberNotFound):
            works.subscriptions.find(text)
    for text in ("", "a\x00b", "x" * 101, "+86", "+８６13800000001"):
        with pytest.raises(Invalid):
            works.subscriptions.find(text)
    # Who is closed is found where nobody else is meant.
    works.subscriptions.close(other)
    assert works.subscriptions.find("3210") == subscriber
    works.subscriptions.close(subscriber)
    with pytest.raises(SeveralFound):
        works.subscriptions.find("3210")
    # Who is not signed in is found exactly, or not at all.
    with pytest.raises((SubscriberNotFound, Invalid)):
        works.subscriptions.find_exact("Wilhelmina")


def test_numbers_and_names_stay_unique(works, subscriber):
    with pytest.raises(PhoneTaken):
        works.subscriptions.register(PHONE)
    with pytest.raises(PhoneTaken):
        works.subscriptions.register("+8613800000002", broadband="bb-778899xy")
    works.members.invite(subscriber, "+8613800000003", "Li")
    with pytest.raises(MemberExists):
        works.members.add(subscriber, "Li")
    with pytest.raises(MemberExists):
        works.members.invite(subscriber, "+8613800000003", "Wang")
    # A refusal leaves no key behind.
    people = works.connection.execute(
        "SELECT count(*) FROM person_key WHERE person_id <> %s", ("0" * 32,)
    ).fetchone()[0]
    assert people == 2


def test_a_name_is_changed_and_found_anew(works, subscriber):
    changed = works.subscriptions.set_profile(subscriber, name="张小明", bill_day=5)
    assert (changed.name, changed.bill_day) == ("张小明", 5)
    assert works.subscriptions.find("小明") == changed
    with pytest.raises(SubscriberNotFound):
        works.subscriptions.find("Wilhelmina")
    assert works.subscriptions.set_profile(changed, broadband=None).broadband is None


# Consents.


def test_a_consent_is_kept_with_the_text_that_was_shown(works, subscriber, remade, tmp_path):
    (zh, en) = (
        works.consents.states(subscriber)[0],
        works.consents.states(subscriber, "en")[0],
    )
    assert (zh.text.purpose, zh.given, zh.said_at) == ("terms", None, None)
    with pytest.raises(ConsentTextChanged):
        works.consents.keep(subscriber, "terms", given=True, text_sha256="0" * 64)
    works.consents.keep(subscriber, "terms", given=True, text_sha256=en.text.sha256)
    row = works.connection.execute(
        """SELECT c.given, c.said_by, t.text, t.language FROM consent c JOIN consent_text t USING (text_sha256)
           WHERE subscriber_id = %s""",
        (subscriber.subscriber_id,),
    ).fetchall()
    assert row == [(True, "subscriber", en.text.text, "en")]
    assert hashlib.sha256(row[0][2].encode()).hexdigest() == en.text.sha256
    assert not works.consents.states(subscriber)[0].text_changed
    # The operator writes other terms: what was agreed to stays, and is known to be another text.
    (tmp_path / "terms.zh.txt").write_text("新的条款\n", encoding="utf-8")
    (tmp_path / "terms.en.txt").write_text("New terms\n", encoding="utf-8")
    later = remade(consent_texts_dir=str(tmp_path)).consents
    state = later.states(subscriber)[0]
    assert (state.text.text, state.given, state.text_changed) == ("新的条款", True, True)
    with pytest.raises(ConsentTextChanged):
        later.keep(subscriber, "terms", given=True, text_sha256=en.text.sha256)
    (tmp_path / "terms.zh.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(Unavailable, match="can't be read"):
        later.states(subscriber)


def test_withdrawn_terms_stop_orders(works, subscriber, remade):
    works.orders.place(subscriber, "ctc-light")
    works.consents.keep(subscriber, "terms", given=False)
    assert works.consents.refused_by(subscriber) == "terms"
    with pytest.raises(ConsentNeeded):
        works.orders.place(subscriber, "ctc-standard")
    assert len(works.orders.products(subscriber)) == 1
    works.consents.keep(subscriber, "terms", given=True)
    assert works.consents.refused_by(subscriber) is None
    works.orders.place(subscriber, "ctc-standard")
    strict = remade(terms_required="true")
    new = strict.subscriptions.register("+8613800000005")
    with pytest.raises(ConsentNeeded):
        strict.orders.place(new, "ctc-light")
    assert balances(works)


def test_marketing_is_told_with_consent_alone(works, subscriber):
    tell = works.subscriptions.notify
    assert not tell(subscriber.subscriber_id, "marketing.offer", "1", {})
    works.consents.keep(subscriber, "marketing", given=True)
    assert tell(subscriber.subscriber_id, "marketing.offer", "1", {})
    assert tell(subscriber.subscriber_id, "spend", "1", {})
    # Withdrawn before it is sent: it is not sent.
    works.consents.keep(subscriber, "marketing", given=False)
    with Receiver() as receiver:
        options = {"webhook_url": receiver.url, "webhook_allow_private": "true"}
        settings = load_settings({"data_dir": str(works.session_dir / "seed")} | options).settings
        assert deliver(works, settings) == 1
    assert [delivery.event_type for delivery in works.hub.log()[0]] == ["notice.spend"]


@pytest.mark.parametrize(
    ("mode", "said", "wanted", "regions"),
    [
        ("opt_out", None, None, None),
        ("opt_out", True, ("sg",), ("sg",)),
        ("opt_out", False, None, ("cn",)),
        ("opt_out", False, ("cn-sh", "sg"), ("cn-sh",)),
        ("opt_out", False, ("sg",), ()),
        ("opt_in", None, None, ("cn",)),
        ("opt_in", None, ("cn-sh",), ("cn-sh",)),
        ("opt_in", True, None, None),
    ],
)
def test_where_data_may_go(mode, said, wanted, regions):
    assert PrivacyRules(cross_border=mode).regions(wanted, said) == regions
    # A wish for a wider region is cut to the residency region; a name that begins alike is another region.
    assert PrivacyRules(residency_region="cn-sh").regions(("cn", "cnx"), said=False) == ("cn-sh",)


def test_hosts_hear_of_consents_that_they_enforce(works, subscriber):
    def told():
        return works.connection.execute(
            "SELECT count(*) FROM change WHERE kind = 'account' AND ref = %s", (subscriber.account_id.hex,)
        ).fetchone()[0]

    before = told()
    works.consents.keep(subscriber, "marketing", given=True)
    assert told() == before
    works.consents.keep(subscriber, "data_cross_border", given=False)
    assert told() == before + 1
    assert works.consents.regions_of(subscriber) == ("cn",)


# Real names.


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


# Export.


def exported(works, subscriber):
    pieces = list(works.privacy.export(subscriber))
    return json.loads(b"".join(pieces)), pieces


def test_an_export_has_all_that_is_stored_of_a_person(works, spender, subscriber, clock):
    subscriber = rich(works, spender, subscriber, clock)
    found, _ = exported(works, subscriber)
    tables = found["tables"]
    # Every row of every table that names the subscriber or its account, whichever room's it is.
    columns = works.connection.execute(
        """SELECT c.relname, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND a.attnum > 0 GROUP BY c.relname"""
    ).fetchall()
    counted = 0
    for table, names in columns:
        for name, value in (
            ("subscriber_id", subscriber.subscriber_id),
            ("account_id", subscriber.account_id),
        ):
            if name in names:
                count = works.connection.execute(
                    f"SELECT count(*) FROM {table} WHERE {name} = %s", (value,)
                ).fetchone()[0]
                assert len(tables[table]) == count, table
                counted += count
                break
    assert counted > 20
    (row,) = tables["subscriber"]
    assert (row["phone"], row["name"], row["broadband"]) == (PHONE, NAME, "bb-778899xy")
    assert {member["name"] for member in tables["member"]} == {NAME, "Ottoline Quimby", "Research Zephyrs"}
    assert {member["phone"] for member in tables["member"]} == {None, "+8613911112222"}
    assert [old["phone"] for old in tables["phone_history"]] == [PHONE, "+8613876500077"]
    assert tables["charge_file_line"][0]["phone"] == PHONE
    assert tables["audit"][0]["details"]["after"] == {"phone": PHONE, "name": NAME}
    assert tables["consent_text"][0]["text_sha256"] == tables["consent"][0]["text_sha256"]
    assert [one["name"] for one in found["memberships_elsewhere"]] == ["Cousin Vasilisa"]
    assert found["sign_in_codes"][0]["address"] == "203.0.113.9"
    text = json.dumps(found, ensure_ascii=False)
    assert (
        "Abendroth" not in text and "_mac" not in text and "wrapped" not in text and "phone_hash" not in text
    )


def test_an_export_is_streamed(works, subscriber):
    works.connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           SELECT uuidv7(), %s, 'spend', n::text, '{"percent": 50}', now(), now() FROM generate_series(1, 3000) n""",
        (subscriber.subscriber_id,),
    )
    found, pieces = exported(works, subscriber)
    assert len(found["tables"]["notification"]) == 3000
    assert len(pieces) > 5 and max(map(len, pieces)) < 100_000


# Erasure.


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


# A number has holders one after the other: what is one's is not the other's.


def member_with_key(works, host, phone, name):
    """An active member of somebody else's account, and a key of its own there."""
    member = works.members.invite(host, phone, name)
    works.members.accept(phone, member.member_id)
    key_id, _ = works.keys.issue(account_id=host.account_id, member_id=member.member_id, name="there")
    return member, key_id


def named(works, host):
    return {m.name: m.state for m in works.members.of(host) if m.role == "member"}


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


@pytest.mark.parametrize("end", ["close", "change_owner", "move"])
def test_who_is_no_member_any_more_has_no_key_there(works, subscriber, end):
    host = works.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    member, _ = member_with_key(works, host, PHONE, "Cousin Vasilisa")
    if end == "move":
        # The new number is a member there already: the old one leaves.
        other, _ = member_with_key(works, host, "+8613876500077", "Cousin Vasilisa Two")
        works.subscriptions.change_phone(subscriber, "+8613876500077")
        assert len(works.keys.of_member(other.member_id)) == 1
    else:
        getattr(works.subscriptions, end)(subscriber)
    assert named(works, host)["Cousin Vasilisa"] == "left"
    assert works.keys.of_member(member.member_id) == set()


def test_another_number_ends_sessions_in_other_accounts_too(works, subscriber):
    host = works.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    member, _ = member_with_key(works, host, PHONE, "Cousin Vasilisa")
    text, _ = works.identity.open_session(host.subscriber_id, member.member_id)
    mine, _ = works.identity.open_session(host.subscriber_id, works.subscriptions.owner_of(host))
    works.subscriptions.change_phone(subscriber, "+8613876500077")
    assert works.identity.session(text) is None
    assert works.identity.session(mine) is not None
    assert len(works.keys.of_member(member.member_id)) == 1


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
