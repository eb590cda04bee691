"""Notices in tests."""

from tokenworks.subscriptions import Person, person_of

PORTS = ("sms", "email", "webhook")


def person(subscriber, member=None):
    """The owner of an account, or one of its members."""
    return Person(subscriber.subscriber_id, subscriber.subscriber_id) if member is None else person_of(member)


def fan_out(services, limit=100, ports=PORTS):
    """Make deliveries of new notices. Returns how many notices were read."""
    with services.transaction():
        return services.notices.fan_out(limit, ports)[1]


def channels(services):
    """(channel, state, cause) of all deliveries."""
    return {(one.channel, one.state, one.cause) for one in services.notices.log(limit=1000)[0]}
