import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.kernel import (
    Invalid,
    Money,
    NanoMoney,
    exact_decimal,
    format_money_exact,
    format_quantity,
    parse_money,
)


@given(st.integers(0, 10**18 - 1))
def test_money_survives_being_written_and_read(nano):
    assert parse_money(format_money_exact(nano).replace(",", "")).amount_nano == nano


@pytest.mark.parametrize(
    "text", ["", "1.", ".5", "1e3", "-1", "1.0000000001", "nan", 49.9, None, "1,000", " 1", "٣"]
)
def test_what_is_not_a_decimal_is_refused(text):
    with pytest.raises(Invalid):
        parse_money(text)


def test_currencies_do_not_add():
    with pytest.raises(Invalid, match="don't add up"):
        Money(NanoMoney(1)) + Money(NanoMoney(1), "USD")


def test_a_float_is_not_money():
    with pytest.raises(Invalid):
        Money(1.5)


def test_quantities_lose_nothing():
    assert format_quantity(1_500, "token") == "1.5 tokens"
    assert format_quantity(1_000, "token") == "1 token"
    assert format_quantity(-10_000_000, "token") == "-10,000 tokens"
    assert format_quantity(49_900_000_000, "CNY") == "49.90 CNY"


@given(st.integers(-(10**15), 10**15), st.sampled_from([1000, 10**9]))
def test_an_exact_decimal_loses_nothing(amount, parts):
    made = exact_decimal(amount, parts)
    assert made * parts == amount and "E" not in f"{made:f}"
    assert not str(made).endswith(".") and (made == int(made) or not str(made).endswith("0"))
