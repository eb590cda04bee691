"""`tokenworks deployment`: servers of models."""

from collections.abc import Mapping
from typing import Final

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table, say
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.deployment_options import request_options
from tokenworks.cli.trail import Params, audited
from tokenworks.factory import (
    KINDS,
    PROTOCOLS,
    make_deployment,
    probe_protocols,
    read_credential,
)
from tokenworks.gateway import ModelTokenizer
from tokenworks.kernel import is_digits

HISTORY_DEFAULT: Final = 50


def _deployment_now(services: AppServices, params: Params) -> object:
    return next(d for d in services.deployments.all() if d.name == params["name"]).model_dump(mode="json")


@click.command("add")
@audited(_deployment_now)
@click.option("--name", required=True)
@click.option("--model", required=True, help="The model's name for clients.")
@click.option("--base-url", required=True, help="http(s)://host[:port][/v1], as an SDK takes it.")
@click.option("--upstream-model", help="The model's name there (default: the same).")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(PROTOCOLS),
    help="A protocol that it speaks; left out: probed.",
)
@click.option("--api-key-env", help="The TOKENWORKS_UPSTREAM_* variable with its credential.")
@click.option("--api-key-file", help="The file in secrets_dir with its credential.")
@click.option("--allow-private", is_flag=True, help="It is on a loopback or private address.")
@click.option("--region", help="Where it is, such as cn-sh.")
@click.option("--vendor", help="Who runs it.")
@click.option(
    "--committed", is_flag=True, help="Its capacity is paid for in any case: a further request costs nothing."
)
@click.option("--round-trip-ms", type=int, help="The round trip to it, until it is measured.")
@click.option("--prefill-tokens-per-s", type=int, help="How fast it reads a prompt, until it is measured.")
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
@click.option(
    "--max-output-tokens", type=int, help="The output tokens that are held where a client gives no maximum."
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="CLASS=NANO",
    help="Price paid, nano yuan per token of a class, such as output=8000.",
)
@click.option("--no-facts", is_flag=True, help="Take nothing from the catalogue of models.")
@request_options
@json_option
@pass_context
def deployment_add(
    context: Context, /, name: str, model: str, base_url: str, upstream_model: str | None, protocols: tuple[str, ...],
    api_key_env: str | None, api_key_file: str | None, allow_private: bool, region: str | None, context_tokens: int | None,
    tokenizer: str | None, max_output_tokens: int | None, hides_reasoning: bool, prices: tuple[str, ...], vendor: str | None, committed: bool, round_trip_ms: int | None,
    prefill_tokens_per_s: int | None, cache_blocks: int | None, site: str | None, kind: str, no_facts: bool, as_json: bool, **options: object,
) -> None:  # fmt: skip
    """Declare a deployment: any OpenAI-compatible or Anthropic-compatible server. What is left out of context, output, price and the model's modalities comes from the catalogue of models."""
    if api_key_env and api_key_file:
        raise click.UsageError("--api-key-env and --api-key-file exclude each other")
    credential = f"env:{api_key_env}" if api_key_env else f"file:{api_key_file}" if api_key_file else None
    fields: dict[str, object] = {
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
    fields |= {name: value for name, value in options.items() if value is not None}
    made = make_deployment(**fields)
    settings = context.settings()
    if made.tokenizer is not None:
        ModelTokenizer(settings.tokenizers / made.tokenizer)  # raises where the tokenizer can't be loaded
    if not protocols:
        secret = read_credential(credential, settings.secrets) if credential else None
        made = made.model_copy(update={"protocols": probe_protocols(made, secret)})
    given = {"price"} if prices else set()
    given |= fields.keys() & {"context_tokens", "max_output_tokens"}
    with context.services() as services:
        declared = [card.name for card in services.deployments.models()]
        figures = (
            None if no_facts else services.known_models.figures_for(made, given, declared, settings.usd_yuan)
        )
        if figures is not None:
            made = make_deployment(**(made.model_dump() | figures.fields))
        services.deployments.add(made)
        if figures is not None and figures.card is not None:
            services.deployments.set_model(figures.card)
    taken = [] if figures is None else figures.taken
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        say(f"Deployment {name} serves {model} over {', '.join(made.protocols)}.")
        for words in taken:
            say(f"From the catalogue of models: {words}.")


def _prices(pairs: tuple[str, ...]) -> dict[str, int]:
    prices = {}
    for pair in pairs:
        name, equals, nano = pair.partition("=")
        if not equals or not is_digits(nano, 18):
            raise click.UsageError(f"--price is CLASS=NANO, not {pair!r}")
        prices[f"{name}_nano"] = int(nano)
    return prices


@click.command("list")
@json_option
@pass_context
def deployment_list(context: Context, as_json: bool) -> None:
    """All deployments."""
    with context.services() as services:
        found = services.deployments.all()
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


@click.command("set")
@audited(_deployment_now)
@click.argument("name")
@click.option("--price", "prices", multiple=True, metavar="CLASS=NANO", help="Price paid from now on; classes that are not named keep theirs.")  # fmt: skip
@click.option("--api-key-env", help="The TOKENWORKS_UPSTREAM_* variable with its credential.")
@click.option("--api-key-file", help="The file in secrets_dir with its credential.")
@click.option("--no-credential", is_flag=True, help="It takes no credential any more.")
@click.option("--context-tokens", type=int, help="Its context length.")
@click.option(
    "--max-output-tokens", type=int, help="The output tokens that are held where a client gives no maximum."
)
@click.option("--committed/--not-committed", default=None, help="Whether it is paid for anyway.")
@click.option("--round-trip-ms", type=int, help="The round trip to it, until it is measured.")
@click.option("--prefill-tokens-per-s", type=int, help="How fast it reads a prompt, until it is measured.")
@click.option("--cache-blocks", type=int, help="Blocks of 512 tokens that its prefix cache has room for.")
@request_options
@json_option
@pass_context
def deployment_set(
    context: Context, /, name: str, prices: tuple[str, ...], api_key_env: str | None, api_key_file: str | None,
    no_credential: bool, as_json: bool, **options: object,
) -> None:  # fmt: skip
    """Change a deployment's price, credential, limits or request options; options that are left out stay. `deployment history` shows it."""
    if sum(map(bool, (api_key_env, api_key_file, no_credential))) > 1:
        raise click.UsageError("--api-key-env, --api-key-file and --no-credential exclude each other")
    fields = {field: value for field, value in options.items() if value is not None}
    if api_key_env or api_key_file or no_credential:
        fields["credential"] = (
            None if no_credential else f"env:{api_key_env}" if api_key_env else f"file:{api_key_file}"
        )
    if not fields and not prices:
        raise click.UsageError("say what to change: `tokenworks deployment set --help` lists it")
    with context.services() as services:
        if prices:
            fields["price"] = services.deployments.find(name).price.model_dump() | _prices(prices)
        made = services.deployments.change(name, **fields)
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        say(f"Deployment {name}: {', '.join(f'{field} {getattr(made, field)}' for field in fields)}.")


@click.command("history")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=HISTORY_DEFAULT, show_default=True)
@json_option
@pass_context
def deployment_history(context: Context, name: str, limit: int, as_json: bool) -> None:
    """The changes of a deployment, with time and actor, newest first; also of a removed deployment."""
    with context.services() as services:
        found, _ = services.identity.audited(name, 0, limit)
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
    """The fields that a row of the audit trail changed, as "name: before -> after"."""
    after = row["after"]
    now = after.get("is") if isinstance(after, dict) else None
    was = row["before"] if isinstance(row["before"], dict) else {}
    if not isinstance(now, dict) or not was:
        return []
    return [f"{name}: {was.get(name)} -> {value}" for name, value in now.items() if was.get(name) != value]


@click.command("drain")
@audited(_deployment_now)
@click.argument("name")
@json_option
@pass_context
def deployment_drain(context: Context, name: str, as_json: bool) -> None:
    """Drain the deployment: no new requests; requests in flight finish."""
    with context.services() as services:
        services.deployments.drain(name, draining=True)
    print_result({"draining": name}, f"Deployment {name} takes nothing new.", as_json)


@click.command("resume")
@audited(_deployment_now)
@click.argument("name")
@json_option
@pass_context
def deployment_resume(context: Context, name: str, as_json: bool) -> None:
    """Send requests to a drained deployment again."""
    with context.services() as services:
        services.deployments.drain(name, draining=False)
    print_result({"resumed": name}, f"Deployment {name} takes requests again.", as_json)


@click.command("remove")
@audited(_deployment_now)
@click.argument("name")
@json_option
@pass_context
def deployment_remove(context: Context, name: str, as_json: bool) -> None:
    """Remove the deployment: no new requests; requests in flight finish."""
    with context.services() as services:
        services.deployments.remove(name)
    print_result({"removed": name}, f"Deployment {name} is removed.", as_json)
