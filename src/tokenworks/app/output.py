"""The output of commands: tables for people, JSON for programs, one sentence for an error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from tokenworks.kernel import flaw, format_money, format_money_exact, shown

if TYPE_CHECKING:
    from rich.console import Console

_EXACT: Final = "tokenworks.exact"


def exact_wanted(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """The callback of `--exact`."""
    context.meta[_EXACT] = value


def money_text(amount_nano: int) -> str:
    """An amount for a table or a sentence: rounded to fen, exact with `--exact`. JSON always has nano units."""
    context = click.get_current_context(silent=True)
    exact = context is not None and context.meta.get(_EXACT, False)
    return format_money_exact(amount_nano) if exact else format_money(amount_nano)


def plain(value: object) -> object:
    """The value as JSON has it: ids and times are texts."""
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


def plain_fields(value: object) -> dict[str, object]:
    """The fields of a dataclass or a mapping as JSON has them."""
    fields = plain(value)
    assert isinstance(fields, dict)
    return fields


def in_mtok(value: object, *names: str) -> dict[str, object]:
    """The fields as JSON has them, with the unit in the names of these quantities: thousandths of a token, or of the unit in the
    field `unit`.
    """
    return {f"{name}_mtok" if name in names else name: item for name, item in plain_fields(value).items()}


def say(text: str, *, err: bool = False) -> None:
    """Print lines for people. Characters that act in a terminal (that move the cursor or turn the text, say) are escaped."""
    click.echo(shown(text, lines=True), err=err)


def print_json(value: object) -> None:
    """Print the value exactly. A character that acts in a terminal is a JSON escape, so a parser reads the same text."""
    click.echo(json_text(value))


def json_text(value: object, indent: int | None = 2) -> str:
    """JSON without characters that act in a terminal; other scripts stay readable."""
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
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    to: Console | None = None,
) -> None:
    """Print a table where it fits the width, else a block of lines for each record. No text is cut."""
    from tokenworks.app import tables  # noqa: PLC0415 - rich is imported where a table is printed

    tables.print_table(title, columns, rows, right=right, to=to)


def on_terminal() -> bool:
    """True where standard output is a terminal, or environment variables tell rich so. Progress is shown on a terminal alone."""
    if not sys.stdout.isatty() and not os.environ.keys() & {"FORCE_COLOR", "TTY_COMPATIBLE"}:
        return False
    from tokenworks.app import tables  # noqa: PLC0415 - as above

    return tables.console.is_terminal


def print_marked(text: str) -> None:
    """Print a text with rich's markup. Only for constant texts and numbers: stored texts could contain markup."""
    from tokenworks.app import tables  # noqa: PLC0415 - as above

    tables.console.print(text)
