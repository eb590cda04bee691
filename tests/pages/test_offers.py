"""The shop offers what an order takes, and a change what a change takes: by the rules of the order, asked before it."""

import re

import pytest

from tests.shop.tariffs import catalogue, plan
from tokenworks.kernel import TokenworksError
from tokenworks.pages.offers import AUDIENCES
from tokenworks.subscriptions import (
    BroadbandMissing,
    ConsentNeeded,
    NeedsFirst,
    RealNameNeeded,
    SubscriberNotActive,
)

# What a subscriber can do something about: the page of the offering says what.
TO_BE_DONE = (BroadbandMissing, ConsentNeeded, NeedsFirst, RealNameNeeded, SubscriberNotActive)


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


@pytest.fixture
def enter(client, signed_in):
    def sign_in(subscriber):
        client.cookies.set("tokenworks_session", signed_in(subscriber)["authorization"].split()[1])

    return sign_in


def chosen_on(page):
    """The ids that can be chosen on a page of offers."""
    return set(re.findall(r'name="offering" value="([a-z0-9-]+)"', page))


def in_the_shop(services, li):
    """What is on sale there: what is for enterprises and governments alone is sold by people."""
    return {
        sold.offering.id
        for sold in services.offerings.for_sale(li.audiences)
        if set(sold.offering.audiences) & set(AUDIENCES)
    }


def _accepts(services, li, offering):
    """Whether an order is taken, or waits for something that the subscriber can do."""
    try:
        with services.transaction(dry_run=True):
            services.orders.place(li, offering, confirm=True)
    except TO_BE_DONE:
        return True
    except TokenworksError:
        return False
    return True


def had_all(services, li):
    """One of each kind that is had once: a trial that has ended, an add-on, pay-as-you-go; and a plan."""
    for offering in ("sample-trial", "uplink-acceleration", "shanghai-mobile-payg", "ctc-light"):
        made = services.orders.place(li, offering)
        for work in services.orders.work_orders():
            services.orders.answer(work.work_order_id, done=True)
        if offering == "sample-trial":
            services.orders.cancel(made.product_id)


@pytest.mark.parametrize("prepare", [lambda services, li: None, had_all])
def test_what_the_shop_offers_an_order_takes(client, services, li, enter, prepare):
    prepare(services, li)
    enter(li)
    offered = chosen_on(client.get("/order").text)
    for_sale = in_the_shop(services, li)
    assert offered <= for_sale and len(offered) > 10
    for offering in for_sale:
        assert (offering in offered) == _accepts(services, li, offering), offering


def test_what_is_had_and_cannot_be_ordered_again_is_shown_as_had(client, services, li, enter):
    enter(li)
    before = chosen_on(client.get("/order").text)
    had_all(services, li)
    page = client.get("/order").text
    # The bundle has the add-on, which is delivered once.
    gone = {"sample-trial", "uplink-acceleration", "shanghai-mobile-payg", "sample-home-bundle"}
    assert before - chosen_on(page) == gone
    # A trial that has ended is not there any more; the others say that they are had.
    assert page.count('class="badge"') == 3
    # The address of one that is not offered says why it can't be had.
    assert "限次订购" in client.get("/order?offering=sample-trial").text


def test_a_change_offers_what_it_takes(client, services, li, enter):
    services.offerings.load(
        catalogue(
            plan("one", "1", "prorate"),
            plan("two", "2", "prorate"),
            plan("once", "3", "prorate").replace("cycle:", "per_subscriber_max: 1, cycle:"),
        )
    )
    services.orders.cancel(services.orders.place(li, "once").product_id)
    product = services.orders.place(li, "one").product_id
    enter(li)
    offered = chosen_on(client.get(f"/products/{product}/change").text)
    assert "two" in offered and not offered & {"one", "once"}
    for offering in in_the_shop(services, li):
        try:
            with services.transaction(dry_run=True):
                services.orders.change(product, offering, confirm=True)
            taken = True
        except TO_BE_DONE:
            taken = True
        except TokenworksError:
            taken = False
        assert (offering in offered) == taken, offering
