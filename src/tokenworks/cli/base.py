"""What the commands share: options before the command, settings and connections when they are needed."""

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tokenworks.app.audit import AUDITED, LONG, as_said, look, person_of, pinned, ref_of
from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database import anchor, connect, database
from tokenworks.app.output import exact_wanted, json_text, print_json, say
from tokenworks.app.roles import check_role
from tokenworks.app.schema import check_schema
from tokenworks.app.sealing import check_sealed
from tokenworks.app.settings import PREFIX, Effective, Settings, load_settings
from tokenworks.app.waiting import watched
from tokenworks.kernel import AnchoredClock, Invalid, SystemClock
from tokenworks.trust import ApprovalNeeded, check_peppers, load_peppers

SINGLE_ROLE: Final = "Allow a database_url whose role could change history."

Command = TypeVar("Command", bound=Callable[..., Any])

json_option: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)
exact_option: Callable[[Command], Command] = click.option(
    "--exact",
    is_flag=True,
    expose_value=False,
    callback=exact_wanted,
    help="Money to the nano, not to the fen.",
)
subscriber_option: Callable[[Command], Command] = click.option(
    "--subscriber",
    required=True,
    help="Its id, phone number (+8613800000001, or 13800000001), its last four digits, broadband number, name or a part of it.",
)


wait_option: Callable[[Command], Command] = click.option(
    "--wait-s", type=click.IntRange(0, 600), default=10, show_default=True, help="So long hosts may take until they have loaded it."
)  # fmt: skip


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


class Context:
    """The options before the command; settings and connections are made when they are needed."""

    def __init__(self, data_dir: str | None, *, single_role: bool = False) -> None:
        self._data_dir = data_dir
        # None: as the settings say.
        self._single_role = single_role or None
        # Whether the role that `works` connects as could change history.
        self.may_change_history = False

    @property
    def actor(self) -> str:
        """Who runs the command, for what is kept of it: the system's user, whatever the environment says (`LOGNAME`)."""
        uid = os.getuid()
        try:
            return f"cli:{pwd.getpwuid(uid).pw_name}"
        except KeyError:  # a container's user without a name
            return f"cli:uid-{uid}"

    @property
    def data_dir(self) -> Path:
        """Where the data directory is, without a look at what the settings say: a file that is broken is not in the way."""
        return Path(self._data_dir or os.environ.get(f"{PREFIX}DATA_DIR") or "data").absolute()

    def effective(self, **options: Any) -> Effective:
        return load_settings({"data_dir": self._data_dir, "single_role": self._single_role} | options)

    def settings(self, **options: Any) -> Settings:
        return self.effective(**options).settings

    @contextlib.contextmanager
    def works(self) -> Iterator[Works]:
        settings = self.settings()
        if not settings.database_url and not settings.data_dir.exists():
            raise Invalid(f"there is nothing in {settings.data_dir} yet: run `tokenworks init` first")
        with (
            database(settings) as url,
            contextlib.closing(connect(url)) as connection,
            watched(connection, url, _say_wait, settings.command_wait_s),
        ):
            check_schema(connection)
            self.may_change_history = check_role(connection, single_role=settings.single_role)
            check_sealed(connection)
            # What a command dates is by the database's clock, as what a server dates is.
            clock = AnchoredClock(SystemClock(settings.clock_shift_s))
            anchor(clock, connection)
            peppers = load_peppers(settings.secrets)
            check_peppers(connection, peppers, settings.secrets, clock.now())
            works = make_works(settings, connection, clock, peppers)
            works.vault.check_secrets()
            command = command_name()
            params = click.get_current_context().params
            if command not in AUDITED or params.get("dry_run"):
                with connection.transaction(force_rollback=True):
                    _begin(works, command, params)
                yield works
            elif command in LONG:
                yield works
                self._audit(works, command, params, pinned(works, params), None, None)
            else:
                try:
                    with connection.transaction():
                        _begin(works, command, params)
                        about = pinned(works, params)
                        before = look(works, command, about)
                        yield works
                        # Who was registered just now has an id, too.
                        about = about if about.get("subscriber") else pinned(works, params)
                        self._audit(works, command, params, about, before, look(works, command, about))
                except ApprovalNeeded as error:
                    works.approvals.ask(error.wanted)
                    raise

    def _audit(
        self,
        works: Works,
        command: str,
        params: dict[str, Any],
        about: dict[str, Any],
        before: object,
        after: object,
    ) -> None:
        """What an operator does is written down, in the transaction of what was done; a dry run is not."""
        ref = ref_of(command, about)
        asked = {"asked": as_said(params), "is": after}
        works.identity.audit(
            self.actor, "operator", command, ref, before, asked, person_id=person_of(works, ref)
        )


def _begin(works: Works, command: str, params: dict[str, Any]) -> None:
    """Take the command's idempotency key, where it has one. The services give a repeat what they gave before.

    Raises `KeyReused`.
    """
    key = params.get("idempotency_key")
    if key is not None:
        about = pinned(works, params)
        asked = {name: str(value) for name, value in about.items() if name not in _FORM}
        # One subscriber's keys are not another's: scripts number what they do for each.
        asker = f"command line:{about['subscriber']}" if "subscriber" in about else "command line"
        works.answers.begin(asker, key, json_text([command, sorted(asked.items())], None).encode())


def _say_wait(text: str) -> None:
    say(f"tokenworks: {text}", err=True)


pass_context = click.make_pass_decorator(Context)


def said(value: Any, text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        say(text)
