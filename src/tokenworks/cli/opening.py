"""Opens the database for a command: a checked connection, the services on it, and the command's row of the audit trail."""

import contextlib
from collections.abc import Iterator
from typing import Final

import click

from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database.connections import anchor_clock, connect, database
from tokenworks.app.database.roles import check_role
from tokenworks.app.database.schema import check_schema
from tokenworks.app.database.waiting import watched
from tokenworks.app.output import json_text, say
from tokenworks.app.sealed import check_sealed
from tokenworks.cli.base import Context
from tokenworks.cli.trail import (
    Params,
    audit_of,
    options_as_given,
    person_of,
    read_state,
    ref_of,
    with_subscriber_id,
)
from tokenworks.kernel import AnchoredClock, SystemClock
from tokenworks.trust import ApprovalNeeded, check_peppers, load_peppers

# Parameters that concern the form of the command, not its effect.
_FORM: Final = frozenset({"as_json", "dry_run"})


def command_name() -> str:
    """The name of the running command without the program's, such as `order place`."""
    names = []
    context: click.Context | None = click.get_current_context()
    while context is not None and context.parent is not None:
        names.append(str(context.info_name))
        context = context.parent
    return " ".join(reversed(names))


@contextlib.contextmanager
def open_services(context: Context) -> Iterator[AppServices]:
    """Raises `Unavailable` or `Invalid` where the database can't be used as it is."""
    settings = context.installed()
    with (
        database(settings) as url,
        contextlib.closing(connect(url)) as connection,
        watched(connection, url, _say_wait, settings.command_wait_s),
    ):
        check_schema(connection)
        context.may_change_history = check_role(connection, single_role=settings.single_role)
        check_sealed(connection)
        # Commands date rows by the database's clock, as servers do.
        clock = AnchoredClock(SystemClock(settings.clock_shift_s))
        anchor_clock(clock, connection)
        peppers = load_peppers(settings.secrets)
        check_peppers(connection, peppers, settings.secrets, clock.now())
        services = make_works(settings, connection, clock, peppers)
        services.vault.check_secrets()
        with _audited(services, context.actor):
            yield services


@contextlib.contextmanager
def _audited(services: AppServices, actor: str) -> Iterator[None]:
    """Write the audit trail in the command's own transaction. A command that only reads, and a dry run, write no row."""
    running = click.get_current_context()
    command, params, audit = command_name(), running.params, audit_of(running.command)
    if audit is None or params.get("dry_run"):
        with services.transaction(dry_run=True):
            _begin(services, command, params)
        yield
    elif audit.reader is None:
        yield
        _write(services, actor, command, params, with_subscriber_id(services, params), None, None)
    else:
        try:
            with services.transaction():
                _begin(services, command, params)
                about = with_subscriber_id(services, params)
                before = read_state(services, audit.reader, about)
                yield
                # A subscriber that the command registered has an id now.
                about = about if about.get("subscriber") else with_subscriber_id(services, params)
                _write(
                    services, actor, command, params, about, before, read_state(services, audit.reader, about)
                )
        except ApprovalNeeded as error:
            services.approvals.ask(error.wanted)
            raise


def _write(
    services: AppServices,
    actor: str,
    command: str,
    params: Params,
    about: Params,
    before: object,
    after: object,
) -> None:
    ref = ref_of(command, about)
    details = {"asked": options_as_given(params), "is": after}
    services.identity.audit(
        actor, "operator", command, ref, before, details, person_id=person_of(services, ref)
    )


def _begin(services: AppServices, command: str, params: Params) -> None:
    """Register the command's idempotency key, where it has one: the services answer a repetition as they did the first time.

    Raises `KeyReused`.
    """
    key = params.get("idempotency_key")
    if key is not None:
        about = with_subscriber_id(services, params)
        options = {name: str(value) for name, value in about.items() if name not in _FORM}
        # Each subscriber has its own keys: scripts number their commands for each subscriber.
        asker = f"command line:{about['subscriber']}" if "subscriber" in about else "command line"
        services.answers.begin(asker, key, json_text([command, sorted(options.items())], None).encode())


def _say_wait(text: str) -> None:
    say(f"tokenworks: {text}", err=True)
