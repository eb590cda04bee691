"""What a role may do in an account: an admin on behalf of the owner, and a subscriber for itself. Pure."""

from typing import Literal

from tokenworks.kernel import Invalid, is_digits
from tokenworks.subscriptions.model import Member, Subscriber
from tokenworks.trust import NotAllowed, Role


def check_control(
    role: Role,
    subscriber: Subscriber,
    *,
    cap_nano: int | None = None,
    locked: bool | None = None,
    spill_over: bool | None = None,
    consents: bool = False,
    regions: bool = False,
) -> None:
    """Check a change of the account's limits and consents. An admin may lower the money cap, lock spending and withdraw the
    consent to pay-as-you-go. Only the owner may raise a limit, or give a consent. Raises `NotAllowed`.
    """
    if role != "admin":
        return
    raises = cap_nano is not None and cap_nano > subscriber.cap_nano
    unlocks = locked is False and subscriber.spend_locked
    spills = spill_over is True and not subscriber.spill_over
    if raises or unlocks or spills:
        raise NotAllowed(
            "only the owner may raise what may be spent: an admin may lower it, and lock spending"
        )
    if consents or regions:
        raise NotAllowed("only the owner may give a consent, or set the regions that data may go to")


def check_rank(role: Role, member: Member) -> None:
    """An admin may manage members and departments. Only the owner may cap, move or remove the owner and admins. Raises
    `NotAllowed`.
    """
    if role == "admin" and member.role in {"owner", "admin"}:
        raise NotAllowed("only the owner may change what the owner or an admin may do")


def may_manage(role: Role, member: Member) -> bool:
    """True if `check_rank` lets the role cap, move or remove the member."""
    return role != "admin" or member.role not in {"owner", "admin"}


def check_invited_role(role: Role, invited: Literal["member", "admin"]) -> None:
    """Only the owner may invite an admin. Raises `Invalid`."""
    if invited == "admin" and role != "owner":
        raise Invalid("role: only the owner may invite an admin")


def check_own_lift(cause: str) -> None:
    """A subscriber may lift its suspensions except `lost_phone`. Raises `NotAllowed`."""
    if cause == "lost_phone":
        raise NotAllowed("the operator lifts this suspension, after a check of your identity")


def check_own_broadband(subscriber: Subscriber, number: str | None) -> None:
    """A subscriber may set its broadband number once; only the operator changes it. Raises `NotAllowed`."""
    if number is not None and subscriber.broadband not in {None, number}:
        raise NotAllowed("only the operator may change a broadband number that is known")


def check_last_digits(phone: str | None, digits: str, whose: str = "the") -> None:
    """A request to erase a person must repeat the last four digits of the person's number. Raises `Invalid`."""
    if not phone or not is_digits(digits, 4) or len(digits) != 4 or not phone.endswith(digits):
        raise Invalid(f"confirm: give the last four digits of {whose} phone number")
