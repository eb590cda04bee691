import re

import pytest

from tokenworks.catalog import (
    INPUT_CLASSES,
    TOKEN_CLASSES,
    CatalogueFaulty,
    Counts,
    Weights,
    read_catalogue,
    seed_catalogue,
    weights_of,
)
from tokenworks.catalog.model import Service, canonical

GOOD = """catalogue: test
rate_cards:
  - id: flat
    effective_from: 2026-01-01T00:00:00+08:00
    source: test
    rates:
      - {model_class: standard, models: ["*"], fresh_input: 1000, cached_input: 1000, cache_write: 1000, audio_input: 1000, output: 1000, reasoning: 1000, audio_output: 1000}
offerings:
  - id: plan
    name: Plan
    name_zh: 套餐
    carrier: test
    kind: plan
    audiences: [person]
    price: "9.9"
    cycle: calendar_month
    rate_card: flat
    buckets:
      - {unit: token, quantity: 1000}
    source: test
"""


def test_a_good_file_is_read():
    assert read_catalogue(GOOD, "good.yaml").offerings[0].id == "plan"


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('price: "9.9"', "price: 9.9", 15, "decimal in quotes"),
        ('price: "9.9"', 'price: "9.9999999999"', 15, "at most 9 decimals"),
        ("quantity: 1000", "quantity: 1000.5", 19, "valid integer"),
        ("quantity: 1000", "quantity: -1", 19, "greater than 0"),
        ("rate_card: flat", "rate_card: other", 17, "names no rate card"),
        ("kind: plan", "kind: plan\n    colour: red", 14, "Extra inputs"),
        ("kind: plan", "kind: plan\n    kind: trial", 14, "there twice"),
        ("cycle: calendar_month", "cycle: once", 9, "a plan renews"),
        ("effective_from: 2026-01-01T00:00:00+08:00", "effective_from: 2026-01-01", 4, "needs its zone"),
        (
            "{unit: token, quantity: 1000}",
            "{unit: prompt, quantity: 10, window: 5h}",
            None,
            "must count requests, and no tokens",
        ),
        ("output: 1000,", "output: 1.5,", 7, "valid integer"),
        ("    source: test\n    rates", "    source: [\n    rates", 7, "expected"),
    ],
)
def test_a_faulty_file_is_refused_with_line_and_reason(old, new, line, reason):
    text = GOOD.replace(old, new)
    assert text != GOOD
    with pytest.raises(CatalogueFaulty) as caught:
        read_catalogue(text, "bad.yaml")
    if line is not None:
        assert str(caught.value).startswith(f"bad.yaml:{line}:"), str(caught.value)
    assert reason in str(caught.value)


def test_the_seed_has_the_tariffs_with_their_sources():
    offerings = {o.id: o for o in seed_catalogue().offerings}
    expected = {
        "ctc-light": ("9.9", 10_000_000), "ctc-standard": ("29.9", 40_000_000), "ctc-premium": ("49.9", 80_000_000),
        "ctc-basic": ("39.9", 15_000_000), "ctc-professional": ("159.9", 70_000_000), "ctc-flagship": ("299.9", 150_000_000),
        "shanghai-telecom-payg": ("1", 250_000), "shanghai-mobile-payg": ("1", 400_000), "unicom-lite": ("15", 6_000_000),
        "unicom-pro": ("30", 12_000_000), "unicom-max": ("45", 18_000_000), "sample-trial": ("0", 10_000),
    }  # fmt: skip
    for id_, (price, quantity) in expected.items():
        assert (offerings[id_].price, offerings[id_].buckets[0].quantity) == (price, quantity)
    assert all(o.source for o in offerings.values())
    assert "price" in offerings["sample-trial"].samples
    assert {o.id for o in offerings.values() if o.status == "in_study"} == {"sample-study"}
    # Other sellers' tariffs are there for comparison, and every trial is to be had once.
    others = {o.id for o in offerings.values() if o.status == "comparison"}
    assert others == {o.id for o in offerings.values() if o.carrier in {"Tencent Cloud", "Huawei Cloud"}}
    assert all(o.per_subscriber_max == 1 for o in offerings.values() if o.kind == "trial")


@pytest.mark.parametrize(
    ("buckets", "reason"),
    [
        ("[{unit: prompt, quantity: 9, window: 5h}, {unit: prompt, quantity: 8, window: 5h}]", "a window is there once"),
        ("[{unit: prompt, quantity: 9, window: 5h}, {unit: call, quantity: 8, window: week}]", "of one unit"),
        ("[{unit: prompt, quantity: 9, window: 5h}, {unit: prompt, quantity: 8}]", "all have one"),
        ("[{unit: token, quantity: 9, window: 5h}]", "counts calls or prompts"),
    ],
)  # fmt: skip
def test_windows_that_make_no_sense_are_refused(buckets, reason):
    text = GOOD.replace("      - {unit: token, quantity: 1000}", f"      {buckets}")
    assert text != GOOD
    with pytest.raises(CatalogueFaulty, match=reason):
        read_catalogue(text, "bad.yaml")


def test_what_a_cycle_brings_and_what_limits_it_beside():
    offerings = {o.id: o for o in seed_catalogue().offerings}
    tianyi = offerings["tianyi-coding-lite"]
    assert [(b.quantity, b.window) for b in tianyi.cycle_buckets()] == [(1600, "month")]
    assert [(b.quantity, b.window_s) for b in tianyi.window_buckets()] == [(80, 18_000), (400, 604_800)]
    # Where windows alone say how much, the month brings the most that they let through.
    (bought,) = offerings["mobile-coding-lite"].cycle_buckets()
    assert bought.quantity == 1200 * 150
    assert bought.window is None
    assert offerings["ctc-light"].window_buckets() == []


def versions(*periods):
    """GOOD with its offering in several versions: (price, valid_from, valid_until)."""
    head, _, body = GOOD.partition("offerings:\n")
    made = ""
    for price, begin, end in periods:
        times = "".join(
            f"    {name}: {at}\n" for name, at in (("valid_from", begin), ("valid_until", end)) if at
        )
        made += re.sub(r'    price: "[^"]*"\n', f'    price: "{price}"\n{times}', body)
    return f"{head}offerings:\n{made}"


MAY, JUNE, JULY = (f"2027-0{month}-01T00:00:00+08:00" for month in (5, 6, 7))


@pytest.mark.parametrize(
    ("periods", "reason"),
    [
        ([("1", None, MAY), ("2", JUNE, None)], "there is a gap: no version"),
        ([("1", None, JUNE), ("2", MAY, None)], "two versions"),
        ([("1", None, None), ("2", MAY, None)], "two versions"),
        ([("1", MAY, JUNE), ("2", MAY, JULY)], "there twice"),
        ([("1", JUNE, MAY)], "valid_from is before valid_until"),
    ],
)
def test_a_tariff_file_with_a_gap_or_an_overlap_is_refused(periods, reason):
    with pytest.raises(CatalogueFaulty, match=reason):
        read_catalogue(versions(*periods), "bad.yaml")


def test_a_tariff_change_is_a_new_version_from_a_date(services, clock):
    from datetime import timedelta

    from tokenworks.catalog import OfferingNotActive

    now = clock.now()
    change, end = now + timedelta(days=10), now + timedelta(days=20)
    text = versions(("1", None, change.isoformat()), ("2", change.isoformat(), end.isoformat()))
    loaded = read_catalogue(text, "new.yaml")
    assert services.offerings.load(loaded) == 2
    assert services.offerings.load(loaded) == 0
    id_ = loaded.offerings[0].id
    subscriber = services.subscriptions.register("+8613800000001")
    services.orders.place(subscriber, id_)
    assert services.offerings.on_sale(id_).offering.price == "1"
    clock.move(timedelta(days=10))
    assert services.offerings.on_sale(id_).offering.price == "2"
    assert [s.offering.price for s in services.offerings.all() if s.offering.id == id_] == ["2"]
    services.orders.place(subscriber, id_, confirm=True)
    clock.move(timedelta(days=10))
    with pytest.raises(OfferingNotActive):
        services.orders.place(subscriber, id_)
    # What was sold keeps its version, also when its months renew.
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    prices = {c.price_nano // 10**9 for c in services.charges.of_subscriber(subscriber.subscriber_id)}
    assert prices == {1, 2}
    per_product = {}
    for charge in services.charges.of_subscriber(subscriber.subscriber_id):
        per_product.setdefault(charge.product_id, set()).add(charge.price_nano)
    assert sorted(per_product.values(), key=min) == [{10**9}, {2 * 10**9}]


def test_an_offering_that_was_stored_before_it_learned_a_field_keeps_its_version(services):
    """The version is the hash of the text as it was stored, not as it would be written today."""
    import json

    from tokenworks.catalog.model import content_version

    row = services.connection.execute(
        "SELECT rate_version, content FROM offering WHERE offering_id = 'ctc-light'"
    ).fetchone()
    old = {
        name: value
        for name, value in json.loads(row[1]).items()
        if name not in {"rollover", "parts", "vat_percent"}
    }
    text = json.dumps(old)
    version = content_version("offering", text, row[0])
    services.connection.execute(
        "INSERT INTO offering (offering_version, offering_id, rate_version, content) VALUES (%s, 'ctc-light', %s, %s)",
        (version, row[0], text),
    )
    assert services.offerings.sold(version).offering.vat_percent == 6


def test_a_card_may_say_what_an_hours_cache_write_costs():
    one = read_catalogue(GOOD, "good.yaml").rate_cards[0]
    said = read_catalogue(GOOD.replace("cache_write: 1000,", "cache_write: 1250, cache_write_1h: 2000,"), "g.yaml").rate_cards[0]  # fmt: skip
    assert one.rates[0].weights().cache_write_1h == one.rates[0].weights().cache_write == 1000
    assert said.rates[0].weights().cache_write_1h == 2000
    assert said.rates[0].weights().most_input == 2000
    # What does not say keeps its text and its version; what says has another one.
    assert "cache_write_1h" not in canonical(one)
    assert '"cache_write_1h":2000' in canonical(said)
    assert type(said).model_validate_json(canonical(said)) == said


def test_the_shipped_cards_keep_the_versions_that_were_sold():
    assert {card.id: card.version() for card in seed_catalogue().rate_cards} == {
        "one-price": "rate-bff6bc596c124788a6480157b0f1339d",
        "per-call": "rate-2fd62c04a6a2675b068c8b2133c3d3c5",
        "unicom-credits": "rate-60d817b60417df29ffaadc31f0c76835",
        "weighted-sample": "rate-81c840b046658eb4c2c97678d2330299",
    }


def test_classes_are_in_one_order_everywhere():
    assert Counts._fields == TOKEN_CLASSES
    assert Weights._fields == ("request", *TOKEN_CLASSES)
    counts = Counts(*range(1, 9))
    assert counts.input_tokens == sum(getattr(counts, name) for name in INPUT_CLASSES)
    assert counts.input_tokens + counts.output_tokens == counts.total == 36
    assert weights_of([5, 1, 2, 3, 4, 6, 7, 8]) == Weights(5, 1, 2, 3, 4, 6, 7, 8, 3)
    assert weights_of([5, 1, 2, 3, 4, 6, 7, 8, 9]) == Weights(5, 1, 2, 3, 4, 6, 7, 8, 9)


def test_an_offering_that_uses_no_fallbacks_keeps_its_text():
    text = canonical(Service())
    assert "fallback" not in text and Service.model_validate_json(text) == Service()
    used = Service(fallback_models=("a", "b"), fallback_after_moderation=False)
    assert Service.model_validate_json(canonical(used)) == used
    assert Service.model_validate_json(used.model_dump_json(exclude_defaults=True)) == used
