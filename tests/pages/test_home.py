"""Home: its figures are the ledger's, its alerts say what to do, and each role sees what is its own."""

from datetime import datetime, timedelta

import pytest

from tests.pages.test_page_rules import BROWSER, ENGLISH, words_of
from tokenworks.pages.phrases import yuan
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li")


@pytest.fixture
def enter(client, signed_in):
    def sign_in(subscriber, member_id=None):
        client.cookies.set("tokenworks_session", signed_in(subscriber, member_id)["authorization"].split()[1])
        client.cookies.set("tokenworks_language", "en")

    return sign_in


def home(client, headers=ENGLISH):
    answer = client.get("/", headers=headers)
    assert answer.status_code == 200
    return words_of(answer.text)


def test_a_newcomer_is_told_what_to_do(client, li, enter):
    enter(li)
    page = client.get("/", headers=ENGLISH).text
    assert 'href="/order">Go to the shop' in page and "You have no keys yet. Create one to start." in page
    assert "Tokens left 0 tokens" in words_of(page) and "Owed in all ¥0.00" in words_of(page)


def test_the_figures_are_the_ledgers_and_what_is_wrong_is_first(client, services, li, enter, spender, clock):
    services.orders.place(li, "ctc-light")
    spender.spend(li.account_id, 9_500_000)
    owner = services.subscriptions.owner_of(li)
    services.access.issue_key(li, owner, "<b>laptop</b>", expires_in_days=3)
    enter(li)
    page = home(client)
    owed = services.charges.receivable(li.account_id)
    assert owed > 0 and f"Owed in all {yuan(owed)}" in page and f"Not billed yet {yuan(owed)}" in page
    assert "Tokens left 500,000 tokens" in page and "only 5% left" in page
    assert "The key “&lt;b&gt;laptop&lt;/b&gt;” stops working on 2027-04-04." in page
    # A bill that is not paid, then one that is late, which comes before all else.
    clock.move(datetime(2027, 5, 2, tzinfo=BILLING_ZONE) - clock.now())
    services.bills.run()
    (bill,), _ = services.bills.all(li)
    enter(li)
    assert f"Bill {bill.bill_no}: {yuan(bill.remaining_nano)} to pay by" in home(client)
    clock.move(bill.due_at - clock.now() + timedelta(days=1))
    enter(li)
    alerts = home(client).partition("For you to do")[2]
    assert alerts.strip().startswith(f"Bill {bill.bill_no} is overdue")
    services.payments.pay(services.bills.lock(bill), "cash", "counter-1", bill.remaining_nano)
    assert "overdue" not in home(client)


def test_a_member_sees_no_money_and_its_own_cap(client, services, li, enter):
    services.orders.place(li, "ctc-light")
    member = services.members.invite(li, "+8613800000002", "Mei", cap_tokens=500_000)
    services.members.accept("+8613800000002", member.member_id)
    services.subscriptions.suspend(li, "operator", "a test")
    enter(li, member.member_id)
    page = home(client)
    assert "¥" not in page and "Owed" not in page and "Bill" not in page
    assert "My cap: Cap 500,000 tokens" in page and "Tokens left" in page
    assert 'href="/bills"' not in client.get("/", headers=BROWSER).text


def test_a_stranger_gets_the_shop_and_a_program_its_answer_while_the_database_is_away(api, client):
    assert "选择套餐" in home(client, BROWSER)

    def away():
        raise AssertionError("the database is not asked")

    api.state.open_services = away
    assert client.get("/", headers={"accept": "application/json"}).json()["service"] == "tokenworks"
    assert client.head("/", headers={"accept": "application/json"}).status_code == 200
