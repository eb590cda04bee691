"""Sums of usage by day, model and tag are those of the records, page by page, and of one account."""

import json
import random
from collections import defaultdict
from datetime import timedelta

import pytest

from tests.charging.ledger.test_day_store import add
from tests.charging.test_flat_reads import ME, clean, nodes, pages, plans, seed, span
from tokenworks.charging import TooManyRecords, tags_of_texts
from tokenworks.charging.ledger import usage_sums_store
from tokenworks.charging.ledger.usage import USAGE_SUM_DAYS_MAX, USAGE_SUM_TAGS_MAX
from tokenworks.charging.ledger.usage_store import UsageFilter
from tokenworks.charging.routing_note import note_text
from tokenworks.kernel import Invalid, uuid7

__all__ = ["span"]

MODELS = ("m-1", "m-2", "Ä")
TEAMS = ("a", "b", None, 'c"}\\')


def parts_of(rng, n):
    """(parts as they are kept, the amounts that count): balances or, without one, the first window."""
    id_ = str(uuid7())
    balance = [
        [id_, id_, "r", unit, "balance", 1000 * n, 1]
        for unit in rng.sample(("token", "credit"), rng.randrange(3))
    ]
    windows = [[id_, id_, "r", "prompt", "window", 1000, 1] for _ in range(rng.randrange(3))]
    parts = [*windows, *balance, [id_, id_, "r", "token", "cap", 7, 1]]
    rng.shuffle(parts)
    return parts, {part[3]: part[5] for part in balance or windows[:1]}


@pytest.fixture
def filled(services):
    """(account, member, [(key of each group, tokens, amounts)])"""
    rng, account, member = random.Random(7), uuid7(), uuid7()
    begin, rows = services.clock.now(), []
    for n in range(1, 41):
        at, model, team = begin + timedelta(hours=rng.randrange(1, 60)), rng.choice(MODELS), rng.choice(TEAMS)
        parts, amounts = parts_of(rng, n)
        tags = {"job": "x"} | ({} if team is None else {"team": team})
        choice = note_text(rng.choice((None, "auto: cheap")), None, None, tags)
        add(services.connection, account, member, at, n, model=model, parts=json.dumps(parts), choice=choice)
        rows.append((at, model, team or "", n, amounts))
    add(
        services.connection,
        account,
        member,
        begin + timedelta(hours=1),
        50,
        model="m-1",
        choice="auto: cheap",
        parts="[]",
    )
    rows.append((begin + timedelta(hours=1), "m-1", "", 50, {}))
    add(services.connection, uuid7(), member, begin + timedelta(hours=1), 1_000)  # another account's
    services.clock.move(timedelta(hours=72))
    return account, member, rows


def expected(rows, key):
    """(the group, records, fresh input, amounts) of each group, in the order of the groups' texts."""
    groups = defaultdict(lambda: [0, 0, defaultdict(int)])
    for row in rows:
        found = groups[key(*row)]
        found[0] += 1
        found[1] += row[3]
        for unit, amount in row[4].items():
            found[2][unit] += amount
    return [(list(group), *found[:2], dict(found[2])) for group, found in sorted(groups.items())]


def read(sums):
    return [(list(one.group.values()), one.records, one.tokens["fresh_input"], one.drawn) for one in sums]


def day(at):
    return (at + timedelta(hours=8)).strftime("%Y-%m-%d")


@pytest.mark.parametrize(
    ("by", "key"),
    [
        (("model",), lambda at, model, team, *_: (model,)),
        (("tag:team",), lambda at, model, team, *_: (team,)),
        (("day", "model", "tag:team"), lambda at, model, team, *_: (day(at), model, team)),
    ],
)
def test_groups_are_the_sums_of_their_records_in_one_page_or_many(services, filled, by, key):
    account, member, rows = filled
    since = services.clock.now() - timedelta(days=4)
    whole = services.ledger.usage_sums(account, by, since)
    assert read(whole) == expected(rows, key)
    pages, after = [], None
    while page := services.ledger.usage_sums(account, by, since, after=after, limit=3):
        pages += page
        after = list(page[-1].group.values())
    assert pages == whole
    assert services.ledger.usage_sums(account, by, since, member_id=member, key_id=member) == whole
    assert services.ledger.usage_sums(account, by, since, member_id=uuid7()) == []


def test_tags_and_times_choose_records(services, filled):
    account, _, rows = filled
    now = services.clock.now()
    since = now - timedelta(days=4)
    for team in TEAMS:
        if team is not None:
            sums = services.ledger.usage_sums(account, ["model"], since, tags={"team": team, "job": "x"})
            assert read(sums) == expected(
                [row for row in rows if row[2] == team], lambda at, model, *_: (model,)
            )
    middle = now - timedelta(hours=40)
    sums = services.ledger.usage_sums(account, ["model"], since, middle)
    assert read(sums) == expected([row for row in rows if row[0] < middle], lambda at, model, *_: (model,))
    assert services.ledger.usage_sums(account, ["tag:other"], since)[0].group == {"tag:other": ""}


def test_what_is_too_much_or_of_no_kind_is_refused(services):
    now, account = services.clock.now(), uuid7()
    many = {f"t{n}": "x" for n in range(USAGE_SUM_TAGS_MAX + 1)}
    for by, more in (
        ((), {}), (("tag:",), {}), (("account_id",), {}), (("day", "day"), {}), (("day", "model", "key", "member"), {}),
        (("day",), {"tags": many}), (("day",), {"after": ["a", "b"]}),
        (("day",), {"since": now - timedelta(days=USAGE_SUM_DAYS_MAX, seconds=1)}),
    ):  # fmt: skip
        with pytest.raises(Invalid):
            services.ledger.usage_sums(account, by, **more)
    assert tags_of_texts(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(Invalid):
        tags_of_texts(["team"])


def test_more_records_than_the_limit_are_refused_whosever_they_are(services, filled):
    account, member, rows = filled
    since = services.clock.now() - timedelta(days=4)
    count = len(rows)
    whole = services.ledger.usage_sums(account, ["model"], since, records_max=count)
    assert sum(found.records for found in whole) == count
    for member_id in (None, member, uuid7()):
        with pytest.raises(TooManyRecords):
            services.ledger.usage_sums(account, ["model"], since, member_id=member_id, records_max=count - 1)
    # The ids of a shorter time are fewer; another account has none.
    services.clock.move(timedelta(days=9))
    assert services.ledger.usage_sums(account, ["model"], services.clock.now(), records_max=0) == []
    assert services.ledger.usage_sums(uuid7(), ["model"], since, records_max=0) == []


def test_the_count_before_a_sum_uses_the_key_and_reads_no_more_than_the_limit(services, owner, span):
    services.connection.execute("SET random_page_cost = 1.1")
    seed(services, span, 300, account=ME, salt="me")
    seed(services, span, 6000, salt="others")
    clean(owner)
    (plan,) = plans(
        services, lambda: usage_sums_store.records_at_most(services.connection, ME, UsageFilter(), 150)
    )
    # An empty month is read by no index.
    scans = [node for node in nodes(plan) if "Relation Name" in node and node["Actual Loops"] and pages(node)]
    assert scans and {node["Node Type"] for node in scans} <= {"Index Only Scan", "Bitmap Heap Scan"}
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) <= 300
    assert pages(plan) < 100


def test_many_groups_cost_as_much_as_their_records_not_their_product(services, owner, span):
    """The records that were found are read twice for a page, for its sums and for its amounts, and not again for each group."""
    seed(services, span, 2000, account=ME, salt="me")
    clean(owner)
    since = services.clock.now() - timedelta(days=92)
    *_, plan = plans(services, lambda: services.ledger.usage_sums(ME, ["day", "model"], since))
    read = [node["Actual Loops"] for node in nodes(plan) if node.get("CTE Name") == "found"]
    (days,) = [node["Actual Rows"] for node in nodes(plan) if node["Node Type"] == "Limit"]
    assert sum(read) == 2 and days > 50
