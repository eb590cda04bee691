"""What commands print: tables for people, JSON for programs, one clear sentence for an error."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.kernel import flaw, shown

# Somewhere else than on a terminal nothing is folded to 80 columns.
console = Console() if sys.stdout.isatty() else Console(width=200)


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
    table = Table(title=Text(shown(title)), title_justify="left", header_style="bold", show_lines=False)
    numeric = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    count = 0
    for row in rows:
        # As a text, not as markup: a name such as [red] or [link=…] is shown as it is.
        table.add_row(*(Text("" if cell is None else shown(str(cell))) for cell in row))
        count += 1
    if count:
        (to or console).print(table)
    else:
        (to or console).print(Text(f"{shown(title)}: none"))
