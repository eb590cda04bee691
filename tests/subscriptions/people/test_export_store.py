"""Exports."""

import json

from tests.support.people import NAME, PHONE, exported, rich
from tokenworks.charging import STORED_RESPONSE, ContentToLog, ReplayName, ReplayToKeep
from tokenworks.kernel import uuid7


def test_an_export_has_all_that_is_stored_of_a_person(services, spender, subscriber, clock):
    subscriber = rich(services, spender, subscriber, clock)
    found, _ = exported(services, subscriber)
    tables = found["tables"]
    # Every row of every table that names the subscriber or its account, whichever room's it is.
    columns = services.connection.execute(
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
                count = services.connection.execute(
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


def test_an_export_is_streamed(services, subscriber):
    services.connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           SELECT uuidv7(), %s, 'spend', n::text, '{"percent": 50}', now(), now() FROM generate_series(1, 3000) n""",
        (subscriber.subscriber_id,),
    )
    found, pieces = exported(services, subscriber)
    assert len(found["tables"]["notification"]) == 3000
    assert len(pieces) > 5 and max(map(len, pieces)) < 100_000


def test_what_is_stored_of_prompts_is_exported_also_where_it_was_cut_inside_a_character(services, subscriber):
    request, account = uuid7().hex, subscriber.account_id.hex
    cut = "问题".encode()[:-1]
    services.content_log.keep(
        ContentToLog(account, request, uuid7().hex, uuid7().hex, "chat", "m", "complete", 6, 6, cut, cut),
        subscriber.subscriber_id,
        lambda: True,
    )
    name = ReplayName(account, STORED_RESPONSE, b"d" * 32, request)
    kept = ReplayToKeep(
        name, b"", uuid7().hex, uuid7().hex, uuid7().hex, "application/json", "答案".encode(), 60
    )
    assert services.replays.keep(kept, subscriber.subscriber_id)
    tables = exported(services, subscriber)[0]["tables"]
    assert [(row["request"], row["answer"]) for row in tables["content_log"]] == [("问\ufffd", "问\ufffd")]
    assert [row["answer"] for row in tables["replay_answer"]] == ["答案"]
