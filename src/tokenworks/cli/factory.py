"""`tokenworks factory`: how fast an engine is, and what a fleet would do with traffic."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import yaml
from rich.progress import Progress

from tokenworks.app import calibration
from tokenworks.app.curves import draw_curves
from tokenworks.app.output import print_json, print_table, say
from tokenworks.app.tables import console
from tokenworks.cli.base import Context, json_option, pass_context
from tokenworks.factory import (
    MACHINES_MAX,
    OBJECTIVES,
    POLICIES,
    SYNTHETIC,
    EngineSpec,
    Objective,
    Outcome,
    PolicyName,
    TraceRequest,
    machines_for,
    read_credential,
    read_fleet,
    read_trace,
    simulate,
)
from tokenworks.kernel import format_money

_CALIBRATED: Final = frozenset(
    {
        "name",
        "kind",
        "region",
        "prefill_base_ms",
        "prefill_ms_per_token",
        "decode_base_ms",
        "decode_ms_per_request",
        "slots_max",
    }
)


TRAFFIC_MAX: Final = 1000.0


def _figures(outcome: Outcome, limit_s: float) -> dict[str, float]:
    return {
        "first_token_mean_s": round(outcome.mean_first_token_s, 4),
        "first_token_p50_s": round(outcome.first_token_s(0.5), 4),
        "first_token_p99_s": round(outcome.first_token_s(0.99), 4),
        "end_to_end_mean_s": round(outcome.mean_end_to_end_s, 4),
        "in_time": round(outcome.in_time(limit_s), 4),
        "tokens_per_s": round(outcome.tokens_per_s, 1),
        "cache_hits": round(outcome.hit_share, 4),
        "refusals": outcome.refusals,
        "cost_nano": outcome.cost_nano,
        "energy_wh": round(outcome.energy_wh, 1),
    }


@click.command("calibrate")
@click.option(
    "--deployment",
    "name",
    required=True,
    help="A declared deployment that speaks chat; no other client should use it meanwhile.",
)
@click.option(
    "--slots", type=click.IntRange(1, 10_000), help="How many requests it has at once, where that is known."
)
@click.option(
    "--check/--no-check",
    "checked",
    default=True,
    show_default=True,
    help="Compare a simulation of the result with the engine.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a fleet file for `factory simulate`.",
)
@click.option("--seed", type=int, default=1, show_default=True)
@json_option
@pass_context
def factory_calibrate(
    context: Context, name: str, slots: int | None, checked: bool, out: Path | None, seed: int, as_json: bool
) -> None:
    """Time a real engine, for simulations of it: about forty requests, which bypass the gateway and are not charged."""
    with context.services() as services:
        found = services.deployments.find(name)
    engine = calibration.Engine(found, read_credential(found.credential, context.settings().secrets))
    slug = re.sub(r"[^a-z0-9.-]", "-", name.lower())[:40]
    with Progress(console=console, transient=True, disable=as_json) as bar:
        task = bar.add_task("timing", total=calibration.step_count())
        spec = calibration.measure(engine, slug, slots, seed, lambda: bar.advance(task))
        spec = spec.model_copy(update={"kind": found.kind, "region": found.region})
        check = calibration.check(engine, spec, seed, lambda: bar.advance(task)) if checked else None
    content = {
        field: value for field, value in spec.model_dump(exclude_none=True).items() if field in _CALIBRATED
    }
    content = {
        field: round(value, 4) if isinstance(value, float) else value for field, value in content.items()
    }
    if out is not None:
        out.write_text(yaml.safe_dump([content], sort_keys=False), encoding="utf-8")
    if as_json:
        print_json({"engine": content, "check": None if check is None else check._asdict()})
        return
    print_table(f"{name}, as it was timed", ["", "ms"], [(field, f"{value:g}") for field, value in content.items() if field.endswith(("_ms", "_token", "_request"))], right=["ms"])  # fmt: skip
    if check is not None:
        rows = [
            ("first token", f"{check.first_token_ms:.0f}", f"{check.simulated_first_token_ms:.0f}", f"{check.simulated_first_token_ms / check.first_token_ms:.2f}"),
            ("whole", f"{check.whole_ms:.0f}", f"{check.simulated_whole_ms:.0f}", f"{check.simulated_whole_ms / check.whole_ms:.2f}"),
        ]  # fmt: skip
        print_table(
            f"{calibration.CHECK_REQUESTS} requests at the same times, mean ms",
            ["", "engine", "simulated", "ratio"], rows, right=["engine", "simulated", "ratio"],
        )  # fmt: skip
    if out is not None:
        say(f"Written: {out}. tokenworks factory simulate --trace … --fleet {out}")


@click.command("simulate")
@click.option(
    "--trace", "trace_name", required=True,
    help=f"A .jsonl or .csv file, gzipped or not, or synthetic:NAME[:SEED] with {', '.join(SYNTHETIC)}.",
)  # fmt: skip
@click.option(
    "--fleet",
    default="16",
    show_default=True,
    help="A number of standard engines, or a YAML file of engines.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    help="More than one: they are compared.",
)
@click.option(
    "--traffic",
    type=click.FloatRange(0, TRAFFIC_MAX, min_open=True),
    default=1.0,
    show_default=True,
    help="A factor: 2 is twice as many requests in the same time.",
)
@click.option("--objective", type=click.Choice(OBJECTIVES), default="latency", show_default=True)
@click.option(
    "--within",
    "limit_s",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Seconds to the first token that are in time.",
)
@click.option(
    "--machines-for",
    "share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Compute how many of the fleet's first engine serve this share in time.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="The seed of the gateway's initial errors of prediction.",
)
@click.option(
    "--curves",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw times to first token into this SVG file.",
)
@json_option
@pass_context
def factory_simulate(
    context: Context, trace_name: str, fleet: str, policies: tuple[PolicyName, ...], traffic: float, objective: Objective,
    limit_s: float, share: float | None, seed: int, curves: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Simulate a fleet under traffic: times to first token, throughput, cost, energy; with the gateway's own placement."""
    engines = read_fleet(fleet)
    with Progress(console=console, transient=True, disable=as_json) as bar:
        task = bar.add_task("Reading the trace", total=None)
        trace = read_trace(trace_name)
        found: dict[PolicyName, Outcome] = {}
        for policy in policies or ("predicted",):
            bar.update(task, description=policy, total=len(trace), completed=0)
            found[policy] = simulate(
                trace, engines, policy, traffic=traffic, seed=seed, objective=objective,
                progress=lambda done: bar.update(task, completed=done),
            )  # fmt: skip
        machines = _machines(bar, trace, engines, list(found), traffic, limit_s, share, seed) if share else {}
    if curves is not None:
        curves.write_text(
            draw_curves({name: outcome.first_token_ms for name, outcome in found.items()}, limit_s),
            encoding="utf-8",
        )
    figures = {name: _figures(outcome, limit_s) for name, outcome in found.items()}
    if as_json:
        shown = {
            name: {**f, "machines": machines[name]} if name in machines else f for name, f in figures.items()
        }
        print_json({"trace": trace_name, "requests": len(trace), "traffic": traffic, "policies": shown})
        return
    rows = [
        (
            name, f"{f['first_token_mean_s']:.2f}", f"{f['first_token_p99_s']:.2f}", f"{f['end_to_end_mean_s']:.2f}", f"{f['in_time']:.1%}",
            f"{f['tokens_per_s']:.0f}", f"{f['cache_hits']:.1%}", format_money(found[name].cost_nano // 10_000_000 * 10_000_000),
            f"{f['energy_wh']:.0f}", (machines[name] or f"over {MACHINES_MAX}") if name in machines else "",
        )
        for name, f in figures.items()
    ]  # fmt: skip
    columns = [
        "policy",
        "first token s",
        "p99",
        "whole s",
        f"within {limit_s:g} s",
        "tokens/s",
        "cache hits",
        "CNY",
        "Wh",
        "machines",
    ]
    print_table(
        f"{len(trace):,} requests of {trace_name}, {traffic:g} × the traffic",
        columns,
        rows,
        right=columns[1:],
    )
    if curves is not None:
        say(f"{curves}: the curves.")


def _machines(
    bar: Progress, trace: Sequence[TraceRequest], engines: list[EngineSpec], policies: Sequence[PolicyName], traffic: float, limit_s: float,
    share: float, seed: int,
) -> dict[PolicyName, int | None]:  # fmt: skip
    task = bar.add_task("How many machines", total=len(policies))
    found: dict[PolicyName, int | None] = {}
    for policy in policies:
        found[policy] = machines_for(trace, engines[0], policy, share, limit_s, traffic=traffic, seed=seed)
        bar.advance(task)
    return found
