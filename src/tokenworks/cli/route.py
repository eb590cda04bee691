"""`tokenworks route explain`: where a request would go, and why."""

import click

from tokenworks.app.output import print_json, print_table, say
from tokenworks.catalog import Counts
from tokenworks.charging import first_that_pays
from tokenworks.cli.base import Context, json_option, pass_context, subscriber_option
from tokenworks.factory import (
    OBJECTIVES,
    Decision,
    Objective,
    Requirements,
    SubscriberPolicy,
    difficulty,
    features,
)
from tokenworks.gateway import Snapshot, explain_route, read_seen
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
    """Where a subscriber's request would go now, and why: every deployment with its predicted times and cost, or the reason why it is excluded.

    With a server running on this host it is as its workers see it now (queues, speeds, health; one line each where they differ);
    else by what is declared. What a prompt begins with is not known here, so caches are not in it.
    """
    settings = context.settings()
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        plan = services.subscriptions.service(found.account_id)
        declared = services.deployments
        deployments, aliases = declared.all(), declared.aliases()
        cards, intents = declared.models(), declared.intents()
        rates, buckets = services.offerings.rate_cards(), services.ledger.buckets(found.account_id)
        subject = SubscriberPolicy(
            objective or plan.objective, plan.edge_first, services.consents.regions_of(found), found.home_region, plan.default_model
        )  # fmt: skip
        wanted = Requirements(
            difficulty(features(prompt or "")), frozenset(), False, prompt_tokens, output_tokens
        )
        counts, now = Counts(fresh_input=prompt_tokens, output=output_tokens), services.clock.now()
        views = explain_route(
            lambda: Snapshot(0, deployments, aliases, {}, {}, models=cards, intents=intents), read_seen(settings.run_dir), model,
            subject, wanted, lambda name: first_that_pays(buckets, rates, name, counts, now), filing_required=settings.filing_required,
        )  # fmt: skip
    first = views[0][1]
    if first.refused is not None:
        raise NotFound(first.refused)
    _say(views, found, as_json)


def _say(views: list[tuple[str, Decision]], found: Subscriber, as_json: bool) -> None:
    worker, first = views[0]
    candidates, ask, name = first.candidates, first.request, first.model
    by_worker = {
        worker_name: None if view.chosen is None else view.chosen.name for worker_name, view in views
    }
    chosen = by_worker[worker]
    if as_json:
        rows = [
            {
                "deployment": c.view.name,
                "region": c.view.deployment.region,
                "vendor": c.view.deployment.vendor,
                "site": c.view.deployment.site,
                "kind": c.view.deployment.kind,
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
                "by": "what is declared" if worker == "" else "what workers see",
                "chosen": chosen,
                "chosen_by_worker": {worker: place for worker, place in by_worker.items() if worker},
                "choices": [choice._asdict() for choice in first.choices],
                "models_excluded": dict(first.models_out),
                "candidates": rows,
            }
        )
        return
    for choice in first.choices[:1]:
        say(f"{choice.model}: {choice.reason}")
    for other, why in first.models_out.items():
        say(f"{other} is out: {why}")
    shown = [
        (
            c.view.name, c.view.deployment.region or "", c.view.deployment.kind, c.view.deployment.vendor or "",
            "" if c.excluded else f"{c.first_token_ms:.0f}", "" if c.excluded else f"{c.wait_ms:.0f}",
            "" if c.excluded else format_money_exact(c.cost_nano), c.excluded or ("chosen" if c.view.name == chosen else ""),
        )
        for c in candidates
    ]  # fmt: skip
    columns = ["deployment", "region", "kind", "vendor", "first token ms", "of it waiting", "CNY", "why"]
    by = "by what is declared" if worker == "" else f"as worker {worker} sees it"
    title = f"{name} for {found.phone_masked}, {ask.objective}, {by}"
    print_table(title, columns, shown, right=["first token ms", "of it waiting", "CNY"])
    for other, place in by_worker.items():
        if place != chosen:
            say(f"Worker {other} would choose {place or 'none'}.")
