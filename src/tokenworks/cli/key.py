"""`tokenworks key`: API keys."""

from typing import Final
from uuid import UUID

import click

from tokenworks.app import views
from tokenworks.app.blocked_keys import block_key
from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, say
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
    print_result,
    subscriber_option,
)
from tokenworks.cli.trail import Params, audited

KEYS_LIMIT_DEFAULT: Final = 50


def _keys_now(services: AppServices, params: Params) -> object:
    if "key_id" in params:
        return services.keys.info(params["key_id"])
    return services.keys.of_account(services.subscriptions.find(params["subscriber"]).account_id, {})


@click.command("create")
@audited(_keys_now)
@subscriber_option
@click.option("--member", help="Who spends with it: a member's id or name; left out: the owner.")
@click.option("--name", default="default")
@click.option("--model", "models", multiple=True, help="Allow only this model (again for more).")
@click.option("--origin", "origins", multiple=True, help="Of pages, allow only this origin, such as https://app.example (again for more).")  # fmt: skip
@click.option(
    "--fallback",
    "fallbacks",
    multiple=True,
    help="A model for requests that their own model can't have (again for the next).",
)
@click.option("--cap-tokens", type=int, help="The most that this key may ever use.")
@click.option("--expires-in-days", type=click.IntRange(1, 36_500))
@json_option
@pass_context
def key_create(
    context: Context,
    subscriber: str,
    member: str | None,
    name: str,
    models: tuple[str, ...],
    origins: tuple[str, ...],
    fallbacks: tuple[str, ...],
    cap_tokens: int | None,
    expires_in_days: int | None,
    as_json: bool,
) -> None:
    """Issue a key. Its text is shown this once and can't be had again."""
    with context.services() as services:
        found = services.subscriptions.find(subscriber)
        key_id, text = services.access.issue_key(
            found, None if member is None else services.members.find(found, member).member_id, name, models=models or None, cap_tokens=cap_tokens,
            expires_in_days=expires_in_days, origins=origins or None, fallbacks=fallbacks or None,
        )  # fmt: skip
    if as_json:
        print_json({"key_id": key_id, "key": text})
    else:
        say(f"{text}\nThis is shown once. Key id {key_id}.")


@click.command("fallback")
@audited(_keys_now)
@click.argument("key_id", type=click.UUID)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model for requests that their own model can't have (again for the next).",
)
@click.option("--none", is_flag=True, help="No fallback, whatever the plan says.")
@json_option
@pass_context
def key_fallback(context: Context, key_id: UUID, models: tuple[str, ...], none: bool, as_json: bool) -> None:
    """Set the models to which a key's requests fall back. Without a model: those of the plan."""
    if none and models:
        raise click.UsageError("--none goes without --model")
    chosen = [] if none else list(models) or None
    with context.services() as services:
        services.keys.set_fallbacks(key_id, chosen)
    said = "the plan's" if chosen is None else ", ".join(chosen) or "none"
    print_result(
        {"key_id": key_id, "fallback_models": chosen}, f"Key {key_id} falls back to: {said}.", as_json
    )


@click.command("cache")
@audited(_keys_now)
@click.argument("key_id", type=click.UUID)
@click.argument("state", type=click.Choice(["on", "off"]))
@json_option
@pass_context
def key_cache(context: Context, key_id: UUID, state: str, as_json: bool) -> None:
    """Have a key's requests wish the response cache by themselves (on), or only by their header (off). The plan has to have a cache."""
    with context.services() as services:
        services.keys.set_response_cache(key_id, on=state == "on")
    print_result(
        {"key_id": key_id, "response_cache": state == "on"},
        f"The response cache of key {key_id} is {state}.",
        as_json,
    )


@click.command("list")
@subscriber_option
@click.option("--limit", type=click.IntRange(1, 1000), default=KEYS_LIMIT_DEFAULT, show_default=True)
@click.option("--after", type=click.UUID, help="Go on after this key's id, the last one of the page before.")
@json_option
@pass_context
def key_list(context: Context, subscriber: str, limit: int, after: UUID | None, as_json: bool) -> None:
    """A subscriber's keys, oldest first, a page at a time."""
    with context.services() as services:
        of = services.subscriptions.find(subscriber)
        found = services.access.keys(of, after=after, limit=limit)
        count = services.keys.count(of.account_id)
    if as_json:
        print_json(found)
    else:
        views.print_keys(found, count)


@click.command("block")
@click.argument("key_id", type=click.UUID)
@click.option("--undo", is_flag=True, help="Take it again, if it is live.")
@json_option
@pass_context
def key_block(context: Context, key_id: UUID, undo: bool, as_json: bool) -> None:
    """Refuse a key on this host within a second, also while the database is away. `revoke` is for everywhere."""
    block_key(context.settings().blocked_keys, key_id, undo=undo)
    print_result(
        {"key_id": key_id, "blocked": not undo},
        f"Key {key_id} is {'taken again' if undo else 'refused'} on this host.",
        as_json,
    )


@click.command("revoke")
@audited(_keys_now)
@click.argument("key_id", type=click.UUID)
@json_option
@pass_context
def key_revoke(context: Context, key_id: UUID, as_json: bool) -> None:
    """Revoke a key on all hosts, at once."""
    with context.services() as services:
        revoked = services.keys.revoke(key_id)
    print_result(
        {"key_id": key_id, "revoked": revoked},
        f"Key {key_id} {'is revoked' if revoked else 'was revoked already'}.",
        as_json,
    )
