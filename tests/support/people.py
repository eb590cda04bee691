"""A person with a rich life in the works, and where its number and name are found."""

import hashlib
import json
from datetime import timedelta

from tests.support.auditor import verify
from tokenworks.app.ports.notify import deliver
from tokenworks.app.settings import load_settings
from tokenworks.trust import KeptAnswer

PHONE, NAME = "+8613876543210", "Wilhelmina Xylander"


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


def exported(works, subscriber):
    pieces = list(works.privacy.export(subscriber))
    return json.loads(b"".join(pieces)), pieces


def member_with_key(works, host, phone, name):
    """An active member of somebody else's account, and a key of its own there."""
    member = works.members.invite(host, phone, name)
    works.members.accept(phone, member.member_id)
    key_id, _ = works.keys.issue(account_id=host.account_id, member_id=member.member_id, name="there")
    return member, key_id


def named(works, host):
    return {m.name: m.state for m in works.members.of(host) if m.role == "member"}
