"""The scope of a protective limit: a subscriber, one of its members, or one of its keys."""

from uuid import UUID

from tokenworks.kernel import NotFound
from tokenworks.subscriptions.model import Subscriber
from tokenworks.subscriptions.people.members import Members
from tokenworks.trust import Keys


def scope_of_limit(
    members: Members, keys: Keys, subscriber: Subscriber, member: str | None, key: UUID | None
) -> tuple[str, str]:
    """(scope, id) of a limit for a member, else for a key, else for the whole account. Raises `NotFound`, `MemberNotFound`."""
    if member is not None:
        return "member", str(members.find(subscriber, member).member_id)
    if key is None:
        return "subscriber", str(subscriber.account_id)
    if key not in {info.key_id for info in keys.of_account(subscriber.account_id, {})}:
        raise NotFound(f"this subscriber has no key {key}: tokenworks key list")
    return "key", str(key)
