"""`tokenworks model`: what is declared of models."""

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.factory import (
    FILINGS,
    MODALITIES,
    make_model,
)


def _model_now(services: AppServices, params: Params) -> object:
    return next(card for card in services.deployments.models() if card.name == params["name"]).model_dump()


@click.command("set")
@audited(_model_now)
@click.argument("name")
@click.option("--quality", type=click.IntRange(0, 100), help="How good it is, on your own scale: an easy request needs about 30, the hardest 90.")  # fmt: skip
@click.option("--modality", "modalities", multiple=True, type=click.Choice(MODALITIES), help="What it takes; more than one (text).")  # fmt: skip
@click.option("--tools/--no-tools", default=True, show_default=True, help="Whether it calls tools.")
@click.option("--filing", type=click.Choice(FILINGS), default="none", show_default=True, help="Whether it is filed as a generative AI service.")  # fmt: skip
@click.option("--filing-no", help="The number under which it is filed.")
@json_option
@pass_context
def model_set(
    context: Context, name: str, quality: int | None, modalities: tuple[str, ...], tools: bool, filing: str, filing_no: str | None, as_json: bool
) -> None:  # fmt: skip
    """Declare a model's properties; replaces an earlier declaration."""
    card = make_model(
        name=name, quality=quality, modalities=modalities or ("text",), tools=tools, filing=filing, filing_no=filing_no
    )  # fmt: skip
    with context.services() as services:
        services.deployments.set_model(card)
    print_result(card.model_dump(mode="json"), f"Model {name} is declared.", as_json)


@click.command("list")
@json_option
@pass_context
def model_list(context: Context, as_json: bool) -> None:
    """The declared models."""
    with context.services() as services:
        found = services.deployments.models()
    if as_json:
        print_json([card.model_dump(mode="json") for card in found])
        return
    print_table(
        "Models",
        ["model", "quality", "takes", "tools", "filing"],
        [
            (c.name, c.quality, ", ".join(c.modalities), "yes" if c.tools else "no", f"{c.filing} {c.filing_no or ''}")
            for c in found
        ],
        right=["quality"],
    )  # fmt: skip


@click.command("remove")
@audited(_model_now)
@click.argument("name")
@json_option
@pass_context
def model_remove(context: Context, name: str, as_json: bool) -> None:
    """Remove the declaration of a model. Its deployments stay."""
    with context.services() as services:
        services.deployments.remove_model(name)
    print_result({"removed": name}, f"Nothing is declared of {name} any more.", as_json)
