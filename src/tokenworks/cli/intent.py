"""`tokenworks intent`: names that stand for the model that fits."""

from pathlib import Path

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.factory import (
    BUILT_IN,
    OBJECTIVES,
    SYNTHETIC_REQUESTS,
    IntentEvaluation,
    ModelCard,
    evaluate,
    make_intent,
    make_model,
    read_requests,
)
from tokenworks.kernel import is_digits


def _intent_now(services: AppServices, params: Params) -> object:
    return next(
        intent for intent in services.deployments.intents() if intent.name == params["name"]
    ).model_dump()


@click.command("set")
@audited(_intent_now)
@click.argument("name")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="balance", show_default=True)
@click.option("--model", "models", multiple=True, help="A model that is meant; more than one. None: all of which a quality is declared.")  # fmt: skip
@click.option("--quality-min", type=click.IntRange(0, 100), default=0, show_default=True)
@json_option
@pass_context
def intent_set(
    context: Context, name: str, objective: str, models: tuple[str, ...], quality_min: int, as_json: bool
) -> None:
    """Define an intent, or redefine a built-in one."""
    made = make_intent(name=name, objective=objective, models=models, quality_min=quality_min)
    with context.services() as services:
        services.deployments.set_intent(made)
    print_result(made.model_dump(mode="json"), f"Clients may name {name} in place of a model.", as_json)


@click.command("list")
@json_option
@pass_context
def intent_list(context: Context, as_json: bool) -> None:
    """All intents, the built-in ones first."""
    with context.services() as services:
        set_here = {intent.name: intent for intent in services.deployments.intents()}
    found = [*(BUILT_IN | set_here).values()]
    if as_json:
        print_json(
            [intent.model_dump(mode="json") | {"built_in": intent.name not in set_here} for intent in found]
        )
        return
    rows = [
        (
            intent.name,
            intent.objective,
            ", ".join(intent.models) or "all with a quality",
            intent.quality_min,
            "" if intent.name in set_here else "built in",
        )
        for intent in found
    ]
    print_table(
        "Intents", ["intent", "objective", "models", "quality at least", ""], rows, right=["quality at least"]
    )


@click.command("remove")
@audited(_intent_now)
@click.argument("name")
@json_option
@pass_context
def intent_remove(context: Context, name: str, as_json: bool) -> None:
    """Remove an intent. A built-in one means again what it did."""
    with context.services() as services:
        services.deployments.remove_intent(name)
    print_result({"removed": name}, f"Intent {name} is removed.", as_json)


@click.command("evaluate")
@click.option("--requests", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A YAML list of [easy or hard, text]; left out: those that ship with Tokenworks.")  # fmt: skip
@click.option("--small", "small_text", default="40:1", show_default=True, metavar="QUALITY:PRICE", help="A small model: its quality, and what its output token costs.")  # fmt: skip
@click.option("--large", "large_text", default="90:16", show_default=True, metavar="QUALITY:PRICE", help="A large one.")  # fmt: skip
@json_option
def intent_evaluate(path: Path | None, small_text: str, large_text: str, as_json: bool) -> None:
    """What each built-in intent saves on labelled requests, compared with always the large model, and how many hard requests still get the large model.

    An easy request counts as well answered by both models, a hard one by the large model alone.
    """
    requests = read_requests(SYNTHETIC_REQUESTS if path is None else path)
    small, large = _priced("small", small_text), _priced("large", large_text)
    found = {name: evaluate(intent, requests, small, large) for name, intent in BUILT_IN.items()}
    if as_json:
        print_json({name: _verdict(verdict) for name, verdict in found.items()})
        return
    rows = [
        (name, f"{v.to_large} of {v.requests}", f"{100 * v.saving:.0f} %", f"{v.hard_kept} of {v.hard}", f"{100 * v.well_answered:.1f} %")
        for name, v in found.items()
    ]  # fmt: skip
    columns = ["intent", "to the large model", "saved", "hard ones that got it", "well answered"]
    print_table(f"{len(requests)} labelled requests", columns, rows, right=columns[1:])


def _verdict(verdict: IntentEvaluation) -> dict[str, object]:
    return verdict._asdict() | {"saving": round(verdict.saving, 4), "well_answered": round(verdict.well_answered, 4)}  # fmt: skip


def _priced(name: str, text: str) -> tuple[ModelCard, int]:
    quality, colon, price = text.partition(":")
    if not colon or not is_digits(quality, 3) or not is_digits(price, 12):
        raise click.UsageError(f"--{name} is QUALITY:PRICE, such as 40:1, not {text!r}")
    return make_model(name=name, quality=int(quality)), int(price)
