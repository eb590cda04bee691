"""What stands inside a question, an answer or a publication (`questions.py`), as types. Without logic, as `messages.py` is.

A question's argument and its answer are arrays, by the name of the question. What is published are maps, since a release may add to them.
"""

from typing import Literal

from msgspec import Struct

from tokenworks.charging.messages import Limit


class ScopedLimit(Struct, frozen=True, array_like=True, gc=False):
    """A limit and whose it is."""

    scope: str
    limit: Limit


class LiveKey(Struct, frozen=True, array_like=True, gc=False):
    """A key that is good, and all that a worker has to know of its holder. None: no restriction, or not set."""

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
    """Where the subscriber's data may go."""
    home_region: str | None
    service: str
    """The plan's service as JSON, defaults left out."""
    origins: tuple[str, ...] | None
    """Of pages that may use the key."""
    suspended_by: tuple[str, ...]
    payg: tuple[str, int] | None
    """How pay-as-you-go stands (`open`, `locked`, `no_consent`) and its monthly cap in nano."""
    refused_by: str | None
    """The consent without which nothing is served, where it is missing."""


KeyEnd = Literal["revoked", "expired", "closed"]
"""Why a key is not good any more; `closed`: its account is."""


class EndedKey(Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A key that was issued and is not good any more."""

    mac: bytes
    why: KeyEnd


class UpstreamObject(Struct, frozen=True, array_like=True, gc=False):
    """Which deployment made this object (a stored response) for this account?"""

    account_id: str
    upstream_id: str


class ObjectOwner(Struct, frozen=True, array_like=True, gc=False):
    """The deployment that made an object and the tokens of its record; `deployment` is empty where the account has no such object."""

    deployment: str
    tokens: int


class DeploymentPause(Struct, frozen=True, array_like=True, gc=False):
    """An upstream named a time until which it takes nothing, in monotonic seconds of the host."""

    deployment: str
    until_s: float


# What the recorder publishes: by the name of the publication. Maps, since a release may add to them.


class DatabaseAlive(Struct, frozen=True, gc=False):
    """The database answered. Keys (their MACs in hex) and accounts that have changed since the last time."""

    keys: list[str]
    accounts: list[str]


class BlockedKeys(Struct, frozen=True, gc=False):
    """Ids of keys that an operator blocked on this host."""

    keys: list[str]


class MissingPeppers(Struct, frozen=True, gc=False):
    """Versions of peppers that the works uses and this host has not."""

    lacking: list[int]


class ClockOffset(Struct, frozen=True, gc=False):
    """Civil time by the database's clock. `off_s`: by how much the host's own is off, where that is too much."""

    offset_ns: int
    error_ns: int
    off_s: float | None


class PausedDeployments(Struct, frozen=True, gc=False):
    """Until when deployments take nothing, in monotonic seconds of the host."""

    until_s: dict[str, float]


class JournalSpace(Struct, frozen=True, gc=False):
    """Whether the journal's disk, or what waits for the database, leaves room for something new."""

    full: bool


class LossyAccounts(Struct, frozen=True, gc=False):
    """Accounts whose loss budget of today is spent."""

    accounts: list[str]


class PublishedSnapshot(Struct, frozen=True, gc=False):
    """What requests are placed and rated by; the text of each deployment, card, model and intent is JSON. `number` grows."""

    number: int
    deployments: list[str]
    aliases: dict[str, str]
    cards: dict[str, str]
    """By rate version."""
    limits: dict[str, Limit]
    """By deployment."""
    models: list[str]
    intents: list[str]
