"""What the holder of a key may know of it: what is left, caps, limits, and what was used today and this month."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tokenworks.charging import Bucket, Ledger, Limit, TooManyRecords, UsageSum
from tokenworks.kernel import Clock
from tokenworks.subscriptions.model import BILLING_ZONE, month_start
from tokenworks.subscriptions.served import OfferingVersions, ServedKey, ServedKeys
from tokenworks.trust import ApiKey, ApiKeyInfo, Keys, NotSignedIn

# Models in the sums of a day or a month: more than anybody uses, so that the totals are whole.
MODELS_SHOWN_MAX: Final = 1_000
# A day or a month in which the account has more records is not summed by model: clients ask for this page every few seconds.
KEY_RECORDS_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """`balances`: buckets of the account that requests draw on, windows among them; `caps`: buckets that limit this key, its member or
    the departments above it. `key_month`: of this key alone; the other sums are of its member; each is None where the account has more than `KEY_RECORDS_MAX` records in the time. `drawn_month`: what
    the member drew this month, unit -> amount in thousandths; without windows where there is no sum of the month. `limits`: (scope, limit).
    """

    served: ServedKey
    info: ApiKeyInfo
    balances: list[Bucket]
    caps: list[Bucket]
    limits: list[tuple[str, Limit]]
    today: list[UsageSum] | None
    month: list[UsageSum] | None
    key_today: list[UsageSum] | None
    key_month: list[UsageSum] | None
    drawn_month: dict[str, int]
    now: datetime


class KeyStandings:
    """Reads a key by its text, on one connection."""

    def __init__(self, keys: Keys, served: ServedKeys, ledger: Ledger, clock: Clock) -> None:
        self._keys = keys
        self._served = served
        self._ledger = ledger
        self._clock = clock

    def find(self, text: str) -> ServedKey:
        """The live key with this text. Raises `NotSignedIn`."""
        macs = self._keys.macs_of(text)
        found = self._served.by_mac(macs, OfferingVersions()) if macs else {}
        if not found:
            raise NotSignedIn("send a live API key of ours: Authorization: Bearer twk_…")
        return next(iter(found.values()))

    def read(self, served: ServedKey) -> KeyStanding:
        key, now = served.key, self._clock.now()
        info = self._keys.info(key.key_id)
        assert info is not None
        live = [
            bucket
            for bucket in self._ledger.buckets(key.account_id)
            if bucket.closing is None and (bucket.valid_until is None or bucket.valid_until > now)
        ]
        local = now.astimezone(BILLING_ZONE)
        day = local.replace(hour=0, minute=0, second=0, microsecond=0)
        month = month_start(now)

        sums, key_sums = self._sums(key, month, own=False), self._sums(key, month, own=True)
        return KeyStanding(
            served,
            info,
            [bucket for bucket in live if bucket.kind in {"balance", "window"}],
            [bucket for bucket in live if bucket.bucket_id in served.cap_ids],
            served.limits,
            self._sums(key, day, own=False),
            sums,
            self._sums(key, day, own=True),
            key_sums,
            self._ledger.drawn_by_member(key.account_id, key.member_id, month.date())
            if sums is None
            else drawn_of(sums),
            now,
        )

    def _sums(self, key: ApiKey, since: datetime, *, own: bool) -> list[UsageSum] | None:
        try:
            return self._ledger.usage_sums(
                key.account_id,
                ["model"],
                since,
                member_id=key.member_id,
                key_id=key.key_id if own else None,
                limit=MODELS_SHOWN_MAX,
                records_max=KEY_RECORDS_MAX,
            )
        except TooManyRecords:
            return None


def drawn_of(sums: Sequence[UsageSum]) -> dict[str, int]:
    """What groups drew together: unit -> amount in thousandths."""
    drawn: dict[str, int] = {}
    for found in sums:
        for unit, amount in found.drawn.items():
            drawn[unit] = drawn.get(unit, 0) + amount
    return drawn


__all__ = ["KeyStanding", "KeyStandings"]
