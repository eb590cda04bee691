"""What the routes share: who asks and whether they may, pages of a list, fields, ETags, problem details, exact JSON."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Protocol, Self
from urllib.parse import unquote_to_bytes, urlsplit
from uuid import UUID

import msgspec
import psycopg
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenworks.billing import Bills, Payments, Refunds
from tokenworks.catalog import Offerings
from tokenworks.charging import Adjustments, Charges, Ledger, Transfers
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
    flaw,
    flaw_in,
)
from tokenworks.subscriptions import (
    Deliveries,
    Hub,
    Orders,
    PayAsYouGo,
    Privacy,
    Subscriber,
    Subscriptions,
)
from tokenworks.trust import (
    ApprovalNeeded,
    Approvals,
    Identity,
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
PATH_CHARS_MAX: Final = 1000
PATH_PART_CHARS_MAX: Final = 200
QUERY_BYTES_MAX: Final = 8192
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
    def ledger(self) -> Ledger: ...
    @property
    def charges(self) -> Charges: ...
    @property
    def adjustments(self) -> Adjustments: ...
    @property
    def transfers(self) -> Transfers: ...
    @property
    def orders(self) -> Orders: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def payg(self) -> PayAsYouGo: ...
    @property
    def subscriptions(self) -> Subscriptions: ...
    @property
    def bills(self) -> Bills: ...
    @property
    def payments(self) -> Payments: ...
    @property
    def refunds(self) -> Refunds: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def identity(self) -> Identity: ...
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


# Where this is reached, for the hrefs of the request that is answered.
_base_url: ContextVar[str] = ContextVar("base_url", default="")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class CleanUrl:
    """Refuses a path or a query that names what no text may have, or is longer than any that is answered: before a route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            found = _flaw_of_url(scope["path"], scope["query_string"])
            if found is not None:
                await problem(400, "Invalid", found)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _flaw_of_url(path: str, query: bytes) -> str | None:
    if len(path) > PATH_CHARS_MAX or any(len(part) > PATH_PART_CHARS_MAX for part in path.split("/")):
        return f"a path has at most {PATH_CHARS_MAX} characters, a part of it {PATH_PART_CHARS_MAX}"
    if len(query) > QUERY_BYTES_MAX:
        return f"a query has at most {QUERY_BYTES_MAX} bytes"
    try:
        text = unquote_to_bytes(query.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return "the query is not UTF-8"
    bad = flaw(path) or flaw(text)
    return None if bad is None else f"the URL has {bad}: leave it out"


class BaseUrl:
    """Says where the asker reached us: `public_url` where it is set, else what the request says."""

    def __init__(self, app: ASGIApp, public_url: str = "") -> None:
        self._app = app
        self._public_url = public_url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"localhost").decode("latin-1")
            scheme = "https" if headers.get(b"x-forwarded-proto") == b"https" else "http"
            found = self._public_url or f"{scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"
            _base_url.set(found)
        await self._app(scope, receive, send)


def encode(content: object) -> bytes:
    """Exact JSON: decimals are numbers as they are written, never floats; links are absolute, as the standard has them."""
    return _encode(_linked(content))


def encode_for(content: object, base_url: str) -> bytes:
    """As `encode`, for somebody who has not asked: links begin with where we are reached."""
    token = _base_url.set(base_url.rstrip("/"))
    try:
        return encode(content)
    finally:
        _base_url.reset(token)


def _linked(content: object) -> object:
    if isinstance(content, Mapping):
        return {
            name: f"{_base_url.get()}{value}"
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
    return _base_url.get()


def client_address(request: Request) -> str:
    """Where somebody asks from. Only the gateway reaches us, over its socket: it strips what clients say, and writes this."""
    said = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        return str(ip_address(said.partition("%")[0]))
    except ValueError:
        return request.client.host if request.client and request.client.host else "local"


def is_secure(request: Request) -> bool:
    """Whether the asker came by TLS, to the gateway or to a proxy in front of it."""
    return request.headers.get("x-forwarded-proto") == "https" or reached_at().startswith("https://")


_OWN_PORTS: Final = re.compile(r":(80|443)$")


def _authority(text: str) -> str:
    """Host and port of an origin, or of a Host header; the port of its scheme is left out."""
    return _OWN_PORTS.sub("", text.partition("://")[2] or text).lower()


def check_own_page(request: Request) -> None:
    """What changes something comes from a page of ours, or from no page. By `Sec-Fetch-Site`; a browser that does not send it
    sends `Origin`, or at least `Referer` (OWASP, CSRF prevention). Raises `NotAllowed`.
    """
    refusal = NotAllowed("another site's page can't do this")
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise refusal
        return
    origin = request.headers.get("origin")
    if origin is None:
        referer = urlsplit(request.headers.get("referer", ""))
        origin = f"{referer.scheme}://{referer.netloc}" if referer.netloc else None
    if origin is None:
        return
    ours = {_authority(reached_at()), _authority(request.headers.get("host", ""))}
    if "://" not in origin or _authority(origin) not in ours:
        raise refusal


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
    member = rooms.subscriptions.member_by_id(member_id)
    if member is None or member.state != "active" or subscriber.state == "closed":
        raise NotSignedIn("sign in again")
    role: Role = "owner" if member.role == "owner" else "admin" if member.role == "admin" else "member"
    return Principal(member.name, role, subscriber_id, member_id, session_id, address)


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


def _key(key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None) -> str:
    if key is None:
        raise Invalid("this moves money: send an Idempotency-Key header, the same one when you try again")
    return key


IdempotencyKey = Annotated[str, Depends(_key)]


def audit(
    rooms: Rooms, who: Principal, action: str, ref: object, before: object = None, after: object = None
) -> None:
    """What is done is written down, with who did it and from where. A member is named by its id, not by its name."""
    person_id = rooms.subscriptions.subscriber_of(str(ref)) or who.subscriber_id
    rooms.identity.audit(
        who.actor, who.role, action, str(ref), before, after, address=who.address, person_id=person_id
    )


def two_persons(rooms: Rooms, who: Principal, action: str, ref: object, amount_nano: int, key: str) -> None:
    """In the transaction of what gives money away, once its amount is known: above the limit it needs an approval.

    Raises `ApprovalNeeded`, and what is needed is kept when the transaction is rolled back (`explain_errors`).
    """
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


def page_of(page: Page, resources: Sequence[Mapping[str, object]], total: int) -> Response:
    """A page of a list (TMF630): 206 where there is more."""
    headers = {"X-Total-Count": str(total), "X-Result-Count": str(len(resources))}
    status = 206 if len(resources) < total else 200
    return answer([_pick(resource, page.fields) for resource in resources], status, headers)


def cut(page: Page, resources: Sequence[Mapping[str, object]]) -> Response:
    """A page of a list that is here as a whole."""
    return page_of(page, resources[page.offset : page.offset + page.limit], len(resources))


def _pick(resource: Mapping[str, object], fields: frozenset[str] | None) -> Mapping[str, object]:
    return resource if fields is None else {k: v for k, v in resource.items() if k in fields}


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def one(request: Request, resource: Mapping[str, object], fields: str | None = None) -> Response:
    """A resource with its ETag: 304 where the asker has it."""
    body = encode(_pick(resource, _fields(fields)))
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


def filtered(
    request: Request,
    resources: Sequence[Mapping[str, object]],
    names: Sequence[str],
    beside: Sequence[str] = (),
) -> list[Mapping[str, object]]:
    """What matches the query's `name=value` (or one of `a,b`) of top-level attributes. Raises `Invalid` on other
    names; those `beside` are somebody else's business.
    """
    found = list(resources)
    for name, value in request.query_params.multi_items():
        if name in {"offset", "limit", "fields", *beside}:
            continue
        if name not in names:
            raise Invalid(f"one can filter by {', '.join(names)}, not by {name[:50]}")
        values = set(value.split(","))
        found = [resource for resource in found if str(resource.get(name)) in values]
    return found


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
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return problem(status, type(error).__name__, str(error), headers)

    @app.exception_handler(psycopg.errors.UniqueViolation)
    def at_once(_request: Request, _error: psycopg.errors.UniqueViolation) -> Response:
        """Two who did the same at the same moment, where each had looked before: one of them did it."""
        return problem(409, "Conflict", "the same was done at this moment: look, and try again")

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
