"""The audit trail of commands: which commands write it, and what of a command's parameters stands in it.

A command that changes something says so with `@audited(look)`, where `look` reads what the command is about, from what its parameters
name. It is read before and after the command. Readers stand beside their commands; those that several files share are in `looks.py`.
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

Look = Callable[["AppServices", Mapping[str, Any]], object]
_PHONE = re.compile(r"\+\d{7,15}")
_MARK: Final = "_audit"
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Audit(NamedTuple):
    """`look` is None for a command that commits as it goes: what it did is what it says."""

    look: Look | None


def audited(look: Look | None = None) -> Callable[[_Function], _Function]:
    """The command writes a row of the audit trail: it changes something of a subscriber, of the books, or of who may."""

    def mark(function: _Function) -> _Function:
        function.__dict__[_MARK] = Audit(look)
        return function

    return mark


def audit_of(command: click.Command) -> Audit | None:
    """None for a command that only reads."""
    found = getattr(command.callback, _MARK, None)
    assert found is None or isinstance(found, Audit)
    return found


def audited_commands(group: click.Group, path: str = "") -> Iterator[str]:
    """Every command that writes the trail, such as `order place`. Imports all commands."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from audited_commands(command, f"{path}{name} ")
        if audit_of(command) is not None:
            yield path + name


def mask_phone(text: str) -> str:
    """Full phone numbers are not kept where they are not needed."""
    return _PHONE.sub(lambda match: f"{match[0][:3]}{'*' * (len(match[0]) - 7)}{match[0][-4:]}", text)


def pinned(services: "AppServices", params: Mapping[str, Any]) -> dict[str, Any]:
    """With the subscriber by its id: a number that is another one's, or nobody's, after the command still finds it."""
    found = dict(params)
    named = found.get("subscriber") or found.get("phone")
    if named:
        with contextlib.suppress(TokenworksError):
            found["subscriber"] = str(services.subscriptions.find(named).subscriber_id)
    return found


def person_of(services: "AppServices", ref: str) -> UUID | None:
    """Whose key encrypts what is written down of an act on `ref`; None: nobody in particular."""
    return services.subscriptions.subscriber_of(ref)


def look_at(services: "AppServices", look: Look, params: Mapping[str, Any]) -> object:
    """What the command is about as it is now, None where it is not there (yet, or any more)."""
    with contextlib.suppress(TokenworksError, StopIteration, KeyError):
        return _masked(plain(look(services, params)))
    return None


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask_phone(value) if isinstance(value, str) else value


_REFS: Final = (
    "subscriber", "product", "order_id", "dispute_id", "bill_no", "work_order_id", "key_id", "grant_id", "journal_id", "account_id", "quarantine_id",
    "limit_id", "payment_id", "case_id", "listener_id", "delivery_id", "approval_id", "phone", "name", "ref", "offering_id",
)  # fmt: skip


def ref_of(command: str, params: Mapping[str, Any]) -> str:
    """What the row of the trail is found by."""
    return next((mask_phone(str(params[name])) for name in _REFS if params.get(name)), command)


def as_said(params: Mapping[str, Any]) -> dict[str, str]:
    """The command's options as they were given, but for what asks for a form of output."""
    return {
        name: mask_phone(str(value))
        for name, value in params.items()
        if value not in (None, (), False) and name not in {"as_json", "dry_run"}
    }
