"""From the shop to a request: ordered on the page of a running server, used at its gateway, seen on the usage page."""

import http.client
import re

import pytest

from tests.pages.person import CHROMIUM, Person, needs_browser
from tests.support.server import until
from tokenworks.pages.events import STREAMS_OF_ONE_MAX


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


def test_events_of_a_page_come_through_the_gateway_as_they_happen(server):
    """`/style/events` of a dev environment sends the time once a second; an answer that were relayed whole would come after minutes."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request("GET", "/style/events", headers={"accept": "text/html, text/event-stream"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer.headers["transfer-encoding"] == "chunked" and answer.headers["x-request-id"]
    assert answer.readline() == b"retry: 3000\n"
    times = []
    while len(times) < 2:
        line = answer.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            times.append(line)
    assert times[0] < times[1] or times[1] < b"data: 00:01"
    connection.close()
    # The place among the streams is given back: one after the other, more can be opened than at once.
    for _ in range(STREAMS_OF_ONE_MAX + 1):
        until(lambda: opened(server) == 200, what="a place for a stream")


def opened(server):
    """The status of a stream that is opened and closed."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request("GET", "/style/events", headers={"accept": "text/event-stream"})
    status = connection.getresponse().status
    connection.close()
    return status
