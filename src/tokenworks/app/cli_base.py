"""What the commands share: options before the command, settings and connections when they are needed."""

import contextlib
import getpass
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database import check_schema, connect, database
from tokenworks.app.output import print_json
from tokenworks.app.settings import Effective, Settings, load_settings
from tokenworks.kernel import Invalid

Command = TypeVar("Command", bound=Callable[..., Any])

json_option: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)
subscriber_option: Callable[[Command], Command] = click.option(
    "--subscriber", required=True, help="Subscriber id, or phone number (+86…)."
)


# What changes something of a subscriber's, of the books', or of who may: it goes into the audit trail.
AUDITED: Final = frozenset({
    "account freeze", "alias add", "alias remove", "bill acknowledge", "bill correct", "bill file", "bill pay", "bill pay-out", "bill run",
    "deployment add", "deployment remove", "grant close", "grant write-off", "key create", "key revoke", "limit remove",
    "limit set", "member add", "member cap", "member transfer", "offering load", "order cancel", "order change", "order place", "order resume",
    "order suspend", "order work answer", "quarantine drop", "quarantine release", "refund", "staff add", "staff revoke",
    "subscriber close", "subscriber contract", "subscriber create", "subscriber phone", "subscriber set", "subscriber top-up",
})  # fmt: skip
# They commit as they go.
LONG: Final = frozenset({"bill run"})
_REFS: Final = (
    "subscriber", "product", "order_id", "bill_no", "work_order_id", "key_id", "grant_id", "account_id", "quarantine_id",
    "limit_id", "phone", "name",
)  # fmt: skip
_PHONE = re.compile(r"\+\d{7,15}")


def command_name() -> str:
    """Such as `order place`: what is run, without the program's own name."""
    names = []
    context: click.Context | None = click.get_current_context()
    while context is not None and context.parent is not None:
        names.append(str(context.info_name))
        context = context.parent
    return " ".join(reversed(names))


def mask_phone(text: str) -> str:
    """Full phone numbers are not kept where they are not needed."""
    return _PHONE.sub(lambda match: f"{match[0][:3]}{'*' * (len(match[0]) - 7)}{match[0][-4:]}", text)


class Context:
    """The options before the command; settings and connections are made when they are needed."""

    def __init__(self, data_dir: str | None) -> None:
        self._data_dir = data_dir
        # For the audit trail, where a command knows them.
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None

    @property
    def actor(self) -> str:
        """Who runs the command, for what is kept of it."""
        return f"cli:{getpass.getuser()}"

    def effective(self, **options: Any) -> Effective:
        return load_settings({"data_dir": self._data_dir} | options)

    def settings(self, **options: Any) -> Settings:
        return self.effective(**options).settings

    @contextlib.contextmanager
    def works(self) -> Iterator[Works]:
        settings = self.settings()
        if not settings.database_url and not settings.data_dir.exists():
            raise Invalid(f"there is nothing in {settings.data_dir} yet: run `tokenworks init` first")
        with database(settings) as url, contextlib.closing(connect(url)) as connection:
            check_schema(connection)
            works = make_works(settings, connection)
            command = command_name()
            if command not in AUDITED:
                yield works
            elif command in LONG:
                yield works
                self._audit(works, command)
            else:
                with connection.transaction():
                    yield works
                    self._audit(works, command)

    def _audit(self, works: Works, command: str) -> None:
        """What an operator does is written down, in the transaction of what was done; a dry run is not."""
        params = click.get_current_context().params
        if params.get("dry_run"):
            return
        said = {
            name: mask_phone(str(value))
            for name, value in params.items()
            if value not in (None, (), False) and name not in {"as_json", "dry_run"}
        }
        ref = next((said[name] for name in _REFS if name in said), command)
        works.identity.audit(
            self.actor, "operator", command, ref, self.before, {**said, **(self.after or {})}
        )


pass_context = click.make_pass_decorator(Context)


def said(value: Any, text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        click.echo(text)
