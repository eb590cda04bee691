"""What subscribers do with their own: signing in, keys, members, spend control."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.background import BackgroundTask

from tokenworks.console.asker import check_control, check_own_page, client_address, is_secure
from tokenworks.console.web import (
    BUYERS,
    COOKIE,
    EVERYBODY,
    OFFSET_MAX,
    READERS,
    Asked,
    Of,
    Page,
    Rooms,
    Strict,
    Who,
    allow,
    answer,
    as_uuid,
    audit,
    check_match,
    decimal,
    one,
    own,
    page_of,
    shown,
    when,
)
from tokenworks.kernel import MODEL_CHARS_MAX, Invalid, NotFound, TokenworksError, is_digits, parse_money
from tokenworks.subscriptions import (
    SUSPENSIONS,
    Member,
    PhoneLost,
    Subscriber,
    SubscriberNotFound,
    Suspension,
    parse_phone,
)
from tokenworks.trust import CODE_LIFE, ApiKeyInfo, CodeWrong, NotAllowed, Principal, Session

log = structlog.get_logger()
router = APIRouter(prefix="/api", tags=["account"])
# Of a member at a time; of an account ever, stopped ones included.
KEYS_MAX: Final = 100
KEYS_EVER_MAX: Final = 10_000
CHALLENGE_COOKIE: Final = "tokenworks_challenge"
# As long as the longest life of a code.
CHALLENGE_S: Final = 3600


class SendCode(Protocol):
    """The message port: who sends a one-time code to a phone."""

    def __call__(self, phone: str, code: str) -> None:
        """Raises `Unavailable` where nothing can be sent."""
        ...


Identifier = Annotated[str, Field(min_length=6, max_length=32)]
ModelName = Annotated[str, Field(min_length=1, max_length=MODEL_CHARS_MAX)]
Region = Annotated[str, Field(min_length=1, max_length=60)]


class CodeWanted(Strict):
    """A phone number (E.164), or a broadband account number."""

    identifier: Identifier


class SignIn(Strict):
    """`challenge` is what the request for the code was answered with; without it, and without its cookie, the newest code that
    was asked for from the same address is meant.
    """

    identifier: Identifier
    code: str = Field(pattern=r"^[0-9]{6,10}$")
    challenge: str | None = Field(default=None, max_length=64)


def normal(identifier: str) -> str:
    """One text for one number: a Chinese mobile number may come without its country code."""
    text = identifier.replace(" ", "").replace("-", "")
    if len(text) == 11 and text.startswith("1") and is_digits(text):
        text = f"+86{text}"
    return parse_phone(text) if text.startswith("+") else identifier


def request_code(
    rooms: Rooms, send: SendCode, identifier: str, address: str
) -> tuple[str, tuple[str, str] | None]:
    """Have a code made and, for a phone number, sent; the text of its challenge. Whether somebody has the number plays no part
    in what the asker sees, nor in when: what goes to a broadband account's phone, if there is one, is (phone, code), for when
    that is answered. Raises `Unavailable` where it can't be sent.
    """
    name = normal(identifier)
    made = rooms.identity.request_code(name, address)
    if made.code is None:
        return made.text, None
    if name.startswith("+"):
        try:
            send(name, made.code)
        except TokenworksError:
            rooms.identity.not_sent(made.text)
            raise
        return made.text, None
    try:
        return made.text, (rooms.subscriptions.find_by_number(name).phone, made.code)
    except (SubscriberNotFound, Invalid):
        return made.text, None


def send_later(request: Request, challenge: str, later: tuple[str, str] | None) -> BackgroundTask | None:
    """What sends a code once the request is answered. A failure is not the asker's to see: it would tell who there is."""
    if later is None:
        return None

    def run() -> None:
        try:
            request.app.state.send_code(*later)
        except TokenworksError as error:
            log.warning("sign_in.code_not_sent", error=type(error).__name__)
            with request.app.state.open_rooms() as rooms:
                rooms.identity.not_sent(challenge)

    return BackgroundTask(run)


def sign_in(
    rooms: Rooms,
    request: Request,
    identifier: str,
    code: str,
    language: Literal["zh", "en"] = "zh",
    challenge: str | None = None,
) -> tuple[str, datetime, Subscriber, Member]:
    """(session, its end, subscriber, member). A number that nobody has is registered; one that was invited elsewhere alone is
    a member there. The challenge is what is given, or in its cookie. Raises `CodeWrong`, `NotAllowed`, `PhoneLost`.
    """
    check_own_page(request)
    name, address = normal(identifier), client_address(request)
    challenge = challenge or request.cookies.get(CHALLENGE_COOKIE)
    rooms.identity.check_code(name, code, challenge, address)
    client = request.headers.get("user-agent")
    with rooms.connection.transaction():
        try:
            subscriber = rooms.subscriptions.find_by_number(name)
        except SubscriberNotFound:
            if not name.startswith("+"):
                raise CodeWrong("the code is wrong, or too old: ask for a new one") from None
            elsewhere = [m for m in rooms.members.memberships(name) if m.state == "active"]
            if elsewhere:
                member = elsewhere[0]
                subscriber = rooms.subscriptions.find(str(member.subscriber_id))
                text, ends = rooms.identity.open_session(
                    subscriber.subscriber_id, member.member_id, address, client
                )
                note_sign_in(rooms, member, address)
                return text, ends, subscriber, member
            subscriber = rooms.subscriptions.register(name, language=language)
            rooms.consents.keep(subscriber, "terms", given=True)
        if "lost_phone" in subscriber.suspended_by:
            raise PhoneLost("this phone is reported lost: the operator lifts that, once it has seen who asks")
        owner_id = rooms.subscriptions.owner_of(subscriber)
        owner = rooms.members.by_id(owner_id)
        assert owner is not None
        text, ends = rooms.identity.open_session(subscriber.subscriber_id, owner_id, address, client)
        note_sign_in(rooms, owner, address)
    return text, ends, subscriber, owner


def note_sign_in(rooms: Rooms, member: Member, address: str) -> None:
    rooms.identity.audit(
        f"member:{member.member_id}", member.role, "sign_in", str(member.subscriber_id),
        address=address, person_id=member.subscriber_id,
    )  # fmt: skip


def set_cookie(response: Response, text: str, ends: datetime, *, secure: bool) -> None:
    response.set_cookie(COOKIE, text, expires=ends, httponly=True, secure=secure, samesite="strict", path="/")


def set_challenge(response: Response, text: str, *, secure: bool) -> None:
    """A browser's forms bring the challenge by themselves. It is worth nothing once its code is used, and ends by itself: the
    gateway relays one cookie of an answer.
    """
    response.set_cookie(
        CHALLENGE_COOKIE, text, max_age=CHALLENGE_S, httponly=True, secure=secure, samesite="strict", path="/"
    )


@router.post("/sign-in/code", status_code=202, summary="Have a one-time code sent")
def code(request: Request, body: CodeWanted, rooms: Asked) -> Response:
    check_own_page(request)
    send = request.app.state.send_code
    challenge, later = request_code(rooms, send, body.identifier, client_address(request))
    response = answer(
        {"sent": True, "valid_for_s": int(CODE_LIFE.total_seconds()), "challenge": challenge}, 202
    )
    set_challenge(response, challenge, secure=is_secure(request))
    response.background = send_later(request, challenge, later)
    return response


@router.post("/sign-in", status_code=201, summary="Sign in, or register, with a code")
def signed_in(request: Request, body: SignIn, rooms: Asked) -> Response:
    language: Literal["zh", "en"] = (
        "en" if request.headers.get("accept-language", "").startswith("en") else "zh"
    )
    text, ends, subscriber, member = sign_in(
        rooms, request, body.identifier, body.code, language, body.challenge
    )
    response = answer(
        {"token": text, "expires_at": when(ends), "subscriber_id": str(subscriber.subscriber_id), "member": member.name}, 201
    )  # fmt: skip
    set_cookie(response, text, ends, secure=is_secure(request))
    return response


@router.post("/sign-out", status_code=204, summary="End this session", **allow(*EVERYBODY))
def sign_out(rooms: Asked, who: Who) -> Response:
    if who.session_id is not None:
        with rooms.connection.transaction():
            rooms.identity.end_session(who.session_id)
            audit(rooms, who, "sign_out", who.subscriber_id)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response


# Sessions.


def _session_resource(session: Session, who: Who, names: dict[Any, str]) -> dict[str, object]:
    return shown(
        {
            "id": str(session.session_id),
            "member": names.get(session.member_id),
            "this": session.session_id == who.session_id,
            "since": when(session.created_at),
            "until": when(session.expires_at),
            "address": session.address,
            "client": session.client,
            "seen_at": when(session.seen_at),
            "seen_address": session.seen_address,
        }
    )


def live_sessions(rooms: Rooms, who: Principal) -> list[Session]:
    """What somebody may see and end: their own; the owner of an account, everybody's in it."""
    assert who.subscriber_id is not None
    return rooms.identity.sessions(who.subscriber_id, None if who.role == "owner" else who.member_id)


@router.get(
    "/sessions", summary="Who is signed in, from where, with what", **allow("owner", "admin", "member")
)
def sessions(rooms: Asked, who: Who) -> Response:
    names = {m.member_id: m.name for m in rooms.members.of(own(rooms, who))}
    rows = [_session_resource(session, who, names) for session in live_sessions(rooms, who)]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


@router.delete(
    "/sessions",
    status_code=204,
    summary="End all of one's own sessions but this one",
    **allow("owner", "admin", "member"),
)
def end_other_sessions(rooms: Asked, who: Who) -> Response:
    assert who.subscriber_id is not None
    with rooms.connection.transaction():
        ended = rooms.identity.end_other_sessions(who.subscriber_id, who.member_id, who.session_id)
        audit(rooms, who, "session.end_others", who.subscriber_id, None, {"ended": ended})
    return Response(status_code=204)


@router.delete(
    "/sessions/{id}", status_code=204, summary="End a session", **allow("owner", "admin", "member")
)
def end_session(rooms: Asked, who: Who, id: str) -> Response:
    session_id = as_uuid(id, "session")
    if session_id not in {session.session_id for session in live_sessions(rooms, who)}:
        raise NotFound("there is no such session")
    with rooms.connection.transaction():
        rooms.identity.end_session(session_id)
        audit(rooms, who, "session.end", session_id)
    return Response(status_code=204)


def subscriber_resource(rooms: Rooms, subscriber: Subscriber) -> dict[str, object]:
    return shown(
        {
            "id": str(subscriber.subscriber_id),
            "account_id": str(subscriber.account_id),
            "phone": subscriber.phone_masked,
            "name": subscriber.name,
            "state": subscriber.state,
            "language": subscriber.language,
            "audiences": subscriber.audiences,
            "broadband": subscriber.broadband,
            "real_name": subscriber.real_name,
            "bill_day": subscriber.bill_day,
            "monthly_cap": decimal(subscriber.cap_nano),
            "spent_this_month": decimal(rooms.payg.spent(subscriber)),
            "spend_locked": subscriber.spend_locked,
            "spill_over": subscriber.spill_over,
            "restricted": subscriber.restricted,
            "suspended_by": list(subscriber.suspended_by),
            "regions": subscriber.regions,
            "home_region": subscriber.home_region,
            "credit_limit": None
            if subscriber.credit_limit_nano is None
            else decimal(subscriber.credit_limit_nano),
            "owes": decimal(rooms.charges.receivable(subscriber.account_id)),
            "consents": rooms.consents.said(subscriber),
        }
    )


def suspension_resource(found: Suspension) -> dict[str, object]:
    stops = SUSPENSIONS[found.cause]
    return shown(
        {
            "cause": found.cause,
            "reason": found.reason,
            "began_at": when(found.began_at),
            "ended_at": when(found.ended_at),
            "end_reason": found.end_reason,
            "stops": [name for name, stopped in stops._asdict().items() if stopped],
        }
    )


@router.get("/suspensions", summary="What suspends one now, and what it stops", **allow(*READERS))
def my_suspensions(rooms: Asked, who: Who, of: Of = None) -> Response:
    found = rooms.subscriptions.suspensions(own(rooms, who, of))
    rows = [suspension_resource(one) for one in found if one.ended_at is None]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class OwnSuspension(Strict):
    cause: Literal["own_wish", "lost_phone"]
    state: Literal["suspended", "active"]


@router.patch(
    "/suspensions", summary="Pause by one's own wish, or for a lost phone; or go on", **allow("owner")
)
def suspend_myself(body: OwnSuspension, rooms: Asked, who: Who, of: Of = None) -> Response:
    """A pause is the subscriber's to set and to lift. A lost phone is only told here, and every session ends: whoever has the
    phone gets codes, too, so that the operator lifts it, for whom it has seen.
    """
    found = own(rooms, who, of)
    if (body.cause, body.state) == ("lost_phone", "active"):
        raise NotAllowed("the operator lifts this, once it has seen who asks")
    with rooms.connection.transaction():
        if body.state == "suspended":
            found = rooms.subscriptions.suspend(found, body.cause, "asked by the subscriber")
        else:
            found = rooms.subscriptions.lift(found, body.cause, "asked by the subscriber")
        audit(rooms, who, f"subscriber.{body.state}", found.subscriber_id, None, {"cause": body.cause})
    return answer(subscriber_resource(rooms, found))


@router.get("/subscriber", summary="Who one is, and what one may spend", **allow(*READERS))
def subscriber(request: Request, rooms: Asked, who: Who, of: Of = None) -> Response:
    return one(request, subscriber_resource(rooms, own(rooms, who, of)))


class SubscriberUpdate(Strict):
    """What is left out stays. Amounts are decimals of yuan in quotes."""

    name: str | None = Field(default=None, max_length=100)
    language: Literal["zh", "en"] | None = None
    monthly_cap: str | None = Field(default=None, max_length=20)
    spend_locked: bool | None = None
    spill_over: bool | None = None
    # The number of the broadband account, where none is known yet.
    broadband: str | None = Field(default=None, max_length=32)
    # Where requests may be sent, such as cn or cn-sh; null: anywhere.
    regions: list[Region] | None = Field(default=None, max_length=100)
    # Where the subscriber is, such as cn-sh, so that an edge box near it may serve it; null: not said.
    home_region: str | None = Field(default=None, max_length=60)
    # What is agreed to, or taken back, by purpose.
    consents: dict[Literal["terms", "marketing", "data_cross_border"], bool] | None = None


@router.patch(
    "/subscriber", summary="Set the name, the cap, the lock, the consent to go on", **allow(*BUYERS)
)
def update_subscriber(
    request: Request, body: SubscriberUpdate, rooms: Asked, who: Who, of: Of = None
) -> Response:
    found = own(rooms, who, of)
    before = subscriber_resource(rooms, found)
    check_match(request, before)
    with rooms.connection.transaction():
        cap = None if body.monthly_cap is None else parse_money(body.monthly_cap).amount_nano
        check_control(
            who, found, cap_nano=cap, locked=body.spend_locked, spill_over=body.spill_over, consents=bool(body.consents),
            regions=bool(body.model_fields_set & {"regions", "home_region"}),
        )  # fmt: skip
        rooms.payg.control(
            found, cap_nano=cap, locked=body.spend_locked, spill_over=body.spill_over, said_by=who.actor
        )
        for purpose, given in (body.consents or {}).items():
            rooms.consents.keep(found, purpose, given=given, said_by=who.actor)
        said = {
            name: getattr(body, name) for name in ("regions", "home_region") if name in body.model_fields_set
        }
        rooms.subscriptions.set_profile(found, **said)
        fields: dict[str, Any] = {"name": body.name, "language": body.language, "broadband": body.broadband}
        if body.broadband is not None and found.broadband not in {None, body.broadband}:
            raise NotAllowed("a broadband number that is known is changed by the operator")
        changed = rooms.subscriptions.set_profile(found, **{k: v for k, v in fields.items() if v is not None})
        after = subscriber_resource(rooms, changed)
        audit(rooms, who, "subscriber.set", found.subscriber_id, before, after)
    return answer(after)


# Keys.


class KeyCreate(Strict):
    name: str = Field(min_length=1, max_length=100)
    models: list[ModelName] | None = Field(default=None, max_length=200)
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)
    # The most that the key may ever use.
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)


@router.get("/keys", summary="API keys, oldest first; a member sees its own", **allow(*EVERYBODY))
def keys(
    rooms: Asked,
    who: Who,
    of: Of = None,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=KEYS_MAX)] = KEYS_MAX,
) -> Response:
    found = visible_keys(rooms, who, own(rooms, who, of))
    rows = [
        {
            "id": str(key.key_id),
            "name": key.name,
            "key": key.hint,
            "models": key.models,
            "cap_tokens": key.cap_tokens,
            "created_at": when(key.created_at),
            "expires_at": when(key.expires_at),
            "revoked_at": when(key.revoked_at),
            "used_at": when(key.used_at),
        }
        for key in found[offset : offset + limit]
    ]
    return page_of(Page(offset, limit, None), rows, len(found))


def visible_keys(rooms: Rooms, who: Principal, subscriber: Subscriber) -> list[ApiKeyInfo]:
    """The account's keys; a member sees its own live ones."""
    caps = {b.bucket_id: b.total for b in rooms.ledger.buckets(subscriber.account_id) if b.kind == "cap"}
    found = rooms.keys.of_account(subscriber.account_id, caps)
    if who.role != "member" or who.member_id is None:
        return found
    mine = rooms.keys.of_member(who.member_id)
    return [key for key in found if key.key_id in mine]


@router.post(
    "/keys",
    status_code=201,
    summary="A new API key; its text is shown this once",
    **allow("owner", "admin", "member"),
)
def make_key(body: KeyCreate, rooms: Asked, who: Who) -> Response:
    key_id, text = issue_key(
        rooms, who, own(rooms, who), body.name, models=body.models, days=body.expires_in_days, cap_tokens=body.cap_tokens
    )  # fmt: skip
    return answer({"id": str(key_id), "name": body.name, "key": text}, 201)


def issue_key(
    rooms: Rooms,
    who: Principal,
    subscriber: Subscriber,
    name: str,
    *,
    models: Sequence[str] | None = None,
    days: int | None = None,
    cap_tokens: int | None = None,
) -> tuple[UUID, str]:
    """A key of whoever is signed in, with its limits: its id, and its text, which is shown this once. Raises `Invalid`."""
    assert who.member_id is not None
    if len(rooms.keys.of_member(who.member_id)) >= KEYS_MAX:
        raise Invalid(f"one has at most {KEYS_MAX} keys: stop one that is not used any more")
    if rooms.keys.count(subscriber.account_id) >= KEYS_EVER_MAX:
        raise Invalid(f"an account makes at most {KEYS_EVER_MAX} keys")
    with rooms.connection.transaction():
        cap = None if cap_tokens is None else rooms.ledger.add_cap(subscriber.account_id, cap_tokens)
        expires_at = None if days is None else rooms.clock.now() + timedelta(days=days)
        key_id, text = rooms.keys.issue(
            account_id=subscriber.account_id, member_id=who.member_id, name=name, models=models, cap_bucket_id=cap,
            cap_tokens=cap_tokens, expires_at=expires_at,
        )  # fmt: skip
        audit(rooms, who, "key.create", key_id, None, {"models": models, "expires_in_days": days})
    return key_id, text


@router.delete(
    "/keys/{id}",
    status_code=204,
    summary="Stop a key everywhere",
    **allow(*EVERYBODY[:2], "member", "operator"),
)
def revoke_key(rooms: Asked, who: Who, id: str, of: Of = None) -> Response:
    found = own(rooms, who, of)
    key_id = as_uuid(id, "key")
    if key_id not in {key.key_id for key in visible_keys(rooms, who, found)}:
        raise NotFound("there is no such key")
    with rooms.connection.transaction():
        rooms.keys.revoke(key_id)
        audit(rooms, who, "key.revoke", key_id)
    return Response(status_code=204)


# Members.


class Invitation(Strict):
    phone: Identifier
    name: str = Field(min_length=1, max_length=100)
    role: Literal["member", "admin"] = "member"
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    cap_period: Literal["day", "month", "total"] = "month"
    # The department's id or name.
    department: str | None = Field(default=None, min_length=1, max_length=100)


class DepartmentCreate(Strict):
    """A department has no key of its own; its cap holds for everybody in it. Two levels deep: `under` names the upper one."""

    name: str = Field(min_length=1, max_length=100)
    under: str | None = Field(default=None, min_length=1, max_length=100)
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    cap_period: Literal["day", "month", "total"] = "month"


def member_resource(member: Member) -> dict[str, object]:
    return shown(
        {
            "id": str(member.member_id),
            "name": member.name,
            "role": member.role,
            "state": member.state,
            "department": None if member.parent_id is None else str(member.parent_id),
            "cap_tokens": member.cap_tokens,
            "cap_period": member.cap_period,
        }
    )


@router.get("/members", summary="Who spends from the account", **allow(*READERS))
def members(rooms: Asked, who: Who, of: Of = None) -> Response:
    found = [member_resource(member) for member in rooms.members.of(own(rooms, who, of))]
    return answer(found, headers={"X-Total-Count": str(len(found))})


@router.post(
    "/members", status_code=201, summary="Invite somebody by phone number", **allow("owner", "admin")
)
def invite(body: Invitation, rooms: Asked, who: Who) -> Response:
    found = own(rooms, who)
    if body.role == "admin" and who.role != "owner":
        raise Invalid("role: the owner alone makes somebody an admin")
    with rooms.connection.transaction():
        made = rooms.members.invite(
            found,
            normal(body.phone),
            body.name,
            role=body.role,
            cap_tokens=body.cap_tokens,
            cap_period=body.cap_period,
            parent=body.department,
        )
        audit(rooms, who, "member.invite", made.member_id, None, cap_of(made))
    return answer(member_resource(made), 201)


@router.post(
    "/departments", status_code=201, summary="A department, with the quota it has", **allow("owner", "admin")
)
def make_department(body: DepartmentCreate, rooms: Asked, who: Who) -> Response:
    with rooms.connection.transaction():
        made = rooms.members.add(
            own(rooms, who), body.name, department=True, parent=body.under, cap_tokens=body.cap_tokens,
            cap_period=body.cap_period,
        )  # fmt: skip
        audit(rooms, who, "member.add", made.member_id, None, cap_of(made))
    return answer(member_resource(made), 201)


def cap_of(member: Member) -> dict[str, object]:
    """What the audit trail says of a member: no name and no number."""
    return {
        "role": member.role,
        "cap_tokens": member.cap_tokens,
        "cap_period": member.cap_period,
        "department": None if member.parent_id is None else str(member.parent_id),
    }


def check_rank(who: Principal, member: Member) -> None:
    """An admin manages members and departments: the owner and the admins are the owner's to cap or to move.

    Raises `NotAllowed`.
    """
    if who.role == "admin" and member.role in {"owner", "admin"}:
        raise NotAllowed("the owner alone changes what the owner or an admin may do")


class MemberUpdate(Strict):
    """What is left out stays; null takes it away."""

    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    cap_period: Literal["day", "month", "total"] = "month"
    department: str | None = Field(default=None, min_length=1, max_length=100)


@router.patch(
    "/members/{id}",
    summary="A member's (or department's) cap, and whose department it is in",
    **allow("owner", "admin"),
)
def set_member(request: Request, body: MemberUpdate, rooms: Asked, who: Who, id: str) -> Response:
    found = own(rooms, who)
    member = rooms.members.find(found, str(as_uuid(id, "member")))
    check_rank(who, member)
    check_match(request, member_resource(member))
    with rooms.connection.transaction():
        if body.model_fields_set & {"cap_tokens", "cap_period"}:
            tokens = body.cap_tokens if "cap_tokens" in body.model_fields_set else member.cap_tokens
            period = body.cap_period if "cap_period" in body.model_fields_set else member.cap_period
            rooms.members.set_cap(member, tokens, period or "month")
        if "department" in body.model_fields_set:
            rooms.members.set_department(found, member, body.department)
        after = rooms.members.find(found, str(member.member_id))
        audit(rooms, who, "member.set", member.member_id, cap_of(member), cap_of(after))
    return answer(member_resource(rooms.members.find(found, id)))


@router.delete(
    "/members/{id}", status_code=204, summary="A member goes; its keys are stopped", **allow("owner", "admin")
)
def remove_member(rooms: Asked, who: Who, id: str) -> Response:
    found = own(rooms, who)
    member = rooms.members.find(found, str(as_uuid(id, "member")))
    check_rank(who, member)
    with rooms.connection.transaction():
        audit(rooms, who, "member.remove", member.member_id, cap_of(member))
        rooms.members.remove(member)
    return Response(status_code=204)


@router.get(
    "/memberships", summary="Where one was invited, or is a member", **allow("owner", "admin", "member")
)
def memberships(rooms: Asked, who: Who) -> Response:
    found = rooms.members.memberships(_phone(rooms, who))
    rows = [
        {**member_resource(member), "of": rooms.subscriptions.find(str(member.subscriber_id)).name or "?"}
        for member in found
    ]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


def _phone(rooms: Rooms, who: Who) -> str:
    """The number of whoever asks: a member's own, or the subscriber's."""
    mine = own(rooms, who)
    member = None if who.member_id is None else rooms.members.by_id(who.member_id)
    return (member and member.phone) or mine.phone


class Joining(Strict):
    state: Literal["active", "left"]


@router.patch(
    "/memberships/{id}", summary="Accept an invitation, or leave", **allow("owner", "admin", "member")
)
def join(body: Joining, rooms: Asked, who: Who, id: str) -> Response:
    phone, member_id = _phone(rooms, who), as_uuid(id, "invitation")
    with rooms.connection.transaction():
        if body.state == "active":
            made = rooms.members.accept(phone, member_id)
        else:
            made = rooms.members.leave(phone, member_id)
        audit(rooms, who, "member.accept" if body.state == "active" else "member.leave", member_id)
    return answer(member_resource(made))


@router.post(
    "/memberships/{id}/session",
    status_code=201,
    summary="Go on as a member there",
    **allow("owner", "admin", "member"),
)
def switch(request: Request, rooms: Asked, who: Who, id: str) -> Response:
    member_id = as_uuid(id, "membership")
    for member in rooms.members.memberships(_phone(rooms, who)):
        if member.member_id == member_id and member.state == "active":
            text, ends = rooms.identity.open_session(
                member.subscriber_id, member_id, client_address(request), request.headers.get("user-agent")
            )
            note_sign_in(rooms, member, client_address(request))
            response = answer({"token": text, "expires_at": when(ends)}, 201)
            set_cookie(response, text, ends, secure=is_secure(request))
            return response
    raise NotFound("there is no such membership")
