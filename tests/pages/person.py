"""A person with a phone: a real Chromium, 390 px wide."""

import re
import shutil

import pytest

PHONE = {"width": 390, "height": 844}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


class Person:
    """Counts what is tapped, and keeps what the browser complains of."""

    def __init__(self, browser, base, locale="zh-CN", **more):
        self.context = browser.new_context(
            viewport=PHONE, locale=locale, has_touch=True, is_mobile=True, **more
        )
        self.page = self.context.new_page()
        self.base, self.taps, self.complaints = base, 0, []
        self.words = (
            ("获取验证码", "继续", "手机号", "验证码", "退出登录")
            if locale.startswith("zh")
            else ("Send me a code", "Continue", "Phone number", "Code", "Sign out")
        )
        self.page.on(
            # The status 401 of a sign-in form is no fault of a page.
            "console",
            lambda m: (
                self.complaints.append(m.text)
                if m.type in {"error", "warning"} and "status of 401" not in m.text
                else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def go(self, path):
        self.page.goto(self.base + path)

    def tap(self, role, name):
        """Tap, and wait for the page that follows: every button here sends a form."""
        with self.page.expect_navigation():
            self.page.get_by_role(role, name=name).first.tap()
        self.taps += 1

    def sign_in(self, codes, number="138 0000 0001"):
        send, go_on, identifier, code, out = self.words
        self.page.get_by_label(identifier).fill(number)
        self.tap("button", send)
        self.page.get_by_label(code, exact=True).wait_for()
        self.page.get_by_label(code, exact=True).fill(codes[-1][1])
        self.tap("button", go_on)
        self.page.get_by_role("button", name=out).wait_for()

    def fits(self):
        """Nothing is wider than the phone; what can be tapped is large enough (WCAG 2.2, 2.5.8: 24 px at least)."""
        assert self.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        small = self.page.evaluate(
            """[...document.querySelectorAll('a, button, summary, select, textarea, input:not([type=hidden])')].filter(e => {
                const r = e.getBoundingClientRect(); return r.width && r.left > -500 && (r.height < 24 || r.width < 24) && !e.closest('p')
            }).map(e => e.outerHTML)"""
        )
        assert small == [], small

    def accessible(self):
        """Every field has a label, every picture a name, headings in order, one main, a language."""
        problems = self.page.evaluate(
            """() => {
                const bad = [];
                for (const e of document.querySelectorAll('input:not([type=hidden]), select, textarea')) if (!e.labels.length) bad.push('no label: ' + e.outerHTML);
                for (const e of document.querySelectorAll('svg[role=img]')) if (!e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')) bad.push('no name');
                for (const e of document.querySelectorAll('button, a')) if (!(e.getAttribute('aria-label') || e.textContent).trim()) bad.push('nothing said: ' + e.outerHTML);
                if (document.querySelectorAll('main').length !== 1 || document.querySelectorAll('h1').length !== 1) bad.push('main or h1');
                if (!document.documentElement.lang) bad.push('no language');
                if (!document.title) bad.push('no title');
                const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
                if (new Set(ids).size !== ids.length) bad.push('an id twice');
                for (const e of document.querySelectorAll('[aria-describedby], [aria-labelledby]'))
                    for (const name of ['aria-describedby', 'aria-labelledby'])
                        if (e.hasAttribute(name) && !ids.includes(e.getAttribute(name))) bad.push('describes nothing: ' + e.outerHTML);
                return bad; }"""
        )
        assert problems == []
        contrast = self.page.evaluate(
            """() => {
                const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
                const paper = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)') && c !== 'transparent') return c; } return 'rgb(255, 255, 255)'; };
                const bad = [];
                for (const e of document.querySelectorAll('body *')) {
                    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || e.closest('svg')) continue;
                    const [a, b] = [light(getComputedStyle(e).color), light(paper(e))].sort((x, y) => y - x);
                    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(e.outerHTML.slice(0, 80));
                } return bad; }"""
        )
        assert contrast == []  # WCAG 2.2, 1.4.3

    def text(self):
        """What can be read on the page, closed details included."""
        return self.page.evaluate("document.querySelector('main').textContent").replace("\xa0", " ")

    def looks_right(self, chinese):
        """Fits, can be read by everybody, and says nothing that is not for people."""
        self.fits()
        self.accessible()
        shown = self.page.evaluate("document.querySelector('main').innerText")
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", shown), "an id"
        assert not re.search(r"¥[0-9,]+\.(?![0-9]{2}(?![0-9]))", shown), "an amount that is not in fen"
        assert not re.search(r"\{[a-z_]+\}|None|Undefined", shown), "a word that is not filled in"
        assert "tokenworks " not in shown, "a command"
        if chinese:
            # Brands, models and units may be Latin; sentences may not.
            assert not re.search(r"[A-Za-z]+ [a-z]+ [a-z]+ [a-z]+", shown), "not translated"
        else:
            assert not re.search(r"[\u3000-\u303f\uff00-\uffef]", shown), "not translated"
