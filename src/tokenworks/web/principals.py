"""Who asks: by staff token or session; which roles may ask; whose something is; the audit trail."""

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Request

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
    """By staff token or session, as a bearer or (a session alone) as a cookie of this site's own pages."""
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
    """True if staff asks: of a route that is public, and says more to staff."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and services.identity.staff_of(text) is not None


CurrentPrincipal = Annotated[Principal, Depends(_principal)]
SUBSCRIBER_ROLES: Final[tuple[Role, ...]] = ("owner", "admin")
ALL_STAFF: Final[tuple[Role, ...]] = ("operator", "finance", "auditor")
READERS: Final[tuple[Role, ...]] = (*SUBSCRIBER_ROLES, *ALL_STAFF)
ALL_ROLES: Final[tuple[Role, ...]] = (*READERS, "member")
BUYERS: Final[tuple[Role, ...]] = (*SUBSCRIBER_ROLES, "operator")


def allow(*roles: Role) -> dict[str, Any]:
    """Of a route: who may ask. It is in the OpenAPI document, too; a route without it is public."""

    def check(principal: CurrentPrincipal) -> None:
        if principal.role not in roles:
            raise NotAllowed(f"this is for {', '.join(roles)}; you are {principal.role}")

    return {"dependencies": [Depends(check)], "openapi_extra": {"x-roles": sorted(roles)}}


def own_subscriber(services: Services, principal: Principal, reference: str | None = None) -> Subscriber:
    """The subscriber that is asked for: a member's own, or the one that staff names. Somebody else's is not found."""
    if principal.is_staff:
        if reference is None:
            raise Invalid("say whose: relatedParty.id, or a phone number")
        return services.subscriptions.find(reference)
    assert principal.subscriber_id is not None
    mine = services.subscriptions.find(str(principal.subscriber_id))
    if reference not in {None, str(mine.subscriber_id), mine.phone}:
        raise NotFound("there is no such subscriber")
    return mine


def own_bill(services: Services, principal: Principal, reference: str) -> Bill:
    """A bill by number or id. Raises `BillNotFound`; another subscriber's is not there."""
    bill = services.bills.find(reference)
    check_owner(principal, bill.subscriber_id, "bill")
    return bill


def phone_of(services: Services, principal: Principal) -> str:
    """The number of whoever asks: a member's own, or the subscriber's."""
    return services.sign_ins.phone_of(own_subscriber(services, principal), principal.member_id)


def subscriber_or_all(services: Services, principal: Principal, reference: str | None) -> Subscriber | None:
    """As `own_subscriber`, but staff that names nobody sees all."""
    return (
        None if principal.is_staff and reference is None else own_subscriber(services, principal, reference)
    )


def check_owner(principal: Principal, subscriber_id: UUID, what: str) -> None:
    """Raises `NotFound` where something is another subscriber's: as if it were not there."""
    if not principal.is_staff and principal.subscriber_id != subscriber_id:
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


def audit(
    services: Services,
    principal: Principal,
    action: str,
    ref: object,
    before: object = None,
    after: object = None,
) -> None:
    """What is done is written down, with who did it and from where. A member is named by its id, not by its name."""
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
    """In the transaction of what gives money away, once its amount is known: above the limit it needs an approval.

    Raises `ApprovalNeeded`, and what is needed is kept when the transaction is rolled back (`explain_errors`).
    """
    services.approvals.check(principal.name, action, str(ref), amount_nano, key)
