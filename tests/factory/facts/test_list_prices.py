"""List prices: exact decimals, dollars only at a declared rate, and which price counts."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory.facts.list_prices import (
    ListPrice,
    amount_per_million,
    paid_price,
    plain_decimal,
    price_of,
    price_text,
    source_date,
)

ORIGIN = {"source": "a page", "date": "stored copy, 2026-10-17 or later"}


def price(currency="CNY", region="cn", **fields):
    return ListPrice(currency=currency, region=region, **ORIGIN, **fields)


@pytest.mark.parametrize(
    ("per_token", "per_million"),
    [("0.0000004", "0.4"), ("4e-7", "0.4"), ("1.5E-07", "0.15"), ("0", "0"), ("-0", "0"), ("0.001", "1000"), ("1e-18", "0.000000000001")],
)  # fmt: skip
def test_a_price_per_token_is_exact_per_million(per_token, per_million):
    assert amount_per_million(Decimal(per_token)) == per_million


@pytest.mark.parametrize(
    "bad", ["-1", "-1e-9", "NaN", "Infinity", "0.00000029999999999999999", "1e-19", "1000", "1e999999999", "1e-999999999"]
)  # fmt: skip
def test_what_is_no_price_is_refused(bad):
    with pytest.raises(ValueError, match="a price"):
        amount_per_million(Decimal(bad))


@given(st.integers(0, 10**9), st.integers(-12, 0))
def test_no_decimal_is_lost_on_the_way(digits, exponent):
    per_million = Decimal(digits).scaleb(exponent)
    if per_million < 10**8:
        text = amount_per_million(per_million / 10**6)
        assert Decimal(text) == per_million and "E" not in text and text == plain_decimal(per_million)


def test_nano_yuan_per_token_are_rounded_up():
    paid = paid_price(price(input="8", cached_input="0.02", output="0.0001", cache_write="0"), None)
    assert (paid.fresh_input_nano, paid.cached_input_nano, paid.output_nano, paid.cache_write_nano) == (
        8000,
        20,
        1,
        0,
    )
    assert paid.reasoning_nano is None
    dollars = paid_price(price("USD", "intl", input="0.15", output="1"), "7.123456")
    assert (dollars.fresh_input_nano, dollars.output_nano) == (1069, 7124)


def test_dollars_count_only_at_a_declared_rate():
    dollars = price("USD", "intl", input="1", output="2")
    assert price_of((dollars,), None, None, None) is None
    assert price_of((dollars,), None, "intl", "7") is dollars
    with pytest.raises(AssertionError):
        paid_price(dollars, None)


def test_the_price_that_counts_for_a_deployment():
    yuan, dollars = price(input="8"), price("USD", "intl", input="1")
    night, day = price(input="1", schedule="off-peak"), price(input="2", schedule="peak")
    other = price(input="3", seller="siliconflow")
    both = (dollars, yuan, other)
    assert price_of(both, None, None, "7") is yuan
    assert price_of(both, None, "cn-sh", "7") is yuan
    assert price_of(both, None, "intl", "7") is dollars
    assert price_of(both, None, "intl", None) is yuan
    assert price_of(both, "siliconflow", None, None) is other
    assert price_of(both, "nobody", None, "7") is None
    assert price_of((night, day), None, None, None) is day
    assert price_of((price(output="8"),), None, None, None) is None


def test_words_of_a_price():
    tiered = price(
        input="1", output="2", note="as long as it lasts", valid_from="2026-09-10",
        tiers=[{"above_input_tokens": 32000, "above_output_tokens": 200, "input": "3"}],
    )  # fmt: skip
    assert price_text(tiered) == (
        "CNY cn: input 1, output 2; above 32000 input tokens and 200 output: input 3; as long as it lasts "
        "(a page, stored copy, 2026-10-17 or later, valid from 2026-09-10)"
    )
    assert source_date(tiered) == "2026-10-17"
    assert source_date(price(input="1").model_copy(update={"date": "2026-05"})) == "2026-05"


@pytest.mark.parametrize(
    "bad", [1, 1.5, True, "1,5", "-1", "1e3", "01", ".5", "1.", "1.1234567890123", "1234567890", "", "٣"]
)
def test_an_amount_is_a_decimal_text(bad):
    with pytest.raises(ValueError, match="input"):
        price(input=bad)
