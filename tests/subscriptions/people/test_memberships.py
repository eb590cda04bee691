"""A number has holders one after the other, and is a member of others' accounts."""

import pytest

from tests.support.people import PHONE, member_with_key, named


@pytest.mark.parametrize("end", ["close", "change_owner", "move"])
def test_who_is_no_member_any_more_has_no_key_there(services, subscriber, end):
    host = services.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    member, _ = member_with_key(services, host, PHONE, "Cousin Vasilisa")
    if end == "move":
        # The new number is a member there already: the old one leaves.
        other, _ = member_with_key(services, host, "+8613876500077", "Cousin Vasilisa Two")
        services.subscriptions.change_phone(subscriber, "+8613876500077")
        assert len(services.keys.of_member(other.member_id)) == 1
    else:
        getattr(services.subscriptions, end)(subscriber)
    assert named(services, host)["Cousin Vasilisa"] == "left"
    assert services.keys.of_member(member.member_id) == set()


def test_another_number_ends_sessions_in_other_accounts_too(services, subscriber):
    host = services.subscriptions.register("+8613955556666", "Ludovica Abendroth")
    member, _ = member_with_key(services, host, PHONE, "Cousin Vasilisa")
    text, _ = services.identity.open_session(host.subscriber_id, member.member_id)
    mine, _ = services.identity.open_session(host.subscriber_id, services.subscriptions.owner_of(host))
    services.subscriptions.change_phone(subscriber, "+8613876500077")
    assert services.identity.session(text) is None
    assert services.identity.session(mine) is not None
    assert len(services.keys.of_member(member.member_id)) == 1
