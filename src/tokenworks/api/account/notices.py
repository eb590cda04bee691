"""A person's notices: the list of the console, what is sent by which channel, and the addresses for it."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.subscriptions import NoticeAddress, NoticeChoice, Person, ShownNotice
from tokenworks.trust import Principal
from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.lists import PageQuery, check_filters, page_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit, own_subscriber
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix="/api/notices", tags=["notices"])

CHOICES_MAX: Final = 200
OVERLAP_H_MAX: Final = 720
AddressChannel = Literal["email", "webhook"]


def person_of(principal: Principal) -> Person:
    """The person who calls: the subscriber for the owner of an account, else the member."""
    assert principal.subscriber_id is not None and principal.member_id is not None
    person_id = principal.subscriber_id if principal.role == "owner" else principal.member_id
    return Person(person_id, principal.subscriber_id)


def notice_resource(notice: ShownNotice) -> dict[str, object]:
    return {
        "id": str(notice.notice_id),
        "kind": notice.kind,
        "title": notice.title,
        "text": notice.text,
        "ref": notice.ref,
        "created_at": instant(notice.created_at),
        "read_at": instant(notice.read_at),
    }


def choice_resource(choice: NoticeChoice) -> dict[str, object]:
    return {
        "kind": choice.kind,
        "channel": choice.channel,
        "wanted": choice.wanted,
        "required": choice.required,
    }


def address_resource(address: NoticeAddress) -> dict[str, object]:
    return without_none(
        {
            "channel": address.channel,
            "address": address.address,
            "made_at": instant(address.made_at),
            "confirmed": address.confirmed_at is not None,
            "overlap_until": instant(address.overlap_until),
        }
    )


@router.get("", summary="Your notices, newest first", **allow("owner", "admin", "member"))
def notices(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    unread: Annotated[bool, Query(description="only those that you have not read")] = False,
) -> Response:
    check_filters(request, "unread")
    found, total = services.notices.shown(
        own_subscriber(services, principal), person_of(principal).person_id, unread=unread, offset=page.offset,
        limit=page.limit,
    )  # fmt: skip
    return page_response(page, [notice_resource(notice) for notice in found], total)


@router.get(
    "/count",
    summary="The number of your unread notices, counted up to 1000",
    **allow("owner", "admin", "member"),
)
def count(services: RequestServices, principal: CurrentPrincipal) -> Response:
    return json_response({"unread": services.notices.unread(person_of(principal).person_id)})


class ReadUntil(StrictBody):
    """`last`: the id of the newest notice that you have seen."""

    last: str = Field(min_length=1, max_length=64)


@router.post(
    "/read",
    summary="Mark your notices as read, up to the newest one that you have seen",
    **allow("owner", "admin", "member"),
)
def read_all(body: ReadUntil, services: RequestServices, principal: CurrentPrincipal) -> Response:
    last_id = as_uuid(body.last, "notice")
    marked = services.notices.mark_all_read(person_of(principal).person_id, last_id)
    return json_response({"marked": marked})


class ReadState(StrictBody):
    read: bool


@router.put("/{id}/read", summary="Mark a notice as read or unread", **allow("owner", "admin", "member"))
def read_one(body: ReadState, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    services.notices.mark_read(person_of(principal).person_id, as_uuid(id, "notice"), read=body.read)
    return json_response({"id": id, "read": body.read})


# Choices.


@router.get(
    "/choices",
    summary="Which kinds of notices you get by which channel, and which of them can't be switched off",
    **allow("owner", "admin", "member"),
)
def choices(services: RequestServices, principal: CurrentPrincipal) -> Response:
    found = [choice_resource(choice) for choice in services.notice_choices.of(person_of(principal))]
    return json_response(found, headers={"X-Total-Count": str(len(found))})


class Choice(StrictBody):
    kind: str = Field(min_length=1, max_length=50)
    channel: str = Field(min_length=1, max_length=20)
    wanted: bool


class Choices(StrictBody):
    choices: list[Choice] = Field(min_length=1, max_length=CHOICES_MAX)


@router.put(
    "/choices",
    summary="Switch kinds of notices on or off by channel; what is not named stays as it is",
    **allow("owner", "admin", "member"),
)
def choose(body: Choices, services: RequestServices, principal: CurrentPrincipal) -> Response:
    person = person_of(principal)
    with services.transaction():
        services.notice_choices.choose(person, {(one.kind, one.channel): one.wanted for one in body.choices})
        after = [f"{one.kind} {one.channel} {'on' if one.wanted else 'off'}" for one in body.choices]
        audit(services, principal, "notice.choose", person.person_id, None, after)
    return choices(services, principal)


# Addresses.


class EmailWanted(StrictBody):
    email: str = Field(min_length=3, max_length=254)


class WebhookWanted(StrictBody):
    url: str = Field(min_length=8, max_length=500)


class SecretRotation(StrictBody):
    overlap_h: int = Field(default=24, ge=0, le=OVERLAP_H_MAX)


def _audit_address(services: Services, principal: Principal, channel: str, done: str) -> None:
    # Without the address, which is personal data.
    audit(services, principal, f"notice.{channel}", person_of(principal).person_id, None, {"done": done})


@router.get(
    "/addresses",
    summary="Your e-mail address and your webhook for notices",
    **allow("owner", "admin", "member"),
)
def addresses(services: RequestServices, principal: CurrentPrincipal) -> Response:
    channels: tuple[AddressChannel, ...] = ("email", "webhook")
    found = (services.notice_choices.address(person_of(principal).person_id, channel) for channel in channels)
    return json_response([address_resource(address) for address in found if address is not None])


@router.put(
    "/addresses/email",
    status_code=202,
    summary="Give an e-mail address; it gets a link, and nothing else before the link is used",
    **allow("owner", "admin", "member"),
)
def set_email(body: EmailWanted, services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        made = services.notice_choices.ask_email(person_of(principal), body.email)
        _audit_address(services, principal, "email", "set")
    return json_response(address_resource(made), 202)


@router.put(
    "/addresses/webhook",
    summary="Give a webhook; its secret is shown only in this answer",
    **allow("owner", "admin", "member"),
)
def set_webhook(body: WebhookWanted, services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        made, secret = services.notice_choices.set_webhook(person_of(principal), body.url)
        _audit_address(services, principal, "webhook", "set")
    return json_response({**address_resource(made), "secret": secret}, headers={"Cache-Control": "no-store"})


@router.post(
    "/addresses/webhook/secret",
    status_code=201,
    summary="Rotate the secret of your webhook; the new one is shown only once, and the old one also signs for a while",
    **allow("owner", "admin", "member"),
)
def rotate(body: SecretRotation, services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        secret = services.notice_choices.rotate(person_of(principal), timedelta(hours=body.overlap_h))
        _audit_address(services, principal, "webhook", "rotate")
    return json_response({"secret": secret, "overlap_h": body.overlap_h}, 201, {"Cache-Control": "no-store"})


@router.delete(
    "/addresses/{channel}",
    status_code=204,
    summary="Remove your e-mail address or your webhook",
    **allow("owner", "admin", "member"),
)
def remove(services: RequestServices, principal: CurrentPrincipal, channel: AddressChannel) -> Response:
    with services.transaction():
        services.notice_choices.remove(person_of(principal), channel)
        _audit_address(services, principal, channel, "remove")
    return Response(status_code=204)
