"""`tokenworks deployment`: servers of models."""

from collections.abc import Mapping
from typing import Final

import click

from tokenworks.app.output import print_json, print_table, say
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.deployment_options import (
    credential_options,
    deployment_now,
    prices_of,
    references_of,
    request_options,
)
from tokenworks.cli.trail import audited

HISTORY_DEFAULT: Final = 50


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
                ", ".join(d.references) or "none",
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
@audited(deployment_now)
@click.argument("name")
@click.option("--price", "prices", multiple=True, metavar="CLASS=NANO", help="Price paid from now on; classes that are not named keep theirs.")  # fmt: skip
@credential_options
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
    credentials: tuple[str, ...], no_credential: bool, as_json: bool, **options: object,
) -> None:  # fmt: skip
    """Change a deployment's price, credentials, limits or request options; options that are left out stay. `deployment history` shows it."""
    given = references_of(api_key_env, api_key_file, credentials)
    if given and no_credential:
        raise click.UsageError("a credential and --no-credential exclude each other")
    fields = {field: value for field, value in options.items() if value is not None}
    if given or no_credential:
        fields |= {"credential": given[0] if given else None, "more_credentials": given[1:]}
    if not fields and not prices:
        raise click.UsageError("say what to change: `tokenworks deployment set --help` lists it")
    with context.services() as services:
        if prices:
            fields["price"] = services.deployments.find(name).price.model_dump() | prices_of(prices)
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
@audited(deployment_now)
@click.argument("name")
@json_option
@pass_context
def deployment_drain(context: Context, name: str, as_json: bool) -> None:
    """Drain the deployment: no new requests; requests in flight finish."""
    with context.services() as services:
        services.deployments.drain(name, draining=True)
    print_result({"draining": name}, f"Deployment {name} takes nothing new.", as_json)


@click.command("resume")
@audited(deployment_now)
@click.argument("name")
@json_option
@pass_context
def deployment_resume(context: Context, name: str, as_json: bool) -> None:
    """Send requests to a drained deployment again."""
    with context.services() as services:
        services.deployments.drain(name, draining=False)
    print_result({"resumed": name}, f"Deployment {name} takes requests again.", as_json)


@click.command("remove")
@audited(deployment_now)
@click.argument("name")
@json_option
@pass_context
def deployment_remove(context: Context, name: str, as_json: bool) -> None:
    """Remove the deployment: no new requests; requests in flight finish."""
    with context.services() as services:
        services.deployments.remove(name)
    print_result({"removed": name}, f"Deployment {name} is removed.", as_json)
