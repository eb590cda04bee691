"""A page, HTTP and the command say the same figures of an operation, which are what it costs then."""

import contextlib
import re
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import get_args

import pytest
from click.testing import CliRunner

from tokenworks.catalog import Audience, seed_catalogue
from tokenworks.cli.base import Context
from tokenworks.cli.quote import order_quote
from tokenworks.kernel import format_money_exact
from tokenworks.pages.phrases import yuan
from tokenworks.subscriptions import NeedsFirst

M = 1_000_000
ON_SALE = [o.id for o in seed_catalogue().offerings if o.status == "active"]


class Here(Context):
    """A command's surroundings, on the test's own works."""

    def __init__(self, services):
        super().__init__(None)
        self._works = services

    @contextlib.contextmanager
    def services(self):
        yield self._works


@pytest.fixture
def clock(clock):
    clock.move(timedelta(days=10, hours=7, minutes=13, seconds=11))
    return clock


@pytest.fixture
def person(services, clock):
    """Whom every offering is for."""
    return services.subscriptions.register(
        "+8613800000001", "Li", broadband="sh87654321",
        audiences=list(get_args(Audience)),
    )  # fmt: skip


@pytest.fixture
def doors(services, client, signed_in, person):
    """What each door says of an operation: (HTTP, command as JSON, command, page)."""

    def ask(body, arguments, page):
        headers = signed_in(person)
        client.cookies.set("tokenworks_session", headers["authorization"].split()[1])
        answer = client.post("/api/quotes", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        made = CliRunner().invoke(order_quote, [*arguments, "--exact", "--json"], obj=Here(services))
        assert made.exit_code == 0, made.output
        text = CliRunner().invoke(order_quote, [*arguments, "--exact"], obj=Here(services))
        shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(page).text))
        return answer.json(), made, text.output, shown

    return ask


@pytest.fixture
def apart(services, clock):
    """Each case on the same database at the same time, rolled back."""
    began = clock.now()

    def run(cases, act):
        for case in cases:
            clock.move(began - clock.now())
            with services.connection.transaction(force_rollback=True):
                try:
                    act(*case)
                except AssertionError as error:
                    raise AssertionError(f"{case}: {error}") from None

    return run


def nano(money):
    return round(money["value"] * 10**9)


def check(found, quote):
    """HTTP and command have the quote's figures to the nano."""
    over_http, as_json, text, _ = found
    assert nano(over_http["amount"]) == quote.amount_nano and nano(over_http["now"]) == quote.now_nano
    assert over_http.get("waits_for") == quote.waits_for and over_http["at_most"] == quote.at_most
    assert f'"amount_nano": {quote.amount_nano}' in as_json.output
    assert f'"now_nano": {quote.now_nano}' in as_json.output
    assert f"{format_money_exact(abs(quote.amount_nano))} CNY" in text
    if quote.renewal_nano is not None:
        assert nano(over_http["renewal"]) == quote.renewal_nano
        assert f'"renewal_nano": {quote.renewal_nano}' in as_json.output


def had(services, person, offering):
    """What an offering goes with is there."""
    try:
        services.quotes.place(person, offering)
    except NeedsFirst as first:
        services.orders.place(person, first.requires[0])


def deliver(services, order):
    for work in services.orders.work_orders():
        services.orders.answer(work.work_order_id, done=True)
    return services.orders.find(order.order_id)[0]


def test_an_order_costs_at_every_door_what_it_costs(services, person, doors, apart):
    apart(
        [(one, contract) for one in ON_SALE for contract in (None, "7.77")],
        partial(_order, services, person, doors),
    )


def _order(services, person, doors, offering, contract):
    if contract is not None:
        services.subscriptions.set_contract_price(person, offering, contract, "C-1")
    had(services, person, offering)
    quote = services.quotes.place(person, offering)
    place = ["--subscriber", str(person.subscriber_id), "--offering", offering]
    found = doors({"action": "add", "offering": offering}, place, f"/order?offering={offering}")
    check(found, quote)
    page = found[-1]
    if quote.waits_for is None:
        assert f"今天收取 {yuan(quote.now_nano)}" in page
    else:
        assert (
            f"开通后收取 {yuan(quote.later_nano)}" in page
            or f"其余 {yuan(quote.later_nano)} 开通后收取" in page
        )
    if quote.now_nano:
        assert f"确认订购（{yuan(quote.now_nano)}）" in page
    if quote.renewal_nano is not None:
        assert f"自动续订，{yuan(quote.renewal_nano)}" in page
    before = services.charges.receivable(person.account_id)
    order = services.orders.place(person, offering)
    assert services.charges.receivable(person.account_id) - before == quote.now_nano
    deliver(services, order)
    assert services.charges.receivable(person.account_id) - before == quote.amount_nano


def test_an_end_gives_back_at_every_door_what_it_gives(services, person, doors, clock, spender, apart):
    """Also while something of it is granted."""
    cases = [(one, granted) for one in ON_SALE for granted in (False, True)]
    apart(cases, partial(_end, services, person, doors, clock, spender))


def _end(services, person, doors, clock, spender, offering, granted):
    had(services, person, offering)
    order = deliver(services, services.orders.place(person, offering))
    clock.move(timedelta(days=3, seconds=17))
    bucket = next((b for b in services.ledger.buckets(person.account_id) if b.kind == "balance" and b.product_id == order.product_id and not b.window_s), None)  # fmt: skip
    opened = spender.open(person.account_id, bucket, M) if granted and bucket is not None else None
    quote = services.quotes.cancel(order.product_id)
    product = str(order.product_id)
    found = doors({"action": "delete", "product": product}, ["--action", "cancel", "--product", product], f"/products/{product}/cancel")  # fmt: skip
    check(found, quote)
    page = found[-1]
    if not quote.amount_nano:
        assert "已收取的费用不予退还" in page
    elif quote.at_most:
        assert f"最多 {yuan(-quote.amount_nano)}，在下期账单中抵扣" in page
    else:
        assert f"退还 {yuan(-quote.amount_nano)}，在下期账单中抵扣" in page
    before = services.charges.receivable(person.account_id)
    services.orders.cancel(order.product_id)
    assert services.charges.receivable(person.account_id) - before == quote.now_nano
    if opened is not None:
        spender.close(person.account_id, opened.grant_id)
        services.orders.finish_changes()
    assert services.charges.receivable(person.account_id) - before == quote.amount_nano


_PLANS = [o for o in seed_catalogue().offerings if o.status == "active" and o.kind == "plan"]
CHANGES = [
    pair
    for a, b in pairwise(sorted(_PLANS, key=lambda o: (o.carrier, o.cycle, o.price)))
    if (a.carrier, a.cycle) == (b.carrier, b.cycle)
    for pair in ((a.id, b.id), (b.id, a.id))
]


def test_a_change_costs_at_every_door_what_it_costs(services, person, doors, clock, apart):
    cases = [(*pair, when) for pair in CHANGES for when in ("now", "cycle_end")]
    apart(cases, partial(_change, services, person, doors, clock))


def _change(services, person, doors, clock, old, new, when):
    product = str(services.orders.place(person, old).product_id)
    clock.move(timedelta(days=3, seconds=17))
    quote = services.quotes.change(product, new, when)
    found = doors(
        {"action": "modify", "product": product, "offering": new, "at": when},
        ["--action", "change", "--product", product, "--offering", new, "--when", when],
        f"/products/{product}/change?offering={new}",
    )
    check(found, quote)
    page = found[-1]
    if when == "cycle_end":
        assert quote.amount_nano == 0 and f"按 {yuan(quote.renewal_nano)}/月 收费" in page
    else:
        word = "今天收取" if quote.now_nano > 0 else "退还"
        assert f"{word} {yuan(abs(quote.now_nano))}" in page
        assert f"按 {yuan(quote.renewal_nano)}/月 续订" in page
    before = services.charges.receivable(person.account_id)
    services.orders.change(product, new, when)
    assert services.charges.receivable(person.account_id) - before == quote.amount_nano


def test_going_on_costs_at_every_door_what_it_costs(services, person, doors, clock, apart):
    """In the cycle that is paid, and after its end."""
    plans = [o.id for o in seed_catalogue().offerings if o.status == "active" and o.kind == "plan"]
    apart(
        [(one, ended) for one in plans for ended in (False, True)],
        partial(_resume, services, person, doors, clock),
    )


def _resume(services, person, doors, clock, offering, ended):
    product = str(services.orders.place(person, offering).product_id)
    services.orders.suspend(product)
    if ended:
        clock.move(timedelta(days=67))
    quote = services.quotes.resume(product)
    found = doors({"action": "resume", "product": product}, ["--action", "resume", "--product", product], f"/products/{product}/resume")  # fmt: skip
    check(found, quote)
    assert (f"今天收取 {yuan(quote.amount_nano)}" if quote.amount_nano else "今天不收费") in found[-1]
    before = services.charges.receivable(person.account_id)
    services.orders.resume(product)
    assert services.charges.receivable(person.account_id) - before == quote.amount_nano
