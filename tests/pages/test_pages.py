"""The pages, as a person uses them: in a real Chromium, on a phone 390 px wide, in Chinese and English."""

import re
from datetime import datetime, timedelta

import pytest

from tests.pages.person import Person, needs_browser
from tokenworks.subscriptions import BILLING_ZONE

pytestmark = pytest.mark.xdist_group("browser")


@needs_browser
def test_order_in_at_most_six_taps_and_get_a_key_with_its_set_up(person, codes, services):
    person.go("/order")
    person.looks_right(chinese=True)
    assert "¥9.90" in person.page.content()
    person.tap("button", "选择: 中国电信轻享版")
    person.looks_right(chinese=True)
    person.tap("link", "登录后订购")
    person.looks_right(chinese=True)
    person.sign_in(codes)
    person.looks_right(chinese=True)
    for word in ("今天收取", "¥9.90", "2027-04-30", "2027-05-01 自动续订，¥9.90/月"):
        assert word in person.text(), word
    person.tap("button", "确认订购（¥9.90）")
    assert person.taps <= 6
    person.looks_right(chinese=True)
    text = person.page.content()
    key = re.search(r"twk_[a-z]+_[0-9A-Za-z]{36}", text).group()
    assert f"OPENAI_API_KEY={key}" in text and f"ANTHROPIC_AUTH_TOKEN={key}" in text
    assert f"OPENAI_BASE_URL={person.base}/v1" in text
    subscriber = services.subscriptions.find("+8613800000001")
    assert [p.offering_id for p in services.orders.products(subscriber)] == ["ctc-light"]
    # Sending the same form again, as a reload does, orders nothing more, and shows no key.
    person.page.reload()
    assert [p.offering_id for p in services.orders.products(subscriber)] == ["ctc-light"]
    assert re.search(r"twk_[a-z]+_[0-9A-Za-z]{36}", person.page.content()) is None


@needs_browser
def test_the_same_form_twice_orders_once(person, codes, services):
    person.go("/sign-in?back=/order")
    person.sign_in(codes)
    person.go("/order?offering=ctc-light")
    key = person.page.locator("input[name=key]").get_attribute("value")
    for _ in range(2):
        answer = person.context.request.post(
            f"{person.base}/order",
            form={"offering": "ctc-light", "key": key},
            headers={"sec-fetch-site": "same-origin"},
        )
        assert answer.status == 200
    assert "twk_" not in answer.text().replace("twk_…", "")
    assert len(services.orders.products(services.subscriptions.find("+8613800000001"))) == 1


@needs_browser
def test_usage_shows_what_is_left_the_days_and_the_last_requests(person, codes, services, spender, clock):
    person.go("/usage")
    person.sign_in(codes)
    subscriber = services.subscriptions.find("+8613800000001")
    assert "还没有可用的词元" in person.page.content()
    services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "tianyi-coding-lite")
    spender.spend(subscriber.account_id, 2_500_000)
    person.go("/usage")
    person.fits()
    person.accessible()
    text = person.page.content()
    for word in (
        "75%",
        "750 万词元",
        "1,000 万词元",
        "2027-04-30",
        "80 次提问",
        "每 5 小时",
        "每 7 天",
        "2,500,000",
    ):
        assert word in text, word
    assert person.page.get_by_role("img", name="75% 剩余").count() == 1


@needs_browser
def test_the_bill_has_its_lines_its_pdf_and_the_lock(person, codes, services, spender, clock):
    person.go("/bill")
    person.sign_in(codes)
    subscriber = services.subscriptions.find("+8613800000001")
    services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    services.payg.control(subscriber, spill_over=True)
    spender.spend(subscriber.account_id, 10_500_000)
    person.go("/bill")
    person.fits()
    person.accessible()
    text = person.page.content()
    assert (
        "上海移动随用随付 × 2" in text and "¥11.90" in text and "本月随用随付已用 ¥2.00，上限 ¥50.00" in text
    )
    person.tap("button", "锁定消费")
    assert services.subscriptions.find("+8613800000001").spend_locked
    assert "消费已锁定" in person.page.content()
    person.tap("button", "解除锁定")
    assert not services.subscriptions.find("+8613800000001").spend_locked
    person.page.get_by_label("每月上限（元）").fill("1")
    person.tap("button", "保存")
    assert person.page.get_by_role("alert").inner_text() == "上限不能低于本月已产生的费用。"
    person.complaints = [c for c in person.complaints if "422" not in c]
    person.page.get_by_label("每月上限（元）").fill("20.50")
    person.tap("button", "保存")
    assert services.subscriptions.find("+8613800000001").cap_nano == 20_500_000_000
    person.tap("button", "套餐用完后停止")
    assert not services.subscriptions.find("+8613800000001").spill_over
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.bills.run()
    text, _ = services.identity.open_session(
        subscriber.subscriber_id, services.subscriptions.owner_of(subscriber)
    )
    person.context.add_cookies([{"name": "tokenworks_session", "value": text, "url": person.base}])
    person.go("/bill")
    person.fits()
    person.accessible()
    link = person.page.get_by_role("link", name="下载 PDF").get_attribute("href")
    pdf = person.context.request.get(person.base + link)
    assert pdf.headers["content-type"] == "application/pdf" and pdf.body().startswith(b"%PDF-")


@needs_browser
def test_english_dark_and_by_keyboard_alone(browser, base, codes, services):
    person = Person(browser, base, locale="en-GB", color_scheme="dark")
    page = person.page
    person.go("/sign-in?back=/order")
    person.accessible()
    page.keyboard.type("+8613800000003")  # the field has the focus
    page.keyboard.press("Enter")
    page.get_by_label("Code", exact=True).wait_for()
    page.keyboard.type(codes[-1][1])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Choose a plan").wait_for()
    person.accessible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        if (
            page.evaluate("document.activeElement.getAttribute('aria-label')")
            == "Choose: China Telecom Light"
        ):
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Confirm your order").wait_for()
    page.get_by_role("button", name="Order for ¥9.90").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Your key").wait_for()
    person.accessible()
    assert person.complaints == []
    page.get_by_role("button", name="中文").click()
    page.get_by_role("heading", name="选择套餐").wait_for()
    page.get_by_role("button", name="退出登录").click()
    page.get_by_role("heading", name="登录或注册").wait_for()
    person.context.close()


@needs_browser
def test_nothing_is_cut_on_the_narrowest_phone(browser, base, services, signed_in):
    """WCAG 2.2, 1.4.10: 320 px without scrolling sideways; a long name of the operator, of a member and of a key."""
    subscriber = services.subscriptions.register("+8613800000001", "A" * 100, broadband="sh87654321")
    for offering in ("ctc-light", "tianyi-coding-lite", "shanghai-mobile-payg", "sample-home-bundle"):
        services.orders.place(subscriber, offering)
    services.members.invite(subscriber, "+8613800000002", "B" * 100, cap_tokens=10**12)
    owner = services.subscriptions.owner_of(subscriber)
    services.keys.issue(account_id=subscriber.account_id, member_id=owner, name="C" * 100, models=["m" * 200])
    for locale in ("zh-CN", "en-GB"):
        context = browser.new_context(
            viewport={"width": 320, "height": 640}, locale=locale, extra_http_headers=signed_in(subscriber)
        )
        context.add_cookies([{"name": "tokenworks_language", "value": locale[:2], "url": base}])
        page = context.new_page()
        for path in (
            "/order",
            "/order?offering=sample-home-bundle",
            "/products",
            "/usage",
            "/keys",
            "/family",
            "/bill",
        ):
            page.goto(base + path)
            for summary in page.locator("summary").all():
                summary.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 320, (locale, path)
        context.close()


PAGES = (
    "/", "/order", "/order?offering=ctc-light", "/products", "/plans", "/usage", "/keys", "/family", "/team", "/bill", "/bills",
    "/privacy", "/terms", "/sessions", "/sign-in", "/account/suspend", "/style", "/nothing",
)  # fmt: skip


def test_every_page_has_a_strict_policy_and_nothing_inline(client, services, signed_in):
    subscriber = services.subscriptions.register("+8613800000001", "Li <script>alert(1)</script>")
    services.orders.place(subscriber, "ctc-light")
    client.cookies.set("tokenworks_session", signed_in(subscriber)["authorization"].split()[1])
    for path in PAGES:
        answer = client.get(path, headers={"accept": "text/html"})
        assert answer.status_code == (404 if path == "/nothing" else 200), path
        rules = dict(
            rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
        )
        assert rules.pop("default-src") == rules.pop("frame-ancestors") == rules.pop("base-uri") == "'none'"
        assert set(rules.values()) == {"'self'"} and "script-src" in rules
        scripts = re.findall(r"<script\b([^>]*)>", answer.text)
        assert all(
            re.fullmatch(r' src="/static/[a-z-]+\.[0-9a-f]{16}\.js" defer| type="application/json"', s)
            for s in scripts
        )
        assert (
            "style=" not in answer.text
            and "<style" not in answer.text
            and not re.search(r"\son[a-z]+=", answer.text)
        )
        assert not re.search(
            r"hx-on|js:|javascript:|https?://(?!testserver)", answer.text.replace("http://www.w3.org", "")
        )
        assert answer.headers["cache-control"] == "no-store"
    assert client.get("/static/tokenworks.css").headers["content-type"].startswith("text/css")


def test_pages_of_members_and_of_strangers(client, services, codes, signed_in, clock):
    subscriber = services.subscriptions.register("+8613800000001", "Li")
    child = services.members.invite(subscriber, "+8613800000002", "Mei")
    services.members.accept(child.phone, child.member_id)
    client.cookies.set(
        "tokenworks_session", signed_in(subscriber, child.member_id)["authorization"].split()[1]
    )
    assert client.get("/bill").status_code == 403
    client.cookies.clear()
    assert "手机号" in client.get("/bill").text
    for path in ("/order", "/bill/spending", "/key"):
        form = {"offering": "ctc-light", "key": "k", "what": "lock"}
        assert "获取验证码" in client.post(path, data=form).text
    assert services.orders.products(subscriber) == []
    wrong = client.post("/sign-in", data={"identifier": "13800000001", "code": "123456", "back": "//evil"})
    assert wrong.status_code == 422 and 'role="alert"' in wrong.text
    client.post("/sign-in/code", data={"identifier": "13800000001"})
    entered = client.post(
        "/sign-in",
        data={"identifier": "13800000001", "code": codes[-1][1], "back": "//evil"},
        follow_redirects=False,
    )
    assert (entered.status_code, entered.headers["location"]) == (303, "/order")
    clock.move(timedelta(days=8))
    answer = client.get("/usage")
    assert answer.status_code == 401 and "获取验证码" in answer.text
