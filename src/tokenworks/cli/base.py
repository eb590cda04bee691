"""Shared by all commands: options before the command, and settings and connections when a command needs them.

This module imports no database driver and no settings: the help of a command needs neither.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from tokenworks.app.output import exact_wanted, print_json, say

if TYPE_CHECKING:
    from tokenworks.app.bootstrap import AppServices
    from tokenworks.app.settings import Effective, Settings

SINGLE_ROLE: Final = "Allow a database_url whose role could change history."

Command = TypeVar("Command", bound=Callable[..., object])

json_option: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)
exact_option: Callable[[Command], Command] = click.option(
    "--exact",
    is_flag=True,
    expose_value=False,
    callback=exact_wanted,
    help="Money to the nano, not to the fen.",
)
subscriber_option: Callable[[Command], Command] = click.option(
    "--subscriber",
    required=True,
    help="Its id, phone number (+8613800000001, or 13800000001), its last four digits, broadband number, name or a part of it.",
)


wait_option: Callable[[Command], Command] = click.option(
    "--wait-s", type=click.IntRange(0, 600), default=10, show_default=True, help="How long hosts may take to load it."
)  # fmt: skip


class Context:
    """The options before the command. Settings are read, and connections opened, when a command needs them."""

    def __init__(self, data_dir: str | None, *, single_role: bool = False) -> None:
        self._data_dir = data_dir
        # None: the setting decides.
        self._single_role = single_role or None
        # Set by `services`: whether the role of its connection could change history.
        self.may_change_history = False

    @property
    def actor(self) -> str:
        """The actor for stored rows: the user of the operating system, not a variable such as `LOGNAME`."""
        uid = os.getuid()
        try:
            return f"cli:{pwd.getpwuid(uid).pw_name}"
        except KeyError:  # a container's user without a name
            return f"cli:uid-{uid}"

    @property
    def named_data_dir(self) -> str | None:
        """The data directory that the command line or the environment names; None: the default."""
        return self._data_dir or os.environ.get("TOKENWORKS_DATA_DIR") or None

    @property
    def data_dir(self) -> Path:
        """The path of the data directory. It does not need the settings, so a faulty settings file does not matter."""
        return Path(self.named_data_dir or "data").absolute()

    def effective(self, **options: object) -> Effective:
        from tokenworks.app.settings import load_settings  # noqa: PLC0415 - help needs no settings

        return load_settings({"data_dir": self._data_dir, "single_role": self._single_role} | options)

    def settings(self, **options: object) -> Settings:
        return self.effective(**options).settings

    def installed(self) -> Settings:
        """The settings of an installation. Raises `Invalid` where there is none."""
        from tokenworks.app.database.connections import check_installed  # noqa: PLC0415 - help needs no database

        settings = self.settings()
        check_installed(settings)
        return settings

    @contextlib.contextmanager
    def services(self) -> Iterator[AppServices]:
        """Every room's services for the running command, with its row of the audit trail (`opening.py`)."""
        from tokenworks.cli.opening import open_services  # noqa: PLC0415 - help needs no database

        with open_services(self) as services:
            yield services


pass_context = click.make_pass_decorator(Context)


def print_result(value: object, text: str, as_json: bool) -> None:
    """Print the result of a command: `value` as JSON, or the sentence for people."""
    if as_json:
        print_json(value)
    else:
        say(text)
