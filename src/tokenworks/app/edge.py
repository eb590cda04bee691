"""The edge of the command line: every option and argument is checked before a command gets it.

`cli/lazy.py` guards each command when it is loaded, so a command that is added later is checked, too.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from tokenworks.kernel import LINE_CHARS_MAX, TEXT_CHARS_MAX, Invalid, flaw

# Parameters that are texts of several lines; all others are one line.
_TEXTS: Final = frozenset({"prompt"})
FILE_BYTES_MAX: Final = 64 * 1024 * 1024


class LineType(click.ParamType):  # type: ignore[type-arg]
    """The type of a line (or of a text of several lines) of bounded length, without characters that act in a terminal, a page or a file."""

    name = "text"

    def __init__(self, chars_max: int = LINE_CHARS_MAX, *, lines: bool = False) -> None:
        self.chars_max = chars_max
        self.lines = lines

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Fails with a usage error, which does not repeat the value."""
        if isinstance(value, str):
            _refuse(value, self, param, ctx, lines=self.lines)
            if len(value) > self.chars_max:
                self.fail(f"it has {len(value)} characters, at most {self.chars_max} are taken", param, ctx)
        return value


def _refuse(
    value: str,
    kind: "click.ParamType[object]",
    param: click.Parameter | None,
    ctx: click.Context | None,
    *,
    lines: bool,
) -> None:
    found = flaw(value, lines=lines)
    if found is not None:
        kind.fail(f"it has {found}: leave it out", param, ctx)


def _checked(kind: "click.ParamType[object]") -> "click.ParamType[object]":
    """The same type, which checks the text before it converts it. A number, an id or a date has ASCII digits alone."""
    made = copy.copy(kind)
    ascii_only = not isinstance(kind, click.Path | click.Choice)
    convert = kind.convert

    def check_first(value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if isinstance(value, str):
            _refuse(value, made, param, ctx, lines=False)
            if len(value) > LINE_CHARS_MAX or (ascii_only and not value.isascii()):
                made.fail(f"{value[:40]!a} is not a value of ASCII letters and digits", param, ctx)
        return convert(value, param, ctx)

    made.convert = check_first  # type: ignore[method-assign]
    return made


def commands(command: click.Command) -> Iterator[click.Command]:
    """A command and all its subcommands."""
    yield command
    if isinstance(command, click.Group):
        for under in command.commands.values():
            yield from commands(under)


def guard(command: click.Command) -> None:
    """Check every parameter of a command."""
    for param in command.params:
        if isinstance(param.type, click.types.StringParamType):
            text = param.name in _TEXTS
            param.type = LineType(TEXT_CHARS_MAX if text else LINE_CHARS_MAX, lines=text)
        elif not isinstance(param.type, LineType):
            param.type = _checked(param.type)


def read_bytes(path: Path) -> bytes:
    """A file that an operator names, of bounded size. Raises `Invalid`."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise Invalid(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """A file that an operator names: UTF-8, with or without a byte order mark, of bounded size. Raises `Invalid`."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise Invalid(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path}: not UTF-8 at byte {error.start}") from None


def read_regular(path: Path) -> str:
    """As `read_text`, for a path that click has not checked. Raises `Invalid` where there is no regular file of that name."""
    if not path.is_file():
        raise Invalid(f"{path}: there is no such file")
    return read_text(path)


def open_new(path: Path) -> BinaryIO:
    """A new file that only its owner can read. Raises `Invalid` where the path exists already."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise Invalid(f"{path} is there already: name another file") from None
