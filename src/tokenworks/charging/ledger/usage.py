"""Reading usage: records, usage by day and by member, and the operator's losses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final
from uuid import UUID

from psycopg.rows import DictRow

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.charging.errors import TooManyRecords
from tokenworks.charging.host.losses import LOSSY_MAX
from tokenworks.charging.ledger import (
    day_store,
    store,
    usage_store,
    usage_sums_store,
)
from tokenworks.charging.ledger.part import LedgerPart
from tokenworks.kernel import Invalid, uuid7_floor

# A list counts its records up to this number; a longer list has no total.
USAGE_COUNTED_MAX: Final = 10_000
# More than the longest request plus the largest difference between two hosts' clocks.
CONSUMED_SLACK: Final = timedelta(days=1)
# The time zone of usage by day, the same as of bills and caps.
DAY_ZONE: Final = timezone(timedelta(hours=8))


# Sums read the records of at most so many days.
USAGE_SUM_DAYS_MAX: Final = 92
USAGE_SUM_DAYS_DEFAULT: Final = 30
USAGE_SUM_TAGS_MAX: Final = 4
USAGE_SUM_PAGE_MAX: Final = 1_000
# Sums read at most so many records of an account (those of `CONSUMED_SLACK` on both sides of the time among them).
USAGE_SUM_RECORDS_MAX: Final = 200_000


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The sum of the usage records of one group. `group`: its texts by what is grouped by (`day`, `model`, `tag:team`, …). `tokens` by
    class, without classes that have none; `drawn`: unit -> amount in thousandths.
    """

    group: dict[str, str]
    records: int
    tokens: dict[str, int]
    drawn: dict[str, int]


@dataclass(slots=True)
class _MemberUsage:
    """What one member used. `charged`: unit -> amount in thousandths."""

    member_id: UUID
    records: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    charged: dict[str, int] = field(default_factory=dict)


class Usage(LedgerPart):
    """The accounts' usage, and the operator's losses."""

    def usage(self, account_id: UUID, since: datetime | None = None, limit: int = 100) -> list[DictRow]:
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
    ) -> tuple[list[DictRow], int | None]:
        """(a page of an account's usage records that ended in [since, until), newest first; the count of all of them).

        `member_id`: only records of this member. `before`: the last id of the previous page, which makes an old page as fast to find
        as the first one. The count is None if there are more than `USAGE_COUNTED_MAX` records.
        """
        within = usage_store.UsageFilter(
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

    def usage_record(self, account_id: UUID, usage_id: UUID) -> DictRow | None:
        return usage_store.usage_record(self._connection, account_id, usage_id)

    def usage_by_day(self, account_id: UUID, since: datetime) -> dict[str, int]:
        """Tokens of each day (YYYY-MM-DD) of UTC+8, all classes together, from the day of `since` on."""
        return day_store.tokens_by_day(self._connection, account_id, since.astimezone(DAY_ZONE).date())

    def usage_by_member(self, account_id: UUID, since: datetime | None = None) -> list[DictRow]:
        """Usage per member since a time, largest input first: records, tokens, and the amount charged in each unit, in thousandths.

        Whole days of UTC+8 are read from the daily sums. If `since` is within a day, the rest of that day is read from the records.
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
        members: dict[UUID, _MemberUsage] = {}
        for used, charged in parts:
            for member_id, records, input_tokens, output_tokens in used:
                member = members.setdefault(member_id, _MemberUsage(member_id))
                member.records += records
                member.input_tokens += input_tokens
                member.output_tokens += output_tokens
            for member_id, unit, amount in charged:
                units = members[member_id].charged
                units[unit] = units.get(unit, 0) + amount
        ordered = sorted(members.values(), key=lambda member: (-member.input_tokens, member.member_id))
        return [asdict(member) for member in ordered]

    def usage_sums(
        self,
        account_id: UUID,
        by: Sequence[str],
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        member_id: UUID | None = None,
        key_id: UUID | None = None,
        tags: Mapping[str, str] | None = None,
        after: Sequence[str] | None = None,
        limit: int = 100,
        records_max: int = USAGE_SUM_RECORDS_MAX,
    ) -> list[UsageSum]:
        """Exact sums of the records that ended in [since, until), by groups in the order of their texts. `since`: by default
        `USAGE_SUM_DAYS_DEFAULT` days before the end.

        `by`: of `day` (in UTC+8), `model`, `member`, `key`, `protocol` and `tag:<name>`. `tags`: only records that have these. `after`: the
        texts of the last group of the previous page. Raises `Invalid` for another group, too many of anything, or too long a time, and
        `TooManyRecords` if the account has more than `records_max` records to be read, whosever they are.
        """
        tags = tags or {}
        end = self._clock.now() if until is None else until
        since = end - timedelta(days=USAGE_SUM_DAYS_DEFAULT) if since is None else since
        if not 0 < len(by) <= usage_sums_store.GROUPS_MAX or len(set(by)) != len(by):
            raise Invalid(f"usage is summed by 1 to {usage_sums_store.GROUPS_MAX} different things")
        for name in by:
            if name not in usage_sums_store.GROUPS and not (
                name.startswith("tag:") and len(name) > len("tag:")
            ):
                raise Invalid(f"usage is summed by {', '.join(usage_sums_store.GROUPS)} or tag:<name>")
        if len(tags) > USAGE_SUM_TAGS_MAX:
            raise Invalid(f"usage is filtered by at most {USAGE_SUM_TAGS_MAX} tags")
        if end - since > timedelta(days=USAGE_SUM_DAYS_MAX):
            raise Invalid(
                f"usage is summed over at most {USAGE_SUM_DAYS_MAX} days: ask for a part of that time"
            )
        if after is not None and len(after) != len(by):
            raise Invalid("cursor: take it from the page before, which was summed by the same")
        within = usage_store.UsageFilter(
            since,
            until,
            _floor(since - CONSUMED_SLACK),
            None if until is None else _floor(until + CONSUMED_SLACK),
        )
        if usage_sums_store.records_at_most(self._connection, account_id, within, records_max) > records_max:
            raise TooManyRecords(
                f"the account has more than {records_max} usage records about that time: ask for a shorter one"
            )
        chosen = usage_sums_store.SumsFilter(within, member_id, key_id, tags)
        rows = usage_sums_store.usage_sums(
            self._connection, account_id, by, chosen, after, min(limit, USAGE_SUM_PAGE_MAX)
        )
        return [
            UsageSum(
                dict(zip(by, group, strict=True)),
                counts[0],
                {name: count for name, count in zip(TOKEN_CLASSES, counts[1:], strict=True) if count},
                drawn,
            )
            for group, counts, drawn in rows
        ]

    def drawn_by_member(self, account_id: UUID, member_id: UUID, first: date) -> dict[str, int]:
        """What a member drew from balances since the beginning of a day of UTC+8: unit -> amount in thousandths. From the daily sums,
        however many records there are.
        """
        return day_store.drawn_by_member(self._connection, account_id, member_id, first)

    def consumed(self, account_id: UUID, begin: datetime, end: datetime) -> list[DictRow]:
        """The amounts drawn from buckets by requests that ended in [begin, end), in thousandths, by charge, product, member, model,
        unit and rate version. Reads ids of `CONSUMED_SLACK` more on both sides, since an id has the time of the request's start.
        """
        floor, below = _floor(begin - CONSUMED_SLACK), _floor(end + CONSUMED_SLACK)
        return usage_store.consumed(self._connection, account_id, floor, below, begin, end)

    def owns_upstream_id(self, account_id: str, upstream_id: str) -> tuple[str, int] | None:
        return usage_store.owns_upstream_id(self._connection, UUID(account_id), upstream_id)

    def flagged(
        self, since: datetime | None = None, limit: int = 100, before: UUID | None = None
    ) -> list[DictRow]:
        """Records to reconcile with the deployments' own figures, newest first. `before`: the last id of the previous page."""
        floor = None if since is None else _floor(since)
        return usage_store.flagged(self._connection, floor, limit, before)

    def losses(
        self, since: datetime | None = None, account_id: UUID | None = None, zone: tzinfo = UTC
    ) -> list[DictRow]:
        """The operator's losses by day (in a time zone) and cause, newest first."""
        floor = None if since is None else _floor(since)
        offset = self._clock.now().astimezone(zone).utcoffset()
        assert offset is not None
        return usage_store.losses(self._connection, floor, account_id, offset)

    def losses_of_today(self, journal_id: UUID, above_tokens: int) -> tuple[int, int, list[tuple[str, int]]]:
        """(days since 1970, the journal's settled sequence, [(account, tokens)] of accounts with more than `above_tokens` tokens at
        risk today, most first).
        """
        return usage_store.losses_of_today(self._connection, journal_id, above_tokens, LOSSY_MAX)

    def delete_old_account_losses(self) -> None:
        usage_store.delete_old_account_losses(self._connection)


def tags_of_texts(texts: Sequence[str]) -> dict[str, str]:
    """The tags that `name=value` texts name. Raises `Invalid`."""
    tags = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise Invalid("a tag is written name=value")
        tags[name] = value
    return tags


def _day_begin(day: date) -> datetime:
    return datetime.combine(day, time(), DAY_ZONE)


def _floor(since: datetime) -> UUID:
    """The smallest id of a time. A time before 1970 gives the smallest id of all."""
    return uuid7_floor(max(0, int(since.timestamp() * 1000)))
