"""Pages that say why an order can't be had and what to do next, orders for later, and the pause of everything."""

import re
from datetime import datetime, timedelta

import pytest

from tests.pages.test_page_rules import words_of
from tests.support.spend import balances
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import BILLING_ZONE, START_DAYS_MAX, SUSPENSIONS, SuspensionEffects

ENGLISH = {"accept-language": "en"}
YUAN = 1_000_000_000


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li")


@pytest.fixture
def enter(client, signed_in):
    """Sign in with the client's cookie."""

    def sign_in(subscriber, member_id=None):
        client.cookies.set("tokenworks_session", signed_in(subscriber, member_id)["authorization"].split()[1])

    return sign_in


def both(client, path):
    """The page in Chinese and in English."""
    pages = []
    for language in ("zh", "en"):
        client.cookies.set("tokenworks_language", language)
        pages.append(client.get(path).text)
    client.cookies.delete("tokenworks_language")
    return pages


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


# Why not, and what next.


def test_a_missing_broadband_number_is_asked_for_and_the_order_goes_on(client, services, li, enter):
    enter(li)
    chinese, english = both(client, "/order?offering=uplink-acceleration")
    assert "请先填写宽带账号" in chinese and "we do not know your broadband account" in english
    for page in (chinese, english):
        assert 'action="/order/broadband"' in page and 'action="/order"' not in page
    for bad in ("12345", "x" * 33, "a b c d e f", "宽带号码一二三"):
        answer = client.post("/order/broadband", data={"offering": "uplink-acceleration", "number": bad})
        assert answer.status_code == 422 and 'action="/order/broadband"' in answer.text, bad
    assert services.subscriptions.find(str(li.subscriber_id)).broadband is None
    answer = client.post(
        "/order/broadband", data={"offering": "uplink-acceleration", "number": " sh87654321 "}, follow_redirects=False
    )  # fmt: skip
    assert (answer.status_code, answer.headers["location"]) == (303, "/order?offering=uplink-acceleration")
    assert services.subscriptions.find(str(li.subscriber_id)).broadband == "sh87654321"
    page = client.get(answer.headers["location"]).text
    assert "开通后收取 ¥10.00" in words_of(page) and 'action="/order"' in page
    client.post("/order", data={"offering": "uplink-acceleration", "key": "k"})
    (work,) = services.orders.work_orders()
    assert work.broadband == "sh87654321"
    # One that is known is not changed here.
    client.post("/order/broadband", data={"offering": "uplink-acceleration", "number": "sh11111111"})
    assert services.subscriptions.find(str(li.subscriber_id)).broadband == "sh87654321"


def test_anothers_broadband_number_is_not_taken(client, services, li, enter, signed_in):
    services.subscriptions.register("+8613800000009", "Wang", broadband="sh87654321")
    enter(li)
    answer = client.post("/order/broadband", data={"offering": "uplink-acceleration", "number": "sh87654321"})
    assert answer.status_code == 422 and WORDS["zh"] and "属于其他账户" in answer.text
    answer = client.patch("/api/subscriber", json={"broadband": "sh87654321"}, headers=signed_in(li))
    assert (answer.status_code, answer.json()["title"]) == (409, "BroadbandTaken")
    assert client.patch("/api/subscriber", json={"broadband": "12"}, headers=signed_in(li)).status_code == 400
    made = client.patch("/api/subscriber", json={"broadband": "sh7654321"}, headers=signed_in(li))
    assert (made.status_code, made.json()["broadband"]) == (200, "sh7654321")
    other = client.patch("/api/subscriber", json={"broadband": "sh0000000"}, headers=signed_in(li))
    assert other.status_code == 403


def _delivered(services, li):
    services.subscriptions.set_profile(li, broadband="sh87654321")
    services.orders.place(li, "uplink-acceleration")


def _had(services, li):
    services.orders.cancel(services.orders.place(li, "sample-trial").product_id)


def _needs(services, _li):
    from tests.shop.tariffs import catalogue, plan

    services.offerings.load(catalogue(plan("base", "1", "prorate"), plan("beside", "1", "prorate").replace("cycle:", "requires: [base], cycle:")))  # fmt: skip


CASES = {
    "DeliveredAlready": (_delivered, "uplink-acceleration", "只能开通一次", "only once", "/products"),
    "HadAlready": (_had, "sample-trial", "限次订购", "as often as is possible", "/order"),
    "OtherAudience": (lambda services, li: services.subscriptions.set_profile(li, audiences=["person"]), "unicom-team-lite", "面向其他类型的客户", "for other customers", "/order"),
    "NeedsFirst": (_needs, "beside", "需搭配套餐", "needs a plan", "/order?offering=base"),
    "StepsThere": (lambda services, li: services.orders.place(li, "shanghai-mobile-payg"), "shanghai-mobile-payg", "无需重复订购", "already have pay as you go", "/products"),
    "ConsentNeeded": (lambda services, li: services.consents.keep(li, "terms", given=False), "ctc-light", "服务条款", "terms of service", "/privacy"),
    "RealNameNeeded": (lambda services, li: services.subscriptions.set_profile(li, real_name="refused"), "ctc-light", "实名认证", "real name", "/privacy"),
    "CreditLimitReached": (lambda services, li: services.subscriptions.set_profile(li, credit_limit_nano=YUAN), "ctc-light", "信用额度", "credit limit", "/bill"),
    "SubscriberNotActive": (lambda services, li: services.subscriptions.suspend(li, "own_wish"), "ctc-light", "暂停服务", "suspended", "/products"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_order_that_cannot_be_had_says_why_and_what_next(client, services, li, enter, signed_in, case):
    prepare, offering, chinese, english, step = CASES[case]
    prepare(services, li)
    answer = client.post("/api/quotes", json={"action": "add", "offering": offering}, headers=signed_in(li))
    assert answer.json()["title"] == case
    enter(li)
    for page, word in zip(both(client, f"/order?offering={offering}"), (chinese, english), strict=True):
        (why,) = re.findall(r'<p class="error">([^<]*)</p>', page)
        assert word in why, why
        assert f'href="{step}"' in page and 'action="/order"' not in page


# Later.


def test_an_order_for_later_is_shown_and_can_be_cancelled(client, services, li, enter, clock):
    enter(li)
    page = client.get("/order?offering=ctc-light").text
    last = (clock.now().astimezone(BILLING_ZONE) + timedelta(days=START_DAYS_MAX)).date()
    assert f'type="date" min="2027-04-01" max="{last}"' in page
    answer = client.post("/order", data={"offering": "ctc-light", "key": "k", "start": "2027-05-01"})
    assert answer.status_code == 200 and "2027-05-01" in answer.text and "之前不收费" in answer.text
    assert services.charges.receivable(li.account_id) == 0
    chinese, english = both(client, "/products")
    assert "2027-05-01 生效，¥9.90/月；之前不收费" in words_of(chinese) and "还没有套餐" not in chinese
    assert "Starts on 2027-05-01, ¥9.90/month; nothing is charged before then" in words_of(english)
    for start in ("2027-03-31", "2028-05-01", "tomorrow", "2027-13-01"):
        answer = client.post("/order", data={"offering": "ctc-standard", "key": "k2", "start": start})
        assert answer.status_code == 422, start
    (order,) = services.orders.to_come(li)
    other = services.subscriptions.register("+8613800000009", "Wang")
    enter(other)
    assert client.post(f"/products/to-come/{order.order_id}/withdraw").status_code in {404, 422}
    assert services.orders.to_come(li) == [order]
    enter(li)
    page = client.post(f"/products/to-come/{order.order_id}/withdraw").text
    assert "预约已取消" in page and services.orders.to_come(li) == []
    to(clock, 2027, 5, 2)
    services.orders.run_cycles()
    assert services.orders.products(li) == []


def test_over_tmf622_it_waits_without_a_product_and_is_cancelled(client, services, li, signed_in, clock):
    headers = {**signed_in(li), "Idempotency-Key": "a"}
    url = "/tmf-api/productOrderingManagement/v4"
    body = {
        "requestedStartDate": "2027-05-01T00:00:00+08:00",
        "productOrderItem": [{"id": "1", "action": "add", "productOffering": {"id": "ctc-light"}}],
    }
    made = client.post(f"{url}/productOrder", json=body, headers=headers)
    assert (made.status_code, made.json()["state"]) == (201, "acknowledged")
    order = client.get(made.json()["href"], headers=signed_in(li)).json()
    assert order["requestedStartDate"] == "2027-04-30T16:00:00Z"
    assert "product" not in order["productOrderItem"][0]
    listed = client.get(f"{url}/productOrder?state=acknowledged", headers=signed_in(li)).json()
    assert [one["id"] for one in listed] == [order["id"]]
    again = client.post(f"{url}/productOrder", json=body, headers=headers)
    assert again.json()["id"] == order["id"]
    for when in ("2027-03-31T15:59:59Z", "2027-09-01T00:00:00+08:00"):
        refused = client.post(f"{url}/productOrder", json={**body, "requestedStartDate": when}, headers={**headers, "Idempotency-Key": when})  # fmt: skip
        assert (refused.status_code, refused.json()["title"]) == (400, "Invalid")
    cancelled = client.post(f"{url}/cancelProductOrder", json={"productOrder": {"id": order["id"]}}, headers={**headers, "Idempotency-Key": "c"})  # fmt: skip
    assert cancelled.status_code == 201
    found = client.get(order["href"], headers=signed_in(li)).json()
    assert found["state"] == "cancelled" and "product" not in found["productOrderItem"][0]
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert services.charges.receivable(li.account_id) == 0


def test_when_it_has_begun_the_order_has_its_product(client, services, li, signed_in, clock):
    made = services.orders.place(li, "ctc-light", start=datetime(2027, 5, 1, tzinfo=BILLING_ZONE))
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    found = client.get(
        f"/tmf-api/productOrderingManagement/v4/productOrder/{made.order_id}", headers=signed_in(li)
    ).json()
    assert (found["state"], found["orderTotalPrice"][0]["price"]["taxIncludedAmount"]["value"]) == (
        "completed",
        9.9,
    )
    product = found["productOrderItem"][0]["product"]["href"]
    assert client.get(product, headers=signed_in(li)).json()["status"] == "active"


# Everything.


def test_what_the_pause_page_says_is_what_a_pause_by_own_wish_stops():
    assert SUSPENSIONS["own_wish"] == SuspensionEffects(serving=True, renewing=True, charging=True)


def test_everything_is_paused_and_goes_on_and_says_before_what_that_does(client, services, li, enter, clock):
    services.orders.place(li, "ctc-light")
    services.orders.place(li, "tianyi-coding-lite")
    enter(li)
    assert 'href="/account/suspend"' in client.get("/products").text
    chinese, english = both(client, "/account/suspend")
    for word in (
        "所有密钥立即停止服务",
        "今天不收费",
        "不再续订",
        "已经产生的费用仍会出账",
        "中国电信轻享版",
        "本期至 2027-04-30，之后不再收费",
    ):
        assert word in words_of(chinese), word
    for word in (
        "All keys stop working at once",
        "Nothing is charged today",
        "do not renew",
        "China Telecom Light",
    ):
        assert word in words_of(english), word
    assert services.subscriptions.find(str(li.subscriber_id)).state == "active"
    answer = client.post("/account/suspend")
    assert "全部服务已暂停" in answer.text and 'href="/account/resume"' in answer.text
    assert services.subscriptions.find(str(li.subscriber_id)).suspended_by == ("own_wish",)
    assert client.post("/account/suspend", follow_redirects=False).headers["location"] == "/products"
    assert "您已暂停服务" in client.get("/account/suspend").text
    to(clock, 2027, 5, 11)
    services.orders.run_cycles()
    enter(li)
    before = services.charges.receivable(li.account_id)
    page = words_of(client.get("/account/resume").text)
    light = 9_900_000_000 * 21 // 31
    assert f"¥{light / 10**9:.2f}" in page and "今天（2027-05-11）共收取" in page
    (total,) = re.findall(r"共收取 ¥([0-9.]+)", page)
    assert services.charges.receivable(li.account_id) == before
    answer = client.post("/account/resume")
    assert "全部服务已恢复" in answer.text
    charged = services.charges.receivable(li.account_id) - before
    assert f"{charged / 10**9:.2f}" == total and charged > light
    assert services.subscriptions.find(str(li.subscriber_id)).state == "active"
    assert client.post("/account/resume", follow_redirects=False).headers["location"] == "/products"
    assert services.charges.receivable(li.account_id) - before == charged
    assert "无需恢复" in client.get("/account/resume").text
    assert balances(services)


def test_within_the_period_going_on_costs_nothing(client, services, li, enter):
    services.orders.place(li, "ctc-light")
    enter(li)
    client.post("/account/suspend")
    assert "今天不收费" in client.get("/account/resume").text
    services.subscriptions.suspend(li, "operator", "a test")
    page = client.get("/account/resume").text
    assert "还因以下原因暂停" in page and WORDS["zh"]["suspended_operator"] in page


def test_only_the_owner_pauses_everything(client, services, li, enter):
    services.orders.place(li, "ctc-light")
    for number, role in enumerate(("admin", "member")):
        phone = f"+861380000000{number + 2}"
        member = services.members.invite(li, phone, role, role=role)
        services.members.accept(phone, member.member_id)
        enter(li, member.member_id)
        assert 'href="/account/suspend"' not in client.get("/products").text
        for what in ("suspend", "resume"):
            assert client.get(f"/account/{what}").status_code == 403
            assert client.post(f"/account/{what}").status_code == 403
    client.cookies.clear()
    assert 'action="/sign-in' in client.post("/account/suspend").text
    assert services.subscriptions.find(str(li.subscriber_id)).state == "active"


def test_a_plan_that_the_credit_limit_holds_says_so(client, services, clock, enter):
    li = services.subscriptions.register("+8613800000001", "Li", credit_limit_nano=12 * YUAN)
    services.orders.place(li, "ctc-light")
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    enter(li)
    chinese, english = both(client, "/products")
    assert "下一期费用超出信用额度" in chinese and "resumes automatically" in english
