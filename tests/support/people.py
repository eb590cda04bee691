"""A person with a rich life in the works, and where its number and name are found."""

import hashlib
import json
from datetime import timedelta

from tests.support.auditor import verify
from tokenworks.app.ports.notify import deliver
from tokenworks.app.settings import load_settings
from tokenworks.trust import StoredAnswer

PHONE, NAME = "+8613876543210", "Wilhelmina Xylander"


def balances(services):
    return verify(services.connection, services.offerings.rate_cards()) == []


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


def rich(services, spender, subscriber, clock):
    """What a person does in two months, and what is done about it."""
    services.identity.audit("li", "operator", "subscriber.register", str(subscriber.subscriber_id), None,
                         {"phone": PHONE, "name": NAME}, person_id=subscriber.subscriber_id)  # fmt: skip
    services.consents.keep(subscriber, "terms", given=True)
    services.members.invite(subscriber, "+8613911112222", "Ottoline Quimby", cap_tokens=1000)
    services.members.add(subscriber, "Research Zephyrs", department=True)
    host = services.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    services.members.invite(host, PHONE, "Cousin Vasilisa")
    owner = services.subscriptions.owner_of(subscriber)
    services.keys.issue(account_id=subscriber.account_id, member_id=owner, name="a laptop")
    services.identity.request_code(PHONE, "203.0.113.9")
    services.identity.open_session(subscriber.subscriber_id, owner)
    services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    spender.spend(subscriber.account_id, 1_000_000)
    subscriber = services.subscriptions.change_phone(subscriber, "+8613876500077")
    subscriber = services.subscriptions.change_phone(subscriber, PHONE)
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    services.charges.recognise()
    services.bills.run()
    sequence, text = services.charge_files.make_file()
    assert services.charge_files.file(sequence) == text and PHONE in text
    assert services.charge_files.files()[0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    services.subscriptions.notify(subscriber.subscriber_id, "spend", "1", {"percent": 50})
    told(services, subscriber)
    return subscriber


def told(services, subscriber):
    """What another system delivers, and a listener that is told of it; nothing arrives there."""
    services.hub._allow_private = True
    services.hub.subscribe("serviceOrdering", "http://127.0.0.1:9/listener", "", "test")
    services.orders.place(subscriber, "uplink-acceleration")
    services.orders.answer(services.orders.work_orders()[-1].work_order_id, done=True)
    options = {"webhook_url": "http://127.0.0.1:9/own", "webhook_allow_private": "true"}
    settings = load_settings({"data_dir": str(services.session_dir / "seed")} | options).settings
    assert deliver(services, settings) == 0
    told = services.connection.execute("SELECT count(*), count(subscriber_id) FROM hub_delivery").fetchone()
    assert told[0] == told[1] >= 3, told
    # What came under an idempotency key is answered again for a month.
    services.answers.begin("member:x", "k", b"asked")
    answer = StoredAnswer(201, {}, json.dumps({"name": NAME, "phone": PHONE}).encode())
    services.answers.keep("member:x", "k", answer, subscriber.subscriber_id)
    assert services.answers.begin("member:x", "k", b"asked") == answer


def settle(services, subscriber, clock):
    """End what renews, and pay all that is owed when its period has ended."""
    for product in services.orders.products(subscriber):
        if product.state == "active":
            services.orders.cancel(product.product_id)
    for work in services.orders.work_orders():
        services.orders.answer(work.work_order_id, done=True)
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    services.refunds.finish()
    services.bills.run()
    for bill in services.bills.all(subscriber)[0]:
        if bill.remaining_nano > 0:
            services.payments.pay(bill, "cash", f"r-{bill.bill_no}")


def exported(services, subscriber):
    pieces = list(services.privacy.export(subscriber))
    return json.loads(b"".join(pieces)), pieces


def member_with_key(services, host, phone, name):
    """An active member of somebody else's account, and a key of its own there."""
    member = services.members.invite(host, phone, name)
    services.members.accept(phone, member.member_id)
    key_id, _ = services.keys.issue(account_id=host.account_id, member_id=member.member_id, name="there")
    return member, key_id


def named(services, host):
    return {m.name: m.state for m in services.members.of(host) if m.role == "member"}
