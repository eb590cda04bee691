"""What a command works on: a connection that is checked, the services on it, and the row that the command leaves in the audit trail."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import click

from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database.connections import anchor, connect, database
from tokenworks.app.database.roles import check_role
from tokenworks.app.database.schema import check_schema
from tokenworks.app.database.waiting import watched
from tokenworks.app.output import json_text, say
from tokenworks.app.sealed import check_sealed
from tokenworks.cli.base import Context
from tokenworks.cli.trail import as_said, audit_of, look_at, person_of, pinned, ref_of
from tokenworks.kernel import AnchoredClock, SystemClock
from tokenworks.trust import ApprovalNeeded, check_peppers, load_peppers

# Of a command's parameters: how it is asked, not what.
_FORM: Final = frozenset({"as_json", "dry_run"})


def command_name() -> str:
    """Such as `order place`: what is run, without the program's own name."""
    names = []
    context: click.Context | None = click.get_current_context()
    while context is not None and context.parent is not None:
        names.append(str(context.info_name))
        context = context.parent
    return " ".join(reversed(names))


@contextlib.contextmanager
def opened(context: Context) -> Iterator[AppServices]:
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
        # What a command dates is by the database's clock, as what a server dates is.
        clock = AnchoredClock(SystemClock(settings.clock_shift_s))
        anchor(clock, connection)
        peppers = load_peppers(settings.secrets)
        check_peppers(connection, peppers, settings.secrets, clock.now())
        services = make_works(settings, connection, clock, peppers)
        services.vault.check_secrets()
        with _audited(services, context.actor):
            yield services


@contextlib.contextmanager
def _audited(services: AppServices, actor: str) -> Iterator[None]:
    """What an operator does is written down, in the transaction of what was done; a dry run is not."""
    running = click.get_current_context()
    command, params, audit = command_name(), running.params, audit_of(running.command)
    if audit is None or params.get("dry_run"):
        with services.transaction(dry_run=True):
            _begin(services, command, params)
        yield
    elif audit.look is None:
        yield
        _write(services, actor, command, params, pinned(services, params), None, None)
    else:
        try:
            with services.transaction():
                _begin(services, command, params)
                about = pinned(services, params)
                before = look_at(services, audit.look, about)
                yield
                # Who was registered just now has an id, too.
                about = about if about.get("subscriber") else pinned(services, params)
                _write(services, actor, command, params, about, before, look_at(services, audit.look, about))
        except ApprovalNeeded as error:
            services.approvals.ask(error.wanted)
            raise


def _write(
    services: AppServices,
    actor: str,
    command: str,
    params: dict[str, Any],
    about: dict[str, Any],
    before: object,
    after: object,
) -> None:
    ref = ref_of(command, about)
    asked = {"asked": as_said(params), "is": after}
    services.identity.audit(
        actor, "operator", command, ref, before, asked, person_id=person_of(services, ref)
    )


def _begin(services: AppServices, command: str, params: dict[str, Any]) -> None:
    """Take the command's idempotency key, where it has one. The services give a repeat what they gave before.

    Raises `KeyReused`.
    """
    key = params.get("idempotency_key")
    if key is not None:
        about = pinned(services, params)
        asked = {name: str(value) for name, value in about.items() if name not in _FORM}
        # One subscriber's keys are not another's: scripts number what they do for each.
        asker = f"command line:{about['subscriber']}" if "subscriber" in about else "command line"
        services.answers.begin(asker, key, json_text([command, sorted(asked.items())], None).encode())


def _say_wait(text: str) -> None:
    say(f"tokenworks: {text}", err=True)
