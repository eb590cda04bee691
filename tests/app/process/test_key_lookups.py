"""What a worker is told of a key, read for many at once, is what the rooms say of each."""

import asyncio

import pytest

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.process.key_lookups import KeyLookups, key_rows
from tokenworks.app.settings import load_settings
from tokenworks.charging import DatabaseThread, wire
from tokenworks.kernel import Unavailable
from tokenworks.subscriptions import SUSPENSIONS, OfferingVersions
from tokenworks.trust import key_mac, load_peppers


@pytest.fixture
def settings(session_dir):
    return load_settings({"data_dir": str(session_dir / "seed")}).settings


@pytest.fixture
def peppers(settings):
    return load_peppers(settings.secrets)


def one_by_one(services, mac):
    """As the rooms say it of one key."""
    (key,) = services.keys.find([mac]).values()
    subscriptions, members, consents = services.subscriptions, services.members, services.consents
    caps, ends = members.caps(key.member_id)
    subscriber = subscriptions.of_account(key.account_id)
    if key.cap_bucket_id is not None:
        caps.append(key.cap_bucket_id)
    scopes = [("key", str(key.key_id)), ("subscriber", str(key.account_id))]
    scopes += [("member", str(member)) for member in members.line_of(key.member_id)]
    return [
        mac, key.key_id.hex, key.account_id.hex, key.member_id.hex, None if key.models is None else sorted(key.models),
        [cap.hex for cap in caps], None if ends is None else int(ends.timestamp() * 1000), key.expires_at_ms,
        subscriptions.policy(key.account_id).model_dump_json(exclude_defaults=True), subscriptions.counts_prompts(key.account_id),
        services.ledger.limits_of(scopes), consents.regions_of(subscriber), subscriber.home_region,
        subscriptions.service(key.account_id).model_dump_json(exclude_defaults=True),
        None if key.origins is None else sorted(key.origins),
        [cause for cause in subscriber.suspended_by if SUSPENSIONS[cause].serving], services.payg.standing(subscriber),
        consents.refused_by(subscriber),
        list(services.served.by_mac([mac], OfferingVersions())[mac].holder.rates), None if key.fallbacks is None else list(key.fallbacks), key.content_log, key.response_cache,
    ]  # fmt: skip


@pytest.fixture
def macs(services, peppers):
    """Keys of subscribers that differ in what a worker has to know."""
    found = []

    def key(subscriber, member_id=None, **more):
        owner = services.subscriptions.owner_of(subscriber)
        _, text = services.keys.issue(
            account_id=subscriber.account_id, member_id=member_id or owner, name="k", **more
        )
        found.append(key_mac(peppers[max(peppers)], text))

    plain = services.subscriptions.register("+8613900000001")
    key(plain)
    services.orders.place(plain, "ctc-light")
    key(
        plain,
        models=["a", "b"],
        origins=["https://a.example"],
        cap_bucket_id=services.ledger.add_cap(plain.account_id, 500),
        cap_tokens=500,
    )
    pays = services.subscriptions.register("+8613900000002")
    services.orders.place(pays, "shanghai-mobile-payg")
    key(pays)
    services.consents.keep(pays, "data_cross_border", given=False)
    services.consents.keep(pays, "terms", given=False)
    family = services.subscriptions.register("+8613900000003")
    services.orders.place(family, "shanghai-mobile-payg")
    services.orders.place(family, "ctc-light")
    office = services.members.add(family, "office", department=True, cap_tokens=900, cap_period="month")
    person = services.members.add(family, "person", parent="office", cap_tokens=90, cap_period="day")
    key(family, person.member_id)
    services.ledger.set_limit(
        "member",
        str(office.member_id),
        family.account_id,
        requests_per_min=5,
        tokens_per_min=None,
        streams_max=None,
    )
    services.ledger.set_limit(
        "subscriber",
        str(pays.account_id),
        pays.account_id,
        requests_per_min=None,
        tokens_per_min=50,
        streams_max=2,
    )
    return found


def test_many_keys_are_told_as_each_alone(services, macs):
    rows = key_rows(services, macs, OfferingVersions())
    assert list(rows) == macs or set(rows) == set(macs)
    for mac in macs:
        assert wire.decode(wire.encode(rows[mac])) == wire.decode(wire.encode(one_by_one(services, mac)))
    kinds = {rows[mac].payg for mac in macs}
    assert len(kinds) > 1, "their standings differ"


def test_as_many_statements_for_many_keys_as_for_one(services, macs, monkeypatch):
    made = []
    connection = services.connection
    real = type(connection).execute

    def execute(self, query, *args, **kwargs):
        made.append(query)
        return real(self, query, *args, **kwargs)

    versions = OfferingVersions()
    key_rows(services, macs[:3], versions)
    monkeypatch.setattr(type(connection), "execute", execute)
    key_rows(services, macs[:1], versions)
    one, made[:] = len(made), []
    key_rows(services, macs[:3], versions)
    assert len(made) == one


def test_what_is_asked_at_once_is_answered_to_each_and_a_dead_database_is_said(
    services, macs, database_url, settings, peppers
):
    thread = DatabaseThread(lambda: connect(database_url), "lookups")
    lookups = KeyLookups(thread, lambda connection: make_works(settings, connection, services.clock, peppers))

    async def ask(*asked):
        return await asyncio.gather(*map(lookups.find, asked), return_exceptions=True)

    asked = [[mac] for mac in macs] + [[b"unknown"], macs[:2]]
    found = asyncio.run(ask(*asked))
    assert [[row.mac for row in rows] for rows in found] == [*asked[:-2], [], macs[:2]]
    services.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert all(isinstance(answer, Unavailable) for answer in asyncio.run(ask(macs[:1], macs[1:2])))
    assert [[row.mac for row in rows] for rows in asyncio.run(ask(macs[:1]))] == [macs[:1]]
    thread.close()
