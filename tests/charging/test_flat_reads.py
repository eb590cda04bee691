"""Reads cost what an account's own rows cost: plans by index, months pruned, as many pages beside four times as many others' rows.

`READS_ROWS` rows at night (`make nightly`): every read below `P95_MAX_S` at its 95th percentile.
"""

import json
import os
import time
from datetime import timedelta
from uuid import UUID

import pytest

from tests.charging.ledger.test_day_store import unequal_days
from tokenworks.charging.ledger import day_store, usage_store
from tokenworks.charging.ledger.usage_store import UsageFilter
from tokenworks.charging.money import charge_store
from tokenworks.kernel import uuid7_floor

ROWS = 5000
READS_ROWS = int(os.environ.get("READS_ROWS", "200000"))
P95_MAX_S = 0.05
MONTHS = 4
ME = UUID(int=1 << 64)
PAGE = 20
# Of a read: fewer than what an account of `ROWS` has (more than a hundred pages of usage).
PAGES_MAX = 120

SEED = """
INSERT INTO usage (account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state, reason,
    counted_by, started_at, ended_at, latency_ms, fresh_input, cached_input, cache_write, audio_input, output, reasoning, audio_output,
    cache_write_1h, parts, flags, upstream_id, journal_id, seq, entry_id)
SELECT account, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text || %(salt)s), 1, 3) || '8'
        || substr(md5(n::text || %(salt)s), 4, 15))::uuid,
    'r', 1, account, md5((n %% 7)::text)::uuid, CASE WHEN n %% 4 = 0 THEN 'responses' ELSE 'chat' END, 'm', 'd', 'complete', 'completed', 'provider', at, at, 1, 10, 0, 0, 0, 5, 0, 0, 0,
    jsonb_build_array(jsonb_build_array(account, account, 'r', 'token', 'balance', 15000, 1)),
    CASE WHEN n %% 500 = 0 THEN '{late}' ELSE '{}' END::text[], CASE WHEN n %% 2 = 0 THEN 'up-' || n END, account, n, account
FROM (SELECT n, coalesce(%(account)s::uuid, md5((n %% %(accounts)s)::text)::uuid) AS account,
             %(begin)s::timestamptz + (%(end)s::timestamptz - %(begin)s::timestamptz) * (n::float8 / %(count)s) AS at
      FROM generate_series(0, %(count)s - 1) n) r
"""
POSTINGS = """
INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, amount)
SELECT account_id, usage_id, line, CASE WHEN line = 1 AND seq %% 400 = 0 THEN 'receivable' WHEN line = 1 THEN 'used' ELSE 'customer_liability' END,
       'CNY', 7 * (3 - 2 * line) FROM usage, generate_series(1, 2) line
WHERE NOT EXISTS (SELECT 1 FROM posting p WHERE p.account_id = usage.account_id AND p.entry_id = usage.usage_id)
"""


@pytest.fixture
def span(services):
    return months(services)


def months(services):
    """[begin, end) of months in the past, with partitions."""
    end = services.clock.now()
    begin = end - timedelta(days=31 * (MONTHS - 1))
    at = begin - timedelta(days=31)
    while at < end + timedelta(days=31):
        services.connection.execute("SELECT ensure_usage_month(%s)", (at,))
        at += timedelta(days=20)
    return begin, end


def seed(services, span, count, *, account=None, salt="a", accounts=40):
    services.connection.execute(
        SEED,
        {
            "count": count,
            "account": account,
            "accounts": accounts,
            "salt": salt,
            "begin": span[0],
            "end": span[1],
        },
    )
    services.connection.execute(POSTINGS.replace("%%", "%"))


def clean(owner):
    owner.execute("VACUUM ANALYZE usage")
    owner.execute("VACUUM ANALYZE posting")
    owner.execute("VACUUM ANALYZE usage_day")


def floor(at):
    return uuid7_floor(int(at.timestamp() * 1000))


def reads(services, span):
    """By name: (a read, how many partitions of `usage` it may touch)."""
    c, (begin, end) = services.connection, span
    some = c.execute(
        "SELECT usage_id FROM usage WHERE account_id = %s ORDER BY usage_id OFFSET 2500 LIMIT 1", (ME,)
    ).fetchone()[0]
    last = UsageFilter(
        end - timedelta(days=3), end, floor(end - timedelta(days=4)), floor(end + timedelta(days=1))
    )
    months = c.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage'::regclass").fetchone()[0]
    member = c.execute("SELECT md5('3')::uuid").fetchone()[0]
    return {
        "flagged": (lambda: usage_store.flagged(c, floor(end - timedelta(days=3)), PAGE), 2),
        "owns an upstream id": (lambda: usage_store.owns_upstream_id(c, ME, "up-4"), months),
        "owns no such upstream id": (lambda: usage_store.owns_upstream_id(c, ME, "none"), months),
        "receivable": (lambda: charge_store.receivable(c, ME), 0),
        "usage by day": (lambda: day_store.tokens_by_day(c, ME, begin.date()), 0),
        "usage by member": (lambda: day_store.by_member(c, ME, begin.date()), 0),
        "usage by id": (lambda: usage_store.usage_record(c, ME, some), 1),
        "a page": (lambda: usage_store.usage_page(c, ME, None, UsageFilter(), None, 0, PAGE), months),
        "a page of long ago": (lambda: usage_store.usage_page(c, ME, None, UsageFilter(), floor(begin + timedelta(days=9)), 0, PAGE), months),
        "a page of days": (lambda: usage_store.usage_page(c, ME, None, last, None, 0, PAGE), 2),
        "a member's page": (lambda: usage_store.usage_page(c, ME, member, UsageFilter(), None, 0, PAGE), months),
    }  # fmt: skip


def plans(services, read):
    """The plan of every statement that a read makes."""
    found, connection = [], services.connection
    kind = type(connection.cursor())
    real = kind.execute

    def execute(self, query, params=None, **more):
        text = query.decode() if isinstance(query, bytes) else query
        with connection.cursor() as cursor:
            real(cursor, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", params)
            (row,) = cursor.fetchone()
        found.append((row if isinstance(row, list) else json.loads(row))[0]["Plan"])
        return real(self, query, params, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "execute", execute)
        patch.setattr("psycopg.Cursor.execute", execute)
        read()
    assert found
    return found


def nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def pages(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def measured(services, span):
    """By read: how many pages it touches. Asserts how it finds them."""
    found = {}
    for name, (read, partitions_max) in reads(services, span).items():
        total = 0
        for plan in plans(services, read):
            scanned = [
                node for node in nodes(plan)
                if "Relation Name" in node and node["Relation Name"].startswith(("usage_2", "posting_h")) and node["Actual Loops"]
                and pages(node)  # an empty partition is read by no index
            ]  # fmt: skip
            sequential = [node["Relation Name"] for node in scanned if node["Node Type"] == "Seq Scan"]
            assert not sequential, (name, sequential)
            of_usage = {
                node["Relation Name"] for node in scanned if node["Relation Name"].startswith("usage_2")
            }
            assert len(of_usage) <= partitions_max, (name, of_usage)
            total += pages(plan)
        found[name] = total
    return found


def test_a_read_touches_its_accounts_own_pages_however_much_others_have(services, owner, span):
    # Days are few beside records: read in whole they would cost what others have, and that is what is counted.
    services.connection.execute("SET random_page_cost = 1.1")
    seed(services, span, ROWS, account=ME, salt="me")
    seed(services, span, ROWS, salt="one")
    clean(owner)
    once = measured(services, span)
    seed(services, span, 3 * ROWS, salt="more")
    clean(owner)
    more = measured(services, span)
    # A level more of an index, in each partition.
    assert {
        name: (once[name], more[name]) for name in once if more[name] > once[name] + 2 * (MONTHS + 3)
    } == {}
    # None reads all that its own account has.
    assert {name: count for name, count in more.items() if count > PAGES_MAX} == {}
    assert unequal_days(services.connection) == []


@pytest.mark.nightly
def test_reads_at_length_are_fast(services, owner, span):
    """`READS_ROWS` rows, a tenth of them of one account."""
    seed(services, span, READS_ROWS // 10, account=ME, salt="me")
    seed(services, span, READS_ROWS - READS_ROWS // 10, salt="others", accounts=1000)
    clean(owner)
    slow = {}
    for name, (read, _) in reads(services, span).items():
        took = []
        for _ in range(60):
            began_s = time.perf_counter()
            read()
            took.append(time.perf_counter() - began_s)
        p95_s = sorted(took)[int(0.95 * len(took))]
        print(f"{name}: p95 {1000 * p95_s:.2f} ms")
        if p95_s > P95_MAX_S:
            slow[name] = p95_s
    assert slow == {}
