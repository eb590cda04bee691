"""What another gateway's configuration and tables hold, in our terms. Pure: it opens no file and no database."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NamedTuple

from tokenworks.kernel import shown

Outcome = Literal["taken", "there_already", "approximated", "left_out"]
Period = Literal["day", "month", "total"]
Row = Mapping[str, object]
Tables = Mapping[str, list[dict[str, object]]]
# Findings that are kept; all are counted.
FINDINGS_MAX: Final = 10_000
# Digits of a number that is read from a foreign file.
_DIGITS_MAX: Final = 18
_SLUG = re.compile(r"[^A-Za-z0-9._-]+")


class LeftOut(Exception):
    """The reason why a row is left out."""


class Finding(NamedTuple):
    """One thing of the other system: whether it is taken, and why it is changed or left out."""

    outcome: Outcome
    what: str
    reason: str


class Findings:
    """Collects at most `FINDINGS_MAX` findings, and counts all of each outcome."""

    __slots__ = ("counts", "found")

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.counts: dict[Outcome, int] = {"taken": 0, "there_already": 0, "approximated": 0, "left_out": 0}

    def add(self, outcome: Outcome, what: object, reason: str = "") -> None:
        self.counts[outcome] += 1
        if len(self.found) < FINDINGS_MAX:
            self.found.append(Finding(outcome, shown(str(what))[:160], shown(reason)[:300]))


@dataclass(frozen=True, slots=True)
class ForeignLimits:
    """Requests and tokens a minute, and requests at once. None: not limited."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    streams_max: int | None = None

    def __bool__(self) -> bool:
        return any(
            limit is not None for limit in (self.requests_per_min, self.tokens_per_min, self.streams_max)
        )


@dataclass(frozen=True, slots=True)
class ForeignDeployment:
    """A server of a model. `secret` is its credential as text; `secret_name`, where only a variable's name is known."""

    name: str
    fields: dict[str, object]
    secret: str | None = field(default=None, repr=False)
    secret_name: str | None = None
    limits: ForeignLimits = ForeignLimits()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ForeignHolder:
    """A team (`department`) or a user. `usd`: what it may spend in each `period`, in dollars; None: no budget."""

    ref: str
    name: str
    department: bool
    parent: str | None = None
    usd: Decimal | None = None
    period: Period = "total"
    limits: ForeignLimits = ForeignLimits()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A key by the SHA-256 of its text in hexadecimal. `holder`: a team's or user's ref; None: the owner of the account. `usd`: what it
    may spend in all, in dollars.
    """

    ref: str
    name: str
    sha256_hex: str = field(repr=False)
    holder: str | None
    models: tuple[str, ...] | None = None
    usd: Decimal | None = None
    expires_at: datetime | None = None
    limits: ForeignLimits = ForeignLimits()


@dataclass(slots=True)
class Foreign:
    """All that is read of another system."""

    system: str
    deployments: list[ForeignDeployment] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    holders: list[ForeignHolder] = field(default_factory=list)
    keys: list[ForeignKey] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)


def deployment_name(system: str, model: str, *identity: object) -> str:
    """A name that is the same each time: the system, the model, and eight digits of a hash of what tells the deployment from others."""
    digest = hashlib.sha256("\0".join(map(str, identity)).encode()).hexdigest()[:8]
    slug = _SLUG.sub("-", model).strip("-.")[:36] or "model"
    return f"{system}-{slug}-{digest}"


def text_of(row: Row, name: str, chars_max: int = 4096) -> str | None:
    """A text of a foreign row, without the blanks around it; None if it is empty, too long or no text."""
    value = row.get(name)
    if not isinstance(value, str):
        return None
    value = value.strip()
    return value if 0 < len(value) <= chars_max else None


def id_of(row: Row, name: str) -> str | None:
    """An id of a foreign row, a text or an integer, as text."""
    value = row.get(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(row, name, 200)


def count_of(row: Row, name: str) -> int | None:
    """A whole number of a foreign row that is not negative, also one that stands there as text; None otherwise."""
    number = decimal_of(row, name)
    return None if number is None or number < 0 or number != number.to_integral_value() else int(number)


def decimal_of(row: Row, name: str) -> Decimal | None:
    """A finite number of a foreign row; None otherwise."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < Decimal(10) ** _DIGITS_MAX else None


def flag_of(row: Row, name: str) -> bool:
    """A truth value of a foreign row: SQLite has 0 and 1, CSV `t`, `1` and `true`."""
    value = row.get(name)
    return value.strip().lower() in {"1", "t", "true"} if isinstance(value, str) else bool(value)


def list_of(row: Row, name: str) -> list[str]:
    """A list of texts: a list, JSON of one, or PostgreSQL's `{a,b}`."""
    value = json_of(row, name)
    if isinstance(value, str):
        value = [
            part.strip().strip('"') for part in value.strip().removeprefix("{").removesuffix("}").split(",")
        ]
    return [item for item in value if isinstance(item, str) and item] if isinstance(value, list) else []


def json_of(row: Row, name: str) -> object:
    """A value, or what its text is as JSON; the text itself if it is none."""
    value = row.get(name)
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def time_of(value: object) -> datetime | None:
    """A time: seconds since 1970, ISO 8601, or a `datetime`. One without a zone is UTC. None if it is none of these."""
    try:
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value, UTC)
        elif isinstance(value, str):
            found = datetime.fromisoformat(value.strip())
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
