"""What the law requires before an order: a consent to the terms, and a real name."""

from psycopg import Connection

from tokenworks.catalog import Offering
from tokenworks.subscriptions.errors import ConsentNeeded, RealNameNeeded
from tokenworks.subscriptions.model import PrivacyRules, Subscriber
from tokenworks.subscriptions.people import privacy_store


def check_lawful(
    connection: Connection, rules: PrivacyRules, subscriber: Subscriber, offering: Offering
) -> None:
    """Check that a subscriber may order an offering by law. Raises `ConsentNeeded`, `RealNameNeeded`."""
    answers = privacy_store.consents(connection, subscriber.subscriber_id)
    if not rules.terms_ok(answers.get("terms")):
        raise ConsentNeeded("nothing is ordered without consent to the terms: agree to them first")
    if subscriber.real_name == "refused":
        raise RealNameNeeded("the real-name check was refused: nothing can be ordered")
    is_needed = offering.real_name_only or rules.real_name_required
    if is_needed and subscriber.real_name != "verified":
        raise RealNameNeeded(f"{offering.id} needs a verified real name; it is {subscriber.real_name}")
