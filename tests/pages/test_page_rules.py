"""What the pages promise, without a browser: prices for strangers, errors for people, who may do what, both languages."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from tests.support.spend import balances
from tests.web.test_edge import HOSTILE
from tokenworks.billing import DisputeNotFound
from tokenworks.catalog import Audience, Catalogue, seed_catalogue
from tokenworks.catalog.model import Delivery
from tokenworks.kernel import Invalid, TokenworksError, Unavailable
from tokenworks.pages import words
from tokenworks.pages.offers import cards, common_name
from tokenworks.pages.page import own_page_or_shop
from tokenworks.pages.phrases import read_tokens, yuan
from tokenworks.pages.words import WORDS, refusal
from tokenworks.subscriptions import BILLING_ZONE, ChangeNotAllowed, NotEligible, access, last_day
from tokenworks.subscriptions.model import ProductState

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ENGLISH = {**BROWSER, "accept-language": "en-GB"}


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


@pytest.fixture
def enter(client, signed_in):
    """Sign in with the client's cookie."""

    def sign_in(subscriber, member_id=None):
        client.cookies.set("tokenworks_session", signed_in(subscriber, member_id)["authorization"].split()[1])

    return sign_in


def words_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"</?span[^>]*>", "", page)))


def test_both_languages_say_the_same_things():
    assert WORDS["zh"].keys() == WORDS["en"].keys()
    for name, zh in WORDS["zh"].items():
        blanks = [sorted(re.findall(r"\{(\w+)\}", text)) for text in (zh, WORDS["en"][name])]
        assert blanks[0] == blanks[1], name
        assert not re.search(r"[\u4e00-\u9fff]", WORDS["en"][name]) or name == "other_language", name


def test_every_word_is_said_somewhere():
    """What no page says any more goes."""
    folder = Path(words.__file__).parent
    sources = [
        *(path for path in folder.glob("*.py") if not path.name.startswith("words")),
        *folder.glob("templates/*.html"),
    ]
    said = " ".join(path.read_text() for path in sources)
    found = set(re.findall(r"\bt\.(\w+)", said)) | set(re.findall(r"[\"'](\w+)[\"']", said))
    # Of names that are put together: `cap_` and a period, `done_` and what was done, `error_` and a status.
    built = tuple(re.findall(r"[\"'](\w+_)(?:\{|[\"'] ~)", said))
    ends = tuple(re.findall(r"\{\w+\}(_\w+)[\"']", said))
    # And what is said of a product's state, a delivery, an audience, a member's role by its own name.
    found |= {
        *get_args(ProductState),
        *get_args(Delivery),
        *get_args(Audience),
        "owner",
        "admin",
        "member",
        "department",
    }
    unsaid = [
        name
        for name in WORDS["zh"]
        if name not in found and not name.startswith(built) and not name.endswith(ends)
    ]
    assert unsaid == [], unsaid


def test_every_refusal_is_said_in_words_for_people():
    error = ChangeNotAllowed("product 01a207a0-0000-7000-8000-000000000001 is suspended")
    for language in ("zh", "en"):
        assert "01a207a0" not in refusal(error, language)
        assert refusal(TokenworksError("`tokenworks key list`"), language) == refusal(
            TokenworksError("another"), language
        )
    # One that has no words of its own has its kind's.
    assert refusal(DisputeNotFound("there is no dispute 7"), "zh") == "没有找到相关内容，请返回后重试。"
    assert (
        refusal(Invalid("a name has 1 to 100 characters, not 0"), "en")
        == "A name has 1 to 100 characters, not 0."
    )
    assert refusal(Invalid("a name has 1 to 100 characters, not 0"), "zh") == "输入有误，请检查后重试。"


def test_amounts_are_in_fen_and_days_are_the_sellers():
    assert [yuan(n) for n in (15_226_967_206, 5_000_000, 4_999_999, -5_000_000, 0)] == [
        "¥15.23", "¥0.01", "¥0.00", "−¥0.01", "¥0.00",
    ]  # fmt: skip
    midnight = datetime(2027, 5, 1, tzinfo=BILLING_ZONE)
    assert last_day(midnight) == "2027-04-30"
    assert last_day(midnight + timedelta(seconds=1)) == "2027-05-01"


def test_tokens_as_people_write_them():
    for text, tokens in (("", None), ("500000", 500_000), ("500,000", 500_000), ("50万", 500_000), ("1.5万", ...), ("2M", 2_000_000), ("3 亿", 300_000_000), ("-1", ...), ("１", ...), ("1e9", ...)):  # fmt: skip
        if tokens is ...:
            with pytest.raises(Invalid):
                read_tokens(text)
        else:
            assert read_tokens(text) == tokens


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["China Telecom Light", "China Telecom Premium"], "China Telecom"),
        (["China Telecom Premium", "China Telecom Professional"], "China Telecom"),
        (["中国电信轻享版", "中国电信标准版"], "中国电信"),
        (["联通云 Lite", "联通云 Pro"], "联通云"),
        (["Tencent Cloud tier 1", "Tencent Cloud tier 2"], "Tencent Cloud"),
        (["腾讯云第 1 档", "腾讯云第 2 档"], "腾讯云"),
        (["A", "B"], "A"),
        (["Trial"], "Trial"),
    ],
)
def test_what_tiers_are_called_together(names, common):
    assert common_name(names) == common


def test_a_plan_is_one_card_with_its_tiers_cheapest_first():
    offered = [o for o in seed_catalogue().offerings if o.status == "active"]
    found = {
        (card["title"], len(card["tiers"])): [tier["label"] for tier in card["tiers"]]
        for card in cards(offered, {"ctc-light"}, "zh")
    }
    assert found["中国电信", 3] in (["轻享版", "标准版", "尊享版"], ["基础版", "专业版", "旗舰版"])
    assert found["联通云编程版", 2] == ["Lite", "Pro"]
    assert found["天翼云编程版", 3] == ["Lite", "Pro", "Max"]
    titles = [tier["name"] for card in cards(offered, set(), "zh") for tier in card["tiers"]]
    assert sorted(titles) == sorted(o.name_zh for o in offered)
    have = [t["id"] for card in cards(offered, {"ctc-light"}, "zh") for t in card["tiers"] if t["have"]]
    assert have == ["ctc-light"]


def test_a_stranger_sees_prices_and_windows_in_natural_words(client):
    page = words_of(client.get("/order").text)
    for word in (
        "首月 7.9 元，之后每月 40 元",
        "每 5 小时 80 次提问、每 7 天 400 次提问、每月 1,600 次提问",
        "¥9.90",
        "登录",
    ):
        assert word in page, word
    assert "168" not in page and "任意" not in page and "退出登录" not in page
    page = words_of(client.get("/order?offering=mobile-coding-lite").text)
    assert "登录后订购" in page and "每月 1 日自动续订，¥40.00/月" in page
    page = words_of(client.get("/order", headers=ENGLISH).text)
    assert "¥7.90 for the first month, then ¥40.00 a month" in page
    assert not re.search(r"[\u4e00-\u9fff]", page.replace("中文", ""))


def test_the_root_is_the_shop_for_a_stranger_and_tells_programs_what_this_is(client, li, enter):
    for headers in (BROWSER, {}):
        answer = client.get("/", headers=headers, follow_redirects=False)
        assert answer.status_code == 200 and "选择套餐" in answer.text and "¥9.90" in answer.text
    assert client.get("/", headers={"accept": "application/json"}).json()["service"] == "tokenworks"
    enter(li)
    assert "剩余词元" in client.get("/", headers=BROWSER).text


def test_people_get_error_pages_and_programs_problem_details(client, li, enter):
    for path in ("/nothing", "/api/nothing", "/products/x/cancel", "/static/nothing", "/sign-out"):
        answer = client.get(path, headers=BROWSER)
        assert answer.headers["content-type"].startswith("text/html"), path
        assert answer.status_code == 401 if path.startswith("/products") else answer.status_code in {404, 405}
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "没有这个页面" in client.get("/nothing", headers=BROWSER).text
    assert "There is no such page" in client.get("/nothing", headers=ENGLISH).text
    for headers in ({}, {"accept": "application/json"}, {"accept": "text/html, application/json"}):
        answer = client.get("/nothing", headers=headers)
        assert answer.status_code == 404 and answer.json()["title"] == "NotFound"
    enter(li)
    page = client.get("/nothing", headers=BROWSER).text
    assert "退出登录" in page and "/plans" in page


def test_an_error_page_is_there_while_the_database_is_away(api, client):
    def away():
        raise Unavailable("the database does not answer: try again in a moment")

    api.state.open_services = away
    answer = client.get("/order", headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert "服务暂时不可用" in answer.text


def test_a_form_leads_back_to_our_pages_alone():
    own = "01a207a0-0000-7000-8000-000000000001"
    for path in ("/usage", "/order?offering=ctc-light", f"/products/{own}/cancel", "/bill/dispute?bill=20270501-000000001&line=1"):  # fmt: skip
        assert own_page_or_shop(path) == path
    for path in ("//evil", "/\\evil", "https://evil", "usage", "/usage/../x", "/order?offering=a#b", "/products/x/cancel", "/bill/dispute?bill=//x"):  # fmt: skip
        assert own_page_or_shop(path) == "/order"


def test_an_order_says_before_it_is_placed_what_it_does(client, services, li, enter):
    enter(li)
    page = words_of(client.get("/order?offering=ctc-light").text)
    for word in ("今天收取 ¥9.90", "本期至 2027-04-30", "2027-05-01 自动续订，¥9.90/月", "确认订购（¥9.90）"):
        assert word in page, word
    assert services.orders.products(li) == [] and services.charges.receivable(li.account_id) == 0
    services.subscriptions.set_contract_price(li, "ctc-light", "7", "C-1")
    assert "2027-05-01 自动续订，¥7.00/月" in words_of(client.get("/order?offering=ctc-light").text)
    page = words_of(client.get("/order?offering=uplink-acceleration").text)
    assert "开通后收取 ¥10.00" in page and "订购，今天不收费" in page and "可随时在“套餐”页取消。" in page
    page = words_of(client.get("/order?offering=sample-trial").text)
    assert "本期至 2027-04-30" in page and "到期不续订" in page
    services.subscriptions.set_contract_price(li, "mobile-coding-lite", "20", "C-2")
    page = words_of(client.get("/order?offering=mobile-coding-lite").text)
    assert "今天收取 ¥20.00" in page and "首月" not in page
    services.orders.place(li, "ctc-light")
    page = client.get("/order?offering=ctc-light").text
    assert (
        "我已有这个套餐，仍要再订一份。" in page
        and 'type="checkbox" name="second" value="yes" required' in page
    )
    services.subscriptions.set_dunned(li, restricted=True, suspended=False)
    page = words_of(client.get("/order?offering=ctc-standard").text)
    assert (
        "现在不能订购： 账户已暂停服务或有逾期欠费，请在“套餐”页查看原因。" in page
        and '<button class="wide"' not in page
    )


def test_what_has_changed_since_it_was_shown_is_not_ordered(client, services, li, enter):
    enter(li)
    page = client.get("/order?offering=ctc-light").text
    form = dict(re.findall(r'<input type="hidden" name="(offering|version|key)" value="([^"]+)">', page))
    dearer = [
        o.model_copy(update={"price": "19.9"}) if o.id == "ctc-light" else o
        for o in seed_catalogue().offerings
    ]
    seed = seed_catalogue()
    services.offerings.load(Catalogue(catalogue="next", rate_cards=seed.rate_cards, offerings=tuple(dearer)))
    answer = client.post("/order", data=form)
    assert answer.status_code == 422 and "这个套餐刚刚有变动" in answer.text and "¥19.90" in answer.text
    assert services.orders.products(li) == []


def test_an_add_on_is_delivered_as_it_was_chosen(client, services, li, enter):
    enter(li)
    assert (
        '<option value="cloud_computer">云电脑</option>'
        in client.get("/order?offering=security-protection").text
    )
    client.post("/order", data={"offering": "security-protection", "key": "k", "delivery": "cloud_computer"})
    (work,) = services.orders.work_orders()
    assert work.delivery == "cloud_computer"


def test_a_key_has_the_limits_that_it_was_given_and_is_stopped(client, services, li, enter):
    enter(li)
    assert "还没有密钥" in client.get("/keys").text
    made = client.post(
        "/keys", data={"name": "laptop", "cap": "50万", "days": "90", "models": "glm-5，kimi-k2"}
    )
    assert re.search(r"twk_[a-z]+_[0-9A-Za-z]{36}", made.text)
    page = words_of(client.get("/keys").text)
    assert "最多 50 万词元 仅限 glm-5、kimi-k2 有效期至 2027-06-30" in page
    caps = {b.bucket_id: b.total for b in services.ledger.buckets(li.account_id) if b.kind == "cap"}
    (key,) = services.keys.of_account(li.account_id, caps)
    assert (key.name, key.cap_tokens, key.models) == ("laptop", 500_000, ("glm-5", "kimi-k2"))
    assert "我们不保存您的提问和回答" in page and "日志已开启" not in page
    services.access.set_content_log(li, key.key_id, on=True)
    assert "日志已开启" in client.get("/keys").text
    assert client.post("/keys", data={"name": ""}).status_code == 422
    assert client.post("/keys", data={"name": "x", "cap": "much"}).status_code == 422
    assert client.post("/keys/stop", data={"id": str(key.key_id)}, follow_redirects=False).status_code == 303
    assert services.keys.info(key.key_id).revoked_at is not None
    assert "已停用" in client.get("/keys").text


def test_nobody_acts_on_what_is_anothers(client, services, li, enter):
    other = services.subscriptions.register("+8613800000009", "Wang")
    order = services.orders.place(other, "ctc-light")
    key_id, _ = services.keys.issue(
        account_id=other.account_id, member_id=services.subscriptions.owner_of(other), name="x"
    )
    guest = services.members.invite(other, "+8613800000008", "Guest")
    enter(li)
    for what in ("change", "cancel", "pause", "resume"):
        assert client.get(f"/products/{order.product_id}/{what}", headers=BROWSER).status_code == 404
        assert client.post(f"/products/{order.product_id}/{what}", data={"key": "k"}).status_code == 404
    assert client.post(f"/products/{order.product_id}/keep").status_code == 404
    assert client.post("/keys/stop", data={"id": str(key_id)}).status_code == 404
    for path in ("/family/cap", "/family/remove"):
        assert client.post(path, data={"id": str(guest.member_id)}).status_code == 404
    for what in ("accept", "decline", "leave", "switch"):
        answer = client.post("/family/join", data={"id": str(guest.member_id), "what": what})
        assert answer.status_code == 422, what
        assert ("没有找到" if what == "switch" else "没有这位成员") in answer.text
    assert services.orders.product(order.product_id)[0].state == "active"
    assert services.keys.info(key_id).revoked_at is None
    assert services.members.by_id(guest.member_id).state == "invited"


def test_a_member_and_an_admin_do_no_more_than_they_may(client, services, li, enter, spender):
    services.orders.place(li, "ctc-light")
    spender.spend(li.account_id, 1_000)
    child = services.members.invite(li, "+8613800000002", "Mei", cap_tokens=500_000)
    admin = services.members.invite(li, "+8613800000003", "Bo", role="admin")
    second = services.members.invite(li, "+8613800000004", "Lu", role="admin")
    for one in (child, admin, second):
        services.members.accept(one.phone, one.member_id)
    enter(li, child.member_id)
    for path in ("/order", "/products", "/bill"):
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 403 and "没有权限" in answer.text and 'href="/usage"' in answer.text
    page = client.get("/usage").text
    assert "每月上限 50 万词元" in page and "还没有请求" in page  # others' requests are not a member's to see
    assert "Bo" not in client.get("/family").text
    for path in ("/family/invite", "/family/cap", "/family/remove", "/bill/spending"):
        form = {"id": str(admin.member_id), "what": "lock", "phone": "13800000005", "name": "x"}
        assert client.post(path, data=form).status_code == 403
    enter(li, admin.member_id)
    owner_id = services.subscriptions.owner_of(li)
    assert client.post("/family/cap", data={"id": str(owner_id), "cap": "1"}).status_code == 403
    assert client.post("/family/remove", data={"id": str(second.member_id)}).status_code == 403
    assert client.post("/bill/spending", data={"what": "lock"}, follow_redirects=False).status_code == 303
    for what in ("cap", "unlock", "spill_on"):
        assert client.post("/bill/spending", data={"what": what, "cap": "900"}).status_code == 403
    subscriber = services.subscriptions.find(li.phone)
    assert (subscriber.spend_locked, subscriber.cap_nano, subscriber.spill_over) == (True, li.cap_nano, False)
    assert services.members.by_id(owner_id).cap_tokens is None


def test_a_member_leaves_and_its_keys_stop(client, services, li, enter):
    child = services.members.invite(li, "+8613800000002", "Mei")
    services.members.accept(child.phone, child.member_id)
    key_id, _ = services.keys.issue(account_id=li.account_id, member_id=child.member_id, name="tablet")
    enter(li, child.member_id)
    answer = client.post(
        "/family/join", data={"id": str(child.member_id), "what": "leave"}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert services.keys.info(key_id).revoked_at is not None
    assert services.members.by_id(child.member_id).state == "left"


def test_cancel_says_what_is_given_back_and_gives_it(client, services, li, enter, clock):
    enter(li)
    client.post("/order", data={"offering": "ctc-light", "key": "k"})
    (product,) = services.orders.products(li)
    clock.move(timedelta(days=10))
    enter(li)
    before = services.charges.receivable(li.account_id)
    page = words_of(client.get(f"/products/{product.product_id}/cancel").text)
    assert services.charges.receivable(li.account_id) == before
    assert "可以用到 2027-04-30，之后不再收费" in page
    client.post(f"/products/{product.product_id}/cancel", data={"when": "now", "key": "c"})
    back = before - services.charges.receivable(li.account_id)
    assert (f"退还 {yuan(back)}" if back else "已收取的费用不予退还") in page
    assert services.orders.product(product.product_id)[0].state == "cancelled"
    assert (
        client.post(f"/products/{product.product_id}/cancel", data={"when": "now", "key": "d"}).status_code
        == 422
    )
    balances(services)


def test_what_is_shown_before_a_change_is_what_it_costs(client, services, li, enter, clock):
    enter(li)
    client.post("/order", data={"offering": "ctc-light", "key": "k"})
    (product,) = services.orders.products(li)
    clock.move(timedelta(days=5))
    enter(li)
    page = words_of(client.get(f"/products/{product.product_id}/change?offering=ctc-standard").text)
    before = services.charges.receivable(li.account_id)
    form = {"when": "now", "offering": "ctc-standard", "key": "c"}
    assert (
        client.post(f"/products/{product.product_id}/change", data=form, follow_redirects=False).status_code
        == 303
    )
    cost = services.charges.receivable(li.account_id) - before
    assert cost > 0 and f"今天收取 {yuan(cost)}" in page
    # The same form again changes nothing more.
    assert (
        client.post(f"/products/{product.product_id}/change", data=form, follow_redirects=False).status_code
        == 303
    )
    assert services.charges.receivable(li.account_id) - before == cost
    balances(services)


def test_a_pause_is_offered_only_where_it_holds(client, services, li, enter):
    enter(li)
    for offering in ("ctc-light", "sample-home-bundle"):
        services.orders.place(li, offering, confirm=True)
    page = client.get("/products").text
    assert page.count("/pause") == 1 and page.count("/cancel") == 2 and page.count("/change") == 1
    assert "包含中国电信标准版、宽带上行提速、安全防护" in page


def test_a_question_is_asked_about_ones_own_bill_alone(client, services, li, enter, clock):
    services.orders.place(li, "ctc-light")
    other = services.subscriptions.register("+8613800000009", "Wang")
    services.orders.place(other, "ctc-light")
    clock.move(timedelta(days=30))
    services.bills.run()
    (mine,), _ = services.bills.all(li)
    (theirs,), _ = services.bills.all(other)
    enter(li)
    for bill, line, status in ((mine, 1, 200), (mine, 2, 404), (theirs, 1, 404)):
        assert client.get("/bill/dispute", params={"bill": bill.bill_no, "line": line}).status_code == status
        form = {"bill": bill.bill_no, "line": line, "text": "Why?\r\n<b>"}
        assert client.post("/bill/dispute", data=form).status_code == status
    assert (
        client.post("/bill/dispute", data={"bill": mine.bill_no, "line": 1, "text": "More"}).status_code
        == 422
    )
    page = client.get("/bill").text
    assert "Why?\n&lt;b&gt;" in page and "已收到，等待答复。" in page
    assert services.disputes.all(other) == ([], 0)


def test_an_offering_that_cannot_be_had_says_why(client, services, li, enter):
    enter(li)
    with pytest.raises(NotEligible):
        services.orders.place(services.subscriptions.set_profile(li, audiences=["enterprise"]), "ctc-light")
    assert client.get("/order?offering=ctc-light").status_code == 200
    answer = client.post("/order", data={"offering": "ctc-light", "key": "k"})
    assert answer.status_code == 422 and "这个套餐面向其他类型的客户" in answer.text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_in_a_form_is_refused_and_kept_nowhere(client, services, li, enter, clock, text):
    order = services.orders.place(li, "ctc-light")
    child = services.members.invite(li, "+8613800000002", "Mei")
    clock.move(timedelta(days=30))
    services.bills.run()
    (bill,), _ = services.bills.all(li)
    enter(li)
    for path, form in (
        ("/keys", {"name": text}),
        ("/keys", {"name": "x", "cap": f"1{text}"}),
        ("/keys", {"name": "x", "models": f"m{text}"}),
        ("/keys/stop", {"id": text}),
        ("/family/invite", {"phone": "13800000003", "name": text}),
        ("/family/invite", {"phone": f"138{text}00000003", "name": "x"}),
        ("/family/cap", {"id": str(child.member_id), "cap": f"5{text}"}),
        ("/family/join", {"id": text, "what": "accept"}),
        ("/bill/spending", {"what": "cap", "cap": f"5{text}"}),
        ("/bill/dispute", {"bill": bill.bill_no, "line": "1", "text": f"Why{text}?"}),
        ("/bill/dispute", {"bill": f"{bill.bill_no}{text}", "line": "1", "text": "Why?"}),
        (f"/products/{order.product_id}/change", {"offering": f"ctc-standard{text}", "key": "k"}),
        (f"/products/{order.product_id}/cancel", {"when": "now", "key": f"k{text}"}),
        ("/order", {"offering": "ctc-light", "key": f"k{text}"}),
        ("/order", {"offering": "security-protection", "key": "k", "delivery": f"network{text}"}),
    ):
        if form.get("text", "").startswith("Why") and "\n" in form["text"]:
            continue  # a question may have several lines
        answer = client.post(path, data=form, headers=BROWSER, follow_redirects=False)
        assert answer.status_code in {400, 404, 422}, (path, form, answer.status_code)
    assert services.keys.of_account(li.account_id, {}) == [] and services.disputes.all() == ([], 0)
    assert [p.state for p in services.orders.products(li)] == ["active"]
    assert {m.name for m in services.members.of(li)} == {"Li", "Mei"}


def test_an_order_does_not_depend_on_a_key(client, services, li, enter, monkeypatch):
    monkeypatch.setattr(access, "MEMBER_KEYS_LIVE_MAX", 1)
    enter(li)
    client.post("/keys", data={"name": "first"})
    assert client.post("/keys", data={"name": "second"}).status_code == 422
    page = client.post("/order", data={"offering": "ctc-light", "key": "k"})
    assert page.status_code == 200 and "订购成功" in page.text and "twk_…" in page.text
    assert len(services.orders.products(li)) == 1
    # One that is stopped makes room for another.
    (key,) = services.keys.of_account(li.account_id, {})
    services.keys.revoke(key.key_id)
    assert client.post("/keys", data={"name": "second"}).status_code == 200
