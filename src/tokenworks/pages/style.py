"""The page `/style` shows all parts of the console, in a dev environment alone."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response

from tokenworks.kernel import Clock, NotFound
from tokenworks.pages.charts import Chart, Series, chart
from tokenworks.pages.events import Event, event_stream
from tokenworks.pages.page import is_partial, language_of, render, visitor_of
from tokenworks.pages.parts import Figure
from tokenworks.pages.tables import (
    Asked,
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
from tokenworks.pages.words import WORDS
from tokenworks.web.client import client_address
from tokenworks.web.services import RequestServices

router = APIRouter(include_in_schema=False)
ROWS: Final = 10_000
_MODELS: Final = ("glm-5", "qwen3-max", "deepseek-v4", "kimi-k2")
_EVERY_S: Final = 1.0


class _Sample(NamedTuple):
    number: int
    model: str
    tokens: int
    is_whole: bool


def _samples() -> list[_Sample]:
    return [_Sample(n, _MODELS[n % 4], n * 7919 % 100_003, n % 9 > 0) for n in range(1, ROWS + 1)]


def _spec(words: Mapping[str, str]) -> TableSpec[_Sample]:
    return TableSpec(
        "samples", "last_requests",
        (
            Column("number", "when", lambda row: Cell(f"{row.number}"), lambda row: row.number, is_sortable=True),
            Column("model", "model", lambda row: Cell(row.model, href="/style"), is_sortable=True),
            Column(
                "tokens", "tokens", lambda row: Cell(f"{row.tokens:,}"), lambda row: row.tokens, is_sortable=True, is_number=True
            ),
            Column(
                "state", "what",
                lambda row: Cell(words["key_live"], badge="ok") if row.is_whole else Cell(words["interrupted"], badge="warn"),
            ),
        ),
        "no_requests", "-number",
        (Filter("of", "model", "choice", tuple((name, name) for name in _MODELS)), Filter("number_has", "when")),
    )  # fmt: skip


def _matches(row: _Sample, name: str, value: str) -> bool:
    return row.model == value if name == "of" else value in str(row.number)


def _charts(words: Mapping[str, str]) -> list[Chart]:
    axis = [f"05-{day:02}" for day in range(1, 31)]
    first, second = ([n * factor % 97 * 1000 for n in range(30)] for factor in (31, 53))
    texts = [[f"{value:,}" for value in values] for values in (first, second)]
    return [
        chart("bars", words["chart_days"], words["chart_day"], axis, [Series(_MODELS[0], first, texts[0])]),
        chart(
            "lines", words["chart_days"], words["chart_day"], axis,
            [Series(_MODELS[0], first, texts[0]), Series(_MODELS[1], second, texts[1])], "lines",
        ),
    ]  # fmt: skip


def _figures(words: Mapping[str, str]) -> list[Figure]:
    return [
        Figure(words["home_left"], "1,024", words["forecast_none"], "/usage"),
        Figure(words["home_owed"], "¥12.00", tone="warn"),
        Figure(words["home_pace"], "12"),
    ]


@router.get("/style")
def style(request: Request, services: RequestServices) -> Response:
    _check_dev(request)
    words = WORDS[language_of(request)]
    spec = _spec(words)
    wanted: Asked = asked(spec, request)
    keys = {
        "number": lambda row: row.number, "model": lambda row: row.model, "tokens": lambda row: row.tokens,
    }  # fmt: skip
    rows, total = arranged(_samples(), wanted, keys, _matches)
    if wants_csv(request):
        return csv_of(spec, rows, words, "samples")
    table = page_of(spec, wanted, rows, total, words, "/style")
    if is_partial(request):
        template = (
            "style_drawer.html"
            if request.headers.get("hx-target", "").endswith("drawer-content")
            else "table_part.html"
        )
        return render(request, services, template, "style", "details", table=table)
    return render(
        request,
        services,
        "style.html",
        "style",
        "details",
        visitor=visitor_of(request, services, "owner", "admin", "member"),
        table=table,
        charts=_charts(words),
        figures=_figures(words),
    )


@router.get("/style/events")
def events(request: Request, services: RequestServices) -> Response:
    """A stream of events, once a second."""
    _check_dev(request)
    clock: Clock = services.clock
    return event_stream(request, client_address(request), lambda: Event(f"{clock.now():%H:%M:%S}"), _EVERY_S)


def _check_dev(request: Request) -> None:
    if not request.app.state.is_dev:
        raise NotFound("there is no such page")
