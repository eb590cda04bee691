"""What the commands share: options before the command, settings and connections when they are needed.

It imports no database driver and no settings: the help of a command needs neither.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from tokenworks.app.output import exact_wanted, print_json, say

if TYPE_CHECKING:
    from tokenworks.app.bootstrap import AppServices
    from tokenworks.app.settings import Effective, Settings

SINGLE_ROLE: Final = "Allow a database_url whose role could change history."

Command = TypeVar("Command", bound=Callable[..., Any])

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
    "--wait-s", type=click.IntRange(0, 600), default=10, show_default=True, help="So long hosts may take until they have loaded it."
)  # fmt: skip


class Context:
    """The options before the command; settings and connections are made when they are needed."""

    def __init__(self, data_dir: str | None, *, single_role: bool = False) -> None:
        self._data_dir = data_dir
        # None: as the settings say.
        self._single_role = single_role or None
        # Whether the role that `works` connects as could change history.
        self.may_change_history = False

    @property
    def actor(self) -> str:
        """Who runs the command, for what is kept of it: the system's user, whatever the environment says (`LOGNAME`)."""
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
        """Where the data directory is, without a look at what the settings say: a file that is broken is not in the way."""
        return Path(self.named_data_dir or "data").absolute()

    def effective(self, **options: Any) -> Effective:
        from tokenworks.app.settings import load_settings  # noqa: PLC0415 - help needs no settings

        return load_settings({"data_dir": self._data_dir, "single_role": self._single_role} | options)

    def settings(self, **options: Any) -> Settings:
        return self.effective(**options).settings

    def installed(self) -> Settings:
        """The settings of an installation. Raises `Invalid` where there is none."""
        from tokenworks.app.database.connections import check_installed  # noqa: PLC0415 - help needs no database

        settings = self.settings()
        check_installed(settings)
        return settings

    @contextlib.contextmanager
    def services(self) -> Iterator[AppServices]:
        """Every room's service, for the command that runs: one transaction, with its row of the audit trail (`opening.py`)."""
        from tokenworks.cli.opening import opened  # noqa: PLC0415 - help needs no database

        with opened(self) as services:
            yield services


pass_context = click.make_pass_decorator(Context)


def said(value: Any, text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        say(text)
