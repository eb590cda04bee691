"""A catalogue file is YAML 1.2, and all of its faults are named at once, each with its line."""

from decimal import Decimal

import pytest
import yaml

from tests.catalog.test_file import GOOD
from tokenworks.catalog import CatalogueFaulty, read_catalogue
from tokenworks.catalog.core_yaml import CoreLoader, scalar


def value(text):
    return scalar(yaml.compose(text, Loader=CoreLoader))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("010", 10), ("0o17", 15), ("0x1F", 31), ("-3", -3), ("+7", 7), ("08", 8), ("1_000", "1_000"), ("1:30", "1:30"),
        ("190:20:30", "190:20:30"), ("0b11", "0b11"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("true", True), ("False", False), ("TRUE", True), ("tRue", "tRue"), ("~", None), ("null", None), ("", None),
        ("2026-01-01", "2026-01-01"), ("1.5", Decimal("1.5")), ("1e3", Decimal(1000)), ("1.", Decimal(1)), (".5", Decimal("0.5")),
        ("'7'", "7"), ("=", "="), ("<<", "<<"), ("6e", "6e"), ("٣", "٣"),
    ],
)  # fmt: skip
def test_scalars_are_what_the_core_schema_says(text, right):
    if text == "":
        node = yaml.compose("a:", Loader=CoreLoader).value[0][1]
        assert scalar(node) is None
        return
    found = value(text)
    assert (found, type(found)) == (right, type(right))


@pytest.mark.parametrize(
    "text",
    [".inf", "-.INF", ".nan", "!!int '08'", "!!timestamp 2026-01-01", "!!binary aGk=", "!own x", "9" * 5000],
)
def test_what_is_no_plain_value_is_refused(text):
    with pytest.raises(ValueError, match=r"tag|finite|digits"):
        value(text)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("quantity: 1000", "quantity: 1_000", "19: offerings.0.buckets.0.quantity: Input should be a valid integer"),
        ("quantity: 1000", "quantity: 1:30", "valid integer"),
        ("effective_from: 2026-01-01T00:00:00+08:00", "effective_from: 2026", "a time is written as"),
        ("effective_from: 2026-01-01T00:00:00+08:00", "effective_from: '1767225600'", "a time is written as"),
        ("effective_from: 2026-01-01T00:00:00+08:00", "effective_from: 2026-02-30T00:00:00+08:00", "4: rate_cards.0.effective_from"),
        ("    source: test\n    rates", "    source: test\n    sample: yes\n    rates", "valid boolean"),
        ("quantity: 1000", "quantity: &a 1000, priority: *a", "alias"),
        ("quantity: 1000", "quantity: !!int '1000'", "19: a tag"),
        ("kind: plan", "kind: plan\n    ? [a, b]\n    : c", "a plain word"),
        ("name: Plan", 'name: "Pl\\0an"', "10: a text has"),
    ],
)  # fmt: skip
def test_a_file_that_another_reader_would_understand_otherwise_is_refused(old, new, reason):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(CatalogueFaulty) as caught:
        read_catalogue(text, "bad.yaml")
    assert reason in str(caught.value)


def test_leading_zeros_are_decimal():
    text = GOOD.replace("quantity: 1000", "quantity: 0100")
    assert read_catalogue(text, "good.yaml").offerings[0].buckets[0].quantity == 100


def test_nesting_without_an_end_is_refused():
    for text in ("[" * 5000, "a: " * 50 + "b", "{a: " * 3000):
        with pytest.raises(CatalogueFaulty):
            read_catalogue(text, "bad.yaml")


def test_all_faults_are_named_at_once_with_their_lines():
    text = (
        GOOD.replace("output: 1000,", "output: 1.5,")
        .replace('price: "9.9"', "price: 9.9")
        .replace("quantity: 1000", "quantity: -1")
        + """  - id: second
    name: Second
    name_zh: 第二
    carrier: test
    kind: add_on
    kind: trial
    audiences: [person]
    price: "1"
    cycle: once
    rate_card: nowhere
    requires: [nothing]
    deliveries: [network]
    source: test
  - id: third
    name: Third
    name_zh: 第三
    carrier: test
    kind: plan
    audiences: [person]
    price: "2"
    cycle: once
    validity_days: 3
    rate_card: nowhere
    requires: [nothing]
    rollover: {quantity_max: 1}
    buckets: [{unit: call, quantity: 1, window: 5h}]
    source: test
"""
    )
    with pytest.raises(CatalogueFaulty) as caught:
        read_catalogue(text, "bad.yaml")
    lines = str(caught.value).splitlines()
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)
    for line, reason in (
        (7, "rates.0.output: Input should be a valid integer"),
        (15, "decimal in quotes"),
        (19, "greater than 0"),
        (26, "kind is there twice"),
        (21, "an add-on, and nothing else"),
        (34, "a plan renews"),
        (34, "rollover goes with a plan whose buckets have no windows"),
    ):
        assert any(text.startswith(f"bad.yaml:{line}: ") and reason in text for text in lines), (
            line,
            reason,
            lines,
        )
    # Nothing is said of what is right.
    assert not any("at least 1 item" in text for text in lines)


def test_what_does_not_fit_together_is_named_beside_faults_of_others():
    text = GOOD.replace('price: "9.9"', "price: 9.9") + GOOD[GOOD.index("  - id: plan") :].replace(
        "id: plan", "id: other"
    ).replace("rate_card: flat", "rate_card: nowhere\n    requires: [nothing]")
    with pytest.raises(CatalogueFaulty) as caught:
        read_catalogue(text, "bad.yaml")
    reasons = str(caught.value).splitlines()
    assert len(reasons) == 3
    assert "names no rate card of this file: nowhere" in str(caught.value)
    assert "names nothing, which is not in this catalogue" in str(caught.value)


def test_so_many_faults_are_named_and_the_rest_is_counted():
    line = "      - {unit: token, quantity: -1}\n"
    text = GOOD.replace("      - {unit: token, quantity: 1000}\n", line * 19 + line)
    many = text + "".join(
        GOOD[GOOD.index("  - id: plan") :]
        .replace("id: plan", f"id: plan-{at}")
        .replace("      - {unit: token, quantity: 1000}\n", line * 20)
        for at in range(6)
    )
    with pytest.raises(CatalogueFaulty) as caught:
        read_catalogue(many, "bad.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "bad.yaml: and 40 more"
