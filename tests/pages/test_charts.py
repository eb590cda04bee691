"""The numbers of a chart, for the script and for the table."""

import json

import pytest

from tokenworks.pages.charts import POINTS_MAX, SERIES_MAX, Series, chart


def test_the_script_and_the_table_have_the_same_numbers():
    made = chart("c", "Tokens", "Day", ["1", "2", "3"], [Series("m", [1, None, 3_000], ["1", "–", "3,000"])])
    data = json.loads(made.json)
    assert data == {
        "kind": "bars",
        "title": "Day",
        "axis": ["1", "2", "3"],
        "series": [{"title": "m", "values": [1, None, 3000]}],
    }
    assert made.rows == [("3", ["3,000"]), ("2", ["–"]), ("1", ["1"])]


def test_no_text_ends_the_element():
    hostile = "</script><script>alert(1)</script><!--\u2028&"
    made = chart("c", "Tokens", "Day", [hostile], [Series(hostile, [1], ["1"])])
    assert not set("<>&\u2028") & set(made.json)
    assert json.loads(made.json)["series"][0]["title"] == hostile


@pytest.mark.parametrize(
    ("axis", "series"),
    [
        (["1", "2"], [Series("m", [1], ["1", "2"])]),
        (["1"], [Series("m", [1], [])]),
        (["1"], []),
        (["1"], [Series("m", [1], ["1"])] * (SERIES_MAX + 1)),
        (["1"] * (POINTS_MAX + 1), [Series("m", [1] * (POINTS_MAX + 1), ["1"] * (POINTS_MAX + 1))]),
    ],
)
def test_parts_that_do_not_fit_are_no_chart(axis, series):
    with pytest.raises(AssertionError):
        chart("c", "Tokens", "Day", axis, series)


def test_what_is_no_number_is_not_written():
    with pytest.raises(ValueError):
        _ = chart("c", "Tokens", "Day", ["1"], [Series("m", [float("nan")], ["?"])]).json
