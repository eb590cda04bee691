"""Groups of commands. A command is imported when it is run, or when its own help is printed."""

from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module

import click

from tokenworks.app.edge import guard
from tokenworks.cli.commands import COMMANDS, NOUNS, WITH_OPTIONS


class Noun(click.Group):
    """The group of `path`, such as `bill dispute`; the path of the root is empty. Printing its help imports no command."""

    def __init__(
        self,
        name: str | None = None,
        *,
        path: str,
        help: str | None = None,  # noqa: A002 - the name that click's decorator gives it
        callback: Callable[..., object] | None = None,
        params: list[click.Parameter] | None = None,
        invoke_without_command: bool = False,
        context_settings: MutableMapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            name,
            help=help,
            callback=callback,
            params=params,
            invoke_without_command=invoke_without_command,
            context_settings=context_settings,
        )
        self.path = path
        self.commands = _Commands(path)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in click's format, from the table in `commands.py`."""
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(len(name) for name in names)
        rows = [(name, _summary(f"{self.path} {name}".strip(), limit)) for name in names]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _summary(path: str, limit: int) -> str:
    text = NOUNS[path] if path in NOUNS else COMMANDS[path][1]
    return click.Command(path, help=text).get_short_help_str(limit)


class _Commands(MutableMapping[str, click.Command]):
    """The commands of a noun by their last word. The first access to a command imports it and guards its parameters."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._names = [
            name.rpartition(" ")[2] for name in (*NOUNS, *COMMANDS) if name.rpartition(" ")[0] == path
        ]
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            if name not in self._names:
                raise KeyError(name)
            command = _load(f"{self._path} {name}".strip())
            guard(command)
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        if name not in self._names:
            self._names.append(name)
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        self._names.remove(name)
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _load(path: str) -> click.Command:
    """Import a command: `bill write-off` is the function `bill_write_off` in the file that the table names."""
    if path in NOUNS and path not in WITH_OPTIONS:
        return Noun(path.rpartition(" ")[2], path=path, help=NOUNS[path])
    file = path if path in WITH_OPTIONS else COMMANDS[path][0]
    command = getattr(import_module(f"tokenworks.cli.{file}"), path.replace(" ", "_").replace("-", "_"))
    assert isinstance(command, click.Command)
    return command
