"""What the API and the pages both do for a principal, with its row in the audit trail."""

from collections.abc import Sequence
from uuid import UUID

from tokenworks.subscriptions import Member, Subscriber
from tokenworks.trust import Principal
from tokenworks.web.principals import audit
from tokenworks.web.services import Services


def key_owner(principal: Principal) -> UUID | None:
    """The member whose keys a principal may list and revoke: itself, if its role is member; None: all of the account."""
    return principal.member_id if principal.role == "member" else None


def issue_key(
    services: Services,
    principal: Principal,
    subscriber: Subscriber,
    name: str,
    *,
    models: Sequence[str] | None = None,
    expires_in_days: int | None = None,
    cap_tokens: int | None = None,
    fallback_models: Sequence[str] | None = None,
) -> tuple[UUID, str]:
    """Issue a key of the principal. Returns its id and its text, which is shown only once. Raises what `Access.issue_key` raises."""
    assert principal.member_id is not None
    with services.transaction():
        key_id, text = services.access.issue_key(
            subscriber, principal.member_id, name, models=models, cap_tokens=cap_tokens, expires_in_days=expires_in_days,
            fallbacks=fallback_models,
        )  # fmt: skip
        audit(
            services,
            principal,
            "key.create",
            key_id,
            None,
            {"models": models, "expires_in_days": expires_in_days, "fallback_models": fallback_models},
        )
    return key_id, text


def audited_member(member: Member) -> dict[str, object]:
    """A member as the audit trail keeps it: without name and phone number."""
    return {
        "role": member.role,
        "cap_tokens": member.cap_tokens,
        "cap_period": member.cap_period,
        "department": None if member.parent_id is None else str(member.parent_id),
    }
