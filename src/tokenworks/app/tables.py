"""Tables for people. They are separate from `output.py`, since importing rich takes longer than most commands."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.kernel import shown
from tokenworks.subscriptions import minute_of

# The width where the output is no terminal.
WIDTH: Final = 80
console = Console() if sys.stdout.isatty() else Console(width=WIDTH)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    to: Console | None = None,
) -> None:
    """A table where it fits the width, else one record a block: nothing is cut or folded beyond reading."""
    shown_on = to or console
    texts = [[_cell(cell) for cell in row] for row in rows]
    if not texts:
        shown_on.print(Text(f"{shown(title)}: none"))
        return
    widths = [max(cell_len(row[at]) for row in [list(columns), *texts]) for at in range(len(columns))]
    if sum(widths) + 3 * len(widths) + 1 > shown_on.width:
        _print_blocks(title, columns, texts, shown_on)
        return
    table = Table(title=Text(shown(title)), title_justify="left", header_style="bold", show_lines=False)
    numeric = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in texts:
        # A `Text` is not read as markup: a name such as [red] or [link=…] is shown as it is.
        table.add_row(*(Text(cell) for cell in row))
    shown_on.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return minute_of(value) if isinstance(value, datetime) else shown(str(value))


def _print_blocks(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], to: Console) -> None:
    """Print each record as lines of a name and a value. Empty values are left out; long values go on in further lines."""
    to.print(Text(shown(title), style="italic"))
    names = max(cell_len(column) for column in columns)
    room = max(20, to.width - names - 2)
    for number, row in enumerate(rows):
        if number:
            to.print()
        for column, cell in zip(columns, row, strict=True):
            for at, piece in enumerate(_pieces(cell, room) if cell else ()):
                name = column if at == 0 else ""
                to.print(Text.assemble((name.ljust(names), "bold"), "  ", piece), soft_wrap=True)


def _pieces(text: str, width: int) -> list[str]:
    """The text in lines of a width, cut at spaces where possible."""
    found: list[str] = []
    for line in text.split("\n"):
        left = ""
        for word in line.split(" "):
            joined = f"{left} {word}" if left else word
            if cell_len(joined) <= width:
                left = joined
                continue
            found += [left] if left else []
            *whole, left = chop_cells(word, width) or [""]
            found += whole
        found.append(left)
    return found
