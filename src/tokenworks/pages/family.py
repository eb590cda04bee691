"""The family page: members who share the plans, their caps and usage; invitations sent and received."""

from datetime import timedelta
from typing import Annotated, Final, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import TokenworksError, format_tokens
from tokenworks.pages.page import FormText, Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.phrases import read_tokens
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import BILLING_ZONE, Member, check_rank, may_manage, normal_number, parse_phone
from tokenworks.texts import Language
from tokenworks.web.actions import audited_member
from tokenworks.web.client import client_address, is_secure
from tokenworks.web.principals import COOKIE, as_uuid, audit, phone_of
from tokenworks.web.services import RequestServices, Services
from tokenworks.web.sign_in import set_cookie

router = APIRouter(include_in_schema=False)
DAYS_SHOWN: Final = 30
MEMBERS_SHOWN: Final = 200
_PHONE_SHOWN: Final = 4
Period = Annotated[Literal["day", "month", "total"], Form()]
Done = Annotated[Literal["invited", "cap", "removed", "joined", "declined", "left"] | None, Query()]


class _Form(NamedTuple):
    """What was entered for an invitation, to be shown again beside a refusal."""

    phone: str = ""
    name: str = ""
    cap: str = ""
    period: str = "month"


@router.get("/team")
@router.get("/family")
def family(request: Request, services: RequestServices, done: Done = None) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/family")
    return _show(request, services, visitor, done)


def _show(
    request: Request,
    services: Services,
    visitor: Visitor,
    done: str | None = None,
    error: TokenworksError | None = None,
    error_at: str | None = None,
    form: _Form = _Form(),  # noqa: B008 - immutable
) -> Response:
    language = language_of(request, visitor)
    words = WORDS[language]
    rows, more = ([], 0) if visitor.is_member else _members(services, visitor, language)
    invited, joined = [], []
    for member in services.members.memberships(phone_of(services, visitor.principal)):
        name = _household(services, member)
        is_current = member.member_id == visitor.principal.member_id
        row = {"id": str(member.member_id), "is_current": is_current}
        if member.state == "invited":
            invited.append({**row, "text": words["invitation_from"].format(name=name)})
        else:
            joined.append({**row, "text": words["membership_of"].format(name=name)})
    return render(
        request, services, "family.html", "family", "family_title", visitor=visitor, error=error, error_at=error_at, form=form,
        periods=[(period, words[f"period_{period}"]) for period in ("day", "month", "total")],
        done=words[f"done_{done}"] if done else None, members=rows, invited=invited, joined=joined, is_member=visitor.is_member,
        lead=words["member_lead"].format(name=_account_name(visitor)) if visitor.is_member else words["family_lead"],
        more=words["more_members"].format(count=more) if more else "",
    )  # fmt: skip


def _account_name(visitor: Visitor) -> str:
    return visitor.subscriber.name or visitor.subscriber.phone_masked


def _household(services: Services, member: Member) -> str:
    """The name of another account, by its owner."""
    found = services.subscriptions.find(str(member.subscriber_id))
    return found.name or found.phone_masked


def _members(services: Services, visitor: Visitor, language: Language) -> tuple[list[dict[str, object]], int]:
    """The account's members with their usage, and how many more there are."""
    words, now = WORDS[language], services.clock.now()
    account_id = visitor.subscriber.account_id
    caps = services.ledger.used_of_caps(account_id, now)
    first = (now - timedelta(days=DAYS_SHOWN)).astimezone(BILLING_ZONE)
    since = first.replace(hour=0, minute=0, second=0, microsecond=0)  # of whole days the sums are kept
    spent = {
        row["member_id"]: row["input_tokens"] + row["output_tokens"]
        for row in services.ledger.usage_by_member(account_id, since)
    }
    found = [m for m in services.members.of(visitor.subscriber) if m.state != "left"]
    rows = []
    for member in found[:MEMBERS_SHOWN]:
        tokens = spent.get(member.member_id, 0)
        used = words["used_30"].format(quantity=format_tokens(tokens * 1000, "token", language))
        is_owner = member.role == "owner"
        rows.append(
            {
                "id": str(member.member_id),
                "name": (visitor.subscriber.name or words["owner"]) if is_owner else member.name,
                "role": words[member.role] if member.state == "active" else words["invited"],
                "is_me": member.member_id == visitor.principal.member_id,
                "phone": f"···· {member.phone[-_PHONE_SHOWN:]}" if member.phone else "",
                "used": "" if member.role == "department" else used if tokens else words["used_none"],
                "cap": cap_line(member, caps, language),
                "cap_tokens": "" if member.cap_tokens is None else str(member.cap_tokens),
                "cap_period": member.cap_period or "month",
                "can_remove": member.can_leave and may_manage(visitor.principal.role, member),
                "can_cap": may_manage(visitor.principal.role, member),
            }
        )
    return rows, max(0, len(found) - MEMBERS_SHOWN)


def cap_line(member: Member, used: dict[UUID, int], language: Language) -> str:
    """A member's cap, and how much of it is used in the current period."""
    words = WORDS[language]
    if member.cap_tokens is None or member.cap_period is None:
        return words["no_cap"]
    return words[f"cap_{member.cap_period}"].format(
        cap=format_tokens(member.cap_tokens * 1000, "token", language),
        used=format_tokens(used.get(member.member_id, 0), "token", language),
    )


# Actions of the owner and of admins.


@router.post("/family/invite")
def invite(
    request: Request,
    services: RequestServices,
    phone: FormText = "",
    name: FormText = "",
    cap: FormText = "",
    period: Period = "month",
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/family")
    form = _Form(phone, name, cap, period)
    error_at: str | None = "phone"
    try:
        number = parse_phone(normal_number(phone))
        error_at = "cap"
        cap_tokens = read_tokens(cap)
        error_at = None
        with services.transaction():
            made = services.members.invite(
                visitor.subscriber, number, name, cap_tokens=cap_tokens, cap_period=period
            )
            audit(services, visitor.principal, "member.invite", made.member_id, None, audited_member(made))
    except TokenworksError as error:
        return _show(request, services, visitor, error=error, error_at=error_at, form=form)
    return RedirectResponse("/family?done=invited", 303)


@router.post("/family/cap")
def set_cap(
    request: Request, services: RequestServices, id: FormText, cap: FormText = "", period: Period = "month"
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/family")
    member = _member(services, visitor, id)
    check_rank(visitor.principal.role, member)
    try:
        with services.transaction():
            services.subscriptions.lock([visitor.subscriber.subscriber_id])
            before = audited_member(_member(services, visitor, id))
            services.members.set_cap(member, read_tokens(cap), period)
            after = audited_member(_member(services, visitor, id))
            if after != before:
                audit(services, visitor.principal, "member.set", member.member_id, before, after)
    except TokenworksError as error:
        return _show(request, services, visitor, error=error, error_at=f"cap-{member.member_id}")
    return RedirectResponse("/family?done=cap", 303)


@router.post("/family/remove")
def remove(request: Request, services: RequestServices, id: FormText) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/family")
    member = _member(services, visitor, id)
    check_rank(visitor.principal.role, member)
    try:
        with services.transaction():
            services.subscriptions.lock([visitor.subscriber.subscriber_id])
            if _member(services, visitor, id).state != "left":
                audit(services, visitor.principal, "member.remove", member.member_id, audited_member(member))
                services.members.remove(member)
    except TokenworksError as error:
        return _show(request, services, visitor, error=error)
    return RedirectResponse("/family?done=removed", 303)


def _member(services: Services, visitor: Visitor, id_: str) -> Member:
    return services.members.find(visitor.subscriber, str(as_uuid(id_, "member")))


# Actions of the invited person.


@router.post("/family/join")
def join(
    request: Request,
    services: RequestServices,
    id: FormText,
    what: Annotated[Literal["accept", "decline", "leave", "switch"], Form()],
) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/family")
    phone, member_id = phone_of(services, visitor.principal), as_uuid(id, "invitation")
    try:
        if what == "switch":
            return _switch(request, services, phone, member_id, visitor.principal.session_id)
        with services.transaction():
            if services.sign_ins.is_invited(phone, member_id) or what != "accept":
                if what == "accept":
                    services.members.accept(phone, member_id)
                else:
                    services.members.leave(phone, member_id)
                audit(
                    services,
                    visitor.principal,
                    "member.accept" if what == "accept" else "member.leave",
                    member_id,
                )
    except TokenworksError as error:
        return _show(request, services, visitor, error=error)
    if what == "leave" and member_id == visitor.principal.member_id:
        response = RedirectResponse("/sign-in", 303)
        response.delete_cookie(COOKIE, path="/")
        return response
    done = {"accept": "joined", "decline": "declined", "leave": "left"}[what]
    return RedirectResponse(f"/family?done={done}", 303)


def _switch(
    request: Request, services: Services, phone: str, member_id: UUID, session_id: UUID | None
) -> Response:
    """Begin a session as a member of another account."""
    address, client = client_address(request), request.headers.get("user-agent")
    entered = services.sign_ins.switch(phone, member_id, address, client, session_id)
    response = RedirectResponse("/usage", 303)
    set_cookie(response, entered.text, entered.ends_at, secure=is_secure(request))
    return response
