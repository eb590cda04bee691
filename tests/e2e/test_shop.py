"""From the shop to a request: ordered on the page of a running server, used at its gateway, seen on the usage page."""

import re

import pytest

from tests.pages.person import CHROMIUM, Person, needs_browser
from tests.support.server import until


@needs_browser
@pytest.mark.xdist_group("browser")
def test_a_key_from_the_order_page_works_and_its_use_is_on_the_usage_page(server):
    from playwright.sync_api import sync_playwright

    codes_file = server.data_dir / "one-time-codes"

    class Codes:
        """The last one that was sent: (phone, code)."""

        def __getitem__(self, at):
            return codes_file.read_text().splitlines()[at].split()[1:]

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        person = Person(browser, f"http://{server.host}:{server.port}")
        person.go("/")
        person.tap("button", "选择: 中国电信轻享版")
        person.tap("link", "登录后订购")
        person.sign_in(Codes(), "138 2222 5555")
        person.looks_right(chinese=True)
        person.tap("button", "确认订购（¥9.90）")
        key = re.search(r"twk_[a-z]+_[0-9A-Za-z]{36}", person.text()).group()
        status, body, _ = server.chat(key)
        assert status == 200, body
        subscriber = server.services.subscriptions.find("+8613822225555")
        (record,) = server.usage(subscriber, 1)

        def seen():
            person.go("/usage")
            return record["model"] in person.text()

        until(seen, what="the request on the usage page")
        person.looks_right(chinese=True)
        person.go("/nothing")
        assert person.page.get_by_role("heading", name="没有这个页面").count() == 1
        assert [c for c in person.complaints if "404" not in c] == []
        person.context.close()
        browser.close()
