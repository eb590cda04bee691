"""The commands about models: what is declared of them, which one an intent gets, and where a request would go and why."""

from pathlib import Path
from typing import Any, Final

import click

from tokenworks.app.bootstrap import Works
from tokenworks.app.output import print_json, print_table, say
from tokenworks.catalog import Counts, amount
from tokenworks.cli.base import Context, json_option, pass_context, said, subscriber_option
from tokenworks.factory import (
    BUILT_IN,
    FILINGS,
    MODALITIES,
    OBJECTIVES,
    SYNTHETIC_REQUESTS,
    Ask,
    Candidate,
    Choice,
    ModelCard,
    Objective,
    Option,
    Place,
    Placement,
    Verdict,
    Wanted,
    difficulty,
    evaluate,
    features,
    make_intent,
    make_model,
    rank,
    read_requests,
    unfit,
)
from tokenworks.gateway import read_seen
from tokenworks.kernel import NotFound, format_money_exact, is_digits
from tokenworks.subscriptions import Subscriber


@click.group()
def model() -> None:
    """What is declared of models, wherever they are served."""


@model.command("set")
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
    """Declare what a model is; what was declared before is replaced."""
    card = make_model(
        name=name, quality=quality, modalities=modalities or ("text",), tools=tools, filing=filing, filing_no=filing_no
    )  # fmt: skip
    with context.works() as works:
        works.deployments.set_model(card)
    said(card.model_dump(mode="json"), f"Model {name} is declared.", as_json)


@model.command("list")
@json_option
@pass_context
def model_list(context: Context, as_json: bool) -> None:
    """What is declared."""
    with context.works() as works:
        found = works.deployments.models()
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


@model.command("remove")
@click.argument("name")
@json_option
@pass_context
def model_remove(context: Context, name: str, as_json: bool) -> None:
    """Forget what is declared of a model. Its deployments stay."""
    with context.works() as works:
        works.deployments.remove_model(name)
    said({"removed": name}, f"Nothing is declared of {name} any more.", as_json)


@click.group()
def intent() -> None:
    """Names that clients may give in place of a model's: the request gets the model that fits."""


@intent.command("set")
@click.argument("name")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="balance", show_default=True)
@click.option("--model", "models", multiple=True, help="A model that is meant; more than one. None: all of which a quality is declared.")  # fmt: skip
@click.option("--quality-min", type=click.IntRange(0, 100), default=0, show_default=True)
@json_option
@pass_context
def intent_set(
    context: Context, name: str, objective: str, models: tuple[str, ...], quality_min: int, as_json: bool
) -> None:
    """Define an intent, or one of the built-in ones anew."""
    made = make_intent(name=name, objective=objective, models=models, quality_min=quality_min)
    with context.works() as works:
        works.deployments.set_intent(made)
    said(made.model_dump(mode="json"), f"Clients may name {name} in place of a model.", as_json)


@intent.command("list")
@json_option
@pass_context
def intent_list(context: Context, as_json: bool) -> None:
    """All intents, the built-in ones first."""
    with context.works() as works:
        set_here = {one.name: one for one in works.deployments.intents()}
    found = [*(BUILT_IN | set_here).values()]
    if as_json:
        print_json([one.model_dump(mode="json") | {"built_in": one.name not in set_here} for one in found])
        return
    rows = [
        (
            one.name,
            one.objective,
            ", ".join(one.models) or "all with a quality",
            one.quality_min,
            "" if one.name in set_here else "built in",
        )
        for one in found
    ]
    print_table(
        "Intents", ["intent", "objective", "models", "quality at least", ""], rows, right=["quality at least"]
    )


@intent.command("remove")
@click.argument("name")
@json_option
@pass_context
def intent_remove(context: Context, name: str, as_json: bool) -> None:
    """Forget an intent. A built-in one means again what it did."""
    with context.works() as works:
        works.deployments.remove_intent(name)
    said({"removed": name}, f"Intent {name} is removed.", as_json)


@intent.command("evaluate")
@click.option("--requests", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A YAML list of [easy or hard, text]; left out: those that ship with Tokenworks.")  # fmt: skip
@click.option("--small", "small_text", default="40:1", show_default=True, metavar="QUALITY:PRICE", help="A small model: its quality, and what its output token costs.")  # fmt: skip
@click.option("--large", "large_text", default="90:16", show_default=True, metavar="QUALITY:PRICE", help="A large one.")  # fmt: skip
@json_option
def intent_evaluate(path: Path | None, small_text: str, large_text: str, as_json: bool) -> None:
    """What each built-in intent saves on labelled requests against always taking the large model, and what of the hard ones keeps it.

    An easy request counts as well answered by both models, a hard one by the large model alone.
    """
    requests = read_requests(SYNTHETIC_REQUESTS if path is None else path)
    small, large = _priced("small", small_text), _priced("large", large_text)
    found = {name: evaluate(one, requests, small, large) for name, one in BUILT_IN.items()}
    if as_json:
        print_json({name: _verdict(verdict) for name, verdict in found.items()})
        return
    rows = [
        (name, f"{v.to_large} of {v.requests}", f"{100 * v.saving:.0f} %", f"{v.hard_kept} of {v.hard}", f"{100 * v.well_answered:.1f} %")
        for name, v in found.items()
    ]  # fmt: skip
    columns = ["intent", "to the large model", "saved", "hard ones that got it", "well answered"]
    print_table(f"{len(requests)} labelled requests", columns, rows, right=columns[1:])


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return verdict._asdict() | {"saving": round(verdict.saving, 4), "well_answered": round(verdict.well_answered, 4)}  # fmt: skip


def _priced(name: str, text: str) -> tuple[ModelCard, int]:
    quality, colon, price = text.partition(":")
    if not colon or not is_digits(quality, 3) or not is_digits(price, 12):
        raise click.UsageError(f"--{name} is QUALITY:PRICE, such as 40:1, not {text!r}")
    return make_model(name=name, quality=int(quality)), int(price)


@click.group()
def route() -> None:
    """Where requests go."""


@route.command("explain")
@click.option("--model", required=True, help="A model, an alias or an intent.")
@subscriber_option
@click.option("--prompt", help="What is asked, for an intent: how hard it seems decides.")
@click.option("--prompt-tokens", type=click.IntRange(1, 10_000_000), default=1000, show_default=True)
@click.option("--output-tokens", type=click.IntRange(1, 10_000_000), default=500, show_default=True)
@click.option("--objective", type=click.Choice(OBJECTIVES), help="Left out: what the subscriber's plan is for.")  # fmt: skip
@json_option
@pass_context
def route_explain(
    context: Context, model: str, subscriber: str, prompt: str | None, prompt_tokens: int, output_tokens: int, objective: Objective | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Where a subscriber's request would go now, and why: every deployment with what is foreseen there, or why it is out.

    With a server running on this host it is as its workers see it now (queues, speeds, health; one line each where they differ);
    else by what is declared. What a prompt begins with is not known here, so caches are not in it.
    """
    run_dir = context.settings().run_dir
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        plan = works.subscriptions.service(found.account_id)
        name = works.deployments.aliases().get(model, model)
        deployments = works.deployments.all()
        cards = {card.name: card for card in works.deployments.models()}
        intents = BUILT_IN | {one.name: one for one in works.deployments.intents()}
        served = {d.model for d in deployments}
        wanted = Wanted(difficulty(features(prompt or "")), frozenset(), False, prompt_tokens, output_tokens)
        ask = Ask(
            prompt_tokens, output_tokens, objective=objective or plan.objective, regions=works.subscriptions.regions_of(found), home=found.home_region,
            edge_first=plan.edge_first,
        )  # fmt: skip
        seen = read_seen(run_dir)
        chosen_by: list[Choice] = []
        excluded: dict[str, str] = {}
        if name in intents and name not in served:
            one = intents[name]
            ask = ask._replace(objective=objective or one.objective)
            named = one.models or tuple(
                sorted(card.name for card in cards.values() if card.quality is not None)
            )
            options = []
            for candidate in named:
                card = cards.get(candidate) or ModelCard(name=candidate, modalities=MODALITIES)
                best = _explained(deployments, candidate, ask, seen)[:1]
                why = unfit(card, wanted)
                if why is None and (not best or best[0][1][0].excluded):
                    why = best[0][1][0].excluded if best else "no deployment serves it"
                if why is not None:
                    excluded[candidate] = why
                    continue
                options.append(_option(works, found, card, best[0][1][0], wanted))
            chosen_by = rank(one, wanted, options)
            if not chosen_by:
                raise NotFound(f"no model can have this request as {name}: {excluded or 'none has a declared quality'}")  # fmt: skip
            name = chosen_by[0].model
    views = _explained(deployments, name, ask, seen)
    if not views:
        raise NotFound(f"no deployment serves {model}: tokenworks deployment list")
    _say(views, name, found, ask, chosen_by, excluded, as_json)


def _option(works: Works, found: Subscriber, card: ModelCard, best: Candidate, wanted: Wanted) -> Option:
    """What the model would cost the subscriber by the first of his buckets that pays for it."""
    rates = works.offerings.rate_cards()
    counts = Counts(fresh_input=wanted.input_tokens, output=wanted.output_tokens)
    for bucket in sorted(works.ledger.buckets(found.account_id), key=lambda b: b.priority):
        rate_card = rates.get(bucket.rate_version)
        rate = None if rate_card is None or bucket.kind == "cap" else rate_card.rate_for(card.name)
        if rate is not None and ("*" in bucket.model_classes or rate.model_class in bucket.model_classes):
            return Option(card.name, card, best.first_token_ms, amount(rate.weights(), counts), f"thousandths of a {bucket.unit}", True, best.cost_nano)  # fmt: skip
    return Option(card.name, card, best.first_token_ms, 0, "", False, best.cost_nano)


def _explained(
    deployments: list[Any], name: str, ask: Ask, seen: dict[str, dict[str, Any]]
) -> list[tuple[str, list[Candidate]]]:
    """By worker (or once, by what is declared): every place of the model, the best first."""
    views = []
    for worker, states in (seen or {"": {}}).items():
        places = [Place(d) for d in deployments if d.model == name]
        if not places:
            return []
        placement = Placement()
        placement.set_places(places)
        for place in places:
            if place.name in states:
                place.restore(states[place.name], 0.0)
        views.append((worker, placement.explain(places, (), ask, 0.0)))
    return views


def _say(
    views: list[tuple[str, list[Candidate]]], name: str, found: Subscriber, ask: Ask, choices: list[Choice], excluded: dict[str, str],
    as_json: bool,
) -> None:  # fmt: skip
    candidates = views[0][1]
    by_worker = {
        worker: next((c.place.name for c in view if c.excluded is None), None) for worker, view in views
    }
    chosen = by_worker[views[0][0]]
    if as_json:
        rows = [
            {
                "deployment": c.place.name,
                "region": c.place.deployment.region,
                "vendor": c.place.deployment.vendor,
                "site": c.place.deployment.site,
                "kind": c.place.deployment.kind,
                "excluded": c.excluded,
                "first_token_ms": None if c.excluded else round(c.first_token_ms),
                "wait_ms": None if c.excluded else round(c.wait_ms),
                "cost_nano": None if c.excluded else c.cost_nano,
            }
            for c in candidates
        ]
        print_json(
            {
                "model": name,
                "objective": ask.objective,
                "regions": ask.regions,
                "home_region": found.home_region,
                "by": "what is declared" if views[0][0] == "" else "what workers see",
                "chosen": chosen,
                "chosen_by_worker": {worker: place for worker, place in by_worker.items() if worker},
                "choices": [choice._asdict() for choice in choices],
                "models_excluded": excluded,
                "candidates": rows,
            }
        )
        return
    for choice in choices[:1]:
        say(f"{choice.model}: {choice.reason}")
    for other, why in excluded.items():
        say(f"{other} is out: {why}")
    shown = [
        (
            c.place.name, c.place.deployment.region or "", c.place.deployment.kind, c.place.deployment.vendor or "",
            "" if c.excluded else f"{c.first_token_ms:.0f}", "" if c.excluded else f"{c.wait_ms:.0f}",
            "" if c.excluded else format_money_exact(c.cost_nano), c.excluded or ("chosen" if c.place.name == chosen else ""),
        )
        for c in candidates
    ]  # fmt: skip
    columns = ["deployment", "region", "kind", "vendor", "first token ms", "of it waiting", "CNY", "why"]
    by = "by what is declared" if views[0][0] == "" else f"as worker {views[0][0]} sees it"
    title = f"{name} for {found.phone_masked}, {ask.objective}, {by}"
    print_table(title, columns, shown, right=["first token ms", "of it waiting", "CNY"])
    for worker, place in by_worker.items():
        if place != chosen:
            say(f"Worker {worker} would choose {place or 'none'}.")


GROUPS: Final = (model, intent, route)
