"""What the routes share: who asks and whether they may, pages of a list, fields, ETags, problem details, exact JSON."""

import contextlib
import hashlib
import operator
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

import msgspec
import psycopg
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from starlette.exceptions import HTTPException

from tokenworks.billing import Bills, ChargeFiles, Disputes, Payments, Refunds
from tokenworks.catalog import Drafts, Offerings
from tokenworks.charging import Adjustments, Charges, FailedJobs, Following, Ledger, Transfers
from tokenworks.console.asker import check_own_page, client_address
from tokenworks.console.urls import base_url, links
from tokenworks.kernel import (
    NANO_PER_UNIT,
    NUMBER_CHARS_MAX,
    Clock,
    Conflict,
    Invalid,
    NotFound,
    Refused,
    TokenworksError,
    Unavailable,
    check_number,
    flaw_in,
)
from tokenworks.subscriptions import (
    Consents,
    Deliveries,
    Hub,
    Members,
    Orders,
    PayAsYouGo,
    Privacy,
    Quotes,
    Subscriber,
    Subscriptions,
)
from tokenworks.trust import (
    Answers,
    ApprovalNeeded,
    Approvals,
    Identity,
    KeptAnswer,
    Keys,
    NotAllowed,
    NotSignedIn,
    PersonVault,
    Principal,
    Role,
    TooManyCodes,
)

PAGE_DEFAULT: Final = 20
PAGE_MAX: Final = 100
OFFSET_MAX: Final = 1_000_000
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
COOKIE: Final = "tokenworks_session"
_encode = msgspec.json.Encoder(decimal_format="number").encode


class Rooms(Protocol):
    """What the application wires: every room's service, on one connection."""

    @property
    def connection(self) -> psycopg.Connection[tuple[Any, ...]]: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def offerings(self) -> Offerings: ...
    @property
    def drafts(self) -> Drafts: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def following(self) -> Following: ...
    @property
    def charges(self) -> Charges: ...
    @property
    def adjustments(self) -> Adjustments: ...
    @property
    def transfers(self) -> Transfers: ...
    @property
    def orders(self) -> Orders: ...
    @property
    def quotes(self) -> Quotes: ...
    @property
    def failed_jobs(self) -> FailedJobs: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def payg(self) -> PayAsYouGo: ...
    @property
    def subscriptions(self) -> Subscriptions: ...
    @property
    def members(self) -> Members: ...
    @property
    def consents(self) -> Consents: ...
    @property
    def bills(self) -> Bills: ...
    @property
    def disputes(self) -> Disputes: ...
    @property
    def payments(self) -> Payments: ...
    @property
    def charge_files(self) -> ChargeFiles: ...
    @property
    def refunds(self) -> Refunds: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def answers(self) -> Answers: ...
    @property
    def approvals(self) -> Approvals: ...
    @property
    def vault(self) -> PersonVault: ...
    @property
    def privacy(self) -> Privacy: ...
    @property
    def operator(self) -> str: ...
    @property
    def is_dev(self) -> bool: ...
    @property
    def fonts_dir(self) -> Path | None: ...


def encode(content: object) -> bytes:
    """Exact JSON: decimals are numbers as they are written, never floats; links are absolute, as the standard has them."""
    return _encode(_linked(content))


def encode_for(content: object, reached: str) -> bytes:
    """As `encode`, for somebody who has not asked: links begin with where we are reached."""
    token = base_url.set(reached.rstrip("/"))
    try:
        return encode(content)
    finally:
        base_url.reset(token)


def _linked(content: object) -> object:
    if isinstance(content, Mapping):
        return {
            name: f"{base_url.get()}{value}"
            if name in {"href", "url"} and isinstance(value, str) and value.startswith("/")
            else _linked(value)
            for name, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [_linked(part) for part in content]
    return content


class _Checked(BaseModel):
    """Every text that is read of a body, in lists and objects too, is checked by the one rule of `kernel.text`."""

    @model_validator(mode="after")
    def _texts(self) -> Self:
        for name in type(self).model_fields:
            found = flaw_in(getattr(self, name))
            if found is not None:
                raise ValueError(f"{name} has {found}: leave it out")
        return self


class Loose(_Checked):
    """Of a standard: what it allows beside what is read here passes, and is kept nowhere."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


# Exactly what was written: no float, no other scripts' digits, which `Decimal` would take.
Number = Annotated[
    Decimal,
    BeforeValidator(check_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "maxLength": NUMBER_CHARS_MAX}]}),
]
# The years in which an instant that is kept lies: one at the ends of time has no UTC, and no column holds it.
INSTANT_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
INSTANT_LAST: Final = datetime(9998, 12, 31, tzinfo=UTC)


def _instant(at: datetime) -> datetime:
    if not INSTANT_FIRST <= at <= INSTANT_LAST:
        raise ValueError(f"an instant is of the years {INSTANT_FIRST.year} to {INSTANT_LAST.year}")
    return at.astimezone(UTC)


# An instant with its offset, as RFC 3339 writes it.
Instant = Annotated[AwareDatetime, AfterValidator(_instant)]
# Whose: a subscriber's id, phone or broadband number.
Of = Annotated[str | None, Query(max_length=64)]


class Ref(Loose):
    """By whose id something is named."""

    id: str = Field(min_length=1, max_length=64)


class Strict(_Checked):
    """Of our own: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(content), status, headers, "application/json")


def money(amount_nano: int, currency: str = "CNY") -> dict[str, object]:
    """TMF Money."""
    return {"unit": currency, "value": decimal(amount_nano)}


def decimal(amount_nano: int) -> Decimal:
    whole, fraction = divmod(abs(amount_nano), NANO_PER_UNIT)
    text = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return Decimal(f"-{text}" if amount_nano < 0 else text)


def quantity_decimal(amount: int) -> Decimal:
    """Thousandths of a unit, exactly."""
    whole, rest = divmod(abs(amount), 1000)
    text = f"{whole}.{rest:03d}".rstrip("0").rstrip(".")
    return Decimal(f"-{text}" if amount < 0 else text)


def when(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def shown(resource: Mapping[str, object]) -> dict[str, object]:
    """Without what is not known."""
    return {name: value for name, value in resource.items() if value is not None}


# Who asks.


def _rooms(request: Request) -> Iterator[Rooms]:
    with request.app.state.open_rooms() as rooms:
        yield rooms


Asked = Annotated[Rooms, Depends(_rooms)]


def reached_at() -> str:
    """Where the asker of the request that is answered reached us: scheme and host."""
    return base_url.get()


def _principal(request: Request, rooms: Asked) -> Principal:
    return principal_of(request, rooms)


def principal_of(request: Request, rooms: Rooms) -> Principal:
    """By staff token or session, as a bearer or (a session alone) as a cookie of this site's own pages."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    address = client_address(request)
    staff = rooms.identity.staff_of(text, address) if scheme.lower() == "bearer" else None
    if staff is not None:
        return staff
    if scheme.lower() != "bearer":
        text = request.cookies.get(COOKIE, "")
        if text and request.method not in {"GET", "HEAD"}:
            check_own_page(request)
    found = rooms.identity.session(text, address)
    if found is None:
        raise NotSignedIn("sign in first: POST /api/sign-in/code, then /api/sign-in")
    session_id, subscriber_id, member_id = found
    subscriber = rooms.subscriptions.find(str(subscriber_id))
    member = rooms.members.by_id(member_id)
    if member is None or member.state != "active" or subscriber.state == "closed":
        raise NotSignedIn("sign in again")
    role: Role = "owner" if member.role == "owner" else "admin" if member.role == "admin" else "member"
    return Principal(member.name, role, subscriber_id, member_id, session_id, address)


def is_staff(request: Request, rooms: Rooms) -> bool:
    """True if staff asks: of a route that is public, and says more to staff."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and rooms.identity.staff_of(text) is not None


Who = Annotated[Principal, Depends(_principal)]
SUBSCRIBER_ROLES: Final[tuple[Role, ...]] = ("owner", "admin")
ALL_STAFF: Final[tuple[Role, ...]] = ("operator", "finance", "auditor")
READERS: Final[tuple[Role, ...]] = (*SUBSCRIBER_ROLES, *ALL_STAFF)
EVERYBODY: Final[tuple[Role, ...]] = (*READERS, "member")
BUYERS: Final[tuple[Role, ...]] = (*SUBSCRIBER_ROLES, "operator")


def allow(*roles: Role) -> dict[str, Any]:
    """Of a route: who may ask. It is in the OpenAPI document, too; a route without it is public."""

    def check(who: Who) -> None:
        if who.role not in roles:
            raise NotAllowed(f"this is for {', '.join(roles)}; you are {who.role}")

    return {"dependencies": [Depends(check)], "openapi_extra": {"x-roles": sorted(roles)}}


def own(rooms: Rooms, who: Principal, reference: str | None = None) -> Subscriber:
    """The subscriber that is asked for: a member's own, or the one that staff names. Somebody else's is not found."""
    if who.is_staff:
        if reference is None:
            raise Invalid("say whose: relatedParty.id, or a phone number")
        return rooms.subscriptions.find(reference)
    assert who.subscriber_id is not None
    mine = rooms.subscriptions.find(str(who.subscriber_id))
    if reference not in {None, str(mine.subscriber_id), mine.phone}:
        raise NotFound("there is no such subscriber")
    return mine


def whose(rooms: Rooms, who: Principal, reference: str | None) -> Subscriber | None:
    """As `own`, but staff that names nobody sees all."""
    return None if who.is_staff and reference is None else own(rooms, who, reference)


def mine_only(who: Principal, subscriber_id: UUID, what: str) -> None:
    """Raises `NotFound` where something is another subscriber's: as if it were not there."""
    if not who.is_staff and who.subscriber_id != subscriber_id:
        raise NotFound(f"there is no such {what}")


def as_uuid(text: str, what: str) -> UUID:
    """Raises `NotFound`: what is no id names nothing."""
    try:
        # `int` takes other scripts' digits, and so would this.
        if text.isascii():
            return UUID(text)
    except ValueError:
        pass
    raise NotFound(f"there is no such {what}")


# Requests that may come again.

# What an answer is for its asker alone, or for the moment: a repeat gets its own.
_KEPT_HEADERS: Final = frozenset({"content-type", "location", "etag"})


class Repeated(Exception):
    """The request came before under its idempotency key: this is what it was answered."""

    def __init__(self, kept: KeptAnswer) -> None:
        super().__init__("the request came before")
        self.kept = kept


class _Claim(NamedTuple):
    """The key of a request that is done now, until its answer is kept."""

    answers: Answers
    asker: str
    key: str
    person_id: UUID | None


async def _asked_text(request: Request) -> bytes:
    """What makes two requests the same: method, path, query and body, whatever the spaces and the order of JSON's members."""
    body = await request.body()
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    target = f"{request.method} {request.url.path}?{request.url.query}\n"
    return target.encode() + body


def _claim(
    request: Request,
    rooms: Asked,
    who: Who,
    text: Annotated[bytes, Depends(_asked_text)],
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
) -> Iterator[str | None]:
    """What the request does, and the answer that is kept of it, are one transaction. Raises `Repeated`, `KeyReused`."""
    if key is None:
        yield None
        return
    asker = f"staff:{who.name}" if who.is_staff else f"member:{who.member_id}"
    with rooms.connection.transaction():
        kept = rooms.answers.begin(asker, key, text)
        if kept is not None:
            raise Repeated(kept)
        request.state.claim = _Claim(rooms.answers, asker, key, who.subscriber_id)
        yield key


# Ends before the answer is sent: an answer that says "done" is after the commit.
Repeatable = Annotated[str | None, Depends(_claim, scope="function")]


def _key(key: Repeatable) -> str:
    if key is None:
        raise Invalid("this moves money: send an Idempotency-Key header, the same one when you try again")
    return key


IdempotencyKey = Annotated[str, Depends(_key, scope="function")]


class RepeatableRoute(APIRoute):
    """Keeps the answer of a route whose request had an idempotency key, in the request's transaction. The one place."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            response = await handle(request)
            claim: _Claim | None = getattr(request.state, "claim", None)
            if claim is not None:
                headers = {k: v for k, v in response.headers.items() if k in _KEPT_HEADERS}
                kept = KeptAnswer(response.status_code, headers, bytes(response.body))
                await run_in_threadpool(claim.answers.keep, claim.asker, claim.key, kept, claim.person_id)
            return response

        return handled


def audit(
    rooms: Rooms, who: Principal, action: str, ref: object, before: object = None, after: object = None
) -> None:
    """What is done is written down, with who did it and from where. A member is named by its id, not by its name."""
    person_id = rooms.subscriptions.subscriber_of(str(ref)) or who.subscriber_id
    rooms.identity.audit(
        who.actor, who.role, action, str(ref), before, after, address=who.address, person_id=person_id
    )


def two_persons(rooms: Rooms, who: Principal, action: str, ref: object, amount_nano: int, key: str) -> None:
    """In the transaction of what gives money away: `ApprovalNeeded` above the limit, and that is kept (`explain_errors`)."""
    rooms.approvals.check(who.name, action, str(ref), amount_nano, key)


# Lists.


async def _body(request: Request) -> bytes:
    """A body as it came. Raises `Invalid` where it is too long, before it is all here."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Invalid(f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


Body = Annotated[bytes, Depends(_body)]


class Page(NamedTuple):
    offset: int
    limit: int
    fields: frozenset[str] | None


def _page(
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
    fields: Annotated[str | None, Query(max_length=500)] = None,
) -> Page:
    return Page(offset, limit, _fields(fields))


def _fields(text: str | None) -> frozenset[str] | None:
    return None if not text else frozenset(part.strip() for part in text.split(",")) | {"id", "href"}


Paged = Annotated[Page, Depends(_page)]
Fields = Annotated[str | None, Query(max_length=500)]


class OutOfRange(Invalid):
    """A page begins behind the end of its list."""

    def __init__(self, total: int) -> None:
        super().__init__(f"offset: the list has {total} resources")
        self.total = total


def page_of(page: Page, resources: Sequence[Mapping[str, object]], total: int) -> Response:
    """A page of a list (TMF630): 206 where there is more, 416 where it begins behind the end; links to the other pages."""
    if page.offset and page.offset >= total:
        raise OutOfRange(total)
    last = (total - 1) // page.limit * page.limit if total else 0
    offsets = {"first": 0, "last": last}
    if page.offset:
        offsets["prev"] = max(0, page.offset - page.limit)
    if page.offset + len(resources) < total:
        offsets["next"] = page.offset + page.limit
    headers = {
        "X-Total-Count": str(total),
        "X-Result-Count": str(len(resources)),
        "Link": links({rel: {"offset": str(at)} for rel, at in offsets.items()}),
    }
    if resources:
        headers["Content-Range"] = f"items {page.offset}-{page.offset + len(resources) - 1}/{total}"
    status = 206 if len(resources) < total else 200
    return answer([pick(resource, page.fields) for resource in resources], status, headers)


def cut(page: Page, resources: Sequence[Mapping[str, object]]) -> Response:
    """A page of a list that is here as a whole."""
    return page_of(page, resources[page.offset : page.offset + page.limit], len(resources))


def pick(resource: Mapping[str, object], fields: frozenset[str] | None) -> Mapping[str, object]:
    return resource if fields is None else {k: v for k, v in resource.items() if k in fields}


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def one(request: Request, resource: Mapping[str, object], fields: str | None = None) -> Response:
    """A resource with its ETag: 304 where the asker has it."""
    body = encode(pick(resource, _fields(fields)))
    tag = _tag(body)
    if tag in {part.strip() for part in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, 200, {"ETag": tag}, "application/json")


class Changed(Conflict):
    """The resource is not as the asker saw it."""


def check_match(request: Request, resource: Mapping[str, object]) -> None:
    """`If-Match` where it was sent. Raises `Changed`."""
    want = request.headers.get("if-match")
    if want is not None and want.strip() not in {"*", _tag(encode(resource))}:
        raise Changed("it has changed since you read it: read it again")


_Listed = TypeVar("_Listed")
# Resources that are looked through for a filter that the database does not know.
FILTERED_MAX: Final = 5000


def narrowed(
    request: Request,
    page: Page,
    read: Callable[[int, int], tuple[Sequence[_Listed], int]],
    resource: Callable[[_Listed], Mapping[str, object]],
    names: Sequence[str],
    beside: Sequence[str] = (),
) -> Response:
    """A page of what `read(offset, limit)` gives, or of what the filters match. Raises `Invalid` beyond `FILTERED_MAX` rows."""
    if not is_filtered(request, *beside):
        found, total = read(page.offset, page.limit)
        return page_of(page, [resource(one) for one in found], total)
    all_of: list[Mapping[str, object]] = []
    total = 1
    while len(all_of) < total:
        found, total = read(len(all_of), 1000)
        if total > FILTERED_MAX:
            raise Invalid(f"there are {total} to look through: name a subscriber by relatedParty.id")
        all_of += [resource(one) for one in found]
        if not found:
            break
    return cut(page, filtered(request, all_of, names, beside))


_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def filtered(
    request: Request,
    resources: Sequence[Mapping[str, object]],
    names: Sequence[str],
    beside: Sequence[str] = (),
) -> list[Mapping[str, object]]:
    """What matches the query (TMF630): `name=value`, or one of `a,b`; `name.gte=value`; `a.b=value`. Raises `Invalid`."""
    found = list(resources)
    for name, value in request.query_params.multi_items():
        if name in {"offset", "limit", "fields", *beside}:
            continue
        attribute, _, ending = name.rpartition(".")
        if name in names:
            wanted = set(value.split(","))
            found = [one for one in found if wanted & {_as_text(part) for part in _parts(one, name)}]
        elif attribute in names and ending in _OPERATORS:
            bound = _comparable(value)
            found = [
                one for one in found if any(_holds(ending, part, bound) for part in _parts(one, attribute))
            ]
        else:
            raise Invalid(f"one can filter by {', '.join(names)}, not by {name[:50]}")
    return found


def is_filtered(request: Request, *beside: str) -> bool:
    """True if the query asks for more than a page of all (and what is `beside`)."""
    return bool(set(request.query_params) - {"offset", "limit", "fields", *beside})


def _parts(value: object, name: str) -> Iterator[object]:
    """What a name with dots means in a resource: any of a list."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part, name)
    elif isinstance(value, Mapping):
        if name in value:
            inner = value[name]
            yield from inner if isinstance(inner, list | tuple) else (inner,)
        first, dot, rest = name.partition(".")
        if dot and first in value:
            yield from _parts(value[first], rest)


def _as_text(value: object) -> str:
    """As JSON writes it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _comparable(text: str) -> datetime | Decimal:
    """An instant or a number. Raises `Invalid`."""
    with contextlib.suppress(ValueError):
        at = datetime.fromisoformat(text.replace(" ", "+"))
        return _instant(at if at.tzinfo else at.replace(tzinfo=UTC))
    with contextlib.suppress(ValueError, ArithmeticError):
        found = Decimal(str(check_number(text)))
        if found.is_finite():
            return found
    raise Invalid(f"{text[:50]!r} is neither an instant (RFC 3339, years 2000 to 9998) nor a number")


def _holds(name: str, value: object, bound: datetime | Decimal) -> bool:
    if isinstance(bound, datetime):
        with contextlib.suppress(ValueError):
            return _OPERATORS[name](datetime.fromisoformat(str(value)), bound)
        return False
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and _OPERATORS[name](value, bound)


def only_filters(request: Request, *names: str) -> None:
    """Raises `Invalid` where the query says what nobody reads: a filter that is ignored shows too much."""
    for name in request.query_params:
        if name not in {"offset", "limit", "fields", *names}:
            raise Invalid(f"one can filter by {', '.join(names) or 'nothing here'}, not by {name[:50]}")


# Errors.

_STATUS: Final[tuple[tuple[type[TokenworksError], int], ...]] = (
    (NotSignedIn, 401),
    (TooManyCodes, 429),
    (NotAllowed, 403),
    (Changed, 412),
    (NotFound, 404),
    (OutOfRange, 416),
    (Invalid, 400),
    (Conflict, 409),
    (Refused, 422),
    (Unavailable, 503),
)


def problem(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Problem details (RFC 9457)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(_encode(body), status, headers, "application/problem+json")


def status_of(kind: type[TokenworksError]) -> int:
    """The HTTP status of an error of ours."""
    return next((status for known, status in _STATUS if issubclass(kind, known)), 409)


def explain_errors(app: FastAPI) -> None:
    @app.exception_handler(TokenworksError)
    def refused(request: Request, error: TokenworksError) -> Response:
        if isinstance(error, ApprovalNeeded):
            with request.app.state.open_rooms() as rooms:
                rooms.approvals.ask(error.wanted)
        status = status_of(type(error))
        headers = {}
        if isinstance(error, TooManyCodes):
            headers["Retry-After"] = str(error.wait_s)
        if isinstance(error, OutOfRange):
            headers["Content-Range"] = f"items */{error.total}"
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return problem(status, type(error).__name__, str(error), headers)

    @app.exception_handler(Repeated)
    def again(_request: Request, repeated: Repeated) -> Response:
        headers = {**repeated.kept.headers, "Idempotent-Replayed": "true"}
        return Response(repeated.kept.body, repeated.kept.status, headers)

    @app.exception_handler(psycopg.errors.UniqueViolation)
    def at_once(_request: Request, _error: psycopg.errors.UniqueViolation) -> Response:
        """Two who did the same at the same moment, where each had looked before: one of them did it."""
        return problem(409, "Conflict", "the same was done at this moment: look, and try again")

    @app.exception_handler(psycopg.DataError)
    def beyond(_request: Request, _error: psycopg.DataError) -> Response:
        """The last of the edge: a number, an instant or a text that no column holds. Nothing is changed: it was rolled back."""
        return problem(400, "Invalid", "a number, an instant or a text is beyond what can be kept")

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return problem(400, "Invalid", f"{where}: {first['msg']}"[:500])

    @app.exception_handler(HTTPException)
    def other(_request: Request, error: HTTPException) -> Response:
        titles = {404: "NotFound", 405: "MethodNotAllowed"}
        return problem(
            error.status_code, titles.get(error.status_code, "Refused"), str(error.detail), error.headers
        )


OpenRooms = Callable[[], contextlib.AbstractContextManager[Rooms]]
