"""The commands of the token factory: deployments and aliases, how fast an engine is, what a fleet would do with traffic."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import yaml
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress

from tokenworks.app import calibration
from tokenworks.app.curves import draw_curves
from tokenworks.app.output import console, print_json, print_table, say
from tokenworks.cli.base import Context, json_option, pass_context, said
from tokenworks.cli.options import asked_options
from tokenworks.factory import (
    KINDS,
    MACHINES_MAX,
    OBJECTIVES,
    POLICIES,
    PROTOCOLS,
    SYNTHETIC,
    DeploymentNotFound,
    EngineSpec,
    Objective,
    Outcome,
    Policy,
    TraceFaulty,
    Work,
    machines_for,
    make_deployment,
    probe_protocols,
    read_credential,
    read_trace,
    simulate,
)
from tokenworks.gateway import ModelTokenizer
from tokenworks.kernel import format_money, is_digits

FLEET_BYTES_MAX: Final = 1_000_000
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

HISTORY_DEFAULT: Final = 50


@click.group()
def deployment() -> None:
    """Places that serve models."""


@deployment.command("add")
@click.option("--name", required=True)
@click.option("--model", required=True, help="The model's name for clients.")
@click.option("--base-url", required=True, help="http(s)://host[:port][/v1], as an SDK takes it.")
@click.option("--upstream-model", help="The model's name there (default: the same).")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(PROTOCOLS),
    help="What it speaks; left out, it is asked.",
)
@click.option("--api-key-env", help="The TOKENWORKS_UPSTREAM_* variable with its credential.")
@click.option("--api-key-file", help="The file in secrets_dir with its credential.")
@click.option("--allow-private", is_flag=True, help="It is on a loopback or private address.")
@click.option("--region", help="Where it is, such as cn-sh.")
@click.option("--vendor", help="Who runs it.")
@click.option("--committed", is_flag=True, help="It is paid for anyway: a request more costs nothing.")
@click.option("--round-trip-ms", type=int, help="How far away it is, until that is seen.")
@click.option("--prefill-tokens-per-s", type=int, help="How fast it reads a prompt, until that is seen.")
@click.option("--cache-blocks", type=int, help="Blocks of 512 tokens that its prefix cache has room for.")
@click.option("--site", help="Where it stands: the name of a site; several deployments may.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="hub",
    show_default=True,
    help="What the site is: an edge box near subscribers, a hub, a vendor's.",
)
@click.option("--context-tokens", type=int, help="Its context length.")
@click.option(
    "--hides-reasoning", is_flag=True, help="Its streams do not show all the tokens that they make."
)
@click.option("--tokenizer", help="The folder of tokenizers_dir that counts what it does not report.")
@click.option("--max-output-tokens", type=int, help="What is held where a client gives no maximum.")
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="CLASS=NANO",
    help="Price paid, nano yuan per token of a class, such as output=8000.",
)
@asked_options
@json_option
@pass_context
def deployment_add(
    context: Context, /, name: str, model: str, base_url: str, upstream_model: str | None, protocols: tuple[str, ...],
    api_key_env: str | None, api_key_file: str | None, allow_private: bool, region: str | None, context_tokens: int | None,
    tokenizer: str | None, max_output_tokens: int | None, hides_reasoning: bool, prices: tuple[str, ...], vendor: str | None, committed: bool, round_trip_ms: int | None,
    prefill_tokens_per_s: int | None, cache_blocks: int | None, site: str | None, kind: str, as_json: bool, **asked: object,
) -> None:  # fmt: skip
    """Declare a deployment: any OpenAI-compatible or Anthropic-compatible server."""
    if api_key_env and api_key_file:
        raise click.UsageError("--api-key-env and --api-key-file exclude each other")
    credential = f"env:{api_key_env}" if api_key_env else f"file:{api_key_file}" if api_key_file else None
    fields: dict[str, Any] = {
        "name": name,
        "model": model,
        "upstream_model": upstream_model or model,
        "base_url": base_url,
        "protocols": protocols or tuple(PROTOCOLS),
        "credential": credential,
        "allow_private": allow_private,
        "region": region,
        "price": _prices(prices),
        "tokenizer": tokenizer,
        "vendor": vendor,
        "committed": committed,
        "round_trip_ms": round_trip_ms,
        "prefill_tokens_per_s": prefill_tokens_per_s,
        "cache_blocks": cache_blocks,
        "site": site,
        "kind": kind,
    }
    fields |= {"context_tokens": context_tokens} if context_tokens is not None else {}
    fields |= {"max_output_tokens": max_output_tokens} if max_output_tokens is not None else {}
    fields["hides_reasoning"] = hides_reasoning
    fields |= {name: value for name, value in asked.items() if value is not None}
    made = make_deployment(**fields)
    settings = context.settings()
    if made.tokenizer is not None:
        ModelTokenizer(settings.tokenizers / made.tokenizer)  # or it says what is wrong with it
    if not protocols:
        secret = read_credential(credential, settings.secrets) if credential else None
        made = made.model_copy(update={"protocols": probe_protocols(made, secret)})
    with context.works() as works:
        works.deployments.add(made)
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        say(f"Deployment {name} serves {model} over {', '.join(made.protocols)}.")


def _prices(pairs: tuple[str, ...]) -> dict[str, int]:
    prices = {}
    for pair in pairs:
        name, equals, nano = pair.partition("=")
        if not equals or not is_digits(nano, 18):
            raise click.UsageError(f"--price is CLASS=NANO, not {pair!r}")
        prices[f"{name}_nano"] = int(nano)
    return prices


@deployment.command("list")
@json_option
@pass_context
def deployment_list(context: Context, as_json: bool) -> None:
    """All deployments."""
    with context.works() as works:
        found = works.deployments.all()
    if as_json:
        print_json([d.model_dump(mode="json") for d in found])
    else:
        rows = [
            (
                d.name,
                d.model,
                d.upstream_model,
                d.base_url,
                ", ".join(d.protocols),
                d.credential or "none",
                f"{d.site or ''} {d.kind} {d.region or ''}".strip(),
                "draining" if d.draining else "",
            )
            for d in found
        ]
        print_table(
            "Deployments",
            ["name", "model", "upstream model", "base URL", "protocols", "credential", "site", ""],
            rows,
        )


@deployment.command("set")
@click.argument("name")
@click.option("--price", "prices", multiple=True, metavar="CLASS=NANO", help="Price paid from now on; classes that are not named keep theirs.")  # fmt: skip
@click.option("--api-key-env", help="The TOKENWORKS_UPSTREAM_* variable with its credential.")
@click.option("--api-key-file", help="The file in secrets_dir with its credential.")
@click.option("--no-credential", is_flag=True, help="It takes no credential any more.")
@click.option("--context-tokens", type=int, help="Its context length.")
@click.option("--max-output-tokens", type=int, help="What is held where a client gives no maximum.")
@click.option("--committed/--not-committed", default=None, help="Whether it is paid for anyway.")
@click.option("--round-trip-ms", type=int, help="How far away it is, until that is seen.")
@click.option("--prefill-tokens-per-s", type=int, help="How fast it reads a prompt, until that is seen.")
@click.option("--cache-blocks", type=int, help="Blocks of 512 tokens that its prefix cache has room for.")
@asked_options
@json_option
@pass_context
def deployment_set(
    context: Context, /, name: str, prices: tuple[str, ...], api_key_env: str | None, api_key_file: str | None,
    no_credential: bool, as_json: bool, **asked: object,
) -> None:  # fmt: skip
    """Change a deployment's price, credential, limits or how it is asked; what is not said stays. `deployment history` shows it."""
    if sum(map(bool, (api_key_env, api_key_file, no_credential))) > 1:
        raise click.UsageError("--api-key-env, --api-key-file and --no-credential exclude each other")
    fields = {field: value for field, value in asked.items() if value is not None}
    if api_key_env or api_key_file or no_credential:
        fields["credential"] = (
            None if no_credential else f"env:{api_key_env}" if api_key_env else f"file:{api_key_file}"
        )
    if not fields and not prices:
        raise click.UsageError("say what to change: `tokenworks deployment set --help` lists it")
    with context.works() as works:
        if prices:
            fields["price"] = works.deployments.find(name).price.model_dump() | _prices(prices)
        made = works.deployments.change(name, **fields)
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        say(f"Deployment {name}: {', '.join(f'{field} {getattr(made, field)}' for field in fields)}.")


@deployment.command("history")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=HISTORY_DEFAULT, show_default=True)
@json_option
@pass_context
def deployment_history(context: Context, name: str, limit: int, as_json: bool) -> None:
    """Who changed what of a deployment and when, newest first; also of one that was removed."""
    with context.works() as works:
        found, _ = works.identity.audited(name, 0, limit)
    rows = [row for row in found if str(row["action"]).startswith("deployment ")]
    if as_json:
        print_json([{**row, "changed": _changed(row)} for row in rows])
        return
    print_table(
        f"History of deployment {name}",
        ["at", "who", "did", "what changed"],
        [(row["at"], row["actor"], row["action"], "; ".join(_changed(row)) or "") for row in rows],
    )


def _changed(row: Mapping[str, object]) -> list[str]:
    """The fields that a row of the trail changed: name, before, after."""
    after = row["after"]
    now = after.get("is") if isinstance(after, dict) else None
    was = row["before"] if isinstance(row["before"], dict) else {}
    if not isinstance(now, dict) or not was:
        return []
    return [f"{name}: {was.get(name)} -> {value}" for name, value in now.items() if was.get(name) != value]


@deployment.command("drain")
@click.argument("name")
@json_option
@pass_context
def deployment_drain(context: Context, name: str, as_json: bool) -> None:
    """Send it nothing new until it is resumed; what it serves goes on to its end."""
    with context.works() as works:
        works.deployments.drain(name, draining=True)
    said({"draining": name}, f"Deployment {name} takes nothing new.", as_json)


@deployment.command("resume")
@click.argument("name")
@json_option
@pass_context
def deployment_resume(context: Context, name: str, as_json: bool) -> None:
    """Send requests to a deployment that drained."""
    with context.works() as works:
        works.deployments.drain(name, draining=False)
    said({"resumed": name}, f"Deployment {name} takes requests again.", as_json)


@deployment.command("remove")
@click.argument("name")
@json_option
@pass_context
def deployment_remove(context: Context, name: str, as_json: bool) -> None:
    """Send it nothing more; what it serves goes on to its end."""
    with context.works() as works:
        works.deployments.remove(name)
    said({"removed": name}, f"Deployment {name} is removed.", as_json)


@click.group()
def alias() -> None:
    """Other names of models."""


@alias.command("add")
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
    """Let clients name a model otherwise."""
    with context.works() as works:
        works.deployments.set_alias(name, model)
    said({"alias": name, "model": model}, f"{name} stands for {model}.", as_json)


@alias.command("list")
@json_option
@pass_context
def alias_list(context: Context, as_json: bool) -> None:
    """All aliases."""
    with context.works() as works:
        found = works.deployments.aliases()
    if as_json:
        print_json(found)
    else:
        print_table("Aliases", ["alias", "model"], found.items())


@alias.command("remove")
@click.argument("name")
@json_option
@pass_context
def alias_remove(context: Context, name: str, as_json: bool) -> None:
    """Forget an alias."""
    with context.works() as works:
        works.deployments.remove_alias(name)
    said({"removed": name}, f"Alias {name} is removed.", as_json)


@click.group()
def factory() -> None:
    """The token factory: fleets and what they would do."""


def read_fleet(text: str) -> list[EngineSpec]:
    """`16` for so many of the standard engine, or a YAML file with a list of engines. Raises `TraceFaulty`."""
    if is_digits(text, 6):
        content: Any = [{"count": int(text)}]
    else:
        path = Path(text)
        if not path.is_file() or path.stat().st_size > FLEET_BYTES_MAX:
            raise TraceFaulty(
                f"a fleet is a number of engines, or a YAML file of at most {FLEET_BYTES_MAX} bytes, not {text}"
            )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TraceFaulty(f"{text}: {str(error).splitlines()[0]}") from None
    try:
        found = TypeAdapter(list[EngineSpec]).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TraceFaulty(f"{text}: {where}: {first['msg']}") from None
    if not found:
        raise TraceFaulty(f"{text}: a fleet has an engine")
    return found


def _figures(outcome: Outcome, limit_s: float) -> dict[str, Any]:
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


@factory.command("calibrate")
@click.option(
    "--deployment",
    "name",
    required=True,
    help="One that is declared, and speaks chat; nobody else should be using it.",
)
@click.option(
    "--slots", type=click.IntRange(1, 10_000), help="How many requests it has at once, where that is known."
)
@click.option(
    "--check/--no-check",
    "checked",
    default=True,
    show_default=True,
    help="Hold a simulation of the result against it.",
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
    """Time a real engine, so that a simulation is of it: about forty requests, past the gateway, charged to nobody."""
    with context.works() as works:
        found = next((d for d in works.deployments.all() if d.name == name), None)
    if found is None:
        raise DeploymentNotFound(f"there is no deployment {name!r}: tokenworks deployment list")
    if "chat" not in found.protocols:
        raise TraceFaulty(f"{name} does not speak chat")
    engine = calibration.Engine(found, read_credential(found.credential, context.settings().secrets))
    slug = re.sub(r"[^a-z0-9.-]", "-", name.lower())[:40]
    with Progress(console=console, transient=True, disable=as_json) as bar:
        task = bar.add_task("timing", total=calibration.steps())
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


@factory.command("simulate")
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
    help="So many times as fast.",
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
    help="Say how many of the fleet's first engine bring this share in time.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of what the gateway believes wrongly at first."
)
@click.option(
    "--curves",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw times to first token into this SVG file.",
)
@json_option
@pass_context
def factory_simulate(
    context: Context, trace_name: str, fleet: str, policies: tuple[Policy, ...], traffic: float, objective: Objective,
    limit_s: float, share: float | None, seed: int, curves: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """What a fleet would do with traffic: times to first token, throughput, cost, energy; by the gateway's own placement."""
    engines = read_fleet(fleet)
    with Progress(console=console, transient=True, disable=as_json) as bar:
        task = bar.add_task("Reading the trace", total=None)
        trace = read_trace(trace_name)
        found: dict[Policy, Outcome] = {}
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
    for name, count in machines.items():
        figures[name]["machines"] = count
    if as_json:
        print_json({"trace": trace_name, "requests": len(trace), "traffic": traffic, "policies": figures})
        return
    rows = [
        (
            name, f"{f['first_token_mean_s']:.2f}", f"{f['first_token_p99_s']:.2f}", f"{f['end_to_end_mean_s']:.2f}", f"{f['in_time']:.1%}",
            f"{f['tokens_per_s']:.0f}", f"{f['cache_hits']:.1%}", format_money(f["cost_nano"] // 10_000_000 * 10_000_000),
            f"{f['energy_wh']:.0f}", (f["machines"] or f"over {MACHINES_MAX}") if "machines" in f else "",
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
    bar: Progress, trace: Sequence[Work], engines: list[EngineSpec], policies: Sequence[Policy], traffic: float, limit_s: float,
    share: float, seed: int,
) -> dict[Policy, int | None]:  # fmt: skip
    task = bar.add_task("How many machines", total=len(policies))
    found: dict[Policy, int | None] = {}
    for policy in policies:
        found[policy] = machines_for(trace, engines[0], policy, share, limit_s, traffic=traffic, seed=seed)
        bar.advance(task)
    return found


GROUPS: Final = (deployment, alias, factory)
