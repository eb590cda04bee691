"""`tokenworks model`: what is declared of models."""

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table, say
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.factory import (
    FILINGS,
    MODALITIES,
    ListedModel,
    list_price_text,
    make_model,
    price_text,
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
@click.option("--here", is_flag=True, help="Only models that are declared or deployed.")
@json_option
@pass_context
def model_list(context: Context, here: bool, as_json: bool) -> None:
    """The known models: what is declared of them, where they are deployed, and what the catalogue of models has."""
    with context.services() as services:
        found = services.known_models.listed(here=here)
    if as_json:
        print_json([_listed_json(model) for model in found])
        return
    print_table(
        "Models",
        [
            "model",
            "maker",
            "context",
            "output",
            "takes",
            "tools",
            "list price",
            "quality",
            "filing",
            "deployments",
        ],
        [_row(model) for model in found],
        right=["context", "output", "quality"],
    )


def _listed_json(model: ListedModel) -> dict[str, object]:
    declared = {} if model.card is None else model.card.model_dump(mode="json")
    return {
        "name": model.name,
        **declared,
        "declared": model.card is not None,
        "deployments": list(model.deployments),
        "imported": model.imported,
        "facts": None if model.facts is None else model.facts.model_dump(mode="json", exclude_defaults=True),
    }


def _row(model: ListedModel) -> tuple[object, ...]:
    """What is declared counts before what is published."""
    card, facts = model.card, model.facts
    takes = card.modalities if card is not None else () if facts is None else facts.input
    tools = card.tools if card is not None else None if facts is None else facts.tools
    filing = f"{card.filing} {card.filing_no or ''}".strip() if card is not None else ""
    return (
        model.name,
        facts.maker if facts is not None else "",
        facts.context if facts is not None else "",
        facts.output_tokens_max if facts is not None else "",
        ", ".join(takes),
        "" if tools is None else "yes" if tools else "no",
        list_price_text(facts),
        card.quality if card is not None else "",
        filing,
        ", ".join(model.deployments),
    )


@click.command("show")
@click.argument("name")
@json_option
@pass_context
def model_show(context: Context, name: str, as_json: bool) -> None:
    """A model by its id or a seller's name: what is published of it with sources, what is declared, and where it is deployed."""
    with context.services() as services:
        model = services.known_models.known(name)
    if as_json:
        print_json(_listed_json(model))
        return
    card, facts = model.card, model.facts
    say(
        f"{model.name}: deployed as {', '.join(model.deployments)}."
        if model.deployments
        else f"{model.name}: not deployed."
    )
    if card is not None:
        quality = "" if card.quality is None else f", quality {card.quality}"
        filing = f", filing {card.filing} {card.filing_no or ''}".rstrip()
        say(
            f"Declared: takes {', '.join(card.modalities)}, {'tools' if card.tools else 'no tools'}{quality}{filing}."
        )
    if facts is None:
        say("The catalogue of models has nothing of it.")
        return
    hidden = {"id", "prices", "sources", "vendor_ids", "notes"}
    shown = facts.model_dump(mode="json", exclude_defaults=True, exclude=hidden)
    lines = [
        f"{field}: {', '.join(value) if isinstance(value, list) else value}" for field, value in shown.items()
    ]
    lines += [f"at {seller}: {known_as}" for seller, known_as in facts.vendor_ids.items()]
    lines += [f"price {price_text(price)}" for price in facts.prices]
    lines += [f"note: {note}" for note in facts.notes]
    lines += [f"source: {source.source} ({source.date})" for source in facts.sources]
    say("\n".join(lines))
    say("Imported facts lie over the shipped ones." if model.imported else "Nothing is imported of it.")


@click.command("remove")
@audited(_model_now)
@click.argument("name")
@json_option
@pass_context
def model_remove(context: Context, name: str, as_json: bool) -> None:
    """Remove what is declared and imported of a model. Its deployments, and the shipped catalogue of models, stay."""
    with context.services() as services:
        services.known_models.remove(name)
    print_result({"removed": name}, f"Nothing is declared or imported of {name} any more.", as_json)
