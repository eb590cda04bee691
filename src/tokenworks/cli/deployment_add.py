"""`tokenworks deployment add`: a deployment by its vendor's profile, or by its base URL."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

import click

from tokenworks.app.output import print_json, print_table, say
from tokenworks.app.settings import Settings
from tokenworks.cli.base import Context, json_option, pass_context
from tokenworks.cli.deployment_options import (
    credential_options,
    deployment_now,
    prices_of,
    references_of,
    request_options,
)
from tokenworks.cli.trail import audited
from tokenworks.factory import (
    KINDS,
    PROTOCOLS,
    Default,
    Deployment,
    credential_default,
    make_deployment,
    probe_protocols,
    profile_names,
    read_credential,
    vendor_defaults,
    vendor_profile,
)
from tokenworks.gateway import ModelTokenizer

_GIVEN: Final = "given"
_BY_DEFAULT: Final = "by default"
_OF_CATALOGUE: Final = "catalogue of models"
# Fields that the catalogue of models fills if they are not given.
_FIGURES: Final = ("context_tokens", "max_output_tokens", "price")
# Options without a negation: where one is not given, the profile or the default counts.
_FLAGS: Final = frozenset({"allow_private", "committed", "hides_reasoning"})


@click.command("add")
@audited(deployment_now)
@click.option("--name", help="Its name (default, with a vendor of `vendor list`: vendor-model).")
@click.option("--model", required=True, help="The model's name for clients.")
@click.option("--base-url", help="http(s)://host[:port][/v1], as an SDK takes it (default: the vendor's).")
@click.option("--upstream-model", help="The model's name there (default: the same).")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(PROTOCOLS),
    help="A protocol that it speaks; left out: as the vendor's profile says, else probed.",
)
@credential_options
@click.option("--allow-private", is_flag=True, help="It is on a loopback or private address.")
@click.option(
    "--region", help="Where it is, such as cn-sh; with a vendor: which of its base URLs, such as cn or intl."
)
@click.option("--plan", help="A plan of the vendor with a base URL of its own, such as coding.")
@click.option(
    "--vendor",
    help="Who runs it; one of `vendor list` brings base URL, protocols, profile and what is known of the model.",
)
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
    help="What the site is: an edge box near subscribers, a hub, a vendor's (default: vendor with a vendor of `vendor list`, else hub).",
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
@click.option(
    "--show", "dry_run", is_flag=True, help="Only show what would be declared, and where each value is from."
)
@json_option
@pass_context
def deployment_add(
    context: Context, /, model: str, protocols: tuple[str, ...], api_key_env: str | None, api_key_file: str | None,
    credentials: tuple[str, ...], prices: tuple[str, ...], vendor: str | None, plan: str | None, region: str | None, base_url: str | None,
    no_facts: bool, dry_run: bool, as_json: bool, **options: object,
) -> None:  # fmt: skip
    """Declare a deployment: a model of a known vendor, or any OpenAI-compatible or Anthropic-compatible server. What is left out of context, output, price and the model's modalities comes from the catalogue of models."""
    settings = context.settings()
    known = vendor is not None and (vendor in profile_names() or base_url is None)
    found: dict[str, Default] = {}
    given = references_of(api_key_env, api_key_file, credentials)
    if known:
        assert vendor is not None
        profile = vendor_profile(vendor)
        found |= vendor_defaults(profile, model, region=region, base_url=base_url, plan=plan)
        reference = None if given else credential_default(profile, settings.secrets, os.environ, base_url)
        found |= {} if reference is None else {"credential": reference}
    elif base_url is None or options["name"] is None:
        raise click.UsageError(
            "--name and --base-url are needed without a vendor of `tokenworks vendor list`"
        )
    else:
        options |= {"base_url": base_url, "vendor": vendor, "region": region}
    if plan is not None and not known:
        raise click.UsageError("--plan is of a vendor of `tokenworks vendor list`")
    options |= {"model": model, "protocols": protocols or None, "price": prices_of(prices) or None}
    if given:
        options |= {"credential": given[0], "more_credentials": given[1:]}
    found |= {
        field: Default(value, _GIVEN)
        for field, value in options.items()
        if value is not None and not (value is False and field in _FLAGS)
    }
    made = _made(settings, found)
    given_figures = {field for field in _FIGURES if field in found}
    with context.services() as services:
        declared = [card.name for card in services.deployments.models()]
        figures = (
            None
            if no_facts
            else services.known_models.figures_for(made, given_figures, declared, settings.usd_yuan)
        )
        if figures is not None:
            made = make_deployment(**(made.model_dump() | figures.fields))
            found |= {field: Default(value, _OF_CATALOGUE) for field, value in figures.fields.items()}
        if not dry_run:
            # The trail finds the row by the name that the deployment has.
            click.get_current_context().params["name"] = made.name
            services.deployments.add(made)
            if figures is not None and figures.card is not None:
                services.deployments.set_model(figures.card)
    taken = [] if figures is None else figures.taken
    if dry_run:
        _show(made, found, taken, as_json)
    elif as_json:
        print_json(made.model_dump(mode="json"))
    else:
        say(f"Deployment {made.name} serves {model} over {', '.join(made.protocols)}.")
        _say_taken(taken)


def _made(settings: Settings, found: dict[str, Default]) -> Deployment:
    """The deployment of these fields; protocols that nothing says are probed. Adds what it takes by itself to the fields."""
    found.setdefault("upstream_model", Default(found["model"].value, "the model's name"))
    probed = "protocols" not in found
    if probed:
        found["protocols"] = Default(tuple(PROTOCOLS), "probed")
    made = make_deployment(**{field: default.value for field, default in found.items()})
    if made.tokenizer is not None:
        ModelTokenizer(settings.tokenizers / made.tokenizer)  # raises where the tokenizer can't be loaded
    if probed:
        secret = read_credential(made.credential, settings.secrets) if made.credential else None
        made = made.model_copy(update={"protocols": probe_protocols(made, secret)})
    return made


def _say_taken(taken: Sequence[str]) -> None:
    for words in taken:
        say(f"From the catalogue of models: {words}.")


def _show(made: Deployment, found: Mapping[str, Default], taken: Sequence[str], as_json: bool) -> None:
    """The deployment that would be declared, with the origin of each value."""
    content = made.model_dump(mode="json", exclude_none=True)
    origins = {field: found[field].origin if field in found else _BY_DEFAULT for field in content}
    if as_json:
        print_json({"deployment": content, "origins": origins, "taken": list(taken)})
        return
    rows = [
        (field, _text(value), origins[field])
        for field, value in content.items()
        if origins[field] != _BY_DEFAULT or field in {"context_tokens", "max_output_tokens"}
    ]
    print_table(f"Deployment {made.name}, not declared yet", ["field", "value", "from"], rows)
    _say_taken(taken)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
