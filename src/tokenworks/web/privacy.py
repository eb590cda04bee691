"""What the API and the pages both do with personal data: a member's own data, and erasure."""

from typing import Final, Literal

from tokenworks.kernel import NotFound
from tokenworks.subscriptions import Erasure, Member, Subscriber, check_last_digits
from tokenworks.trust import Principal
from tokenworks.web.principals import audit
from tokenworks.web.services import Services

Purpose = Literal["terms", "marketing", "spill_over", "data_cross_border"]
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"


def own_member(services: Services, principal: Principal) -> Member:
    """The principal as a member of the account. Raises `NotFound`."""
    found = None if principal.member_id is None else services.members.by_id(principal.member_id)
    if found is None:
        raise NotFound("there is no such member")
    return found


def leave_and_erase(services: Services, principal: Principal, confirm: str) -> None:
    found = own_member(services, principal)
    check_last_digits(found.phone, confirm, "your own")
    with services.transaction():
        audit(services, principal, "member.erase", found.member_id)
        services.privacy.members.erase(found)


def close_and_erase(services: Services, found: Subscriber, confirm: str, *, even_if_owed: bool) -> Erasure:
    check_last_digits(found.phone, confirm)
    return services.privacy.erase(found, even_if_owed=even_if_owed)
