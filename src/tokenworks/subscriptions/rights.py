"""What somebody may do in an account, by role: an admin for its owner, a subscriber for itself. Pure on what it is given."""

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
    """An admin runs an account for its owner: it may lower the money cap, lock spending and take a consent to go on back. What
    costs more, or agrees for somebody, is the owner's. Raises `NotAllowed`.
    """
    if role != "admin":
        return
    raises = cap_nano is not None and cap_nano > subscriber.cap_nano
    unlocks = locked is False and subscriber.spend_locked
    spills = spill_over is True and not subscriber.spill_over
    if raises or unlocks or spills:
        raise NotAllowed("the owner alone raises what may be spent: an admin can lower it, and lock spending")
    if consents or regions:
        raise NotAllowed("the owner alone agrees to something, or says where data may go")


def check_rank(role: Role, member: Member) -> None:
    """An admin manages members and departments: the owner and the admins are the owner's to cap or to move. Raises `NotAllowed`."""
    if role == "admin" and member.role in {"owner", "admin"}:
        raise NotAllowed("the owner alone changes what the owner or an admin may do")


def may_manage(role: Role, member: Member) -> bool:
    """Whether `check_rank` lets a role cap, move or remove a member."""
    return role != "admin" or member.role not in {"owner", "admin"}


def check_invited_role(role: Role, invited: Literal["member", "admin"]) -> None:
    """Raises `Invalid` where the role is not theirs to give."""
    if invited == "admin" and role != "owner":
        raise Invalid("role: the owner alone makes somebody an admin")


def check_own_lift(cause: str) -> None:
    """Which suspension a subscriber lifts by itself. Raises `NotAllowed`."""
    if cause == "lost_phone":
        raise NotAllowed("the operator lifts this, once it has seen who asks")


def check_own_broadband(subscriber: Subscriber, number: str | None) -> None:
    """A subscriber says its broadband number once. Raises `NotAllowed`."""
    if number is not None and subscriber.broadband not in {None, number}:
        raise NotAllowed("a broadband number that is known is changed by the operator")


def check_last_digits(phone: str | None, digits: str, whose: str = "the") -> None:
    """Who is about to erase a person says the last four digits of its number. Raises `Invalid`."""
    if not phone or not is_digits(digits, 4) or len(digits) != 4 or not phone.endswith(digits):
        raise Invalid(f"confirm: say the last four digits of {whose} phone number")
