"""Schema steps with rows of the release before them."""

import contextlib
from pathlib import Path

import psycopg
import pytest

from tokenworks.app import database
from tokenworks.charging import Ledger
from tokenworks.kernel import SystemClock, uuid7


@pytest.fixture
def empty_url(cluster):
    name = f"empty_{uuid7().hex}"
    admin = cluster.replace("/tokenworks?", "/postgres?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield cluster.replace("/tokenworks?", f"/{name}?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrate_to(url, revision):
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with create_engine(database._engine_url(url), poolclass=NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_losses_of_before_0011_get_a_cause_and_stay_history(empty_url):
    migrate_to(empty_url, "0010")
    account_id, ids = uuid7(), [uuid7() for _ in range(3)]
    losses = ["[1, [0, 0, 0, 0, 7, 0, 0]]", None, "[0, [2, 0, 0, 0, 0, 0, 0]]"]
    with contextlib.closing(database.connect(empty_url)) as connection:
        for usage_id, loss in zip(ids, losses, strict=True):
            connection.execute(
                """INSERT INTO usage (account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment,
                       state, reason, counted_by, started_at, ended_at, latency_ms, fresh_input, cached_input, cache_write,
                       audio_input, output, reasoning, audio_output, parts, loss, flags, journal_id, seq, entry_id)
                   VALUES (%(a)s, %(u)s, 'r', 1, %(u)s, %(u)s, 'chat', 'm', 'd', 'complete', 'completed', 'provider', now(), now(), 1,
                       2, 0, 0, 0, 7, 0, 0, '[]', %(loss)s, '{}', %(u)s, 1, %(u)s)""",
                {"a": account_id, "u": usage_id, "loss": loss},
            )
        assert database.migrate(empty_url) == database.SCHEMAS[0]
        rows = {row["usage_id"]: row for row in Ledger(connection, SystemClock()).usage(account_id)}
        assert rows[ids[0]]["loss"] == [{"cause": "unnamed", "requests": 1, "counts": {"output": 7}}]
        assert rows[ids[1]]["loss"] == []
        assert rows[ids[2]]["loss"] == [{"cause": "unnamed", "requests": 0, "counts": {"fresh_input": 2}}]
        assert all(row["cache_write_1h"] == 0 for row in rows.values())
        # A host of the release before, still running, writes as it did.
        connection.execute("ALTER TABLE usage DISABLE TRIGGER usage_is_history")
        connection.execute("UPDATE usage SET loss = %s WHERE usage_id = %s", (losses[0], ids[0]))
        connection.execute("ALTER TABLE usage ENABLE TRIGGER usage_is_history")
        assert Ledger(connection, SystemClock()).usage_record(ids[0])["loss"] == rows[ids[0]]["loss"]
        assert {(row["cause"], row["tokens"]) for row in Ledger(connection, SystemClock()).losses()} == {
            ("unnamed", 9)
        }
        with pytest.raises(psycopg.errors.RaiseException, match="history"):
            connection.execute("UPDATE usage SET loss = NULL")


def test_staff_of_before_0016_keep_their_tokens_for_a_while_and_names_that_look_alike_are_told_apart(
    empty_url,
):
    migrate_to(empty_url, "0012")
    ids = [uuid7() for _ in range(4)]
    with contextlib.closing(database.connect(empty_url)) as connection:
        for number, (staff_id, name) in enumerate(zip(ids, ("Ann", "Аnn", "Bo", "..."), strict=True)):
            connection.execute(
                "INSERT INTO staff VALUES (%s, %s, 'operator', %s, now(), %s)",
                (staff_id, name, bytes([number]) * 32, "2026-01-01" if name == "Bo" else None),
            )
        connection.execute(
            "INSERT INTO sign_in_code (code_id, identifier_mac, address, code_mac, created_at) VALUES (%s, 'x', 'local', 'y', now())",
            (uuid7(),),
        )
        assert database.migrate(empty_url) == database.SCHEMAS[0]
        looks = [row[0] for row in connection.execute("SELECT skeleton FROM staff ORDER BY staff_id")]
        assert looks == ["ann", f"ann#{ids[1]}", "bo", f"#{ids[3]}"]
        rows = connection.execute(
            "SELECT staff_id, expires_at > now() + interval '89 days' FROM staff_token ORDER BY staff_id"
        ).fetchall()
        assert rows == [(ids[0], True), (ids[1], True), (ids[3], True)]
        row = connection.execute("SELECT expires_at - created_at, digits, sent FROM sign_in_code").fetchone()
        assert (row[0].total_seconds(), row[1:]) == (300, (6, True))
