"""What a worker must know about the holders of keys, read with the same few statements for any number of keys."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Offerings
from tokenworks.charging import Ledger, Limit, SoldRate
from tokenworks.kernel import Clock
from tokenworks.subscriptions import served_store
from tokenworks.subscriptions.errors import MemberNotFound, SubscriberNotFound
from tokenworks.subscriptions.model import SUSPENSIONS, PrivacyRules, period_of
from tokenworks.subscriptions.orders.eligibility import LIVE_STATES
from tokenworks.subscriptions.payg import payg_standing
from tokenworks.trust import ApiKey, Keys

VERSIONS_MAX: Final = 10_000


class OfferingVersion(NamedTuple):
    """What serving needs of one version of an offering; policy and service are JSON without default values. `rate`: what its buckets
    charge; None if it has none.
    """

    kind: str
    policy: str
    service: str
    rate: SoldRate | None


class OfferingVersions:
    """A cache of offering versions by name, at most `VERSIONS_MAX`, without expiry: a version never changes."""

    def __init__(self) -> None:
        self._known: dict[str, OfferingVersion] = {}

    def get(self, offerings: Offerings, name: str) -> OfferingVersion:
        """Raises `OfferingNotFound`."""
        known = self._known.get(name)
        if known is None:
            sold = offerings.sold(name)
            offering = sold.offering
            classes = {pattern: None for bucket in offering.buckets for pattern in bucket.model_classes}
            known = OfferingVersion(
                offering.kind,
                offering.policy.model_dump_json(exclude_defaults=True),
                offering.service.model_dump_json(exclude_defaults=True),
                SoldRate(sold.rate_version, offering.buckets[0].unit, tuple(classes))
                if offering.buckets
                else None,
            )
            if len(self._known) >= VERSIONS_MAX:
                self._known.clear()
            self._known[name] = known
        return known


class HolderTerms(NamedTuple):
    """What limits the holder of one key: its member, the departments above and their caps, its subscriber and its plan. The
    values are those that `Subscriptions`, `Members` and `PayAsYouGo` return.
    """

    # The member, and the departments above it, upwards.
    line: list[UUID]
    cap_ids: list[UUID]
    caps_end: datetime | None
    policy: str
    service: str
    regions: tuple[str, ...] | None
    home_region: str | None
    suspended_by: list[str]
    payg: tuple[str, int] | None
    refused_by: str | None
    # What the live products charge, the newest plan's first.
    rates: tuple[SoldRate, ...]


class ServedKey(NamedTuple):
    """A live key with its holder's terms, caps and protective limits."""

    key: ApiKey
    holder: HolderTerms
    # The caps of the member's line, and the key's own.
    cap_ids: list[UUID]
    counts_prompts: bool
    # (scope, limit) of the key, the account and the member's line, by the limits' ids.
    limits: list[tuple[str, Limit]]


class ServedKeys:
    """Reads keys with their holders, on one connection."""

    def __init__(
        self,
        connection: Connection,
        offerings: Offerings,
        ledger: Ledger,
        clock: Clock,
        rules: PrivacyRules,
        keys: Keys,
    ) -> None:
        self._keys = keys
        self._connection = connection
        self._offerings = offerings
        self._ledger = ledger
        self._clock = clock
        self._rules = rules

    def by_mac(self, macs: Sequence[bytes], versions: OfferingVersions) -> dict[bytes, ServedKey]:
        """The live keys with these MACs. Raises `SubscriberNotFound`, `MemberNotFound` if a key has no holder."""
        keys = self._keys.find(macs)
        holders = self.of([(key.account_id, key.member_id) for key in keys.values()], versions)
        prompts = self._ledger.count_prompts([key.account_id for key in keys.values()])
        scopes = [
            [
                ("key", str(key.key_id)),
                ("subscriber", str(key.account_id)),
                *(("member", str(member)) for member in holder.line),
            ]
            for key, holder in zip(keys.values(), holders, strict=True)
        ]
        limits = self._ledger.limits_by_ref(list({ref for refs in scopes for ref in refs}))
        found = {}
        for (mac, key), holder, counts, refs in zip(keys.items(), holders, prompts, scopes, strict=True):
            key_limits = [scope_limit for ref in refs for scope_limit in limits.get(ref, ())]
            key_limits.sort(key=lambda scope_limit: scope_limit[1].limit_id)
            own_cap = () if key.cap_bucket_id is None else (key.cap_bucket_id,)
            found[mac] = ServedKey(key, holder, [*holder.cap_ids, *own_cap], counts, key_limits)
        return found

    def of(self, keys: Sequence[tuple[UUID, UUID]], versions: OfferingVersions) -> list[HolderTerms]:
        """The terms of the holders of these keys, each as (account id, member id). Raises `SubscriberNotFound`, `MemberNotFound`."""
        holders = served_store.holders(
            self._connection, list({account for account, _ in keys}), sorted(LIVE_STATES)
        )
        lines = served_store.lines(self._connection, list({member for _, member in keys}))
        return [self._terms(holders.get(account), lines.get(member), versions) for account, member in keys]

    def _terms(
        self,
        holder: served_store.ServedSubscriber | None,
        line: list[served_store.SpendingMember] | None,
        versions: OfferingVersions,
    ) -> HolderTerms:
        if holder is None:
            raise SubscriberNotFound("there is no such account")
        if line is None:
            raise MemberNotFound("there is no such member")
        cap_ids, caps_end = self._caps(line)
        newest = (
            None if holder.newest_version is None else versions.get(self._offerings, holder.newest_version)
        )
        return HolderTerms(
            line=[member.member_id for member in line],
            cap_ids=cap_ids,
            caps_end=caps_end,
            policy="{}" if newest is None else newest.policy,
            service="{}" if newest is None else newest.service,
            regions=self._rules.regions(holder.regions, holder.consents.get("data_cross_border")),
            home_region=holder.home_region,
            suspended_by=[cause for cause in holder.suspended_by if SUSPENSIONS[cause].serving],
            payg=payg_standing(
                {versions.get(self._offerings, name).kind for name in holder.live_versions},
                locked=holder.spend_locked or holder.restricted,
                spill_over=holder.spill_over,
                cap_nano=holder.cap_nano,
            ),
            refused_by=None if self._rules.terms_ok(holder.consents.get("terms")) else "terms",
            rates=self._rates(holder, versions),
        )

    def _rates(
        self, holder: served_store.ServedSubscriber, versions: OfferingVersions
    ) -> tuple[SoldRate, ...]:
        live = sorted(holder.live_versions, key=lambda name: (name != holder.newest_version, name))
        rates = (versions.get(self._offerings, name).rate for name in live)
        return tuple(dict.fromkeys(rate for rate in rates if rate is not None))

    def _caps(self, line: Sequence[served_store.SpendingMember]) -> tuple[list[UUID], datetime | None]:
        """The buckets of a line's caps in their present periods (made where a period is new), and when the first of these periods
        ends.
        """
        now = self._clock.now()
        cap_ids, ends = [], []
        for member in line:
            if member.cap_tokens is None or member.cap_period is None:
                continue
            begin, end = period_of(member.cap_period, member.created_at, now)
            cap_ids.append(
                self._ledger.cap_bucket(member.account_id, member.member_id, begin, end, member.cap_tokens)
            )
            ends += [] if end is None else [end]
        return cap_ids, min(ends, default=None)


__all__ = ["HolderTerms", "OfferingVersions", "ServedKey", "ServedKeys"]
