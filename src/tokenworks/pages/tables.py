"""Tables of the console: which columns, orders and filters there are; what a browser may ask of them; pages, and the CSV of what is seen.

A `TableSpec` is the allow-list. `asked` reads a query against it, `page_of` gives what `ui.table` of the templates shows, `csv_of` the same
rows as a file. Rows come from a service; for a list that is in memory anyway, `arranged` filters, sorts and cuts it.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import urlencode

from fastapi import Request, Response

from tokenworks.kernel import Invalid, csv_cell
from tokenworks.pages.page import HEADERS
from tokenworks.pages.parts import Tone
from tokenworks.web.lists import OFFSET_MAX

Row = TypeVar("Row")

PAGE_SIZES: Final = (25, 50, 100)
# A list that is sorted in memory has at most so many rows. Longer ones are sorted by their service.
ARRANGED_MAX: Final = 10_000
CSV_ROWS_MAX: Final = 10_000
SEARCH_CHARS_MAX: Final = 100
_FILE_NAME: Final = re.compile(r"[a-z0-9-]{1,60}")
# The byte order mark by which spreadsheets know UTF-8.
_MARK: Final = "\ufeff"


class Cell(NamedTuple):
    """What a table shows of a row. `note`: a second, quieter line; `href`: a page of ours; `badge`: the text is a badge of this tone."""

    text: str
    note: str = ""
    href: str = ""
    badge: Tone | None = None


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """`name`: in the query and the CSV; `title`: a name of `WORDS`; `raw`: what the CSV has, by default the cell's text."""

    name: str
    title: str
    cell: Callable[[Row], Cell]
    raw: Callable[[Row], object] | None = None
    is_sortable: bool = False
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """`choice`: one of `options`, pairs of value and text; `text`: contains what is typed; `day`: a date such as 2027-05-01."""

    name: str
    title: str
    kind: Literal["choice", "text", "day"] = "text"
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TableSpec(Generic[Row]):
    """`id`: of the element, and what a part of the page is asked for by; `title`: a name of `WORDS`; `sort`: the order if none is asked
    for, a column's name, descending with a minus. `empty`: a name of `WORDS`.
    """

    id: str
    title: str
    columns: tuple[Column[Row], ...]
    empty: str
    sort: str = ""
    filters: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        names = [*(column.name for column in self.columns), *(filter_.name for filter_ in self.filters)]
        assert not set(names[len(self.columns) :]) & {"sort", "page", "size", "format"}
        assert not self.sort or any(c.name == self.sort.lstrip("-") for c in self.columns)


class Asked(NamedTuple):
    """What a browser asked of a table, checked. `page` begins at 1. `filters`: those that have a value."""

    sort: str
    page: int
    size: int
    filters: Mapping[str, str]

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.size

    @property
    def column(self) -> str:
        """The column of the order; empty: the service's own order."""
        return self.sort.lstrip("-")

    @property
    def is_descending(self) -> bool:
        return self.sort.startswith("-")

    def query(self, **changes: object) -> str:
        """The query of the same table with some changes. What is as by default is left out."""
        found: dict[str, object] = {
            **self.filters,
            "sort": self.sort,
            "page": self.page,
            "size": self.size,
            **changes,
        }
        usual = {"page": 1, "size": PAGE_SIZES[0], "sort": ""}
        return urlencode({name: value for name, value in found.items() if value not in {"", usual.get(name)}})


def asked(spec: TableSpec[Row], request: Request, *ignored: str) -> Asked:
    """Read the query of a table. `ignored`: parameters of the page. Raises `Invalid` for a name or a value that the table does not have:
    a filter that is ignored would show too much.
    """
    given = request.query_params
    filters = {filter_.name: filter_ for filter_ in spec.filters}
    known = {"sort", "page", "size", "format", *filters, *ignored}
    for name in given:
        if name not in known:
            raise Invalid(f"this table has no {name[:50]}")
    sort = given.get("sort", spec.sort)
    sortable = {column.name for column in spec.columns if column.is_sortable} | {spec.sort.lstrip("-")}
    if sort.removeprefix("-") not in sortable:
        raise Invalid(
            f"sort: one of {', '.join(sorted(sortable - {''})) or 'nothing here'}, with - in front for descending"
        )
    size = _whole(given.get("size", str(PAGE_SIZES[0])), "size")
    if size not in PAGE_SIZES:
        raise Invalid(f"size: one of {', '.join(map(str, PAGE_SIZES))}")
    page = _whole(given.get("page", "1"), "page")
    if page < 1 or (page - 1) * size > OFFSET_MAX:
        raise Invalid(f"page: from 1 to row {OFFSET_MAX}")
    values = {name: _filter_value(filter_, given.get(name, "").strip()) for name, filter_ in filters.items()}
    return Asked(sort, page, size, {name: value for name, value in values.items() if value})


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise Invalid(f"{name}: a whole number")
    return int(text)


def _filter_value(filter_: Filter, value: str) -> str:
    if filter_.kind == "choice" and value and value not in {option for option, _ in filter_.options}:
        raise Invalid(f"{filter_.name}: one of {', '.join(option for option, _ in filter_.options)}")
    if filter_.kind == "day" and value:
        try:
            date.fromisoformat(value)
        except ValueError:
            raise Invalid(f"{filter_.name}: a day such as 2027-05-01") from None
    if len(value) > SEARCH_CHARS_MAX:
        raise Invalid(f"{filter_.name}: at most {SEARCH_CHARS_MAX} characters")
    return value


def arranged(
    rows: Sequence[Row],
    wanted: Asked,
    keys: Mapping[str, Callable[[Row], str | int]],
    matches: Callable[[Row, str, str], bool],
) -> tuple[list[Row], int]:
    """(the rows of a page, the count of all that match) of a list in memory. `keys`: by column, what it is sorted by;
    `matches(row, filter, value)`. Raises `Invalid` if the list is longer than `ARRANGED_MAX`.
    """
    if len(rows) > ARRANGED_MAX:
        raise Invalid(f"a table in memory has at most {ARRANGED_MAX} rows")
    found = [row for row in rows if all(matches(row, name, value) for name, value in wanted.filters.items())]
    if wanted.column:
        found.sort(key=keys[wanted.column], reverse=wanted.is_descending)
    return found[wanted.offset : wanted.offset + wanted.size], len(found)


class TablePage(NamedTuple):
    """What `ui.table` shows. `total` is None if a service counts no further: there are more than could be counted."""

    id: str
    title: str
    empty: str
    path: str
    columns: list[dict[str, object]]
    rows: list[list[Cell]]
    filters: list[dict[str, object]]
    total: int | None
    first: int
    last: int
    previous: str
    next: str
    csv: str
    sort: str
    size: int
    sizes: tuple[int, ...]
    is_filtered: bool


def page_of(
    spec: TableSpec[Row],
    wanted: Asked,
    rows: Sequence[Row],
    total: int | None,
    words: Mapping[str, str],
    path: str,
) -> TablePage:
    """`rows`: those of the page; `total`: how many there are in all; `path`: of the page that has the table."""
    last = wanted.offset + len(rows)
    has_more = len(rows) == wanted.size if total is None else last < total
    columns = [_head(column, wanted, words, path) for column in spec.columns]
    filters: list[dict[str, object]] = [
        {
            "name": filter_.name, "title": words[filter_.title], "kind": filter_.kind, "value": wanted.filters.get(filter_.name, ""),
            "options": [(value, words.get(text, text)) for value, text in filter_.options],
        }
        for filter_ in spec.filters
    ]  # fmt: skip
    return TablePage(
        spec.id, words[spec.title], words[spec.empty], path, columns, [[c.cell(row) for c in spec.columns] for row in rows], filters,
        total, wanted.offset + 1 if rows else 0, last,
        previous=_link(path, wanted.query(page=wanted.page - 1)) if wanted.page > 1 else "",
        next=_link(path, wanted.query(page=wanted.page + 1)) if has_more else "",
        csv=_link(path, wanted.query(format="csv")), sort=wanted.sort, size=wanted.size, sizes=PAGE_SIZES,
        is_filtered=bool(wanted.filters),
    )  # fmt: skip


def _head(column: Column[Row], wanted: Asked, words: Mapping[str, str], path: str) -> dict[str, object]:
    is_sorted = wanted.column == column.name
    direction = ("descending" if wanted.is_descending else "ascending") if is_sorted else ""
    other = column.name if direction == "descending" else f"-{column.name}" if is_sorted else column.name
    href = _link(path, wanted.query(sort=other, page=1)) if column.is_sortable else ""
    return {"title": words[column.title], "is_number": column.is_number, "direction": direction, "href": href}


def _link(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def wants_csv(request: Request) -> bool:
    return request.query_params.get("format") == "csv"


def csv_of(spec: TableSpec[Row], rows: Sequence[Row], words: Mapping[str, str], name: str) -> Response:
    """The rows that are seen, as a CSV file (RFC 4180, UTF-8 with a byte order mark). Cells that begin like a formula are neutralised."""
    assert _FILE_NAME.fullmatch(name)
    assert len(rows) <= CSV_ROWS_MAX
    out = io.StringIO(_MARK)
    out.seek(0, io.SEEK_END)
    writer = csv.writer(out)
    writer.writerow([csv_cell(words[column.title]) for column in spec.columns])
    for row in rows:
        writer.writerow([csv_cell(c.cell(row).text if c.raw is None else c.raw(row)) for c in spec.columns])
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(out.getvalue().encode(), headers=headers, media_type="text/csv; charset=utf-8")
