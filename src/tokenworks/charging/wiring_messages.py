"""The contents of questions, answers and publications (`questions.py`) as types. Without logic, as `messages.py`.

Arguments and answers are arrays. Publications are maps, since a release may add fields to them.
"""

from typing import Final, Literal

from msgspec import Struct

from tokenworks.catalog import Counts
from tokenworks.charging.messages import CountedBy, Limit

NO_COUNTS: Final = Counts()


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
    fallbacks: tuple[str, ...] | None = None
    """Models to which its requests fall back; None: those of the plan's service."""
    content_log: bool = False
    """Its requests and answers are logged."""
    response_cache: bool = False
    """Its requests wish the response cache, unless their header says otherwise."""


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


ReplayKind = Literal["idempotency_key", "response_cache", "stored_response"]
ReplayVerdict = Literal["none", "found", "in_flight", "other_request", "spent", "full"]
"""What is known under a name. `none`: nothing, go on (an idempotency key is claimed by this request now). `found`: an answer. Of idempotency
keys: `in_flight`: the first request is not over; `other_request`: the key is another request's; `spent`: the first request was, or may have
been, answered and charged, and its answer can't be given again; `full`: the account has as many stored answers as it may have. Of stored
responses: `in_flight`: the record of the response is not known here yet.
"""


class ReplayName(Struct, frozen=True, array_like=True, gc=False):
    """The name of a stored answer in an account. `digest`: of the idempotency key, or of all that makes two requests equal. `request_id`:
    the request that asks.
    """

    account_id: str
    kind: ReplayKind
    digest: bytes
    request_id: str


class ReplayLookup(Struct, frozen=True, array_like=True, gc=False):
    """The question for an answer to give again. An idempotency key that is not known is claimed for this request. `body_digest`: of the
    request, empty for the cache. `age_max_s`: how old an answer of the cache may be, or for how long a claimed key is known.
    """

    name: ReplayName
    body_digest: bytes
    member_id: str
    worker_id: str
    age_max_s: int


class ReplayFound(Struct, frozen=True, array_like=True, gc=False):
    """The answer to `ReplayLookup`. All but the verdict is of an answer that was found: its record with the tokens that were charged,
    its age, its bytes as they were sent to the client, and of its record the model, the intent or first model that was asked for, and why the
    model was chosen.
    """

    verdict: ReplayVerdict
    usage_id: str = ""
    request_id: str = ""
    counted_by: CountedBy = "provider"
    charged: Counts = NO_COUNTS
    age_s: int = 0
    media_type: str = ""
    answer: bytes = b""
    model: str = ""
    asked: str | None = None
    choice: str | None = None


class ReplayToKeep(Struct, frozen=True, array_like=True, gc=False):
    """An answer to be stored, before its record is written: it counts only once that record is there. `answer` None: it is too large, and
    its idempotency key is spent.
    """

    name: ReplayName
    body_digest: bytes
    member_id: str
    worker_id: str
    usage_id: str
    media_type: str
    answer: bytes | None
    expires_in_s: int


class ContentKeysAsked(Struct, frozen=True, array_like=True, gc=False):
    """The question for keys of contents that lie with a client (`trust.new_content_key`), for this member. `sealed`: keys to be opened;
    `makes`: a new one is wanted.
    """

    account_id: str
    member_id: str
    sealed: list[bytes]
    makes: bool


class ContentKeys(Struct, frozen=True, array_like=True, gc=False):
    """The answer to `ContentKeysAsked`. `opened`: a key for each sealed one, empty for one that is not this member's. `key`, `sealed`: a
    new key, and the same sealed; both empty if none is wanted, or the account's subscriber is erased.
    """

    opened: list[bytes]
    key: bytes
    sealed: bytes


class ContentToLog(Struct, frozen=True, array_like=True, gc=False):
    """A request and its answer for the log of its key. `request_bytes` and `answer_bytes` are their sizes; what is here of them may be cut.
    `outcome`: the state of the usage record.
    """

    account_id: str
    request_id: str
    key_id: str
    member_id: str
    protocol: str
    model: str
    outcome: str
    request_bytes: int
    answer_bytes: int
    request: bytes
    answer: bytes


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
    foreign_keys: bool = False
    """Whether an import kept the text of any key of another system: only then is such a text looked up."""
