"""What commands print: tables for people, JSON for programs, one clear sentence for an error."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import click
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.kernel import flaw, format_money, format_money_exact, shown
from tokenworks.subscriptions import minute_of

# A terminal says how wide it is; anywhere else a line has this many columns.
WIDTH: Final = 80
console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
_EXACT: Final = "tokenworks.exact"


def exact_wanted(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """The callback of `--exact`."""
    context.meta[_EXACT] = value


def money_text(amount_nano: int) -> str:
    """An amount of a table or a sentence: in fen, with `--exact` to the nano. JSON has nano always."""
    context = click.get_current_context(silent=True)
    exact = context is not None and context.meta.get(_EXACT, False)
    return format_money_exact(amount_nano) if exact else format_money(amount_nano)


def plain(value: Any) -> Any:
    """As JSON has it: ids and times as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID | Path):
        return str(value)
    return value


def in_mtok(value: Any, *names: str) -> dict[str, Any]:
    """As JSON has it, with the unit in the names of these quantities: thousandths of a token, or of what `unit` beside them says."""
    return {f"{name}_mtok" if name in names else name: item for name, item in plain(value).items()}


def say(text: str, *, err: bool = False) -> None:
    """Print lines for people: what comes from elsewhere can neither move the cursor nor turn the text."""
    click.echo(shown(text, lines=True), err=err)


def print_json(value: Any) -> None:
    """The value exactly. What would act in a terminal is in JSON's own escapes, so a parser reads the same text."""
    click.echo(json_text(value))


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON in which nothing acts in a terminal; other scripts stay readable."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent)
    return text if flaw(text, lines=True) is None else _escape(text)


def _escape(text: str) -> str:
    return "".join(
        char
        if char == "\n" or flaw(char) is None
        else "\\u007f"
        if char == "\x7f"
        else json.dumps(char)[1:-1]
        for char in text
    )


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
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
        # As a text, not as markup: a name such as [red] or [link=…] is shown as it is.
        table.add_row(*(Text(cell) for cell in row))
    shown_on.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return minute_of(value) if isinstance(value, datetime) else shown(str(value))


def _print_blocks(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], to: Console) -> None:
    """Each record as lines of a name and a value; what is empty is left out, what is long goes on below itself."""
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
    """A text in lines of a width, cut at spaces where there are some."""
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
