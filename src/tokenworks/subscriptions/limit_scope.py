"""What of a subscriber a protective limit is for."""

from uuid import UUID

from tokenworks.kernel import NotFound
from tokenworks.subscriptions.model import Subscriber
from tokenworks.subscriptions.people.members import Members
from tokenworks.trust import Keys


def scope_of_limit(
    members: Members, keys: Keys, subscriber: Subscriber, member: str | None, key: UUID | None
) -> tuple[str, str]:
    """(scope, reference): one of its members, one of its keys, or all that it spends. Raises `NotFound`, `MemberNotFound`."""
    if member is not None:
        return "member", str(members.find(subscriber, member).member_id)
    if key is None:
        return "subscriber", str(subscriber.account_id)
    if key not in {info.key_id for info in keys.of_account(subscriber.account_id, {})}:
        raise NotFound(f"this subscriber has no key {key}: tokenworks key list")
    return "key", str(key)
