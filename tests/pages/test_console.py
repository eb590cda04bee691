"""The frame and the parts of the console in a real Chromium: each page on a phone and on a desk, in both languages, light and dark."""

import itertools
import re

import pytest

from tests.pages.person import Person, needs_browser
from tests.support.axe import found_by_axe

pytestmark = [pytest.mark.xdist_group("browser"), needs_browser]
SIZES = ({"width": 390, "height": 844}, {"width": 1280, "height": 800})
LOOKS = list(itertools.product(SIZES, ("zh-CN", "en-GB"), ("light", "dark")))
PAGES = (
    "/", "/order", "/order?offering=ctc-light", "/plans", "/usage", "/keys", "/family", "/bills", "/privacy", "/terms", "/sessions",
    "/sign-in", "/account/suspend", "/products/{product}/change", "/products/{product}/cancel", "/nothing", "/style",
)  # fmt: skip


@pytest.fixture
def household(services, spender):
    """An owner with a plan that is used, a key, and a member."""
    subscriber = services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")
    product = services.orders.place(subscriber, "ctc-light").product_id
    spender.spend(subscriber.account_id, 9_500_000)
    services.members.invite(subscriber, "+8613800000002", "Mei", cap_tokens=10**6)
    owner = services.subscriptions.owner_of(subscriber)
    services.keys.issue(account_id=subscriber.account_id, member_id=owner, name="laptop")
    return subscriber, product


def visits(looks_of_each):
    """(look, the pages seen with it): each page with some of the looks, so that each look and each page is there."""
    seen = {n: [] for n in range(len(LOOKS))}
    for at, path in enumerate(PAGES):
        for turn in range(looks_of_each):
            seen[(at + turn * 3) % len(LOOKS)].append(path)
    return [(LOOKS[n], paths) for n, paths in seen.items()]


def look_at_pages(browser, base, services, household, signed_in, looks_of_each):
    subscriber, product = household
    wrong = []
    text = signed_in(subscriber)["authorization"].split()[1]
    for (size, locale, theme), paths in visits(looks_of_each):
        context = browser.new_context(viewport=size, locale=locale, color_scheme=theme)
        context.add_cookies(
            [
                {"name": "tokenworks_session", "value": text, "url": base},
                {"name": "tokenworks_language", "value": locale[:2], "url": base},
            ]
        )
        page, complaints = context.new_page(), []
        page.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for path in paths:
            at = (path, size["width"], locale, theme)
            page.goto(base + path.format(product=product))
            page.wait_for_function("document.querySelectorAll('figure.chart:not([data-drawn])').length === 0")
            if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
                wrong.append((at, "wider than the screen"))
            wrong += [(at, found) for found in found_by_axe(page)]
        wrong += [(locale, text) for text in complaints if "404" not in text]
        context.close()
    assert wrong == []


def test_no_barrier_on_any_page(browser, base, services, household, signed_in):
    look_at_pages(browser, base, services, household, signed_in, 1)


@pytest.mark.nightly
def test_no_barrier_on_any_page_in_any_look(browser, base, services, household, signed_in):
    look_at_pages(browser, base, services, household, signed_in, len(LOOKS))


@pytest.fixture
def desk(browser, base):
    made = Person(browser, base, "en-GB")
    made.page.set_viewport_size(SIZES[1])
    yield made
    assert made.complaints == []
    made.context.close()


def test_parts_of_a_page_are_loaded_and_the_page_goes_on_without_a_script(desk, browser, base):
    page = desk.page
    desk.go("/style")
    table = page.locator("#samples")
    assert "Rows 1 to 25 of 10000" in table.inner_text()
    page.evaluate("window.here = true")
    table.get_by_role("link", name="Next").click()
    page.get_by_text("Rows 26 to 50 of 10000").wait_for()
    assert page.evaluate("window.here") and "page=2" in page.url
    table.get_by_label("Model").select_option("glm-5")
    page.get_by_text("Rows 1 to 25 of 2500").wait_for()
    table.get_by_role("link", name="Tokens").click()
    page.locator("#samples th[aria-sort=ascending]", has_text="Tokens").wait_for()
    shown = [int(t.replace(",", "")) for t in page.locator("#samples td.num").all_inner_texts()]
    assert shown == sorted(shown) and len(shown) == 25 and page.evaluate("window.here")
    with page.expect_download() as download:
        table.get_by_role("link", name="Download CSV").click()
    lines = download.value.path().read_text("utf-8-sig").splitlines()
    assert len(lines) == 26 and [int(line.split(",")[2]) for line in lines[1:]] == shown
    # The drawer has the keyboard, and gives it back.
    page.get_by_role("link", name="Details").click()
    page.get_by_role("dialog").get_by_text("1,024").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    # Events arrive.
    page.wait_for_function(r"/^\d\d:\d\d:\d\d$/.test(document.getElementById('clock').textContent)")
    # Without a script, the same links and forms lead to whole pages, and a chart is a table.
    context = browser.new_context(java_script_enabled=False, locale="en-GB")
    plain = context.new_page()
    plain.goto(f"{base}/style")
    plain.locator("#samples").get_by_role("link", name="Next").click()
    assert plain.get_by_text("Rows 26 to 50 of 10000").is_visible()
    plain.locator("#samples").get_by_label("Model").select_option("glm-5")
    plain.locator("#samples").get_by_role("button", name="Filter").click()
    assert plain.get_by_text("Rows 1 to 25 of 2500").is_visible() and plain.locator("h1").count() == 1
    plain.locator("#bars summary").click()
    assert plain.locator("#bars table").get_by_text("05-30").is_visible()
    context.close()


def test_the_appearance_is_the_devices_or_the_chosen_one(desk):
    page = desk.page
    paper = "getComputedStyle(document.body).backgroundColor"
    desk.go("/order")
    light = page.evaluate(paper)
    page.get_by_role("button", name="Dark").click()
    page.wait_for_function(f"{paper} !== '{light}'")
    dark = page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Light", exact=True).click()
    page.wait_for_function(f"{paper} === '{light}'")
    page.get_by_role("button", name="As the device").click()
    page.wait_for_function(f"{paper} === '{dark}'")
    assert re.fullmatch(r".*/order", page.url)


def test_a_chart_draws_what_its_table_says_and_no_attribute_is_code(desk):
    page = desk.page
    desk.go("/style")
    page.wait_for_function("document.querySelectorAll('figure.chart[data-drawn] canvas').length === 2")
    said = page.evaluate("JSON.parse(document.querySelector('#bars script').textContent).series[0].values")
    page.locator("#bars summary").click()
    shown = [int(t.replace(",", "")) for t in page.locator("#bars table:not(.u-legend) td").all_inner_texts()]
    assert shown == said[::-1] and len(said) == 30
    # A text that reached an attribute of htmx would still not run.
    page.evaluate(
        """() => { const made = document.createElement('button'); made.id = 'bad'; made.textContent = 'x';
            made.setAttribute('hx-on:click', 'window.ran = true'); document.querySelector('main').append(made); htmx.process(made); made.click(); }"""
    )
    assert page.evaluate("window.ran") is None
    desk.complaints = [
        c for c in desk.complaints if "no code in attributes" not in c and "unsafe-eval" not in c
    ]


def test_by_keyboard_alone_through_the_frame(desk):
    page = desk.page
    desk.go("/style")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    # Whatever can be used is reached, in the order of the page, and shows that it has the focus.
    reached = page.evaluate(
        """() => [...document.querySelectorAll('main a, main button:not([disabled]), main summary, main input:not([type=hidden]), main select, main textarea')]
            .filter(e => e.offsetParent !== null && e.tabIndex < 0).map(e => e.outerHTML)"""
    )
    assert reached == []
    page.locator("#samples").get_by_role("link", name="Next").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.get_by_text("Rows 26 to 50 of 10000").wait_for()
