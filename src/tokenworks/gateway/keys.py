"""A worker's cache of API keys: bounded, with negative entries, invalidated by the change feed, with rate-limited look-ups."""

import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Final

import structlog

from tokenworks.catalog import ChargingPolicy, Service
from tokenworks.charging import EndedKey, Limit, LiveKey, SoldRate
from tokenworks.trust import FOREIGN_PREFIX, foreign_mac, foreign_sha256, is_foreign_key, is_key, key_mac

log = structlog.get_logger()

DEFAULT_POLICY: Final = ChargingPolicy()
DEFAULT_SERVICE: Final = Service()
POLICIES_MAX: Final = 10_000
NEGATIVE_FOR_S: Final = 5.0
POSITIVE_FOR_S: Final = 60.0
# Look-ups of unknown foreign keys from one address: so many at once, and one more after each pause. A guesser gains no more.
FOREIGN_MISSES_MAX: Final = 20
FOREIGN_MISS_PAUSE_S: Final = 6.0
FOREIGN_ADDRESSES_MAX: Final = 10_000


class ForeignMisses:
    """Limits the look-ups of foreign keys by address, an IPv6 address by its network of 64 bits. A look-up that finds a key gives its
    part back. Of more than `FOREIGN_ADDRESSES_MAX` addresses the one that was seen first is forgotten.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        # (look-ups that are left, the time of that) by network.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, address: str, now_s: float) -> bool:
        """Count a look-up. False, and nothing is counted, if the address has none left."""
        network = network_of(address)
        left, at_s = self._left.get(network, (float(FOREIGN_MISSES_MAX), now_s))
        left = min(float(FOREIGN_MISSES_MAX), left + (now_s - at_s) / FOREIGN_MISS_PAUSE_S)
        if left < 1:
            return False
        if network not in self._left and len(self._left) >= FOREIGN_ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        self._left[network] = (left - 1, now_s)
        return True

    def give(self, address: str) -> None:
        """The look-up found a key, or got no answer."""
        network = network_of(address)
        found = self._left.get(network)
        if found is not None:
            self._left[network] = (min(float(FOREIGN_MISSES_MAX), found[0] + 1), found[1])

    def __len__(self) -> int:
        return len(self._left)


def network_of(address: str) -> str:
    """The network of 64 bits of an IPv6 address, which one client may have as a whole; another address as it is."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return address if parsed.ipv4_mapped is not None else f"{int(parsed) >> 64:x}"


class KeyEntry:
    """The result of a key's look-up. `known` False: there is no such valid key."""

    __slots__ = (
        "_abandon_minute",
        "_abandoned",
        "account_id",
        "caches",
        "cap_ids",
        "counts_prompts",
        "ended",
        "expires_s",
        "fallbacks",
        "fresh_until_s",
        "home",
        "in_flight",
        "key_id",
        "known",
        "limit_scopes",
        "limits",
        "logs_content",
        "mac",
        "member_id",
        "models",
        "origins",
        "payg",
        "policy",
        "rates",
        "refused_by",
        "regions",
        "service",
        "suspended_by",
        "text",
    )

    def __init__(self, text: str, mac: bytes) -> None:
        self.text = text
        self.mac = mac
        self.known = False
        # Why an issued key is not valid: `revoked`, `expired`, `closed` (its account).
        self.ended: str | None = None
        self.key_id = ""
        self.account_id = ""
        self.member_id = ""
        self.models: frozenset[str] | None = None
        # Models to fall back to, if the request names none: the key's own or else the plan's.
        self.fallbacks: tuple[str, ...] = ()
        # Requests and answers are logged, since the holder wants it.
        self.logs_content = False
        # Its requests wish the response cache, unless their header says otherwise.
        self.caches = False
        # Origins of pages that may use the key; None: all that the setting allows.
        self.origins: frozenset[str] | None = None
        self.cap_ids: tuple[str, ...] = ()
        self.policy = DEFAULT_POLICY
        self.counts_prompts = False
        # Regions to which this subscriber's data may go; None: anywhere.
        self.regions: tuple[str, ...] | None = None
        self.home: str | None = None
        # The missing consent without which nothing is served; None if none is missing.
        self.refused_by: str | None = None
        # What the holder's products charge, for lists of prices.
        self.rates: tuple[SoldRate, ...] = ()
        self.service = DEFAULT_SERVICE
        self.suspended_by: tuple[str, ...] = ()
        # The state of pay-as-you-go (`open`, `locked`, `no_consent`) and its monthly cap in nano; None: the plan has none.
        self.payg: tuple[str, int] | None = None
        self.limits: tuple[Limit, ...] = ()
        self.limit_scopes: tuple[str, ...] = ()
        self.expires_s: float | None = None
        self.fresh_until_s = 0.0
        self.in_flight = 0
        self._abandon_minute = 0
        self._abandoned = 0

    def abandon(self, now_s: float) -> None:
        """Count a stream that its client left long before its end."""
        self._abandoned = self.abandoned(now_s) + 1
        self._abandon_minute = int(now_s // 60)

    def abandoned(self, now_s: float) -> int:
        """The number of such streams in this minute."""
        return self._abandoned if int(now_s // 60) == self._abandon_minute else 0


KeyWaiter = Callable[[KeyEntry | None], None]
"""Called with the entry, or None if the database can't be reached."""
KeyRows = Sequence[LiveKey | EndedKey]
"""The recorder's answer to a look-up: one row at most."""


class KeyCache:
    """`ask(macs, answered)` asks the recorder, with the key's MAC under each pepper. The answer is the key's row, no row if no such key
    was ever issued, or None if the database does not answer.
    """

    def __init__(
        self,
        peppers: Mapping[int, bytes],
        ask: Callable[[list[bytes], Callable[[KeyRows | None], None]], None],
        size_max: int,
        lookups_per_s: int,
        civil_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._civil_ms = civil_ms
        self._peppers: list[bytes] = []
        self.lacking: tuple[int, ...] = ()
        """Peppers that the works uses and this host lacks: a key that is not found may be valid all the same."""
        self._ask = ask
        self._size_max = size_max
        self._lookups_per_s = lookups_per_s
        self._by_text: dict[str, KeyEntry] = {}
        self._by_mac: dict[bytes, KeyEntry] = {}
        self._policies: dict[str, ChargingPolicy] = {}
        self._waiting: dict[str, list[KeyWaiter]] = {}
        self._allowance = float(lookups_per_s)
        self._allowance_s = time.monotonic()
        self.foreign = False
        """True if an import kept the text of any key of another system; otherwise no such text is looked up."""
        self.blocked: frozenset[str] = frozenset()
        """Ids of keys that this host refuses, also if the database has them as valid."""
        self.generation = 0
        """Increases with each entry that is dropped, so that memos of entries are looked up again."""
        self.set_peppers(peppers)

    def set_peppers(self, peppers: Mapping[int, bytes]) -> None:
        """Use these peppers. Keys that were not found under fewer peppers are looked up again."""
        self._peppers = [peppers[version] for version in sorted(peppers, reverse=True)]
        for entry in [entry for entry in self._by_text.values() if not entry.known]:
            self._drop(entry)

    def get(self, text: str, now_s: float) -> KeyEntry | None:
        """A fresh entry; None if the key has to be looked up."""
        entry = self._by_text.get(text)
        if entry is None or now_s >= entry.fresh_until_s:
            return None
        return entry

    def well_formed(self, text: str) -> bool:
        return is_key(text) or (self.foreign and is_foreign_key(text))

    def was_known(self, text: str) -> bool:
        """True if the key was valid at its last look-up, however long ago."""
        entry = self._by_text.get(text)
        return entry is not None and entry.known

    def look_up(self, text: str, waiter: KeyWaiter) -> bool:
        """Look a key up. False if there are too many look-ups: the client should try again."""
        waiting = self._waiting.get(text)
        if waiting is not None:
            waiting.append(waiter)
            return True
        now_s = time.monotonic()
        self._allowance = min(
            self._lookups_per_s, self._allowance + (now_s - self._allowance_s) * self._lookups_per_s
        )
        self._allowance_s = now_s
        ours = not text.startswith(FOREIGN_PREFIX)
        # Half of the look-ups are reserved for our own keys, whose checksum a guesser has to make first.
        if self._allowance < (1.0 if ours else 1 + self._lookups_per_s / 2):
            return False
        self._allowance -= 1
        self._waiting[text] = [waiter]
        if ours:
            macs = [key_mac(pepper, text) for pepper in self._peppers]
        else:
            digest = foreign_sha256(text)
            macs = [foreign_mac(pepper, digest) for pepper in self._peppers]
        self._ask(macs, lambda rows: self._answered(text, macs, rows))
        return True

    def _answered(self, text: str, macs: Sequence[bytes], rows: KeyRows | None) -> None:
        entry: KeyEntry | None = None
        if rows is not None:
            try:
                entry = self._store(text, macs[0], rows)
            except (
                Exception
            ):  # a defect of ours: the waiting requests are refused as if the database were away
                log.exception("keys.store_failed")
        else:
            # The database is away. A known key stays valid; `key_max_stale_s` limits that elsewhere.
            entry = self._by_text.get(text)
        for waiter in self._waiting.pop(text, ()):
            try:
                waiter(entry)
            except Exception:  # a defect of ours ends this request and no other that waits for the same key
                log.exception("keys.waiter_failed")

    def _store(self, text: str, mac: bytes, rows: KeyRows) -> KeyEntry:
        entry = self._by_text.get(text)
        if entry is None:
            entry = KeyEntry(text, mac)
        now_s = time.monotonic()
        row = rows[0] if rows else None
        entry.known, entry.ended = False, None
        entry.fresh_until_s = now_s + NEGATIVE_FOR_S
        if isinstance(row, EndedKey):
            entry.mac, entry.ended = row.mac, row.why
        elif row is not None:
            self._fill(entry, row)
            entry.fresh_until_s = now_s + POSITIVE_FOR_S
            if row.caps_end_ms is not None:
                # Each cap gets a new bucket with the new day or month.
                left_s = max(0.0, (row.caps_end_ms - self._civil_ms()) / 1000)
                entry.fresh_until_s = min(entry.fresh_until_s, now_s + left_s)
        if text not in self._by_text:
            while len(self._by_text) >= self._size_max:
                self._drop(self._by_text[next(iter(self._by_text))])
            self._by_text[text] = entry
        self._by_mac[entry.mac] = entry
        return entry

    def _fill(self, entry: KeyEntry, row: LiveKey) -> None:
        """Fill the entry of a valid key."""
        entry.known = True
        entry.mac = row.mac
        entry.key_id = row.key_id
        entry.account_id = row.account_id
        entry.member_id = row.member_id
        entry.models = None if row.models is None else frozenset(row.models)
        entry.cap_ids = row.cap_ids
        entry.expires_s = None if row.expires_ms is None else row.expires_ms / 1000
        entry.policy = self._policy(row.policy)
        entry.counts_prompts = row.counts_prompts
        entry.limits = tuple(scoped.limit for scoped in row.limits)
        entry.limit_scopes = tuple(scoped.scope for scoped in row.limits)
        entry.regions = row.regions
        entry.home = row.home_region
        entry.service = DEFAULT_SERVICE if row.service == "{}" else Service.model_validate_json(row.service)
        entry.fallbacks = entry.service.fallback_models if row.fallbacks is None else row.fallbacks
        entry.logs_content = row.content_log
        entry.caches = row.response_cache
        entry.origins = None if row.origins is None else frozenset(row.origins)
        entry.suspended_by = row.suspended_by
        entry.payg = row.payg
        entry.refused_by = row.refused_by
        entry.rates = row.rates
        self._refuse_blocked(entry)

    def _policy(self, text: str | None) -> ChargingPolicy:
        """The policy of this text. Keys with equal policies share one object."""
        if text is None:
            return DEFAULT_POLICY
        policy = self._policies.get(text)
        if policy is None:
            if len(self._policies) >= POLICIES_MAX:
                self._policies.clear()
            policy = self._policies[text] = ChargingPolicy.model_validate_json(text)
        return policy

    def _drop(self, entry: KeyEntry) -> None:
        self._by_text.pop(entry.text, None)
        self._by_mac.pop(entry.mac, None)
        entry.fresh_until_s = 0.0
        entry.known = False
        self.generation += 1

    def forget(self, mac: bytes) -> None:
        """Drop a key that changed, so that it is looked up again."""
        entry = self._by_mac.get(mac)
        if entry is not None:
            self._drop(entry)

    def block(self, key_ids: frozenset[str]) -> None:
        """Refuse these keys without the database. Keys that are no longer blocked are looked up again."""
        changed = self.blocked ^ key_ids
        self.blocked = key_ids
        for entry in [entry for entry in self._by_text.values() if entry.key_id in changed]:
            if entry.key_id in key_ids:
                self._refuse_blocked(entry)
            else:
                self._drop(entry)

    def _refuse_blocked(self, entry: KeyEntry) -> None:
        """Refuse a blocked key as revoked; the operator revokes it once the database is there."""
        if entry.key_id in self.blocked:
            entry.known, entry.ended = False, "revoked"

    def forget_account(self, account_id: str) -> None:
        for entry in [entry for entry in self._by_text.values() if entry.account_id == account_id]:
            self._drop(entry)

    def __len__(self) -> int:
        return len(self._by_text)
