"""Look up one request: its usage records, deployments, draws on buckets, ledger entries, chain links and log lines.

A request is named by the id of a usage record, by our request id, by the client's own id, or by the upstream's id of its response.
Our ids begin with their time. The account is read from the log of the host that served the request, or given by the caller. If
neither names the account, the database searches all accounts for an id of ours, for at most `SEARCH_S` seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import DictRow

from tokenworks.catalog import RateCard
from tokenworks.charging.errors import RequestNotFound
from tokenworks.charging.ledger import following_store, grant_store, whose_store
from tokenworks.charging.ledger.chain import OWN
from tokenworks.charging.ledger.followed import (
    ChainLink,
    ChargeOfDraw,
    Draw,
    FollowedRequest,
    LogLine,
    PartRow,
    RateOfDraw,
    SettlementEntry,
)
from tokenworks.charging.model import LOSS_CAUSES
from tokenworks.charging.money import charge_store
from tokenworks.charging.routing_note import client_id_mark
from tokenworks.kernel import Clock, Invalid, uuid7_floor, uuid7_ms

# The longest id that is looked up. Ids of ours are shorter; an upstream's id may be this long.
ID_CHARS_MAX: Final = 512
# How far back an account is searched for an id that carries no time, unless the caller gives a time.
SEARCH_BACK: Final = timedelta(days=7)
# All attempts of a request begin within `request_timeout_s`, which is at most one day.
ATTEMPTS_WITHIN_MS: Final = 2 * 86_400_000
SEARCH_S: Final = 20
_VERSION: Final = 7

LogReader = Callable[[str], list[LogLine]]
"""Returns the lines of this host's request log that contain an id, oldest first."""


class RequestLookup:
    """Finds one request and describes it. `read_log` is None if this host keeps no request log."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        cards: Callable[[], Mapping[str, RateCard]],
        read_log: LogReader | None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._cards = cards
        self._read_log = read_log

    def follow(
        self, asked: str, account_id: UUID | None = None, since: datetime | None = None
    ) -> FollowedRequest:
        """All that is known of the request that the id `asked` names.

        `account_id`: the request's account, if the caller knows it. `since`: how far back an account is searched for an id that
        carries no time. Raises `Invalid`, and `RequestNotFound`, whose text says what was searched and where.
        """
        asked = asked.strip()
        if not asked or len(asked) > ID_CHARS_MAX or not asked.isprintable():
            raise Invalid(f"a request's id has 1 to {ID_CHARS_MAX} printable characters")
        searched: list[str] = []
        name, own_id = asked, _uuid(asked)
        if own_id is not None and not self._is_own_id(own_id):
            own_id = None
        record, dot, owner = asked.partition(".")
        if dot and _uuid(record) is not None and _uuid(owner) is not None:
            # The id of a TMF635 resource: the usage record and its subscriber.
            name, own_id = record, _uuid(record)
            account_id = whose_store.of_subscriber(self._connection, UUID(owner)) or account_id
        wanted = name if own_id is None else own_id.hex
        lines = self._lines_of(wanted, searched)
        quarantined = following_store.in_quarantine(self._connection, wanted)
        accounts = {str(line["account_id"]) for line in lines if line.get("account_id")}
        accounts |= {row["account_id"].hex for row in quarantined}
        if account_id is not None:
            lines = [line for line in lines if line.get("account_id") == account_id.hex]
            quarantined = [row for row in quarantined if row["account_id"] == account_id]
        elif len(accounts) == 1:
            account_id = UUID(accounts.pop())
        elif len(accounts) > 1:
            raise Invalid(
                f"{asked} names requests of several accounts in this host's log: say whose with the subscriber"
            )
        request_ids = [
            str(line["request_id"]) for line in lines if line.get("account_id") and line.get("request_id")
        ]
        if account_id is None and own_id is not None:
            account_id = self._account_of(own_id, searched)
        elif account_id is None:
            searched.append("it is no id of ours, so it was looked for in no account: say the subscriber")
        if account_id is not None:
            request_ids += self._requests_of(account_id, name, own_id, since, searched)
        request_ids = list(dict.fromkeys(request_ids))
        records = [record for request_id in request_ids for record in self._records(account_id, request_id)]
        for request_id in request_ids:
            if request_id != wanted:
                lines += [line for line in self._lines_of(request_id, []) if line not in lines]
        if not records and not lines and not quarantined:
            raise RequestNotFound(
                f"nothing is known of {asked}: " + "; ".join(searched or ["it is no id of ours"])
            )
        return self._describe(asked, account_id, records, lines, quarantined)

    # Where the request is found. `searched` collects, for the error text, what was searched in vain.

    def _lines_of(self, wanted: str, searched: list[str]) -> list[LogLine]:
        if self._read_log is None:
            searched.append("this host keeps no log of requests (log_requests_bytes is 0)")
            return []
        searched.append("the log of requests of this host has no line with it")
        return self._read_log(wanted)

    def _account_of(self, own_id: UUID, searched: list[str]) -> UUID | None:
        """The account of a usage record or request, searched for in all accounts."""
        try:
            with self._connection.transaction():
                whose_store.limit_statement_time(self._connection, SEARCH_S)
                found = whose_store.of_usage(self._connection, own_id) or whose_store.of_request(
                    self._connection, own_id.hex, own_id, _after_attempts(own_id)
                )
        except psycopg.errors.QueryCanceled:
            searched.append(f"looking through all accounts took more than {SEARCH_S} s: say the subscriber")
            return None
        searched.append(f"no account has a settled record of it, of {_day(own_id)}")
        return found

    def _requests_of(
        self,
        account_id: UUID,
        asked: str,
        own_id: UUID | None,
        since: datetime | None,
        searched: list[str],
    ) -> list[str]:
        """The request ids of an account that match an id."""
        if own_id is not None:
            found = following_store.request_of(self._connection, account_id, own_id)
            searched.append(f"account {account_id} has no settled record of it, of {_day(own_id)}")
            # A request whose first attempt left no record can still have records of later attempts.
            if found or self._records(account_id, own_id.hex):
                return [found or own_id.hex]
        begin = self._clock.now() - SEARCH_BACK if since is None else since
        searched.append(
            f"account {account_id} has no record since {begin.isoformat(timespec='seconds')} whose client or upstream named it so"
        )
        floor = uuid7_floor(max(0, int(begin.timestamp() * 1000)))
        return following_store.requests_named(
            self._connection, account_id, floor, asked, client_id_mark(asked)
        )

    def _is_own_id(self, id_: UUID) -> bool:
        """True if the id is a UUIDv7 whose time is not in the future."""
        latest = self._clock.now() + timedelta(days=1)
        return id_.version == _VERSION and uuid7_ms(id_) <= latest.timestamp() * 1000

    def _records(self, account_id: UUID | None, request_id: str) -> list[DictRow]:
        first = _uuid(request_id)
        if account_id is None or first is None or not self._is_own_id(first):
            return []
        return following_store.of_request(
            self._connection, account_id, first.hex, first, _after_attempts(first)
        )

    # What is said of the request.

    def _describe(
        self,
        asked: str,
        account_id: UUID | None,
        records: list[DictRow],
        lines: list[LogLine],
        quarantined: list[DictRow],
    ) -> FollowedRequest:
        request = FollowedRequest(
            asked=asked, account_id=account_id, records=[], draws=[], entries=[], log=lines, quarantine=quarantined
        )  # fmt: skip
        if account_id is None or not records:
            return request
        cards = self._cards()
        digests = following_store.digests(
            self._connection, account_id, [record["usage_id"] for record in records]
        )
        for record in records:
            record["host"] = following_store.host_of(self._connection, record["journal_id"])
            for loss in record["loss"]:
                loss["meaning"] = LOSS_CAUSES.get(loss["cause"], "")
            request["records"].append(record)
            request["draws"] += self._draws(account_id, record, cards)
            request["entries"].append(self._entry(account_id, record, digests))
        return request

    def _draws(self, account_id: UUID, record: DictRow, cards: Mapping[str, RateCard]) -> list[Draw]:
        """What each part of a record drew: its grant and bucket, the rate, and the charge that the bucket was sold for."""
        parts: Sequence[PartRow] = record["parts"]
        bucket_ids = [UUID(part[0]) for part in parts]
        buckets = {
            row["bucket_id"]: row for row in following_store.buckets(self._connection, account_id, bucket_ids)
        }
        return [self._draw(account_id, record, part, buckets.get(UUID(part[0]), {}), cards) for part in parts]

    def _draw(
        self,
        account_id: UUID,
        record: DictRow,
        part: PartRow,
        bucket: DictRow,
        cards: Mapping[str, RateCard],
    ) -> Draw:
        bucket_id, grant_id, rate_version, unit, kind, amount, requests, counts = part
        card = cards.get(rate_version)
        rate = None if card is None else card.rate_for(record["model"])
        return Draw(
            usage_id=record["usage_id"],
            bucket_id=UUID(bucket_id),
            kind=kind,
            unit=unit,
            amount=amount,
            requests=requests,
            counts=counts,
            product_id=bucket.get("product_id"),
            grant=grant_store.find_grant(self._connection, account_id, UUID(grant_id)),
            rate=RateOfDraw(
                rate_version=rate_version,
                model_class=None if rate is None else rate.model_class,
                weights=None if rate is None else rate.weights()._asdict(),
            ),
            charge=self._charge(account_id, bucket.get("charge_id")),
        )

    def _charge(self, account_id: UUID, charge_id: UUID | None) -> ChargeOfDraw | None:
        charge = (
            None if charge_id is None else charge_store.find_charge(self._connection, account_id, charge_id)
        )
        if charge is None:
            return None
        return ChargeOfDraw(
            charge_id=charge.charge_id,
            kind=charge.kind,
            description=charge.description,
            offering_version=charge.offering_version,
            price_nano=charge.price_nano,
            amount_nano=charge.amount_nano,
            currency=charge.currency,
            bill_id=charge.bill_id,
        )

    def _entry(self, account_id: UUID, record: DictRow, digests: Mapping[str, bytes]) -> SettlementEntry:
        """The entry that settled a record, with its postings and its chain link. `digests`: of the records as they are now."""
        entry_id, usage_id = record["entry_id"], record["usage_id"]
        entry = following_store.entry(self._connection, account_id, entry_id) or {"postings": []}
        chained = following_store.link(self._connection, account_id, (record["journal_id"], OWN), entry_id)
        link: ChainLink | None = None
        if chained is not None:
            chain_id, link_no, link_hash, chained_digests = chained
            link = ChainLink(
                chain_id=chain_id,
                link_no=link_no,
                hash=link_hash.hex(),
                records=len(chained_digests),
                intact=chained_digests.get(usage_id.hex) == digests.get(usage_id.hex),
            )
        return SettlementEntry(
            usage_id=usage_id,
            entry_id=entry_id,
            journal_id=record["journal_id"],
            seq=record["seq"],
            ref=entry.get("ref"),
            posted_at=entry.get("posted_at"),
            postings=entry["postings"],
            link=link,
        )


def _uuid(text: str) -> UUID | None:
    """The id of 32 hexadecimal digits, with or without hyphens; None if the text is no such id."""
    plain = text.replace("-", "")
    if len(plain) != 32 or not plain.isascii():
        return None
    try:
        return UUID(plain)
    except ValueError:
        return None


def _after_attempts(request_id: UUID) -> UUID:
    """An id above the ids of all attempts of the request."""
    return uuid7_floor(uuid7_ms(request_id) + ATTEMPTS_WITHIN_MS)


def _day(id_: UUID) -> str:
    return datetime.fromtimestamp(uuid7_ms(id_) // 1000, UTC).date().isoformat()
