"""Options of `deployment add` and `deployment set`, and what both read from them."""

from collections.abc import Callable
from typing import Final, TypeVar

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.cli.trail import Params
from tokenworks.factory.facts.profiles import profile_names
from tokenworks.kernel import is_digits

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


_CREDENTIALS: Final = (
    click.option("--api-key-env", help="The TOKENWORKS_UPSTREAM_* variable with its credential."),
    click.option("--api-key-file", help="The file in secrets_dir with its credential."),
    click.option(
        "--credential", "credentials", multiple=True, metavar="REFERENCE",
        help="env:VARIABLE, or a file in secrets_dir; more than one: they share its load.",
    ),
)  # fmt: skip


def credential_options(command: _Command) -> _Command:
    """The options that name credentials."""
    for option in reversed(_CREDENTIALS):
        command = option(command)
    return command


def references_of(variable: str | None, file: str | None, named: tuple[str, ...]) -> tuple[str, ...]:
    """The references of credentials that were given, in order; empty if none was."""
    if sum(map(bool, (variable, file, named))) > 1:
        raise click.UsageError("--api-key-env, --api-key-file and --credential exclude each other")
    if variable:
        return (f"env:{variable}",)
    if file:
        return (f"file:{file}",)
    return tuple(name if name.startswith(("env:", "file:")) else f"file:{name}" for name in named)


def prices_of(pairs: tuple[str, ...]) -> dict[str, int]:
    """The fields of a price from CLASS=NANO."""
    prices = {}
    for pair in pairs:
        name, equals, nano = pair.partition("=")
        if not equals or not is_digits(nano, 18):
            raise click.UsageError(f"--price is CLASS=NANO, not {pair!r}")
        prices[f"{name}_nano"] = int(nano)
    return prices


def deployment_now(services: AppServices, params: Params) -> object:
    """The state of the deployment that a command names, for the audit trail."""
    return next(d for d in services.deployments.all() if d.name == params["name"]).model_dump(mode="json")


def request_options(command: _Command) -> _Command:
    """The options of requests to a deployment, as keyword arguments; None where an option is not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
