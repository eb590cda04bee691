"""What the law gates: a contract without consent to its terms, and one without a real name."""

from psycopg import Connection

from tokenworks.catalog import Offering
from tokenworks.subscriptions.errors import ConsentNeeded, RealNameNeeded
from tokenworks.subscriptions.model import PrivacyRules, Subscriber
from tokenworks.subscriptions.people import privacy_store


def check_lawful(
    connection: Connection, rules: PrivacyRules, subscriber: Subscriber, offering: Offering
) -> None:
    """Whether a subscriber may order an offering. Raises `ConsentNeeded`, `RealNameNeeded`."""
    said = privacy_store.consents(connection, subscriber.subscriber_id)
    if not rules.terms_ok(said.get("terms")):
        raise ConsentNeeded("nothing is ordered without consent to the terms: agree to them first")
    if subscriber.real_name == "refused":
        raise RealNameNeeded("the real-name check was refused: nothing can be ordered")
    needed = offering.real_name_only or rules.real_name_required
    if needed and subscriber.real_name != "verified":
        raise RealNameNeeded(f"{offering.id} needs a verified real name; it is {subscriber.real_name}")
