"""The contents of questions, answers and publications (`questions.py`) as types. Without logic, as `messages.py`.

Arguments and answers are arrays. Publications are maps, since a release may add fields to them.
"""

from typing import Literal

from msgspec import Struct

from tokenworks.charging.messages import Limit


class ScopedLimit(Struct, frozen=True, array_like=True, gc=False):
    """A limit, and what it is of: `scope` is a key, a member, …"""

    scope: str
    limit: Limit


class SoldRate(Struct, frozen=True, array_like=True, gc=False):
    """What a holder's plan charges: a rate card, the unit of its buckets, and the classes of models that they pay for."""

    rate_version: str
    unit: str
    model_classes: tuple[str, ...]


class LiveKey(Struct, frozen=True, array_like=True, gc=False):
    """A valid key, with all that a worker needs to know of its holder. None means no restriction, or not set."""

    mac: bytes
    key_id: str
    account_id: str
    member_id: str
    models: tuple[str, ...] | None
    cap_ids: tuple[str, ...]
    caps_end_ms: int | None
    """When a new period of some cap begins, with new buckets."""
    expires_ms: int | None
    policy: str | None
    """The plan's charging policy as JSON, defaults left out."""
    counts_prompts: bool
    limits: tuple[ScopedLimit, ...]
    regions: tuple[str, ...] | None
    """The regions to which the subscriber's data may go."""
    home_region: str | None
    service: str
    """The plan's service as JSON, defaults left out."""
    origins: tuple[str, ...] | None
    """Origins of the web pages that may use the key."""
    suspended_by: tuple[str, ...]
    payg: tuple[str, int] | None
    """The state of pay-as-you-go (`open`, `locked`, `no_consent`) and its monthly cap in nano."""
    refused_by: str | None
    """The missing consent without which no request is served; None if none is missing."""
    rates: tuple[SoldRate, ...] = ()
    """What the holder's products charge, the newest plan's first: for lists of prices. A charge is made by the bucket that pays."""


KeyEnd = Literal["revoked", "expired", "closed"]
"""Why a key is not valid any more. `closed`: its account is closed."""


class EndedKey(Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A key that was issued and is not valid any more."""

    mac: bytes
    why: KeyEnd


class UpstreamObject(Struct, frozen=True, array_like=True, gc=False):
    """The question which deployment made this object (a stored response) for this account."""

    account_id: str
    upstream_id: str


class ObjectOwner(Struct, frozen=True, array_like=True, gc=False):
    """The deployment that made an object, and the tokens of its record. `deployment` is empty if the account has no such object."""

    deployment: str
    tokens: int


class DeploymentPause(Struct, frozen=True, array_like=True, gc=False):
    """A deployment announced until when it takes no requests, in monotonic seconds of the host."""

    deployment: str
    until_s: float


# Publications.


class DatabaseAlive(Struct, frozen=True, gc=False):
    """The database answered. `keys` (MACs in hex) and `accounts` have changed since the last publication."""

    keys: list[str]
    accounts: list[str]


class BlockedKeys(Struct, frozen=True, gc=False):
    """Ids of keys that an operator blocked on this host."""

    keys: list[str]


class MissingPeppers(Struct, frozen=True, gc=False):
    """Versions of peppers that are in use and that this host does not have."""

    lacking: list[int]


class ClockOffset(Struct, frozen=True, gc=False):
    """Civil time by the database's clock. `off_s`: by how much the host's own clock is wrong, None if that is tolerable."""

    offset_ns: int
    error_ns: int
    off_s: float | None


class PausedDeployments(Struct, frozen=True, gc=False):
    """By deployment: until when it takes no requests, in monotonic seconds of the host."""

    until_s: dict[str, float]


class JournalSpace(Struct, frozen=True, gc=False):
    """`full`: the journal's disk, or the records that wait for the database, leave no room for new requests."""

    full: bool


class LossyAccounts(Struct, frozen=True, gc=False):
    """Accounts whose loss budget of today is spent."""

    accounts: list[str]


class PublishedSnapshot(Struct, frozen=True, gc=False):
    """The data by which deployments are chosen and requests are rated. Deployments, cards, models and intents are JSON texts. `number`
    grows with every snapshot.
    """

    number: int
    deployments: list[str]
    aliases: dict[str, str]
    cards: dict[str, str]
    """By rate version."""
    limits: dict[str, Limit]
    """By deployment."""
    models: list[str]
    intents: list[str]
    facts: dict[str, str] = {}
    """What is published of the served models, as JSON by model: for lists of models, not for decisions."""
