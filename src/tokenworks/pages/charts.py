"""Charts: their numbers as JSON for the script that draws them, and as a table for readers and browsers without a script."""

import json
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from markupsafe import Markup

POINTS_MAX: Final = 2000
SERIES_MAX: Final = 8


class Series(NamedTuple):
    """`values`: one for each point of the axis, None where nothing was measured; `shown`: the same as text, for the table."""

    title: str
    values: Sequence[int | float | None]
    shown: Sequence[str]


class Chart(NamedTuple):
    """`axis`: the labels of the points. `label`: what the chart shows, in a sentence. `kind`: bars, or lines."""

    id: str
    label: str
    axis_title: str
    axis: Sequence[str]
    series: Sequence[Series]
    kind: Literal["bars", "lines"] = "bars"

    @property
    def json(self) -> Markup:
        """The numbers as JSON, safe in a script element: no character of it ends the element or begins a comment in it."""
        data = {
            "kind": self.kind,
            "title": self.axis_title,
            "axis": list(self.axis),
            "series": [{"title": series.title, "values": list(series.values)} for series in self.series],
        }
        text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - escaped here

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """(label, texts) of each point, the latest first."""
        texts = [(at, [series.shown[n] for series in self.series]) for n, at in enumerate(self.axis)]
        return texts[::-1]


def chart(
    id_: str,
    label: str,
    axis_title: str,
    axis: Sequence[str],
    series: Sequence[Series],
    kind: Literal["bars", "lines"] = "bars",
) -> Chart:
    """A chart whose parts fit together. At most `POINTS_MAX` points and `SERIES_MAX` series: a page sums up before it draws."""
    assert len(axis) <= POINTS_MAX and 0 < len(series) <= SERIES_MAX
    assert all(len(one.values) == len(one.shown) == len(axis) for one in series)
    return Chart(id_, label, axis_title, axis, series, kind)
