"""What a browser may ask of a table, what it gets, and what a file of it may not do in a spreadsheet."""

import csv
import io

import pytest
from starlette.requests import Request

from tokenworks.kernel import Invalid
from tokenworks.pages.tables import (
    ARRANGED_MAX,
    PAGE_SIZES,
    Cell,
    Column,
    Filter,
    TableSpec,
    arranged,
    asked,
    csv_of,
    page_of,
    wants_csv,
)

WORDS = {"name": "Name", "size": "Size", "kind": "Kind", "day": "Day", "rows": "Rows", "none": "Nothing"}
SPEC = TableSpec(
    "rows",
    "rows",
    (
        Column("name", "name", lambda row: Cell(row[0]), is_sortable=True),
        Column("size", "size", lambda row: Cell(f"{row[1]:,}"), lambda row: row[1], is_sortable=True, is_number=True),
        Column("kind", "kind", lambda row: Cell(row[2], badge="ok")),
    ),
    "none",
    "-size",
    (Filter("is", "kind", "choice", (("a", "kind"), ("b", "B"))), Filter("has", "name"), Filter("since", "day", "day")),
)  # fmt: skip
ROWS = [(f"row {n}", n * 37 % 101, "ab"[n % 2]) for n in range(101)]
KEYS = {"name": lambda row: row[0], "size": lambda row: row[1]}


def request(query):
    return Request(
        {"type": "http", "method": "GET", "path": "/x", "query_string": query.encode(), "headers": []}
    )


def matches(row, name, value):
    return {"is": row[2] == value, "has": value in row[0], "since": True}[name]


@pytest.mark.parametrize(
    "query",
    [
        "other=1", "sort=kind", "sort=", "sort=--size", "sort=size;drop", "size=24", "size=1000000", "size=-25", "size=x", "size=２５",
        "page=0", "page=-1", "page=1.5", "page=99999999", "page=9999999", "is=c", "is=a%27", "since=yesterday", "since=2027-02-30",
        f"has={'x' * 101}", "is=a&unknown=", "offset=5",
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused(query):
    with pytest.raises(Invalid):
        asked(SPEC, request(query))


def test_what_is_on_the_list_is_read():
    wanted = asked(
        SPEC, request("sort=name&size=50&page=3&is=a&has=+row+&since=2027-05-01&format=csv&done=x"), "done"
    )
    assert (wanted.sort, wanted.offset, wanted.size) == ("name", 100, 50)
    assert wanted.filters == {"is": "a", "has": "row", "since": "2027-05-01"}
    plain = asked(SPEC, request(""))
    assert (plain.column, plain.is_descending, plain.page, plain.size, plain.filters) == (
        "size",
        True,
        1,
        PAGE_SIZES[0],
        {},
    )
    assert wants_csv(request("format=csv")) and not wants_csv(request("format=xml"))


def test_every_row_is_on_one_page_in_order_and_the_links_lead_there():
    seen, query = [], "size=25&sort=size"
    while query:
        wanted = asked(SPEC, request(query))
        rows, total = arranged(ROWS, wanted, KEYS, matches)
        page = page_of(SPEC, wanted, rows, total, WORDS, "/x")
        assert (page.first, page.last, page.total) == (len(seen) + 1, len(seen) + len(rows), 101)
        seen += rows
        query = page.next.partition("?")[2]
    assert seen == sorted(ROWS, key=lambda row: row[1]) and page.previous.endswith("page=4")
    assert all(cell.text for row in page.rows for cell in row[:1])


def test_the_head_says_the_order_and_turns_it_and_filters_stay():
    wanted = asked(SPEC, request("sort=size&is=b&page=2"))
    rows, total = arranged(ROWS, wanted, KEYS, matches)
    page = page_of(SPEC, wanted, rows, total, WORDS, "/x")
    assert total == 50 and all(row[2] == "b" for row in rows) and page.is_filtered
    name, size, kind = page.columns
    assert (name["direction"], size["direction"], kind["href"]) == ("", "ascending", "")
    again = asked(SPEC, request(size["href"].partition("?")[2]))
    assert (again.sort, again.page, again.filters) == ("-size", 1, {"is": "b"})
    assert page.filters[0]["options"] == [("a", "Kind"), ("b", "B")] and page.filters[0]["value"] == "b"


def test_a_count_that_a_service_does_not_finish_still_leads_on():
    wanted = asked(SPEC, request("page=2"))
    page = page_of(SPEC, wanted, ROWS[:25], None, WORDS, "/x")
    assert page.total is None and page.next.endswith("page=3") and (page.first, page.last) == (26, 50)
    assert page_of(SPEC, wanted, ROWS[:24], None, WORDS, "/x").next == ""
    empty = page_of(SPEC, wanted, [], 0, WORDS, "/x")
    assert (empty.first, empty.rows, empty.next) == (0, [], "")


def test_a_list_in_memory_has_a_limit():
    with pytest.raises(Invalid):
        arranged(ROWS * (ARRANGED_MAX // len(ROWS) + 1), asked(SPEC, request("")), KEYS, matches)


@pytest.mark.parametrize("bad", ["=1+1", "+1", "-1", "@a", "\t=1", " =1", "＝1", "|x", "a\r\n=1", 'a"b,c'])
def test_a_file_is_no_formula_and_keeps_its_cells(bad):
    answer = csv_of(SPEC, [(bad, 5, "a"), ("plain", -5, "b")], WORDS, "rows")
    assert answer.headers["content-disposition"] == 'attachment; filename="rows.csv"'
    assert (
        answer.headers["content-type"].startswith("text/csv")
        and "nosniff" in answer.headers["x-content-type-options"]
    )
    head, first, second = csv.reader(io.StringIO(answer.body.decode("utf-8-sig")))
    assert head == ["Name", "Size", "Kind"]
    assert first[0].lstrip()[:1] not in set("=+-@\t\r＝") and first[1:] == ["5", "a"]
    # A negative number of ours is a number.
    assert second == ["plain", "-5", "b"]


def test_a_name_of_a_file_is_ours():
    with pytest.raises(AssertionError):
        csv_of(SPEC, [], WORDS, 'x"; filename=evil')
