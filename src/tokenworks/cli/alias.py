"""`tokenworks alias`: other names of models."""

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited


def _alias_now(services: AppServices, params: Params) -> object:
    return services.deployments.aliases()[params["name"]]


@click.command("add")
@audited(_alias_now)
@click.option(
    "--alias",
    "name",
    required=True,
    help="The name that clients may use; claude-* stands for all that begin so.",
)
@click.option("--model", required=True, help="The model it stands for.")
@json_option
@pass_context
def alias_add(context: Context, name: str, model: str, as_json: bool) -> None:
    """Add another name for a model."""
    with context.services() as services:
        services.deployments.set_alias(name, model)
    print_result({"alias": name, "model": model}, f"{name} stands for {model}.", as_json)


@click.command("list")
@json_option
@pass_context
def alias_list(context: Context, as_json: bool) -> None:
    """All aliases."""
    with context.services() as services:
        found = services.deployments.aliases()
    if as_json:
        print_json(found)
    else:
        print_table("Aliases", ["alias", "model"], found.items())


@click.command("remove")
@audited(_alias_now)
@click.argument("name")
@json_option
@pass_context
def alias_remove(context: Context, name: str, as_json: bool) -> None:
    """Remove an alias."""
    with context.services() as services:
        services.deployments.remove_alias(name)
    print_result({"removed": name}, f"Alias {name} is removed.", as_json)
