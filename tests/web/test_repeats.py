"""Idempotency keys over HTTP: a repeat gets the first answer, another request under the key is refused, on every route."""

import threading
from datetime import datetime

import pytest

from tests.support.auditor import verify
from tests.web.test_roles import Household, call, routes
from tokenworks.app.http_app import openapi_document
from tokenworks.kernel import Clock
from tokenworks.subscriptions import BILLING_ZONE


def keyed():
    """(method, path, roles) of the routes that take an idempotency key."""
    paths = openapi_document()["paths"]
    for _name, method, path, roles in routes():
        parameters = paths[path][method.lower()].get("parameters", [])
        if any(parameter["name"] == "Idempotency-Key" for parameter in parameters):
            yield method, path, roles


@pytest.fixture
def family(services, spender, signed_in, clock):
    made = Household(services, spender, signed_in, 1)
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    made.bill_up(services)
    return made


def test_routes_that_move_money_take_a_key():
    assert len(list(keyed())) >= 8


@pytest.mark.parametrize(("method", "path", "roles"), list(keyed()))
def test_a_repeat_gets_the_same_answer_and_another_body_is_refused(
    client, services, family, staff, method, path, roles
):
    headers = {**staff, **family.headers}[next(r for r in ("finance", "owner", "operator") if r in roles)]
    first = call(client, family, method, path, headers, "same")
    makes = method == "POST" and not path.endswith("/actions")
    assert first.status_code == (201 if makes else 200), first.text
    assert "idempotent-replayed" not in first.headers
    before = _rows(services)
    again = call(client, family, method, path, headers, "same")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    body = family.bodies()[f"{method} {path}"]
    url = str(first.request.url)
    other = client.request(method, url, json=body | {"@note": "another"}, headers={**headers, "Idempotency-Key": "same"})  # fmt: skip
    assert other.status_code == 409, other.text
    assert "idempotency key was used for another request" in other.json()["detail"]
    # The same content with its members in another order is the same request.
    turned = dict(reversed(list(body.items())))
    same = client.request(method, url, json=turned, headers={**headers, "Idempotency-Key": "same"})
    assert (same.status_code, same.content) == (first.status_code, first.content)
    assert _rows(services) == before
    assert verify(services.connection, services.offerings.rate_cards()) == []


def _rows(services):
    tables = ("product_order", "top_up", "adjustment", "transfer", "payment", "refund", "credit_note", "charge", "kept_answer", "audit")  # fmt: skip
    return {
        table: services.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables
    }


def test_one_key_is_one_request_whatever_the_route(client, family, staff):
    finance = staff["finance"]
    paths = [(method, path) for method, path, roles in keyed() if "finance" in roles]
    first = call(client, family, *paths[0], finance, "k")
    assert first.status_code == 201, first.text
    for method, path in paths[1:]:
        assert call(client, family, method, path, finance, "k").status_code == 409, path


def test_a_key_is_its_asker_s_own(client, services, family, staff):
    """Two members, or two people of the staff, who take the same text do not see each other's answers."""
    path = "/tmf-api/productOrderingManagement/v4/productOrder"
    body = {"productOrderItem": [{"id": "1", "action": "add", "productOffering": {"id": "nothing"}}]}
    for name in ("owner", "admin"):
        head = {**family.headers[name], "Idempotency-Key": "k"}
        assert client.post(path, json=body, headers=head).status_code == 404
    # What is refused is done by nobody: the key is free again.
    assert services.connection.execute("SELECT count(*) FROM kept_answer").fetchone() == (0,)
    head = {**family.headers["owner"], "Idempotency-Key": "k"}
    good = {"productOrderItem": [{"id": "1", "action": "add", "productOffering": {"id": "ctc-standard"}}]}
    assert client.post(path, json=good, headers=head).status_code == 201


def test_keys_are_visible_ascii_and_short(client, family):
    path = "/tmf-api/productOrderingManagement/v4/productOrder"
    body = {"productOrderItem": [{"id": "1", "action": "add", "productOffering": {"id": "ctc-standard"}}]}
    for key in ("a b", "", "x" * 201):
        answer = client.post(path, json=body, headers={**family.headers["owner"], "Idempotency-Key": key})
        assert answer.status_code == 400, key


def test_two_at_once_are_one(services, database_url):
    """The second one waits for the first one's end, then gets its answer."""
    from tokenworks.app.database.connections import connect
    from tokenworks.trust import Answers, KeyReused, PersonVault, StoredAnswer

    clock: Clock = services.clock
    found = []
    with services.connection.transaction():
        assert services.answers.begin("a", "k", b"text") is None
        other = connect(database_url)

        def second():
            with other.transaction():
                found.append(
                    Answers(other, clock, PersonVault(other, services.vault._secrets)).begin(
                        "a", "k", b"text"
                    )
                )

        thread = threading.Thread(target=second)
        thread.start()
        services.answers.keep("a", "k", StoredAnswer(201, {"location": "x"}, b"done"))
    thread.join(10)
    assert found == [StoredAnswer(201, {"location": "x"}, b"done")]
    with pytest.raises(KeyReused), other.transaction():
        Answers(other, clock, PersonVault(other, services.vault._secrets)).begin("a", "k", b"another")
    other.close()


def test_answers_go_after_their_time(services, clock):
    from datetime import timedelta

    from tokenworks.trust.identity.answers import ANSWERS_KEPT

    for number in range(12):
        services.answers.begin("a", f"old-{number}", b"")
    clock.move(ANSWERS_KEPT + timedelta(seconds=1))
    services.answers.begin("a", "new-1", b"")
    services.answers.begin("a", "new-2", b"")
    assert services.connection.execute("SELECT count(*) FROM kept_answer").fetchone() == (2,)
