"""The audit trail of commands: which commands write it, and which of their parameters it has.

A command that changes something is marked with `@audited(reader)`. The reader returns the state of the object that the command's
parameters name; it is called before and after the command. Readers are beside their commands; shared readers are in `states.py`.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from uuid import UUID

import click

from tokenworks.app.output import plain
from tokenworks.kernel import TokenworksError

if TYPE_CHECKING:
    from tokenworks.app.bootstrap import AppServices

Params = Mapping[str, Any]
"""A command's parameters by name, as click has converted them."""
StateReader = Callable[["AppServices", Params], object]
_PHONE = re.compile(r"\+\d{7,15}")
_MARK: Final = "_audit"
_Function = TypeVar("_Function", bound=Callable[..., object])


class Audit(NamedTuple):
    """The mark of a command. `reader` is None for a command that commits in several transactions: its row has no states."""

    reader: StateReader | None


def audited(reader: StateReader | None = None) -> Callable[[_Function], _Function]:
    """Mark a command that writes a row of the audit trail: it changes a subscriber, the books, or permissions."""

    def mark(function: _Function) -> _Function:
        function.__dict__[_MARK] = Audit(reader)
        return function

    return mark


def audit_of(command: click.Command) -> Audit | None:
    """The mark of a command; None for a command that only reads."""
    mark = getattr(command.callback, _MARK, None)
    assert mark is None or isinstance(mark, Audit)
    return mark


def audited_commands(group: click.Group, path: str = "") -> Iterator[str]:
    """The names of all commands that write the trail, such as `order place`. Imports all commands."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from audited_commands(command, f"{path}{name} ")
        if audit_of(command) is not None:
            yield path + name


def mask_phone(text: str) -> str:
    """Mask the phone numbers of a text: the audit trail does not store whole numbers."""
    return _PHONE.sub(lambda match: f"{match[0][:3]}{'*' * (len(match[0]) - 7)}{match[0][-4:]}", text)


def with_subscriber_id(services: "AppServices", params: Params) -> Params:
    """The parameters with the subscriber by its id: the command may change the number by which the subscriber is found."""
    named = params.get("subscriber") or params.get("phone")
    if named:
        with contextlib.suppress(TokenworksError):
            return {**params, "subscriber": str(services.subscriptions.find(named).subscriber_id)}
    return params


def person_of(services: "AppServices", ref: str) -> UUID | None:
    """The person whose key encrypts the row of an operation on `ref`; None: no particular person."""
    return services.subscriptions.subscriber_of(ref)


def read_state(services: "AppServices", reader: StateReader, params: Params) -> object:
    """The current state of the command's object; None where the object does not exist (yet, or any more)."""
    with contextlib.suppress(TokenworksError, StopIteration, KeyError):
        return _masked(plain(reader(services, params)))
    return None


def _masked(value: object) -> object:
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask_phone(value) if isinstance(value, str) else value


_REFS: Final = (
    "subscriber", "product", "order_id", "dispute_id", "bill_no", "work_order_id", "key_id", "grant_id", "journal_id", "account_id", "quarantine_id",
    "limit_id", "payment_id", "case_id", "listener_id", "delivery_id", "approval_id", "phone", "name", "ref", "offering_id",
)  # fmt: skip


def ref_of(command: str, params: Params) -> str:
    """The reference by which the row of the trail is found: the first of `_REFS` that is given, else the command."""
    return next((mask_phone(str(params[name])) for name in _REFS if params.get(name)), command)


def options_as_given(params: Params) -> dict[str, str]:
    """The command's options as they were given, without those of the form of output."""
    return {
        name: mask_phone(str(value))
        for name, value in params.items()
        if value not in (None, (), False) and name not in {"as_json", "dry_run"}
    }
