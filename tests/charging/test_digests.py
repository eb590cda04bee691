"""The database makes the bytes that were hashed from rows as they are, and of no other row the same bytes."""

import pytest

from tests.charging.ledger.test_accounts import settle
from tests.charging.ledger.test_chain import database_url, sold, some  # noqa: F401  # fixtures
from tokenworks.catalog import Counts
from tokenworks.charging import chain_all
from tokenworks.charging.ledger.verify import chains, checks, digests
from tokenworks.charging.messages import Loss

ODD = {
    "one flag": {"flags": ["late"]},
    "what was asked": {"asked": "fast", "choice": "cheapest, of two", "upstream_id": "up 1"},
    "no first byte": {"first_byte_ms": None, "provider_total": None},
    "a whole second": {"started_ms": 1_700_000_000_000, "ended_ms": 1_700_000_001_000},
    "a tool's turn": {"prompt": False},
    "other letters": {"model": "模型 – é"},
    "no part": {"parts": []},
}  # fmt: skip
ESCAPED = {
    "a backslash": {"model": "a\\b"},
    "two flags": {"flags": ["late", "long"]},
    "a loss": {"loss": [Loss("beyond_hold", 0, Counts(output=1))]},
    "a line": {"asked": "a\nb"},
}


def unlike(connection):
    return connection.execute(digests.differing_links("chain_link").encode()).fetchall()


def history(connection):
    (check,) = (check for name, check in checks({}) if name == chains.INVARIANT)
    with connection.transaction():
        return check(connection)


def settled(sold, **changes):  # noqa: F811
    """A record with these fields, settled."""
    at, record = sold.record(0)
    for name, value in changes.items():
        setattr(record, name, value)
    settle(sold.connection, sold.journal, at, [(at, record)])
    return record


@pytest.mark.parametrize("name", ODD)
def test_a_plain_row_is_shown_to_be_right_by_the_database(sold, name):  # noqa: F811
    some(sold)
    settled(sold, **ODD[name])
    chain_all(sold.connection, sold.connection.execute("SELECT now() + interval '2 hours'").fetchone()[0])
    assert unlike(sold.connection) == []


@pytest.mark.parametrize("name", ESCAPED)
def test_a_row_that_needs_escapes_is_left_to_the_code_that_settles(sold, name):  # noqa: F811
    some(sold)
    settled(sold, **ESCAPED[name])
    assert len(unlike(sold.connection)) == 1
    assert history(sold.connection) == []


# What a row had, and to what it is changed so that the text of a line without escapes would be the same.
LIKE = {
    "a comma": ({}, "parts = replace(parts::text, 'r,x', 'r, x')::jsonb"),
    "a backslash": ({"model": "a\\b"}, r"model = 'a\\b'"),
    "flags": ({"flags": ["a", "b"]}, """flags = ARRAY['a","b']"""),
    "a flag that is none": ({"flags": ["late"]}, "flags = ARRAY['late', NULL]"),
    "nothing": ({"asked": None}, r"asked = '\N'"),
    "a time of before": ({}, "started_at = (started_at::text || ' BC')::timestamptz"),
    "a loss": ({}, "loss = '[]'"),
}  # fmt: skip


def with_a_comma(sold):  # noqa: F811
    at, record = sold.record(0)
    record.parts = [part._replace(rate_version="r,x") for part in record.parts]
    settle(sold.connection, sold.journal, at, [(at, record)])
    return record


@pytest.mark.parametrize("name", LIKE)
def test_no_other_row_is_taken_for_what_was_hashed(sold, name):  # noqa: F811
    had, change = LIKE[name]
    some(sold)
    record = settled(sold, **had) if name != "a comma" else with_a_comma(sold)
    sold.connection.execute("SET session_replication_role = replica")
    assert sold.connection.execute(
        f"UPDATE usage SET {change} WHERE usage_id = %s".encode(), (record.usage_id,)
    ).rowcount
    assert len(unlike(sold.connection)) == 1
    found = history(sold.connection)
    if name == "a loss":
        # A record of no losses and one without losses are hashed as the same.
        assert found == []
    else:
        assert [finding.detail.split(":")[0] for finding in found] in (["was changed"], ["cannot be read"])
