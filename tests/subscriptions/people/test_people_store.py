"""No table has a number or a name in plain text; people are found all the same."""

import psycopg
import pytest

from tests.support.people import NAME, PHONE, balances, rich, where
from tokenworks.app.database.text_columns import MEANINGS, TEXT_COLUMNS
from tokenworks.kernel import Invalid, Unavailable
from tokenworks.subscriptions import MemberExists, PhoneTaken, SeveralFound, SubscriberNotFound


def test_no_table_has_a_number_or_a_name(services, spender, subscriber, clock):
    subscriber = rich(services, spender, subscriber, clock)
    assert where(
        services.connection, "13876543210", "3876543210", "13876500077", "13911112222", "13955556666", "Wilhelmina", "Xylander",
        "Ottoline", "Zephyrs", "Ludovica", "Vasilisa", "778899xy",
    ) == set()  # fmt: skip
    # The test would see them: it sees what is not personal.
    assert where(services.connection, "a laptop") == {("api_key", "name")}
    # And all of it can still be read by who has the keys.
    assert services.subscriptions.find(PHONE) == subscriber
    assert (subscriber.phone, subscriber.name, subscriber.broadband) == (PHONE, NAME, "bb-778899xy")
    assert [m.name for m in services.members.of(subscriber)] == [
        NAME,
        "Ottoline Quimby",
        "Research Zephyrs",
    ]
    (row,), _ = services.identity.audited(str(subscriber.subscriber_id))
    assert row["after"] == {"phone": PHONE, "name": NAME}
    assert balances(services)


def test_every_text_column_is_classified(services):
    rows = services.connection.execute(
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


def test_plain_text_is_refused_by_the_database(services, subscriber):
    for statement in (
        "INSERT INTO hub_delivery (delivery_id, event_id, event_type, body, created_at, begun_at, next_at) "
        "VALUES (uuidv7(), uuidv7(), 'x', 'plain', now(), now(), now())",
        "UPDATE subscriber SET phone = '+8613800000009'",
        "UPDATE subscriber SET name = 'x'",
        "UPDATE member SET name = 'x'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            services.connection.execute(statement)


def test_a_ciphertext_of_another_row_does_not_decrypt(services, subscriber):
    other = services.subscriptions.register("+8613800000002", "Other")
    services.connection.execute(
        "UPDATE subscriber SET name_sealed = (SELECT name_sealed FROM subscriber WHERE subscriber_id = %s) WHERE subscriber_id = %s",
        (other.subscriber_id, subscriber.subscriber_id),
    )
    with pytest.raises(Unavailable, match=r"subscriber\.name"):
        services.subscriptions.find(str(subscriber.subscriber_id))
    # Another column of the same row, too.
    services.connection.execute(
        "UPDATE subscriber SET name_sealed = phone_sealed WHERE subscriber_id = %s", (other.subscriber_id,)
    )
    with pytest.raises(Unavailable, match=r"subscriber\.name"):
        services.subscriptions.find(str(other.subscriber_id))


@pytest.mark.parametrize(
    "text", [PHONE, "13876543210", "+86 138-7654-3210", "3210", "bb-778899xy", "Wilhelmina", "xyl", "xylander wil"]
)  # fmt: skip
def test_a_subscriber_is_found_by_number_and_name(services, subscriber, text):
    services.subscriptions.register("+8613800000002", "Somebody Else")
    assert services.subscriptions.find(text) == subscriber
    assert services.subscriptions.search(text) == [subscriber]


def test_what_names_several_is_asked_about_and_what_names_none_is_not_there(services, subscriber):
    other = services.subscriptions.register("+8613800003210", "Wilhelm Xaver")
    for text in ("3210", "wil"):
        with pytest.raises(SeveralFound) as refused:
            services.subscriptions.find(text)
        assert str(other.subscriber_id) in str(refused.value) and "13800003210" not in str(refused.value)
        assert services.subscriptions.search(text) == [subscriber, other]
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
            services.subscriptions.find(text)
    for text in ("", "a\x00b", "x" * 101, "+86", "+８６13800000001"):
        with pytest.raises(Invalid):
            services.subscriptions.find(text)
    # Who is closed is found where nobody else is meant.
    services.subscriptions.close(other)
    assert services.subscriptions.find("3210") == subscriber
    services.subscriptions.close(subscriber)
    with pytest.raises(SeveralFound):
        services.subscriptions.find("3210")
    # Who is not signed in is found exactly, or not at all.
    with pytest.raises((SubscriberNotFound, Invalid)):
        services.subscriptions.find_exact("Wilhelmina")


def test_numbers_and_names_stay_unique(services, subscriber):
    with pytest.raises(PhoneTaken):
        services.subscriptions.register(PHONE)
    with pytest.raises(PhoneTaken):
        services.subscriptions.register("+8613800000002", broadband="bb-778899xy")
    services.members.invite(subscriber, "+8613800000003", "Li")
    with pytest.raises(MemberExists):
        services.members.add(subscriber, "Li")
    with pytest.raises(MemberExists):
        services.members.invite(subscriber, "+8613800000003", "Wang")
    # A refusal leaves no key behind.
    people = services.connection.execute(
        "SELECT count(*) FROM person_key WHERE person_id <> %s", ("0" * 32,)
    ).fetchone()[0]
    assert people == 2


def test_a_name_is_changed_and_found_anew(services, subscriber):
    changed = services.subscriptions.set_profile(subscriber, name="张小明", bill_day=5)
    assert (changed.name, changed.bill_day) == ("张小明", 5)
    assert services.subscriptions.find("小明") == changed
    with pytest.raises(SubscriberNotFound):
        services.subscriptions.find("Wilhelmina")
    assert services.subscriptions.set_profile(changed, broadband=None).broadband is None
