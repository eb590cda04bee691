"""Options of `deployment add` and `deployment set`."""

from collections.abc import Callable
from typing import Final, TypeVar

import click

from tokenworks.factory.facts.profiles import profile_names

_Command = TypeVar("_Command", bound=Callable[..., object])


_OPTIONS: Final = (
    click.option("--profile", type=click.Choice(profile_names()), help="The profile of its fields, maxima and headers (default: generic)."),
    click.option("--pass-unknown/--drop-unknown", default=None, help="Whether it gets fields that no list names (default: they are dropped and reported)."),
    click.option("--stream-options/--no-stream-options", default=None, help="Whether usage is asked for in its streams (default: as its profile says)."),
    click.option(
        "--max-tokens-field", type=click.Choice(("max_tokens", "max_completion_tokens")), help="The field of a chat request's maximum that it reads (default: its profile's)."
    ),
    click.option("--early-head/--no-early-head", default=None, help="Whether clients get a stream's head, and pings, before it answers."),
    click.option("--idle-timeout-s", type=int, help="How long its streams may be silent (default: the setting's time)."),
)  # fmt: skip


def request_options(command: _Command) -> _Command:
    """The options of requests to a deployment, as keyword arguments; None where an option is not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
