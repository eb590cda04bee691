"""The hub: events of what happens, signed with secrets that rotate, logged and replayed; work orders pushed and answered."""

import hashlib
import hmac
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.auditor import verify
from tests.support.receiver import Receiver
from tests.support.spend import balances
from tokenworks.app.ports.notify import deliver, time_out_deliveries
from tokenworks.app.settings import load_settings
from tokenworks.app.webhook_secrets import rotate_webhook_secret, webhook_secret, webhook_secrets
from tokenworks.kernel import Conflict, Invalid, ManualClock, uuid7
from tokenworks.subscriptions import (
    BILLING_ZONE,
    DeliveryNotFound,
    Hub,
    ListenerNotFound,
    NotEligible,
)
from tokenworks.subscriptions.hub.service import OVERLAP_DEFAULT, DeliveryNotDone
from tokenworks.trust import Peppers
from tokenworks.trust.keys.store import made_under

YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def receiver():
    with Receiver() as made:
        yield made


@pytest.fixture
def settings(tmp_path, receiver):
    made = load_settings(
        {
            "data_dir": str(tmp_path),
            "webhook_allow_private": True,
            "public_url": "https://shop.example",
            "fulfilment_urls": f"broadband={receiver.url}/broadband",
        }
    ).settings
    made.secrets.mkdir(parents=True)
    return made


@pytest.fixture
def services(services):
    services.hub._allow_private = True
    return services


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def signed_with(headers, body, secret):
    said = dict(part.split("=", 1) for part in headers["X-Tokenworks-Signature"].split(",")[:1])
    macs = [part[3:] for part in headers["X-Tokenworks-Signature"].split(",")[1:]]
    return hmac.new(secret, f"{said['t']}.".encode() + body, hashlib.sha256).hexdigest() in macs


# The hub.


def test_listeners_are_told_of_orders_products_bills_and_payments(
    services, settings, subscriber, receiver, clock
):
    made = {
        api: services.hub.subscribe(api, f"{receiver.url}/{api}", "", "test")
        for api in ("productOrdering", "productInventory", "customerBill", "payment", "serviceOrdering")
    }
    order = services.orders.place(subscriber, "ctc-light")
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    (bill,), _ = services.bills.all(subscriber)
    payment = services.payments.pay(bill, "cash", "P1")
    services.orders.place(subscriber, "uplink-acceleration")
    deliver(services, settings.model_copy(update={"fulfilment_urls": ""}))
    told = {}
    for path, headers, body in receiver.got:
        said = json.loads(body)
        assert headers["Idempotency-Key"] == said["eventId"]
        api = path.removeprefix("/")
        assert said["domain"] == api and signed_with(headers, body, made[api][1].encode())
        ((name, resource),) = said["event"].items()
        assert resource["href"].startswith("https://shop.example/tmf-api/")
        told.setdefault(said["eventType"], []).append((name, resource))
    assert {name: len(found) for name, found in told.items()} == {
        "ProductOrderCreateEvent": 2, "ProductOrderStateChangeEvent": 1, "ProductCreateEvent": 2,
        "CustomerBillCreateEvent": 1, "CustomerBillStateChangeEvent": 1, "PaymentCreateEvent": 1,
        "ServiceOrderCreateEvent": 1,
    }  # fmt: skip
    ((_, first), _) = told["ProductOrderCreateEvent"]
    ((_, changed),) = told["ProductOrderStateChangeEvent"]
    assert (first["id"], first["state"], changed["state"]) == (str(order.order_id), "inProgress", "completed")
    assert told["CustomerBillStateChangeEvent"][0][1]["state"] == "settled"
    assert told["PaymentCreateEvent"][0][1]["id"] == str(payment.payment_id)
    before = len(receiver.got)
    deliver(services, settings.model_copy(update={"fulfilment_urls": ""}))
    assert len(receiver.got) == before


def test_a_query_chooses_and_nobody_listening_writes_nothing(services, settings, subscriber, receiver):
    services.orders.place(subscriber, "ctc-light")
    assert services.connection.execute("SELECT count(*) FROM hub_event").fetchone() == (0,)
    services.hub.subscribe("productOrdering", receiver.url, "eventType=ProductOrderStateChangeEvent", "test")
    with services.connection.transaction(force_rollback=True):
        services.orders.place(subscriber, "ctc-standard")
    services.orders.place(subscriber, "ctc-standard")
    deliver(services, settings)
    (said,) = receiver.bodies()
    assert said["event"]["productOrder"]["productOrderItem"][0]["productOffering"]["id"] == "ctc-standard"


@pytest.mark.parametrize(
    "callback",
    [
        "ftp://x.example/", "https://", "//x", "https://u:p@x.example/", "https://x.example/#f", "http://x.example/ y",
        "http://[", "https://x.example/" + "y" * 500, "http://127.0.0.1/", "http://[::1]/", "http://10.1.2.3/x", "http://169.254.169.254/",
    ],
)  # fmt: skip
def test_a_callback_is_an_address_that_may_be_asked(services, callback):
    services.hub._allow_private = False
    with pytest.raises(Invalid):
        services.hub.subscribe("payment", callback, "", "test")
    assert services.hub.listeners() == []


def test_outside_dev_a_callback_has_tls(services):
    hub = Hub(services.connection, {1: bytes(32)}, services.clock, services.vault, need_tls=True)
    with pytest.raises(Invalid, match="https"):
        hub.subscribe("payment", "http://crm.example/", "", "test")
    hub.subscribe("payment", "https://crm.example/", "", "test")


@pytest.mark.parametrize(
    "query", ["eventType=Nothing", "x=y", "eventType", "eventType=PaymentCreateEvent&x=1"]
)
def test_a_query_that_nobody_reads_is_refused(services, query):
    with pytest.raises(Invalid, match="query"):
        services.hub.subscribe("payment", "https://crm.example/", query, "test")


def test_secrets_rotate_with_an_overlap(services, settings, subscriber, receiver, clock):
    listener, first = services.hub.subscribe("productOrdering", receiver.url, "", "test")
    second = services.hub.rotate(listener.listener_id, timedelta(hours=2))
    assert first != second

    def sent():
        receiver.got.clear()
        product = services.orders.place(subscriber, "ctc-light").product_id
        services.orders.cancel(product)
        deliver(services, settings)
        (_, headers, body) = receiver.got[0]
        return [signed_with(headers, body, secret.encode()) for secret in (first, second)]

    assert sent() == [True, True]
    clock.move(timedelta(hours=2))
    assert sent() == [False, True]
    services.hub.rotate(listener.listener_id, timedelta(0))
    assert sent() == [False, False]
    with pytest.raises(Invalid, match="overlap"):
        services.hub.rotate(listener.listener_id, timedelta(days=31))
    assert first not in str(services.connection.execute("SELECT * FROM hub_listener").fetchall())


def test_a_pepper_that_is_announced_signs_nothing_yet(services, clock):
    """Hosts that run have not read it, and could not sign with it."""
    peppers = Peppers({1: bytes(32), 2: b"2" * 32})
    peppers.issuing = 1
    hub = Hub(services.connection, peppers, clock, services.vault, allow_private=True)
    before = Hub(services.connection, Peppers({1: bytes(32)}), clock, services.vault, allow_private=True)
    made, secret = hub.subscribe("payment", "http://127.0.0.1:9/", "", "test")
    assert before.secrets(made) == [secret.encode()]
    again = hub.rotate(made.listener_id)
    assert before.secrets(before.listener(made.listener_id)) == [again.encode(), secret.encode()]
    # In use, and without the first one within an overlap: what is sent is signed with what is there.
    peppers.issuing = 2
    # Whoever receives may have the first secret alone: it is not taken away without being said so.
    with pytest.raises(Conflict, match=r"signs until .*--force"):
        hub.rotate(made.listener_id)
    last = hub.rotate(made.listener_id, force=True)
    assert [
        made_under(services.connection, 1, at)["webhook(s)"]
        for at in (clock.now(), clock.now() + OVERLAP_DEFAULT)
    ] == [1, 0]
    alone = Hub(services.connection, Peppers({2: b"2" * 32}), clock, services.vault, allow_private=True)
    assert alone.secrets(alone.listener(made.listener_id)) == [last.encode()]


def test_our_own_secret_rotates_too(services, settings, subscriber, receiver):
    settings = settings.model_copy(update={"webhook_url": receiver.url, "fulfilment_urls": ""})
    first = webhook_secret(settings)
    second = rotate_webhook_secret(settings, services.clock.now()).encode()
    assert webhook_secret(settings) == second != first
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in settings.secrets.glob("*webhook-secret*"))
    with pytest.raises(Conflict, match=r"signs until .*--force"):
        rotate_webhook_secret(settings, services.clock.now())
    assert webhook_secret(settings) == second
    for number, want in ((1, [True, True]), (2, [False, True])):
        services.subscriptions.notify(subscriber.subscriber_id, "spend", str(number), {"percent": 50})
        deliver(services, settings)
        (_, headers, body) = receiver.got[-1]
        assert [signed_with(headers, body, secret) for secret in (first, second)] == want
        services.clock.move(timedelta(hours=168))
    third = rotate_webhook_secret(settings, services.clock.now()).encode()
    fourth = rotate_webhook_secret(settings, services.clock.now(), force=True).encode()
    assert webhook_secrets(settings, services.clock.now()) == [fourth, third]
    assert {path.name for path in settings.secrets.glob("*webhook*")} == {
        "webhook-secret",
        "webhook-secret-old",
    }


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "is empty"),
        (b"a\nb\n", 0o600, "more than one line"),
        (b"abc", 0o644, "can be read by others"),
    ],
)
def test_a_secret_that_can_not_be_used_is_said_in_the_log_of_deliveries(
    services, settings, subscriber, receiver, content, mode, said
):
    settings = settings.model_copy(update={"webhook_url": receiver.url, "fulfilment_urls": ""})
    first = webhook_secret(settings)
    path = settings.secrets / "webhook-secret"
    path.write_bytes(content)
    path.chmod(mode)
    services.subscriptions.notify(subscriber.subscriber_id, "spend", "1", {"percent": 50})
    assert deliver(services, settings) == 0 and receiver.got == []
    (waits,) = services.hub.log("waits")[0]
    assert said in waits.error and str(path) in waits.error and "abc" not in waits.error
    # A rotation makes it good again, and keeps nothing of what signed nothing.
    again = rotate_webhook_secret(settings, services.clock.now()).encode()
    assert webhook_secrets(settings, services.clock.now()) == [again]
    # With a line end that an editor left behind it a secret is the same.
    path.write_bytes(first + b"\r\n")
    path.chmod(0o600)
    services.clock.move(timedelta(hours=1))
    assert deliver(services, settings) == 1
    (_, headers, body) = receiver.got[-1]
    assert signed_with(headers, body, first)


def test_a_rotation_leaves_no_moment_without_a_secret(services, settings):
    """Another process that looks meanwhile finds one of the two, and makes none of its own."""
    secrets, over = {webhook_secret(settings)}, threading.Event()
    found = set()

    def look():
        while not over.is_set():
            found.add(webhook_secret(settings))

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(50):
        secrets.add(rotate_webhook_secret(settings, services.clock.now(), force=True).encode())
    over.set()
    looking.join()
    assert found <= secrets


def test_the_log_says_what_happened_and_a_replay_sends_the_same_bytes(
    services, settings, subscriber, receiver, clock
):
    listener, _ = services.hub.subscribe("productOrdering", receiver.url, "", "test")
    other, _ = services.hub.subscribe(
        "productOrdering", f"{receiver.url}/other", "eventType=ProductOrderCreateEvent", "test"
    )
    receiver.answers.append((503, {}, b""))
    services.orders.place(subscriber, "ctc-light")
    deliver(services, settings)
    found, count = services.hub.log()
    assert count == 3 and services.hub.log(listener_id=other.listener_id)[1] == 1
    (waits,) = services.hub.log("waits", listener.listener_id)[0][1:]
    assert (waits.status, waits.attempts) == (503, 1) and "answers 503" in waits.error
    assert services.hub.log("delivered")[1] == 1, "one that fails keeps no other from its turn"
    with pytest.raises(DeliveryNotDone):
        services.hub.replay(waits.delivery_id)
    clock.move(timedelta(minutes=2))
    deliver(services, settings)
    assert services.hub.log("delivered")[1] == 3
    before = receiver.got[-1]
    delivery = next(
        one for one in found if one.body.encode() == before[2] and one.listener_id == listener.listener_id
    )
    services.orders.place(subscriber, "ctc-standard")
    deliver(services, settings)
    receiver.got.clear()
    services.hub.replay(delivery.delivery_id)
    deliver(services, settings)
    ((_, headers, body),) = receiver.got
    assert body == before[2] and headers["Idempotency-Key"] == before[1]["Idempotency-Key"]
    assert (
        services.hub.log()[0][-1].replays
        + services.hub.log()[0][-2].replays
        + services.hub.log()[0][-3].replays
        == 1
    )
    # What is given up can be sent again, too; what nobody has can't.
    receiver.answers += [(500, {}, b"")] * 100
    services.hub.replay(delivery.delivery_id)
    for _ in range(60):
        clock.move(timedelta(hours=1))
        deliver(services, settings)
    assert services.hub.log("given_up")[1] == 1
    receiver.answers.clear()
    services.hub.replay(delivery.delivery_id)
    deliver(services, settings)
    assert services.hub.log("given_up")[1] == 0
    services.hub.unsubscribe(listener.listener_id)
    with pytest.raises(ListenerNotFound):
        services.hub.replay(delivery.delivery_id)
    with pytest.raises(DeliveryNotFound):
        services.hub.replay(listener.listener_id)
    clock.move(timedelta(days=31))
    services.hub.forget_old()
    assert services.hub.log()[1] == 0


def test_redirects_of_a_listener_are_not_followed(services, settings, subscriber, receiver):
    services.hub.subscribe("productOrdering", receiver.url, "eventType=ProductOrderCreateEvent", "test")
    receiver.answers.append((307, {"location": f"{receiver.url}/stolen"}, b""))
    services.orders.place(subscriber, "ctc-light")
    deliver(services, settings)
    assert [path for path, _, _ in receiver.got] == ["/"]
    (delivery,), _ = services.hub.log()
    assert (delivery.state, delivery.status) == ("waits", 307)


# Work orders.


def lines(services, subscriber):
    return sum(c.amount_nano for c in services.charges.of_subscriber(subscriber.subscriber_id))


def test_an_uplink_needs_a_broadband_number_and_is_sold_once(services):
    nobody = services.subscriptions.register("+8613800000002")
    for offering in ("uplink-acceleration", "sample-home-bundle"):
        with pytest.raises(NotEligible, match="broadband"):
            services.orders.place(nobody, offering)
    services.subscriptions.set_profile(nobody, broadband="sh11111111")
    services.orders.place(nobody, "uplink-acceleration")
    for offering in ("uplink-acceleration", "sample-home-bundle"):
        with pytest.raises(NotEligible, match="already"):
            services.orders.place(nobody, offering)
    services.orders.cancel(services.orders.products(nobody)[0].product_id)
    services.orders.place(nobody, "sample-home-bundle")


def test_a_work_order_is_pushed_repeated_and_billed_after_its_answer(
    services, settings, subscriber, receiver, clock
):
    order = services.orders.place(subscriber, "uplink-acceleration")
    receiver.answers.append((500, {}, b""))
    deliver(services, settings)
    deliver(services, settings)
    assert len(receiver.got) == 1, "it waits before it is tried again"
    clock.move(timedelta(minutes=1))
    deliver(services, settings)
    (path, headers, body), (_, again, same) = receiver.got
    assert path == "/broadband" and body == same
    assert headers["Idempotency-Key"] == again["Idempotency-Key"]
    assert signed_with(headers, body, webhook_secret(settings))
    said = json.loads(body)
    (work,) = services.orders.work_orders()
    assert (said["id"], said["@type"], said["state"]) == (
        str(work.work_order_id),
        "ServiceOrder",
        "acknowledged",
    )
    item = said["serviceOrderItem"][0]
    assert (item["action"], item["service"]["serviceType"]) == ("add", "broadband")
    assert {c["name"]: c["value"] for c in item["service"]["serviceCharacteristic"]}[
        "broadband"
    ] == "sh87654321"
    assert "13800000001" not in body.decode()
    # Nobody answers for a while: it is sent again, and costs nothing.
    clock.move(timedelta(hours=7))
    deliver(services, settings)
    assert len(receiver.got) == 3 and lines(services, subscriber) == 0
    assert services.orders.answer(work.work_order_id, done=True) == "done"
    charged = lines(services, subscriber)
    assert charged > 0 and services.orders.find(order.order_id)[0].state == "completed"
    assert services.orders.answer(work.work_order_id, done=True) == "done", "twice is once"
    assert lines(services, subscriber) == charged
    clock.move(timedelta(hours=7))
    deliver(services, settings)
    assert len(receiver.got) == 3
    assert balances(services)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (b'{"state": "completed"}', "completed"),
        (b'{"state": "failed", "description": "no line there"}', "failed"),
        (b'{"state": "inProgress"}', "inProgress"),
        (b"[1]", "inProgress"),
        (b"\xff{", "inProgress"),
        (b'{"state": "completed"' + b" " * 70_000 + b"}", "inProgress"),
        (b'{"state": ["completed"], "description": 7}', "inProgress"),
    ],
)
def test_an_answer_may_come_at_once(services, settings, subscriber, receiver, answer, state):
    order = services.orders.place(subscriber, "uplink-acceleration")
    receiver.answers.append((201, {}, answer))
    deliver(services, settings)
    assert services.orders.find(order.order_id)[0].state == state
    assert (lines(services, subscriber) > 0) == (state == "completed")
    assert verify(services.connection, services.offerings.rate_cards()) == []


def test_a_delivery_that_nobody_answers_fails_is_credited_and_withdrawn(
    services, settings, subscriber, receiver, clock
):
    order = services.orders.place(subscriber, "sample-home-bundle")
    uplink, security = services.orders.work_orders()
    deliver(services, settings)
    services.orders.answer(security.work_order_id, done=True)
    clock.move(timedelta(hours=167))
    assert time_out_deliveries(services, settings) == 0
    clock.move(timedelta(hours=1))
    assert time_out_deliveries(services, settings) == 1
    assert time_out_deliveries(services, settings) == 0
    failed = services.orders.find(order.order_id)[0]
    assert (failed.state, failed.amount_nano) == ("failed", 0) and "in time" in failed.reason
    assert lines(services, subscriber) == 0
    assert {(w.port, w.action) for w in services.orders.work_orders()} == {
        ("broadband", "withdraw"), ("security", "withdraw"),
    }  # fmt: skip
    receiver.got.clear()
    deliver(services, settings)
    (said,) = receiver.bodies()
    assert said["serviceOrderItem"][0]["action"] == "delete"
    # It answers at last: late, twice, and it changes nothing.
    for _ in range(2):
        assert services.orders.answer(uplink.work_order_id, done=True) == "refused"
    assert len(services.orders.work_orders()) == 2 and lines(services, subscriber) == 0
    services.charges.recognise()
    assert balances(services)
    assert time_out_deliveries(services, settings.model_copy(update={"delivery_timeout_h": 0})) == 0


def test_what_was_pushed_and_is_cancelled_is_withdrawn_with_its_number(
    services, settings, subscriber, receiver
):
    services.orders.place(subscriber, "uplink-acceleration")
    deliver(services, settings)
    services.subscriptions.close(subscriber)
    (work,) = services.orders.work_orders()
    assert (work.action, work.broadband) == ("withdraw", "sh87654321")
    assert lines(services, subscriber) == 0


def test_done_after_it_was_cancelled_is_withdrawn(services, subscriber):
    order = services.orders.place(subscriber, "uplink-acceleration")
    (work,) = services.orders.work_orders()
    services.orders.cancel(order.product_id)
    assert services.orders.work_orders() == []
    assert services.orders.answer(work.work_order_id, done=True) == "refused"
    assert [w.action for w in services.orders.work_orders()] == ["withdraw"]
    assert lines(services, subscriber) == 0


def test_an_answer_to_an_earlier_asking_changes_nothing(services, settings, subscriber, receiver, clock):
    services.orders.place(subscriber, "uplink-acceleration")
    (work,) = services.orders.work_orders()
    deliver(services, settings)
    for _ in range(5):
        state = services.orders.answer(
            work.work_order_id, done=False, again=True, reason="nobody home", attempt=1
        )
        assert state == "open"
    (work,) = services.orders.work_orders()
    assert work.attempts == 2
    deliver(services, settings)
    keys = [headers["Idempotency-Key"] for _, headers, _ in receiver.got]
    assert keys == [f"{work.work_order_id}-1", f"{work.work_order_id}-2"]


def test_an_event_that_can_t_be_shown_keeps_no_other_from_its_turn(
    services, settings, subscriber, receiver, monkeypatch
):
    from tokenworks.api.tmf import events as hub

    services.hub.subscribe("productOrdering", receiver.url, "eventType=ProductOrderCreateEvent", "test")
    orders = [services.orders.place(subscriber, offering) for offering in ("ctc-light", "ctc-standard")]
    shown = hub.order_resource

    def broken(order, subscriber_id):
        if order.order_id == orders[0].order_id:
            raise KeyError("a state that nobody foresaw")
        return shown(order, subscriber_id)

    monkeypatch.setattr(hub, "order_resource", broken)
    deliver(services, settings)
    first, second = (said["event"] for said in receiver.bodies())
    assert first == {"resource": {"id": str(orders[0].order_id)}}
    assert second["productOrder"]["id"] == str(orders[1].order_id)


# One listener that is away, or gone, is in nobody's way.


def many_due(services, listener, count, at):
    """So many deliveries that wait for a listener, made at a time."""
    own = services.vault.own()
    for _ in range(count):
        delivery_id = uuid7()
        services.connection.execute(
            """INSERT INTO hub_delivery (delivery_id, listener_id, event_id, event_type, subscriber_id, body_sealed, created_at,
                   begun_at, next_at)
               VALUES (%(id)s, %(l)s, gen_random_uuid(), 'PaymentCreateEvent', gen_random_uuid(), %(body)s, %(at)s, %(at)s, %(at)s)""",
            {
                "id": delivery_id,
                "l": listener.listener_id,
                "at": at,
                "body": own.seal_bytes("hub_delivery.body", delivery_id, b"{}"),
            },
        )


def test_a_listener_that_is_away_keeps_others_from_nothing(services, settings, subscriber, receiver, clock):
    settings = settings.model_copy(update={"fulfilment_urls": ""})
    away, _ = services.hub.subscribe("payment", "http://127.0.0.1:9/", "", "test")
    many_due(services, away, 250, clock.now() - timedelta(hours=2))
    services.hub.subscribe("productOrdering", receiver.url, "eventType=ProductOrderCreateEvent", "test")
    services.orders.place(subscriber, "ctc-light")
    deliver(services, settings)
    assert len(receiver.got) == 1
    # It is asked again after a while, once: all that waits for it waits as long.
    deliver(services, settings)
    found, count = services.hub.log(listener_id=away.listener_id, limit=300)
    assert count == 250 and sum(one.attempts for one in found) == 1


def test_what_waits_for_a_day_is_given_up_however_much_it_is(services, settings, clock):
    settings = settings.model_copy(update={"fulfilment_urls": ""})
    away, _ = services.hub.subscribe("payment", "http://127.0.0.1:9/", "", "test")
    many_due(services, away, 250, clock.now() - timedelta(days=1))
    many_due(services, away, 3, clock.now())
    deliver(services, settings)
    assert services.hub.log("given_up")[1] == 250 and services.hub.log("waits")[1] == 3
    clock.move(timedelta(days=31))
    deliver(services, settings)
    services.hub.forget_old()
    assert services.hub.log("waits")[1] == 0


def test_a_listener_that_goes_while_its_events_are_expanded_holds_up_nothing(
    services, settings, subscriber, receiver
):
    gone, _ = services.hub.subscribe("payment", receiver.url, "", "test")
    # As where it is removed after the listeners were read, and before the delivery was written.
    services.hub.unsubscribe(gone.listener_id)
    many_due(services, gone, 3, services.clock.now())
    services.orders.place(subscriber, "uplink-acceleration")
    deliver(services, settings)
    assert [path for path, _, _ in receiver.got] == ["/broadband"]
    assert services.hub.log("given_up")[1] == 3


def test_a_body_that_a_listener_never_takes_is_in_no_others_way(services, settings, receiver, clock):
    settings = settings.model_copy(update={"fulfilment_urls": ""})
    listener, _ = services.hub.subscribe("payment", receiver.url, "", "test")
    many_due(services, listener, 4, clock.now())
    bad = services.hub.log(listener_id=listener.listener_id)[0][-1]
    receiver.answers.append((400, {}, b""))
    deliver(services, settings)
    assert services.hub.log("delivered")[1] == 0
    clock.move(timedelta(seconds=20))
    # The bad one is due, too: it comes last, and fails again.
    receiver.answers += [(204, {}, b"")] * 3 + [(400, {}, b"")]
    deliver(services, settings)
    assert services.hub.log("delivered")[1] == 3
    (waits,), _ = services.hub.log("waits")
    assert (waits.delivery_id, waits.attempts) == (bad.delivery_id, 2)
