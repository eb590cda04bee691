"""The database side of charging (the CHF of 3GPP TS 32.290). Other rooms and the hosts' recorders use it."""

from tokenworks.charging.ledger.accounts import Accounts
from tokenworks.charging.ledger.grants import Grants
from tokenworks.charging.ledger.hosts import Hosts
from tokenworks.charging.ledger.limits import Limits
from tokenworks.charging.ledger.quarantine import Quarantine
from tokenworks.charging.ledger.recalls import Recalls
from tokenworks.charging.ledger.usage import Usage


class Ledger(Accounts, Usage, Grants, Recalls, Hosts, Limits, Quarantine):
    """All parts of the ledger, on one database connection. No part calls methods of another; each uses the stores of its subject."""
