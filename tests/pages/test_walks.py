"""A newcomer's walk on a phone, in Chinese and in English: order, use, family, change, cancel, question the bill."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.pages.person import Person, needs_browser
from tests.support.spend import balances
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE, month_start

pytestmark = [pytest.mark.xdist_group("browser"), needs_browser]
KEY = re.compile(r"twk_[a-z]+_[0-9A-Za-z]{36}")
ZH = {
    "locale": "zh-CN", "shop": "选择套餐", "before": ("¥9.90/月", "首月 7.9 元，之后每月 40 元", "每 7 天 400 次提问", "适合个人和家庭"),
    "choose": "选择: 中国电信轻享版", "sign_in": "登录后订购", "confirm": ("今天收取¥9.90", "本期至{last}", "{next} 自动续订，¥9.90/月"),
    "order": "确认订购（¥9.90）", "ordered": "订购成功", "usage": ("剩余 750 万词元", "有效期至 {last}"), "cap_hint": "50万",
    "invite": ("对方的手机号", "称呼", "上限（词元）", "发出邀请", "邀请已发出"), "child": "女儿",
    "family": ("每月上限 50 万词元，本月已用 0 词元", "近 30 天用了 10 万词元"), "accept": "接受", "switch": "切换到这个家庭",
    "member": ("每月上限 50 万词元", "李"), "key_name": "名称", "make_key": "创建密钥", "change": "变更: 中国电信轻享版", "standard": "选择: 中国电信标准版",
    "changes": ("立即变更", "从下期开始", "今天收取", "{next} 起按 ¥29.90/月 收费"), "change_later": "下期变更",
    "changed": "{next} 起变更为中国电信标准版，¥29.90/月", "keep": "保留原套餐: 中国电信轻享版", "kept": "{next} 自动续订，¥9.90/月", "change_now": "立即变更",
    "pause": ("暂停: 中国电信标准版", "暂停", "已暂停"), "resume": ("恢复: 中国电信标准版", "恢复使用", "今天不收费", "使用中"),
    "question": "有疑问: 中国电信轻享版", "text": "您的疑问", "asked": "我没有订购这个套餐。", "send": "提交", "waiting": "已收到，等待答复", "answer": "这是您上个月订购的套餐。",
    "answered": "答复：", "cancel": "取消: 中国电信标准版", "cancels": ("可以用到 {after}，之后不再收费", "剩余用量作废"), "cancel_later": "到期后取消",
    "cancel_now": "立即取消", "ends": "{after} 到期后结束，不再收费", "keep2": "保留原套餐: 中国电信标准版", "gone": ("还没有套餐", "以往的套餐", "已取消"),
    "stop": ("停用: 订购页创建", "确认停用: 订购页创建", "已停用"), "sign_out": "退出登录", "out": "登录或注册",
}  # fmt: skip
EN = {
    "locale": "en-GB", "shop": "Choose a plan", "before": ("¥9.90/month", "¥7.90 for the first month, then ¥40.00 a month", "400 prompts every 7 days", "For individuals and families"),
    "choose": "Choose: China Telecom Light", "sign_in": "Sign in to order", "confirm": ("Charged today¥9.90", "This period ends on{last}", "{next}, automatically, at ¥9.90/month"),
    "order": "Order for ¥9.90", "ordered": "Your order is complete", "usage": ("7,500,000 tokens left", "Valid until {last}"), "cap_hint": "500k",
    "invite": ("Their phone number", "Name", "Cap (tokens)", "Send invitation", "The invitation is sent"), "child": "Daughter",
    "family": ("Cap 500,000 tokens a month, 0 tokens used this month", "100,000 tokens used in the last 30 days"), "accept": "Accept", "switch": "Switch to this family",
    "member": ("Cap 500,000 tokens a month", "Li"), "key_name": "Name", "make_key": "Create key", "change": "Change: China Telecom Light", "standard": "Choose: China Telecom Standard",
    "changes": ("Now", "From the next period", "is charged today", "¥29.90/month from {next}"), "change_later": "Change next period",
    "changed": "Changes to China Telecom Standard on {next}, ¥29.90/month", "keep": "Keep as it is: China Telecom Light", "kept": "Renews on {next} at ¥9.90/month", "change_now": "Change now",
    "pause": ("Pause: China Telecom Standard", "Pause", "paused"), "resume": ("Resume: China Telecom Standard", "Resume", "Nothing is charged today", "active"),
    "question": "Question this: China Telecom Light", "text": "Your question", "asked": "I did not order this plan.", "send": "Send", "waiting": "We have received your question and will answer it here", "answer": "It is the plan that you ordered last month.",
    "answered": "Answered on", "cancel": "Cancel: China Telecom Standard", "cancels": ("You can use it until {after}", "what is left is lost"), "cancel_later": "Cancel at the end",
    "cancel_now": "Cancel now", "ends": "Ends after {after}; nothing more is charged", "keep2": "Keep as it is: China Telecom Standard", "gone": ("You have no plans yet", "Earlier plans", "cancelled"),
    "stop": ("Stop: From the shop", "Stop this key: From the shop", "stopped"), "sign_out": "Sign out", "out": "Sign in or register",
}  # fmt: skip


@pytest.fixture
def clock():
    """At a month's first instant, so that what is ordered is a whole month: the next month's, or today's. A browser's cookies and ids
    of usage know the real time, and neither may be out of date.
    """
    now = datetime.now(BILLING_ZONE)
    return ManualClock(month_start(now if now.day == 1 else first_of(now)).astimezone(UTC))


def first_of(month):
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1, hour=1)


@pytest.mark.parametrize("say", [ZH, EN], ids=["zh", "en"])
def test_a_newcomer_orders_uses_shares_changes_questions_and_cancels(browser, base, codes, services, spender, clock, staff, client, say):  # fmt: skip
    chinese = say is ZH
    now = clock.now().astimezone(BILLING_ZONE)
    following = first_of(now)
    days = {
        "next": f"{following:%Y-%m-%d}", "last": f"{following - timedelta(days=1):%Y-%m-%d}",
        "after": f"{first_of(following) - timedelta(days=1):%Y-%m-%d}",
    }  # fmt: skip
    person = Person(browser, base, say["locale"])
    page = person.page

    def reads(*texts):
        person.looks_right(chinese)
        found = person.text()
        for text in texts:
            assert text.format(**days) in found, (text.format(**days), found)

    # The shop, with its prices, before anybody has signed in.
    person.go("/")
    page.get_by_role("heading", name=say["shop"]).wait_for()
    reads(*say["before"])
    person.tap("button", say["choose"])
    reads()
    person.tap("link", say["sign_in"])
    reads()
    person.sign_in(codes, "138 0000 0001")
    reads(*say["confirm"])
    person.tap("button", say["order"])
    page.get_by_role("heading", name=say["ordered"]).wait_for()
    reads()
    assert KEY.search(person.text())
    subscriber = services.subscriptions.find("+8613800000001")
    services.subscriptions.set_profile(subscriber, name="李" if chinese else "Li")
    assert subscriber.language == ("zh" if chinese else "en")

    # It is used.
    spender.spend(subscriber.account_id, 2_500_000)
    person.go("/usage")
    reads(*say["usage"])

    # A child is invited, and joins with a phone of its own.
    phone, name, cap, send, sent = say["invite"]
    person.go("/family")
    invite = page.locator("section", has=page.get_by_role("button", name=send))
    invite.get_by_label(phone).fill("138 0000 0002")
    invite.get_by_label(name).fill(say["child"])
    invite.get_by_label(cap).fill(say["cap_hint"])
    person.tap("button", send)
    reads(sent, say["family"][0])
    child = Person(browser, base, say["locale"])
    child.go("/sign-in?back=/family")
    child.sign_in(codes, "138 0000 0002")
    child.looks_right(chinese)
    child.tap("button", say["accept"])
    child.looks_right(chinese)
    child.tap("button", say["switch"])
    child.looks_right(chinese)
    assert say["member"][0] in child.text()
    assert {link.inner_text() for link in child.page.get_by_role("navigation").get_by_role("link").all()} == (
        {"首页", "用量", "密钥", "家庭"} if chinese else {"Home", "Usage", "Keys", "Family"}
    )
    child.go("/keys")
    child.page.get_by_label(say["key_name"]).fill("tablet")
    child.tap("button", say["make_key"])
    child.looks_right(chinese)
    assert KEY.search(child.text())
    child.go("/family")
    child.looks_right(chinese)
    assert say["member"][1] in child.text()
    member = next(m for m in services.members.of(subscriber) if m.name == say["child"])
    (tablet,) = services.keys.of_member(member.member_id)
    spender.spend(subscriber.account_id, 100_000, (tablet.hex, member.member_id.hex), clock.now())
    person.go("/family")
    reads(say["family"][1])
    assert child.complaints == []
    child.context.close()

    # The plan is changed: planned, kept, then at once; paused and resumed.
    person.go("/products")
    person.tap("link", say["change"])
    reads()
    person.tap("button", say["standard"])
    reads(*say["changes"])
    person.tap("button", say["change_later"])
    reads(say["changed"])
    person.tap("button", say["keep"])
    reads(say["kept"])
    person.tap("link", say["change"])
    person.tap("button", say["standard"])
    person.tap("button", say["change_now"])
    reads()
    (product,) = services.orders.products(subscriber)
    assert (product.offering_id, product.state) == ("ctc-standard", "active")
    link, button, state = say["pause"]
    person.tap("link", link)
    reads()
    person.tap("button", button)
    reads(state)
    assert services.orders.product(product.product_id)[0].state == "suspended"
    link, button, today, state = say["resume"]
    person.tap("link", link)
    reads(today)
    person.tap("button", button)
    reads(state)

    # The bill comes, and one of its lines is questioned, and answered.
    clock.move(following - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    person.context.clear_cookies()
    person.go("/bill")
    person.sign_in(codes, "138 0000 0001")
    reads()
    person.tap("link", say["question"])
    reads()
    page.get_by_label(say["text"]).fill(f"{say['asked']}\n?")
    person.tap("button", say["send"])
    reads(say["waiting"], say["asked"])
    (asked,) = client.get("/api/operations/disputes?state=open", headers=staff["auditor"]).json()
    assert asked["question"] == f"{say['asked']}\n?"
    answer = client.patch(
        f"/api/operations/disputes/{asked['id']}", json={"text": say["answer"]}, headers=staff["operator"]
    )
    assert answer.status_code == 200
    person.go("/bill")
    reads(say["answered"], say["answer"])

    # It is cancelled: with the period's end, not after all, then at once.
    person.go("/products")
    person.tap("link", say["cancel"])
    reads(*say["cancels"])
    person.tap("button", say["cancel_later"])
    reads(say["ends"])
    person.tap("button", say["keep2"])
    person.tap("link", say["cancel"])
    person.tap("button", say["cancel_now"])
    reads(*say["gone"])
    assert [p.state for p in services.orders.products(subscriber)] == ["cancelled"]

    # The key is stopped, and the newcomer leaves.
    person.go("/keys")
    page.get_by_label(say["stop"][0], exact=True).tap()
    person.tap("button", say["stop"][1])
    reads(say["stop"][2])
    person.tap("button", say["sign_out"])
    page.get_by_role("heading", name=say["out"]).wait_for()
    assert person.complaints == []
    person.context.close()
    balances(services)
