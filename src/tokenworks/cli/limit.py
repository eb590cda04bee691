"""`tokenworks limit`: protective limits."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import scope_of_limit


def _limits_now(services: AppServices, params: Params) -> object:
    """The named limit, or the limits of the subscriber or the deployment."""
    found = services.ledger.limits()
    if "limit_id" in params:
        return next(limit for limit in found if limit["limit_id"] == params["limit_id"])
    if params.get("deployment") is not None:
        return [limit for limit in found if limit["ref"] == params["deployment"]]
    account_id = services.subscriptions.find(params["subscriber"]).account_id
    return [limit for limit in found if limit["account_id"] == account_id]


@click.command("set")
@audited(_limits_now)
@click.option("--subscriber", help="Its id or phone number: the limit of all that it spends.")
@click.option("--member", help="Of the subscriber: a member's or department's id or name.")
@click.option("--key", type=click.UUID, help="Of the subscriber: a key's id.")
@click.option("--deployment", help="A deployment's name: the limit of its capacity.")
@click.option("--requests-per-min", type=int)
@click.option("--tokens-per-min", type=int, help="Input and output together.")
@click.option("--streams", type=int, help="Requests in flight at once.")
@json_option
@pass_context
def limit_set(
    context: Context,
    subscriber: str | None,
    member: str | None,
    key: UUID | None,
    deployment: str | None,
    requests_per_min: int | None,
    tokens_per_min: int | None,
    streams: int | None,
    as_json: bool,
) -> None:
    """Limit a subscriber, one of its members or keys, or a deployment. Replaces the limit that was there."""
    if (subscriber is None) == (deployment is None) or (deployment is not None and (member or key)):
        raise click.UsageError("name a --subscriber (and one of its members or keys), or a --deployment")
    if member is not None and key is not None:
        raise click.UsageError("a limit is of a --member or of a --key")
    with context.services() as services:
        if deployment is not None:
            scope, ref, account_id = "deployment", services.deployments.find(deployment).name, None
        else:
            found = services.subscriptions.find(str(subscriber))
            account_id = found.account_id
            scope, ref = scope_of_limit(services.members, services.keys, found, member, key)
        limit_id = services.ledger.set_limit(
            scope,
            ref,
            account_id,
            requests_per_min=requests_per_min,
            tokens_per_min=tokens_per_min,
            streams_max=streams,
        )
    print_result({"limit_id": limit_id, "scope": scope}, f"Limited. Limit id {limit_id}.", as_json)


@click.command("list")
@json_option
@pass_context
def limit_list(context: Context, as_json: bool) -> None:
    """All limits."""
    with context.services() as services:
        found = services.ledger.limits()
    if as_json:
        print_json(found)
    else:
        columns = ["requests_per_min", "tokens_per_min", "streams_max"]
        print_table(
            "Limits",
            ["limit", "of", "which", "requests/min", "tokens/min", "at once"],
            [
                [
                    row["limit_id"],
                    row["scope"],
                    row["ref"],
                    *("" if row[name] is None else f"{row[name]:,}" for name in columns),
                ]
                for row in found
            ],
            right=["requests/min", "tokens/min", "at once"],
        )


@click.command("remove")
@audited(_limits_now)
@click.argument("limit_id", type=click.UUID)
@json_option
@pass_context
def limit_remove(context: Context, limit_id: UUID, as_json: bool) -> None:
    """Remove a limit."""
    with context.services() as services:
        services.ledger.remove_limit(limit_id)
    print_result({"limit_id": limit_id, "removed": True}, "It is not limited any more.", as_json)
