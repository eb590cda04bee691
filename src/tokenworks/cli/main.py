"""The command line. Errors are one clear sentence on stderr with exit code 1, usage errors 2, never a traceback."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import click
import psycopg
from rich.progress import Progress, TaskID

from tokenworks import __version__
from tokenworks.app import views
from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database import connect, owned_database
from tokenworks.app.edge import guard, read_text
from tokenworks.app.output import console, print_json, print_table, say
from tokenworks.app.roles import check_role
from tokenworks.app.schema import check_schema, current, migrate, plan_steps
from tokenworks.app.sealing import seal_existing
from tokenworks.app.settings import Settings, shown
from tokenworks.catalog import read_catalogue, seed_catalogue
from tokenworks.charging import Host, Ledger
from tokenworks.cli import (
    backup as backup_commands,
)
from tokenworks.cli import (
    catalogue as catalogue_commands,
)
from tokenworks.cli import (
    doctor as doctor_commands,
)
from tokenworks.cli import (
    factory as factory_commands,
)
from tokenworks.cli import (
    ledger as ledger_commands,
)
from tokenworks.cli import (
    models as models_commands,
)
from tokenworks.cli import (
    privacy as privacy_commands,
)
from tokenworks.cli import (
    quotes as quotes_commands,
)
from tokenworks.cli import (
    receivables as receivables_commands,
)
from tokenworks.cli import (
    server as server_commands,
)
from tokenworks.cli import (
    shop as shop_commands,
)
from tokenworks.cli import (
    staff as staff_commands,
)
from tokenworks.cli import (
    subscriber as subscriber_commands,
)
from tokenworks.cli import (
    usage as usage_commands,
)
from tokenworks.cli import (
    webhook as webhook_commands,
)
from tokenworks.cli.base import (
    SINGLE_ROLE,
    Context,
    exact_option,
    json_option,
    pass_context,
    said,
    subscriber_option,
)
from tokenworks.cli.usage import USAGE_LIMIT_DEFAULT, since_of
from tokenworks.kernel import NotFound, SystemClock, TokenworksError
from tokenworks.subscriptions import BILLING_ZONE, CapPeriod, day_of

KEYS_LIMIT_DEFAULT: Final = 50
# Between two lines about the batches of one backfill, in a log.
PROGRESS_EVERY_S: Final = 5.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokenworks")
@click.option("--data-dir", help="Where everything lives (default: ./data, or TOKENWORKS_DATA_DIR).")
@click.option("--single-role", is_flag=True, help=SINGLE_ROLE)
@click.pass_context
def cli(context: click.Context, data_dir: str | None, single_role: bool) -> None:
    """Tokenworks sells AI tokens, meters them and charges them exactly."""
    context.obj = Context(data_dir, single_role=single_role)


@cli.command()
@click.option(
    "--catalogue",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A catalogue file instead of the seed.",
)
@click.option("--plan", is_flag=True, help="Say which steps the schema needs, and do nothing.")
@json_option
@pass_context
def init(context: Context, catalogue: Path | None, plan: bool, as_json: bool) -> None:
    """Make the database, its schema, the role that serves, the secrets and the catalogue. Safe to run again."""
    from tokenworks.trust import check_first_pepper, check_peppers, ensure_pepper, load_peppers  # noqa: PLC0415

    settings = context.settings()
    content = seed_catalogue() if catalogue is None else read_catalogue(read_text(catalogue), str(catalogue))
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as stack:
        with _status("Starting the database") as doing:
            place = stack.enter_context(owned_database(settings))
            if plan:
                _show_plan(place.owner_url, as_json=as_json)
                return
            revision = migrate(
                place.owner_url,
                doing if console.is_terminal else _Lines(),
                app_url=None if place.single_role else place.url,
            )
        # What follows is done as the role that serves: what it lacks is said here.
        connection = stack.enter_context(contextlib.closing(connect(place.url)))
        check_schema(connection)
        check_role(connection, single_role=settings.single_role)
        check_first_pepper(connection, settings.secrets)
        ensure_pepper(settings.secrets)
        check_peppers(connection, load_peppers(settings.secrets), settings.secrets, datetime.now(UTC))
        works = make_works(settings, connection)
        works.vault.check_secrets()
        with contextlib.closing(connect(place.owner_url)) as owner:
            _seal(make_works(settings, owner))
        new = works.offerings.load(content)
    result = {
        "data_dir": settings.data_dir,
        "schema": revision,
        "offerings": len(content.offerings),
        "new_versions": new,
    }
    if as_json:
        print_json(result)
    else:
        say(
            f"Ready in {settings.data_dir}: schema {revision}, {len(content.offerings)} offerings ({new} new versions)."
        )


def _show_plan(url: str, *, as_json: bool) -> None:
    with contextlib.closing(connect(url)) as connection:
        there, steps = current(connection), plan_steps(connection)
        hosts = Ledger(connection, SystemClock()).hosts() if there is not None else []
    rows = [step._asdict() for step in steps]
    if as_json:
        print_json({"schema": there, "steps": rows, "hosts": hosts_of(hosts)})
        return
    if not steps:
        say(f"The schema is {there}, and this release's: nothing to do.")
        return
    if there is None:
        say(f"There is no schema yet: {len(steps)} steps make it.")
        return
    for step in steps:
        say(f"{step.revision}  {step.what}")
        if step.begun:
            after = f", after {step.after}" if step.after else ""
            say(
                f"      unfinished: it was cut off{after}; releases from schema {step.revision} on do not start before it is done"
            )
        say(f"      releases from schema {step.compatible_from} on may serve meanwhile and afterwards")
        older = older_hosts(hosts, step.compatible_from, there)
        if older:
            say(f"      stop these hosts before it, or give them a newer release: {', '.join(older)}")
        for table, mode in sorted(step.locks.items()):
            say(f"      locks {table}: {mode}")
        for index in step.indexes:
            say(f"      builds the index {index} while others write")
        if step.fills:
            say("      fills rows in batches; cut off, it goes on where it was")


def hosts_of(hosts: list[Host]) -> list[dict[str, object]]:
    """For JSON."""
    return [
        {
            "host": host.host,
            "release": host.release and host.release.release,
            "schema": host.release and host.release.schema,
            "since": host.since,
            "seen_at": host.seen_at,
            "alive": host.alive,
        }
        for host in hosts
    ]


def older_hosts(hosts: list[Host], oldest: str, there: str | None) -> list[str]:
    """Of those that serve, whose release can't run on a schema that wants at least the release of schema `oldest`. One that does not
    say its release is of the schema that is there, or of an earlier one.
    """
    return [
        host.host
        for host in hosts
        if host.alive and (host.release.schema if host.release is not None else there or "") < oldest
    ]


class _Lines:
    """Progress where no terminal is: a line on stderr for each thing that begins, and one now and then for the batches of a backfill."""

    def __init__(self) -> None:
        self._said = ""
        self._said_s = 0.0

    def __call__(self, text: str) -> None:
        what, _, batches = text.partition(": ")
        now_s = time.monotonic()
        if what != self._said or not batches or now_s - self._said_s >= PROGRESS_EVERY_S:
            self._said, self._said_s = what, now_s
            say(text, err=True)


def _seal(works: Works) -> None:
    """Encrypt what was there before personal texts were encrypted; a run that was cut off goes on."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(place: str, done: int, total: int) -> None:
            if place not in tasks:
                tasks[place] = bar.add_task(f"Encrypting {place.replace('_', ' ')}", total=total)
            bar.update(tasks[place], completed=done, total=total)

        seal_existing(works.connection, works.vault, progress)


@cli.group()
def config() -> None:
    """Settings."""


@config.command("show")
@json_option
@pass_context
def config_show(context: Context, as_json: bool) -> None:
    """The effective settings and where each came from; secrets are masked."""
    effective = context.effective()
    rows = [
        {
            "name": name,
            "value": shown(name, getattr(effective.settings, name)),
            "from": effective.origins[name],
        }
        for name in Settings.model_fields
    ]
    if as_json:
        print_json(rows)
    else:
        print_table("Settings", ["name", "value", "from"], [(r["name"], r["value"], r["from"]) for r in rows])


for _group in (
    *catalogue_commands.GROUPS,
    *factory_commands.GROUPS,
    *models_commands.GROUPS,
    *ledger_commands.GROUPS,
    *shop_commands.GROUPS,
    *staff_commands.GROUPS,
    *webhook_commands.GROUPS,
    *privacy_commands.GROUPS,
    *backup_commands.GROUPS,
):
    cli.add_command(_group)
cli.add_command(doctor_commands.doctor)
cli.add_command(server_commands.serve)
cli.add_command(server_commands.reload)
cli.add_command(usage_commands.usage)
shop_commands.order.add_command(quotes_commands.order_quote)


@cli.group()
def subscriber() -> None:
    """Who is billed."""


for _command in (
    *shop_commands.SUBSCRIBER,
    *subscriber_commands.COMMANDS,
    *receivables_commands.SUBSCRIBER,
    *privacy_commands.SUBSCRIBER,
):
    subscriber.add_command(_command)


@subscriber.command("create")
@click.option("--phone", required=True, help="E.164, such as +8613800000001.")
@click.option("--name")
@json_option
@pass_context
def subscriber_create(context: Context, phone: str, name: str | None, as_json: bool) -> None:
    """Register a subscriber by phone number."""
    with context.works() as works:
        made = works.subscriptions.register(phone, name)
    said(made, f"Subscriber {made.subscriber_id} ({made.phone_masked}).", as_json)


@subscriber.command("list")
@json_option
@pass_context
def subscriber_list(context: Context, as_json: bool) -> None:
    """All subscribers."""
    with context.works() as works:
        found = works.subscriptions.all()
    if as_json:
        print_json(found)
    else:
        rows = [(s.subscriber_id, s.phone_masked, s.name, day_of(s.created_at)) for s in found]
        print_table("Subscribers", ["id", "phone", "name", "since"], rows)


@subscriber.command("show")
@subscriber_option
@exact_option
@json_option
@pass_context
def subscriber_show(context: Context, subscriber: str, as_json: bool) -> None:
    """A subscriber with products and phone-bill lines."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        products = works.orders.products(found)
        lines = works.charges.of_subscriber(found.subscriber_id, unbilled=True)
    if as_json:
        print_json({"subscriber": found, "products": products, "bill_lines": lines})
    else:
        say(f"{found.subscriber_id}  {found.phone_masked}  {found.name or ''}")
        views.print_products(products)
        views.print_bill(lines)


@cli.group()
def member() -> None:
    """Who spends from a subscriber's account: people and departments, each under its own cap."""


_cap_tokens = click.option("--cap-tokens", type=int, help="The most that it may use in a period.")
_cap_period = click.option(
    "--cap-period", type=click.Choice(["day", "month", "total"]), default="month", show_default=True
)


@member.command("add")
@subscriber_option
@click.option("--name", required=True)
@click.option("--department", is_flag=True, help="A department, which others can be under.")
@click.option("--under", help="The department that it is under: its id or name.")
@_cap_tokens
@_cap_period
@json_option
@pass_context
def member_add(
    context: Context,
    subscriber: str,
    name: str,
    department: bool,
    under: str | None,
    cap_tokens: int | None,
    cap_period: CapPeriod,
    as_json: bool,
) -> None:
    """Add a person, or a department (two levels deep)."""
    with context.works() as works:
        made = works.subscriptions.add_member(
            works.subscriptions.find(subscriber),
            name,
            department=department,
            parent=under,
            cap_tokens=cap_tokens,
            cap_period=cap_period,
        )
    said({"member_id": made.member_id, "name": made.name}, f"{made.name}: member {made.member_id}.", as_json)


@member.command("cap")
@subscriber_option
@click.option("--member", "reference", required=True, help="Its id or name.")
@_cap_tokens
@_cap_period
@json_option
@pass_context
def member_cap(
    context: Context,
    subscriber: str,
    reference: str,
    cap_tokens: int | None,
    cap_period: CapPeriod,
    as_json: bool,
) -> None:
    """Set a member's cap; without --cap-tokens it has none."""
    with context.works() as works:
        found = works.subscriptions.member(works.subscriptions.find(subscriber), reference)
        works.subscriptions.set_cap(found, cap_tokens, cap_period)
    text = "no cap" if cap_tokens is None else f"{cap_tokens} tokens ({cap_period})"
    said({"member_id": found.member_id, "cap_tokens": cap_tokens}, f"{found.name}: {text}.", as_json)


@member.command("transfer")
@subscriber_option
@click.option("--from", "giver", required=True, help="A member's or department's id or name.")
@click.option("--to", "taker", required=True, help="As --from.")
@click.option("--tokens", type=click.IntRange(min=1), required=True)
@click.option("--reason", required=True, help="Why; it is kept.")
@click.option("--idempotency-key", required=True, help="The same key again is the same transfer.")
@shop_commands.dry_run_option
@json_option
@pass_context
def member_transfer(
    context: Context,
    subscriber: str,
    giver: str,
    taker: str,
    tokens: int,
    reason: str,
    idempotency_key: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give a part of a member's cap to another one, in the periods of now. The pool's balance stays."""
    with context.works() as works, works.connection.transaction(force_rollback=dry_run):
        found = works.subscriptions.find(subscriber)
        made = works.subscriptions.transfer(
            found,
            works.subscriptions.member(found, giver),
            works.subscriptions.member(found, taker),
            tokens,
            reason,
            made_by=context.actor,
            idempotency_key=idempotency_key,
        )
    dry = " (dry run)" if dry_run else ""
    said(made, f"{tokens:,} tokens from {giver} to {taker}{dry}.", as_json)


@member.command("list")
@subscriber_option
@json_option
@pass_context
def member_list(context: Context, subscriber: str, as_json: bool) -> None:
    """Members with their caps and what is used of them in the period of now."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        members = works.subscriptions.members(found)
        used = works.ledger.used_of_caps(found.account_id, works.clock.now())
    views.print_members(members, used, as_json=as_json)


@cli.group()
def key() -> None:
    """API keys."""


@key.command("create")
@subscriber_option
@click.option("--member", help="Who spends with it: a member's id or name; left out: the owner.")
@click.option("--name", default="default")
@click.option("--model", "models", multiple=True, help="Allow only this model (again for more).")
@click.option("--origin", "origins", multiple=True, help="Of pages, allow only this origin, such as https://app.example (again for more).")  # fmt: skip
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
    cap_tokens: int | None,
    expires_in_days: int | None,
    as_json: bool,
) -> None:
    """Issue a key. Its text is shown this once and can't be had again."""
    with context.works() as works:
        key_id, text = views.issue_key(
            works, subscriber, name, models, cap_tokens, expires_in_days, member, origins
        )
    if as_json:
        print_json({"key_id": key_id, "key": text})
    else:
        say(f"{text}\nThis is shown once. Key id {key_id}.")


@key.command("list")
@subscriber_option
@click.option("--limit", type=click.IntRange(1, 1000), default=KEYS_LIMIT_DEFAULT, show_default=True)
@click.option("--after", type=click.UUID, help="Go on after this key's id, the last one of the page before.")
@json_option
@pass_context
def key_list(context: Context, subscriber: str, limit: int, after: UUID | None, as_json: bool) -> None:
    """A subscriber's keys, oldest first, a page at a time."""
    with context.works() as works:
        account_id = works.subscriptions.find(subscriber).account_id
        found = views.keys_of(works, account_id, after, limit)
        count = works.keys.count(account_id)
    if as_json:
        print_json(found)
    else:
        views.print_keys(found, count)


@key.command("block")
@click.argument("key_id", type=click.UUID)
@click.option("--undo", is_flag=True, help="Take it again, if it is live.")
@json_option
@pass_context
def key_block(context: Context, key_id: UUID, undo: bool, as_json: bool) -> None:
    """Refuse a key on this host within a second, also while the database is away. `revoke` is for everywhere."""
    path = context.settings().blocked_keys
    if not path.parent.exists():
        raise NotFound(f"there is nothing in {path.parent}: name the server's data directory with --data-dir")
    found = set(path.read_text(encoding="ascii").split()) if path.exists() else set()
    found = found - {key_id.hex} if undo else found | {key_id.hex}
    half = path.with_suffix(".new")
    half.touch(mode=0o600)
    half.write_text("".join(f"{one}\n" for one in sorted(found)), encoding="ascii")
    half.replace(path)
    said(
        {"key_id": key_id, "blocked": not undo},
        f"Key {key_id} is {'taken again' if undo else 'refused'} on this host.",
        as_json,
    )


@key.command("revoke")
@click.argument("key_id", type=click.UUID)
@json_option
@pass_context
def key_revoke(context: Context, key_id: UUID, as_json: bool) -> None:
    """Stop a key everywhere, at once."""
    with context.works() as works:
        revoked = works.keys.revoke(key_id)
    said(
        {"key_id": key_id, "revoked": revoked},
        f"Key {key_id} {'is revoked' if revoked else 'was revoked already'}.",
        as_json,
    )


@cli.command()
@subscriber_option
@json_option
@pass_context
def balance(context: Context, subscriber: str, as_json: bool) -> None:
    """What is left, bucket by bucket."""
    with context.works() as works:
        found = works.ledger.buckets(works.subscriptions.find(subscriber).account_id)
    if as_json:
        print_json([views.bucket_json(bucket) for bucket in found])
    else:
        views.print_buckets("Balance", found)


@cli.group()
def ledger() -> None:
    """The books."""


@ledger.command("flagged")
@click.option("--since", help="A time (2026-11-23T08:00) or a span (15m, 24h, 7d).")
@click.option("--limit", type=click.IntRange(1, 1000), default=USAGE_LIMIT_DEFAULT, show_default=True)
@click.option("--before", type=click.UUID, help="The last id of the page before: those older than it.")
@json_option
@pass_context
def ledger_flagged(
    context: Context, since: str | None, limit: int, before: UUID | None, as_json: bool
) -> None:
    """Records to reconcile with a deployment's own figures: not reported, not adding up, late, or waived."""
    with context.works() as works:
        found = works.ledger.flagged(since_of(since), limit, before)
    if as_json:
        print_json(found)
    else:
        views.print_flagged(found)


@ledger.command("losses")
@click.option(
    "--since", default="7d", show_default=True, help="A time (2026-11-23T08:00) or a span (15m, 24h, 7d)."
)
@click.option("--subscriber", help="Of one alone: its id or phone number.")
@json_option
@pass_context
def ledger_losses(context: Context, since: str, subscriber: str | None, as_json: bool) -> None:
    """What was produced and nobody paid for, by day (UTC) and cause."""
    with context.works() as works:
        account_id = None if subscriber is None else works.subscriptions.find(subscriber).account_id
        found = works.ledger.losses(since_of(since), account_id, BILLING_ZONE)
    if as_json:
        print_json(found)
    else:
        views.print_losses(found)


@ledger.command("verify")
@click.option("--full", is_flag=True, help="Everything, also what earlier runs read.")
@json_option
@pass_context
def ledger_verify(context: Context, as_json: bool, full: bool) -> None:
    """Recompute invariants from the tables: of what is new since the last run, and of a thirtieth of the accounts (all, where they
    are few); exit 1 with the offending rows where one is broken.
    """
    from tokenworks.app.verifier import audit_on, audit_steps  # noqa: PLC0415

    with context.works() as works:
        with Progress(transient=True, disable=as_json or not console.is_terminal) as bar:
            task = bar.add_task("Verifying", total=audit_steps())
            findings, read = audit_on(
                works.connection,
                works.offerings.rate_cards(),
                lambda _what, done: bar.update(task, completed=done),
                full=full,
            )
        counts = views.ledger_counts(works.connection) if read.full else {}
    if as_json:
        print_json(
            {
                "ok": not findings,
                "checked": counts,
                "read": read._asdict(),
                "single_role": context.may_change_history,
                "findings": [f._asdict() for f in findings],
            }
        )
    else:
        part = {"new_links": read.links, "accounts": read.accounts, "of_accounts": read.accounts_total}
        views.print_verified(counts or part, findings)
        if context.may_change_history:
            say("The database's role could change history (single_role): see docs/RUNBOOK.md.")
    sys.exit(1 if findings else 0)


@cli.command()
@click.option("--keep", is_flag=True, help="Go on serving and say how to connect.")
@pass_context
def demo(context: Context, keep: bool) -> None:
    """The main job on a real model: sell a plan, serve prompts, charge them exactly, prove it."""
    from tokenworks.app.demo import run_demo  # noqa: PLC0415

    data_dir = context._data_dir or os.environ.get("TOKENWORKS_DATA_DIR")
    sys.exit(run_demo(Path(data_dir) if data_dir else None, keep=keep))


@contextlib.contextmanager
def _status(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a text, on a terminal; yields what changes the text."""
    if console.is_terminal:
        with console.status(what) as status:
            yield status.update
    else:
        yield lambda _: None


guard(cli)


def main() -> None:
    """The entry point: errors that we raise on purpose become one sentence."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        # It quotes what was given.
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip("\n"), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except TokenworksError as error:
        say(f"tokenworks: {error}", err=True)
        sys.exit(1)
    except psycopg.Error as error:
        say(f"tokenworks: the database refused: {str(error).splitlines()[0]}", err=True)
        sys.exit(1)
    except OSError as error:
        say(
            f"tokenworks: {error.strerror or error}{f': {error.filename}' if error.filename else ''}",
            err=True,
        )
        sys.exit(1)
