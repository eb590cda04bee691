"""`tokenworks route explain`: where a request would go, and why."""

from typing import Any

import click

from tokenworks.app.bootstrap import Works
from tokenworks.app.output import print_json, print_table, say
from tokenworks.catalog import Counts, amount
from tokenworks.cli.base import Context, json_option, pass_context, subscriber_option
from tokenworks.factory import (
    BUILT_IN,
    MODALITIES,
    OBJECTIVES,
    Ask,
    Candidate,
    Choice,
    ModelCard,
    Objective,
    Option,
    Place,
    Placement,
    Wanted,
    difficulty,
    features,
    rank,
    unfit,
)
from tokenworks.gateway import read_seen
from tokenworks.kernel import NotFound, format_money_exact
from tokenworks.subscriptions import Subscriber


@click.command("explain")
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
            prompt_tokens, output_tokens, objective=objective or plan.objective, regions=works.consents.regions_of(found), home=found.home_region,
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
