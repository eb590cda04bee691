"""The database side of charging (the CHF): accounts, buckets, grants, what people see of them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final
from uuid import UUID

import psycopg

from tokenworks.catalog import BucketSpec
from tokenworks.charging import (
    cap_store,
    change_store,
    day_store,
    host_store,
    journal_store,
    limit_store,
    recall_store,
    settle_store,
    store,
    turn_store,
    usage_store,
    whose_store,
)
from tokenworks.charging.errors import (
    AccountNotFound,
    ChangesMissed,
    GrantNotFound,
    LimitNotFound,
    RecordRefused,
)
from tokenworks.charging.limits import Lease
from tokenworks.charging.losses import LOSSY_MAX
from tokenworks.charging.messages import BucketTerms, Limit
from tokenworks.charging.model import (
    CAP_RATE,
    PER_UNIT,
    Bucket,
    Granted,
    Host,
    RateLookup,
    Release,
)
from tokenworks.kernel import Clock, Invalid, uuid7, uuid7_floor
from tokenworks.kernel.units import QUANTITY_MAX

EXPIRE_BATCH: Final = 500
LIMIT_MAX: Final = 10**12
# A list's records are counted up to this; beyond it there is no total.
USAGE_COUNTED_MAX: Final = 10_000
# Longer than any request runs, and more than two clocks differ.
CONSUMED_SLACK: Final = timedelta(days=1)

# Of usage by day, as of bills and caps.
DAY_ZONE: Final = timezone(timedelta(hours=8))


class Ledger:
    """Charging on one database connection (autocommit). Not for two threads at once."""

    def __init__(self, connection: store.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def open_account(self) -> UUID:
        account_id = uuid7()
        store.add_account(self._connection, account_id)
        return account_id

    def open_windows(
        self,
        *,
        account_id: UUID,
        product_id: UUID,
        specs: Sequence[BucketSpec],
        rate_version: str,
        valid_from: datetime,
        valid_until: datetime | None,
    ) -> None:
        """So much in any so many seconds, beside what the product's cycles bring. In the caller's transaction."""
        for spec in specs:
            assert spec.window_s is not None
            store.add_bucket(
                self._connection,
                account_id=account_id,
                product_id=product_id,
                kind="window",
                unit=spec.unit,
                total=spec.quantity * PER_UNIT,
                priority=spec.priority,
                valid_from=valid_from,
                valid_until=valid_until,
                model_classes=spec.model_classes,
                rate_version=rate_version,
                window_s=spec.window_s,
            )

    def counts_prompts(self, account_id: UUID) -> bool:
        """Whether the account has a plan that is counted in prompts."""
        return store.has_unit(self._connection, account_id, "prompt", self._clock.now())

    def add_cap(self, account_id: UUID, cap_tokens: int) -> UUID:
        """A cap is a bucket that counts tokens beside the balance, so it holds under concurrency as the balance does."""
        if not 0 < cap_tokens <= QUANTITY_MAX // PER_UNIT // 1000:
            raise Invalid("a cap is a positive number of tokens")
        bucket_id = store.add_bucket(
            self._connection,
            account_id=account_id,
            product_id=None,
            kind="cap",
            unit="token",
            total=cap_tokens * PER_UNIT,
            priority=0,
            valid_from=self._clock.now(),
            valid_until=None,
            model_classes=["*"],
            rate_version=CAP_RATE,
        )
        store.tell_account(self._connection, account_id)
        return bucket_id

    def cap_bucket(
        self,
        account_id: UUID,
        cap_of: UUID,
        valid_from: datetime,
        valid_until: datetime | None,
        cap_tokens: int,
    ) -> UUID:
        """The bucket of a member's cap in the period that begins at `valid_from`; made when it is first asked for."""
        return cap_store.cap_bucket(
            self._connection, account_id, cap_of, valid_from, valid_until, cap_tokens * PER_UNIT, CAP_RATE
        )

    def tell_account(self, account_id: UUID) -> None:
        """Hosts look at this account again. In the caller's transaction."""
        store.tell_account(self._connection, account_id)

    def used_of_caps(self, account_id: UUID, now: datetime) -> dict[UUID, int]:
        """What is used of each member's cap in its period of now, settled, in thousandths of a token."""
        return cap_store.used_of_caps(self._connection, account_id, now)

    def database_now(self) -> datetime:
        """The database's own time."""
        return store.database_now(self._connection)

    def set_paused(self, account_id: UUID, product_id: UUID, *, paused: bool) -> None:
        """Nothing more is granted of a suspended product's buckets; what is there stays. In the caller's transaction."""
        store.set_paused(self._connection, account_id, product_id, paused=paused)
        store.tell_account(self._connection, account_id)

    def withdraw_product(self, account_id: UUID, product_id: UUID, reason: str) -> list[UUID]:
        """Take a product's unused quantity back; returns buckets whose granted part follows when their grants close."""
        return store.start_closing(self._connection, account_id, product_id, reason, self._clock.now())

    def withdraw_charge(self, account_id: UUID, product_id: UUID, charge_id: UUID | None) -> list[UUID]:
        """As `withdraw_product`, of the balances that one charge brought; None: of those that cost nothing."""
        return store.start_closing(
            self._connection, account_id, product_id, "withdraw", self._clock.now(), charge_id=charge_id,
            uncharged=charge_id is None, kind="balance",
        )  # fmt: skip

    def withdraw_windows(self, account_id: UUID, product_id: UUID) -> None:
        """A product's windows end: other ones come."""
        store.start_closing(
            self._connection, account_id, product_id, "withdraw", self._clock.now(), kind="window"
        )

    def close_account(self, account_id: UUID) -> None:
        """Nothing is granted of it any more, and its keys are unknown. Raises `AccountNotFound`."""
        if not store.set_account_state(self._connection, account_id, "closed"):
            raise AccountNotFound(f"there is no account {account_id}, or it is closed")

    def expire_due(self) -> int:
        """Expire what is past its validity. Returns how many buckets."""
        total = 0
        while done := store.expire_due(self._connection, self._clock.now(), EXPIRE_BATCH):
            total += done
            if done < EXPIRE_BATCH:
                break
        return total

    def buckets(self, account_id: UUID) -> list[Bucket]:
        """Raises `AccountNotFound`."""
        if store.account_state(self._connection, account_id) is None:
            raise AccountNotFound(f"there is no account {account_id}")
        return store.buckets(self._connection, account_id)

    def free_of(self, account_id: UUID, product_id: UUID) -> int:
        """What no host has of a product's buckets that can be spent now, in thousandths of their unit."""
        return store.free_of(self._connection, account_id, product_id, self._clock.now())

    def usage(
        self, account_id: UUID, since: datetime | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Usage records since a time, newest first."""
        floor = None if since is None else _floor(since)
        return usage_store.usage(self._connection, account_id, floor, limit)

    def usage_page(
        self,
        account_id: UUID,
        since: datetime | None,
        member_id: UUID | None,
        offset: int,
        limit: int,
        *,
        until: datetime | None = None,
        before: UUID | None = None,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """A page of an account's usage records (of one member where one is named) that ended in [since, until), newest first,
        and how many there are in all: None where there are more than `USAGE_COUNTED_MAX`. `before`: the last id of the page
        before; a page of any age is found by it as fast as the first.
        """
        within = usage_store.UsageTime(
            since,
            until,
            None if since is None else _floor(since - CONSUMED_SLACK),
            None if until is None else _floor(until + CONSUMED_SLACK),
        )
        found = usage_store.usage_page(
            self._connection,
            account_id,
            member_id,
            within,
            before,
            offset,
            min(limit, store.RECORDS_SHOWN_MAX),
        )
        count = usage_store.usage_count(self._connection, account_id, member_id, within, USAGE_COUNTED_MAX)
        return found, count

    def usage_by_day(self, account_id: UUID, since: datetime) -> dict[str, int]:
        """Tokens of each day (YYYY-MM-DD) of UTC+8, all classes together, from the day of `since` on."""
        return day_store.tokens_by_day(self._connection, account_id, since.astimezone(DAY_ZONE).date())

    def consumed(self, account_id: UUID, begin: datetime, end: datetime) -> list[dict[str, Any]]:
        """What was drawn from buckets by requests that ended in [begin, end): amounts in thousandths, by charge, product,
        member, model, unit and rate version. Reads ids of `CONSUMED_SLACK` around it: an id has the time of a request's start.
        """
        floor, below = _floor(begin - CONSUMED_SLACK), _floor(end + CONSUMED_SLACK)
        return usage_store.consumed(self._connection, account_id, floor, below, begin, end)

    def usage_record(self, account_id: UUID, usage_id: UUID) -> dict[str, Any] | None:
        return usage_store.usage_record(self._connection, account_id, usage_id)

    def account_of_bucket(self, bucket_id: UUID) -> UUID | None:
        return whose_store.of_bucket(self._connection, bucket_id)

    def usage_by_member(self, account_id: UUID, since: datetime | None = None) -> list[dict[str, Any]]:
        """Who spent what since a time, most first: records, tokens, and what was charged in each unit, in thousandths.

        Whole days of UTC+8 cost what their sums cost; where `since` is within a day, the rest of that day is read record by record.
        """
        first = date.min if since is None else since.astimezone(DAY_ZONE).date()
        parts = []
        if since is not None and since > _day_begin(first):
            begin, first = since, first + timedelta(days=1)
            floor = _floor(begin - CONSUMED_SLACK)
            parts.append(
                day_store.rows_by_member(self._connection, account_id, begin, _day_begin(first), floor)
            )
        parts.append(day_store.by_member(self._connection, account_id, first))
        found: dict[UUID, dict[str, Any]] = {}
        for used, charged in parts:
            for member_id, records, input_tokens, output_tokens in used:
                row = found.setdefault(
                    member_id,
                    {
                        "member_id": member_id,
                        "records": 0,
                        "input_tokens": 0,
                        "output_tokens": 0,
                        "charged": {},
                    },
                )
                row["records"] += records
                row["input_tokens"] += input_tokens
                row["output_tokens"] += output_tokens
            for member_id, unit, amount in charged:
                units = found[member_id]["charged"]
                units[unit] = units.get(unit, 0) + amount
        return sorted(found.values(), key=lambda row: (-row["input_tokens"], row["member_id"]))

    def flagged(
        self, since: datetime | None = None, limit: int = 100, before: UUID | None = None
    ) -> list[dict[str, Any]]:
        """Records to be reconciled with the deployments' own figures, newest first. `before`: the last id of the page before."""
        floor = None if since is None else _floor(since)
        return usage_store.flagged(self._connection, floor, limit, before)

    def losses(
        self, since: datetime | None = None, account_id: UUID | None = None, zone: tzinfo = UTC
    ) -> list[dict[str, Any]]:
        """What the operator bore by day (of a zone) and cause, newest first."""
        floor = None if since is None else _floor(since)
        offset = self._clock.now().astimezone(zone).utcoffset()
        assert offset is not None
        return usage_store.losses(self._connection, floor, account_id, offset)

    # What a host's recorder needs.

    def register_journal(self, journal_id: UUID, host: str) -> int:
        return store.register_journal(self._connection, journal_id, host)

    def settled_seq(self, journal_id: UUID) -> int | None:
        """What the database has settled of a journal; None where it does not know it."""
        return store.settled_seq(self._connection, journal_id)

    def open_grants(self, journal_id: UUID) -> list[tuple[str, str, str, int, int]]:
        return store.open_grants(self._connection, journal_id)

    def load_terms(self, account_id: str) -> list[tuple[BucketTerms, int]]:
        return store.load_terms(self._connection, UUID(account_id), self._clock.now())

    def window_back_s(self, account_id: str, bucket_ids: Sequence[str]) -> int:
        """Seconds until the first use of each of these windows has come back, at least 1."""
        return store.window_back_s(
            self._connection, UUID(account_id), [UUID(bucket) for bucket in bucket_ids], self._clock.now()
        )

    def granted_elsewhere(self, account_id: str, journal_id: UUID) -> int:
        return store.granted_elsewhere(self._connection, UUID(account_id), journal_id)

    def owns_upstream_id(self, account_id: str, upstream_id: str) -> tuple[str, int] | None:
        return usage_store.owns_upstream_id(self._connection, UUID(account_id), upstream_id)

    def grant(
        self,
        *,
        account_id: str,
        bucket_id: str,
        journal_id: UUID,
        grant_id: str | None,
        amount: int,
        spend_for_s: float,
    ) -> Granted | None:
        assert amount >= 0
        return store.grant(
            self._connection,
            account_id=UUID(account_id),
            bucket_id=UUID(bucket_id),
            journal_id=journal_id,
            grant_id=None if grant_id is None else UUID(grant_id),
            amount=amount,
            spend_for_s=spend_for_s,
            now=self._clock.now(),
        )

    def close_grant(self, account_id: str, grant_id: str, journal_id: UUID, settled_seq: int) -> None:
        store.close_grant(
            self._connection, UUID(account_id), UUID(grant_id), journal_id, settled_seq, self._clock.now()
        )

    # A turn of a host's recorder: what waits of many accounts, made together.

    def load_terms_together(self, account_ids: Sequence[UUID]) -> list[list[tuple[BucketTerms, int]] | None]:
        """`load_terms` of each; None: to be loaded by itself."""
        return turn_store.load_terms(self._connection, account_ids, self._clock.now())

    def turn(
        self, journal_id: UUID, asks: Sequence[turn_store.GrantAsk], closes: Sequence[turn_store.CloseAsk]
    ) -> tuple[list[Granted | None], list[bool]]:
        """Grants and closings in one transaction, all of them or (where the database refuses one) none. What is None or False
        is to be asked for by itself: a row of its was locked, or it needs more than a statement.
        """
        now = self._clock.now()
        try:
            with self._connection.transaction():
                return (
                    turn_store.grant(self._connection, journal_id, asks, now),
                    turn_store.close(self._connection, journal_id, closes, now),
                )
        except (psycopg.DatabaseError, turn_store.NotAsLocked):
            if self._connection.broken:
                raise
            return [None] * len(asks), [False] * len(closes)

    def count_prompts(self, account_ids: Sequence[UUID]) -> list[bool]:
        """`counts_prompts` of each."""
        return turn_store.has_unit(self._connection, account_ids, "prompt", self._clock.now())

    # Grants across hosts.

    def grants(self, account_id: UUID | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """Open grants, oldest first."""
        return store.grants(self._connection, account_id, limit)

    def find_grant(self, grant_id: UUID) -> dict[str, Any] | None:
        """A grant in whatever state."""
        account_id = whose_store.of_grant(self._connection, grant_id)
        return None if account_id is None else store.find_grant(self._connection, account_id, grant_id)

    def account_state(self, account_id: UUID) -> str | None:
        return store.account_state(self._connection, account_id)

    def ask_grant_back(self, grant_id: UUID) -> None:
        """Have a grant's host close it as soon as nothing runs on it. Raises `GrantNotFound`."""
        store.ask_grant_back(self._connection, self._account_of_grant(grant_id), grant_id)

    def write_off(self, grant_id: UUID) -> int:
        """What a lost host did not settle is free again. Returns how much. Raises `GrantNotFound`, `GrantNotInDoubt`."""
        account_id = self._account_of_grant(grant_id)
        return store.write_off(self._connection, account_id, grant_id, self._clock.now())

    def journals(self, journal_id: UUID | None = None) -> list[journal_store.KnownJournal]:
        """The journals that the database knows, or the one."""
        return journal_store.known(self._connection, journal_id)

    def reserved(self, journal_id: UUID) -> list[journal_store.Reserved]:
        """What a journal's host has been granted and has not settled, by unit."""
        return journal_store.reserved(self._connection, journal_id)

    def give_up_journal(self, journal_id: UUID, *, ended: bool) -> int:
        """Write off all open grants of a journal. `ended`: no process of its host spends of them any more. Returns how many.

        Raises `GrantNotInDoubt` where its host may still spend one; then none is written off.
        """
        with self._connection.transaction():
            grants = store.open_grants(self._connection, journal_id)
            for account_id, _, grant_id, _, _ in grants:
                store.write_off(
                    self._connection, UUID(account_id), UUID(grant_id), self._clock.now(), ended=ended
                )
        return len(grants)

    def _account_of_grant(self, grant_id: UUID) -> UUID:
        account_id = whose_store.of_grant(self._connection, grant_id)
        if account_id is None:
            raise GrantNotFound(f"there is no open grant {grant_id}: tokenworks grant list")
        return account_id

    def write_off_old(self, in_doubt_s: int) -> int:
        """Write off what has been past its lease for so long: its host is taken for lost. Returns how many grants."""
        old = store.grants_in_doubt_for(self._connection, in_doubt_s)
        for account_id, grant_id in old:
            store.write_off(self._connection, account_id, grant_id, self._clock.now())
        return len(old)

    def set_frozen(self, account_id: UUID, *, frozen: bool) -> None:
        """Nothing more is granted to a frozen account, and hosts give back what nobody holds. Raises `AccountNotFound`."""
        if not store.set_account_state(self._connection, account_id, "frozen" if frozen else "open"):
            raise AccountNotFound(f"there is no account {account_id}, or it is closed")

    def quarantined(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Records that the database refused, oldest first."""
        return settle_store.quarantined(self._connection, limit)

    def decide_quarantine(self, quarantine_id: UUID, *, release: bool, rates: RateLookup) -> None:
        """Settle a record after all, or drop it: then it is never charged. Raises `QuarantineNotFound`, and
        `RecordRefused` where the database still refuses it.
        """
        state = "released" if release else "dropped"
        try:
            settle_store.decide_quarantine(self._connection, quarantine_id, state, rates, self._clock.now())
        except settle_store.REFUSALS as error:
            raise RecordRefused(f"it is still refused: {error}".splitlines()[0]) from error

    def in_doubt(self) -> tuple[int, int, int]:
        """(grants, quantity, seconds since the oldest expired) of what is in doubt."""
        return store.in_doubt(self._connection)

    def open_grants_of(self, account_id: str, journal_id: UUID) -> list[tuple[str, str, int, int]]:
        return store.open_grants_of(self._connection, UUID(account_id), journal_id)

    def ask_back(self, account_id: str, journal_id: UUID) -> int:
        return recall_store.ask_back(self._connection, UUID(account_id), journal_id)

    def recall_answered(self, recall_id: int, account_id: str, journal_id: UUID) -> bool:
        return recall_store.recall_answered(self._connection, recall_id, UUID(account_id), journal_id)

    def end_recall(self, recall_id: int) -> None:
        recall_store.end_recall(self._connection, recall_id)

    def recalls_for(self, journal_id: UUID) -> list[tuple[int, str]]:
        return recall_store.recalls_for(self._connection, journal_id)

    def answer_recall(self, recall_id: int, journal_id: UUID) -> None:
        recall_store.answer_recall(self._connection, recall_id, journal_id)

    def return_grant(self, account_id: str, grant_id: str, journal_id: UUID, amount: int) -> bool:
        return store.return_grant(
            self._connection, UUID(account_id), UUID(grant_id), journal_id, amount, self._clock.now()
        )

    # Protective limits.

    def set_limit(
        self,
        scope: str,
        ref: str,
        account_id: UUID | None,
        *,
        requests_per_min: int | None,
        tokens_per_min: int | None,
        streams_max: int | None,
    ) -> UUID:
        """The limit of a key, member or subscriber (by id) or deployment (by name). Replaces what was there. Raises `Invalid`."""
        given = [value for value in (requests_per_min, tokens_per_min, streams_max) if value is not None]
        if not given or any(not 0 < value <= LIMIT_MAX for value in given):
            raise Invalid(
                f"a limit says how many requests or tokens a minute, or requests at once: 1 to {LIMIT_MAX}"
            )
        if len(limit_store.limits(self._connection)) >= limit_store.LIMITS_MAX:
            raise Invalid(f"there are at most {limit_store.LIMITS_MAX} limits")
        return limit_store.set_limit(
            self._connection, scope, ref, account_id, requests_per_min, tokens_per_min, streams_max
        )

    def remove_limit(self, limit_id: UUID) -> None:
        """Raises `LimitNotFound`."""
        if not limit_store.remove_limit(self._connection, limit_id):
            raise LimitNotFound(f"there is no limit {limit_id}: tokenworks limit list")

    def limits(self) -> list[dict[str, Any]]:
        return limit_store.limits(self._connection)

    def limits_of(self, refs: Sequence[tuple[str, str]]) -> list[tuple[str, Limit]]:
        """(scope, limit) of those that these (scope, ref) are under."""
        return limit_store.limits_of(self._connection, refs)

    def limits_by_ref(
        self, refs: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], list[tuple[str, Limit]]]:
        """`limits_of` of each that is under any."""
        found: dict[tuple[str, str], list[tuple[str, Limit]]] = {}
        for scope, ref, limit in limit_store.limits_by_ref(self._connection, refs):
            found.setdefault((scope, ref), []).append((scope, limit))
        return found

    def deployment_limits(self) -> dict[str, Limit]:
        return limit_store.deployment_limits(self._connection)

    def lease_limit(self, journal_id: UUID, limit: Limit, requests: int, tokens: int, streams: int) -> Lease:
        return limit_store.lease_limit(self._connection, journal_id, limit, requests, tokens, streams)

    def return_lease(self, journal_id: UUID, limit_id: str, requests: int, tokens: int) -> None:
        limit_store.return_lease(self._connection, journal_id, UUID(limit_id), requests, tokens)

    def hosts_alive(self, journal_id: UUID) -> int:
        """How many hosts live, this one included; says that it does."""
        return host_store.hosts_alive(self._connection, journal_id)

    def says_release(self, journal_id: UUID, release: Release) -> None:
        """A host begins with this release, or goes on with it."""
        host_store.says_release(self._connection, journal_id, release)

    def hosts(self) -> list[Host]:
        """Those that have not left, by name, with what they run."""
        return host_store.hosts(self._connection)

    def hosts_of_fleet(self) -> list[tuple[UUID, str, datetime]]:
        """(journal, host, when it was heard of) of the hosts that have not left in order, those that fell silent within a day, too."""
        return host_store.hosts_of_fleet(self._connection)

    def host_leaves(self, journal_id: UUID) -> None:
        host_store.host_leaves(self._connection, journal_id)

    def delete_old_recalls(self) -> None:
        recall_store.delete_old_recalls(self._connection)

    # News to hosts.

    def changes(self, since: str | None) -> tuple[str, list[change_store.Change]]:
        """(from where to read on, what was said since `since`); nothing where that is None: this host begins now. Raises
        `ChangesMissed` where some of it is not kept any more.
        """
        horizon = change_store.horizon(self._connection)
        if since is None:
            return horizon, []
        found = change_store.changes(self._connection, since)
        if found is None:
            raise ChangesMissed("news to this host are not kept any more: it was away for too long")
        return horizon, found

    def forget_changes(self, keep: timedelta) -> int:
        """Delete news that are older. Returns how many."""
        total = 0
        while done := change_store.delete_old_changes(self._connection, keep):
            total += done
            if done < change_store.DELETED_AT_ONCE_MAX:
                break
        return total

    # The loss budget.

    def losses_of_today(self, journal_id: UUID, above_tokens: int) -> tuple[int, int, list[tuple[str, int]]]:
        """(day, the journal's settled sequence, accounts with more tokens at risk today than that, most first)."""
        return usage_store.losses_of_today(self._connection, journal_id, above_tokens, LOSSY_MAX)

    def delete_old_account_losses(self) -> None:
        usage_store.delete_old_account_losses(self._connection)


def _day_begin(day: date) -> datetime:
    return datetime.combine(day, time(), DAY_ZONE)


def _floor(since: datetime) -> UUID:
    """The smallest id of a time; of one before 1970, the smallest of all."""
    return uuid7_floor(max(0, int(since.timestamp() * 1000)))
