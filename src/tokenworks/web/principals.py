"""The principal of a request: by staff token or session; the roles of a route; owners of resources; the audit trail."""

from collections.abc import Sequence
from typing import Annotated, Final, TypedDict
from uuid import UUID

from fastapi import Depends, Request, params

from tokenworks.billing import Bill
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import Subscriber
from tokenworks.trust import NotAllowed, NotSignedIn, Principal, Role
from tokenworks.web.client import check_own_page, client_address
from tokenworks.web.services import RequestServices, Services

COOKIE: Final = "tokenworks_session"


def _principal(request: Request, services: RequestServices) -> Principal:
    return principal_of(request, services)


def principal_of(request: Request, services: Services) -> Principal:
    """The principal, by a staff token or a session. Both may be a bearer token; a session may also be a cookie of our own pages.

    Raises `NotSignedIn`.
    """
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    address = client_address(request)
    staff = services.identity.staff_of(text, address) if scheme.lower() == "bearer" else None
    if staff is not None:
        return staff
    if scheme.lower() != "bearer":
        text = request.cookies.get(COOKIE, "")
        if text and request.method not in {"GET", "HEAD"}:
            check_own_page(request)
    found = services.identity.session(text, address)
    if found is None:
        raise NotSignedIn("sign in first: POST /api/sign-in/code, then /api/sign-in")
    session_id, subscriber_id, member_id = found
    subscriber = services.subscriptions.find(str(subscriber_id))
    member = services.members.by_id(member_id)
    if member is None or member.state != "active" or subscriber.state == "closed":
        raise NotSignedIn("sign in again")
    role: Role = "owner" if member.role == "owner" else "admin" if member.role == "admin" else "member"
    return Principal(member.name, role, subscriber_id, member_id, session_id, address)


def is_staff(request: Request, services: Services) -> bool:
    """True if staff calls a public route, which then shows more."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and services.identity.staff_of(text) is not None


CurrentPrincipal = Annotated[Principal, Depends(_principal)]
SUBSCRIBER_ROLES: Final[tuple[Role, ...]] = ("owner", "admin")
ALL_STAFF: Final[tuple[Role, ...]] = ("operator", "finance", "auditor")
READERS: Final[tuple[Role, ...]] = (*SUBSCRIBER_ROLES, *ALL_STAFF)
ALL_ROLES: Final[tuple[Role, ...]] = (*READERS, "member")
BUYERS: Final[tuple[Role, ...]] = (*SUBSCRIBER_ROLES, "operator")


class RouteOptions(TypedDict):
    """Arguments of a route decorator."""

    dependencies: Sequence[params.Depends]
    openapi_extra: dict[str, object]


def allow(*roles: Role) -> RouteOptions:
    """Arguments of a route decorator: the roles that may call it, also for the OpenAPI document. A route without it is public."""

    def check(principal: CurrentPrincipal) -> None:
        if principal.role not in roles:
            raise NotAllowed(f"this is for {', '.join(roles)}; you are {principal.role}")

    return {"dependencies": [Depends(check)], "openapi_extra": {"x-roles": sorted(roles)}}


def own_subscriber(services: Services, principal: Principal, reference: str | None = None) -> Subscriber:
    """The subscriber of a request: a member's own, or the one that staff names. Raises `NotFound` for another subscriber's."""
    if principal.is_staff:
        if reference is None:
            raise Invalid("say whose: relatedParty.id, or a phone number")
        return services.subscriptions.find(reference)
    assert principal.subscriber_id is not None
    found = services.subscriptions.find(str(principal.subscriber_id))
    if reference not in {None, str(found.subscriber_id), found.phone}:
        raise NotFound("there is no such subscriber")
    return found


def own_bill(services: Services, principal: Principal, reference: str) -> Bill:
    """A bill by number or id. Raises `BillNotFound`, and `NotFound` for another subscriber's bill."""
    bill = services.bills.find(reference)
    check_owner(principal, bill.subscriber_id, "bill")
    return bill


def phone_of(services: Services, principal: Principal) -> str:
    """The principal's phone number: a member's own, or the subscriber's."""
    return services.sign_ins.phone_of(own_subscriber(services, principal), principal.member_id)


def subscriber_or_all(services: Services, principal: Principal, reference: str | None) -> Subscriber | None:
    """As `own_subscriber`, but None (all subscribers) if staff names none."""
    return (
        None if principal.is_staff and reference is None else own_subscriber(services, principal, reference)
    )


def check_owner(principal: Principal, subscriber_id: UUID, what: str) -> None:
    """Raises `NotFound` if the resource belongs to another subscriber, as if it did not exist."""
    if not principal.is_staff and principal.subscriber_id != subscriber_id:
        raise NotFound(f"there is no such {what}")


def as_uuid(text: str, what: str) -> UUID:
    """An id in a path. Raises `NotFound` if the text is no id, since no resource has it."""
    try:
        # `UUID` accepts digits of other scripts, as `int` does.
        if text.isascii():
            return UUID(text)
    except ValueError:
        pass
    raise NotFound(f"there is no such {what}")


def audit(
    services: Services,
    principal: Principal,
    action: str,
    ref: object,
    before: object = None,
    after: object = None,
) -> None:
    """Write a row of the audit trail, with the principal and its address. A member is named by its id, not by its name."""
    person_id = services.subscriptions.subscriber_of(str(ref)) or principal.subscriber_id
    services.identity.audit(
        principal.actor,
        principal.role,
        action,
        str(ref),
        before,
        after,
        address=principal.address,
        person_id=person_id,
    )


def check_approval(
    services: Services, principal: Principal, action: str, ref: object, amount_nano: int, key: str
) -> None:
    """Check an operation that gives money away, in its transaction: an amount above the limit needs a second person's approval.

    Raises `ApprovalNeeded`. The transaction is rolled back, and `explain_errors` then keeps the request for approval.
    """
    services.approvals.check(principal.name, action, str(ref), amount_nano, key)
