"""One request, followed: its records, how it came to its deployment, what they drew on, their entries and links, its log lines.

It is found by the id of a record, by our id of the request, by the client's own, or by the upstream's id of its answer. Ids of ours
begin with their time; whose record it is says the log of the host that served it, or whoever asks. Only where neither does, the
database looks in every account for an id of ours, and no longer than `LOOK_S`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import Connection

from tokenworks.catalog import RateCard
from tokenworks.charging.errors import RequestNotFound
from tokenworks.charging.ledger import following_store, grant_store, whose_store
from tokenworks.charging.ledger.chain import OWN
from tokenworks.charging.model import LOSS_CAUSES
from tokenworks.charging.money import charge_store
from tokenworks.charging.routing_note import client_id_mark
from tokenworks.kernel import Clock, Invalid, uuid7_floor, uuid7_ms

# An id that is looked for: our own are shorter, an upstream's may be as long.
ID_CHARS_MAX: Final = 512
# How far back an id is looked for in an account that has no time of ours in it, where nobody says.
LOOK_BACK: Final = timedelta(days=7)
# The attempts of a request begin within `request_timeout_s`, a day at most.
ATTEMPTS_WITHIN_MS: Final = 2 * 86_400_000
LOOK_S: Final = 20
_VERSION: Final = 7

Lines = Callable[[str], list[dict[str, Any]]]
"""The lines of this host's log of requests that have an id, oldest first."""


class Following:
    """`lines` None: this host keeps no log of requests."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        cards: Callable[[], Mapping[str, RateCard]],
        lines: Lines | None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._cards = cards
        self._lines = lines

    def follow(
        self, asked: str, account_id: UUID | None = None, since: datetime | None = None
    ) -> dict[str, Any]:
        """All that is known of a request. `account_id`: whose it is, where the asker knows. `since`: how far back an id that has no
        time in it is looked for. Raises `Invalid`, and `RequestNotFound`, which says what was looked for and where.
        """
        asked = asked.strip()
        if not asked or len(asked) > ID_CHARS_MAX or not asked.isprintable():
            raise Invalid(f"a request's id has 1 to {ID_CHARS_MAX} printable characters")
        looked: list[str] = []
        name, ours = asked, _uuid(asked)
        if ours is not None and not self._is_ours(ours):
            ours = None
        record, dot, owner = asked.partition(".")
        if dot and _uuid(record) is not None and _uuid(owner) is not None:
            # As TMF635 shows it: the record and its subscriber.
            name, ours = record, _uuid(record)
            account_id = whose_store.of_subscriber(self._connection, UUID(owner)) or account_id
        wanted = name if ours is None else ours.hex
        lines = self._lines_of(wanted, looked)
        held = following_store.in_quarantine(self._connection, wanted)
        named = {str(line["account_id"]) for line in lines if line.get("account_id")}
        named |= {row["account_id"].hex for row in held}
        if account_id is not None:
            lines = [line for line in lines if line.get("account_id") == account_id.hex]
            held = [row for row in held if row["account_id"] == account_id]
        elif len(named) == 1:
            account_id = UUID(named.pop())
        elif len(named) > 1:
            raise Invalid(
                f"{asked} names requests of several accounts in this host's log: say whose with the subscriber"
            )
        requests = [
            str(line["request_id"]) for line in lines if line.get("account_id") and line.get("request_id")
        ]
        if account_id is None and ours is not None:
            account_id = self._account_of(ours, looked)
        elif account_id is None:
            looked.append("it is no id of ours, so it was looked for in no account: say the subscriber")
        if account_id is not None:
            requests += self._requests_of(account_id, name, ours, since, looked)
        requests = list(dict.fromkeys(requests))
        records = [one for request_id in requests for one in self._records(account_id, request_id)]
        for request_id in requests:
            if request_id != wanted:
                lines += [line for line in self._lines_of(request_id, []) if line not in lines]
        if not records and not lines and not held:
            raise RequestNotFound(
                f"nothing is known of {asked}: " + "; ".join(looked or ["it is no id of ours"])
            )
        return {**self._told(asked, account_id, records, lines), "quarantine": held}

    # Where it is.

    def _lines_of(self, wanted: str, looked: list[str]) -> list[dict[str, Any]]:
        if self._lines is None:
            looked.append("this host keeps no log of requests (log_requests_bytes is 0)")
            return []
        looked.append("the log of requests of this host has no line with it")
        return self._lines(wanted)

    def _account_of(self, ours: UUID, looked: list[str]) -> UUID | None:
        """Whose record it is, asked of all accounts."""
        try:
            with self._connection.transaction():
                whose_store.stop_after(self._connection, LOOK_S)
                found = whose_store.of_usage(self._connection, ours) or whose_store.of_request(
                    self._connection, ours.hex, ours, _after_attempts(ours)
                )
        except psycopg.errors.QueryCanceled:
            looked.append(f"looking through all accounts took more than {LOOK_S} s: say the subscriber")
            return None
        looked.append(f"no account has a settled record of it, of {_day(ours)}")
        return found

    def _requests_of(
        self, account_id: UUID, asked: str, ours: UUID | None, since: datetime | None, looked: list[str]
    ) -> list[str]:
        """Ids of the requests of an account that an id names."""
        if ours is not None:
            found = following_store.request_of(self._connection, account_id, ours)
            looked.append(f"account {account_id} has no settled record of it, of {_day(ours)}")
            # Without a record of its first attempt it is still a request's, of whose later ones there may be records.
            if found or self._records(account_id, ours.hex):
                return [found or ours.hex]
        begin = self._clock.now() - LOOK_BACK if since is None else since
        looked.append(
            f"account {account_id} has no record since {begin.isoformat(timespec='seconds')} whose client or upstream named it so"
        )
        floor = uuid7_floor(max(0, int(begin.timestamp() * 1000)))
        return following_store.requests_named(
            self._connection, account_id, floor, asked, client_id_mark(asked)
        )

    def _is_ours(self, id_: UUID) -> bool:
        """Whether it has a time that one of our ids can have."""
        soon = self._clock.now() + timedelta(days=1)
        return id_.version == _VERSION and uuid7_ms(id_) <= soon.timestamp() * 1000

    def _records(self, account_id: UUID | None, request_id: str) -> list[dict[str, Any]]:
        first = _uuid(request_id)
        if account_id is None or first is None or not self._is_ours(first):
            return []
        return following_store.of_request(
            self._connection, account_id, first.hex, first, _after_attempts(first)
        )

    # What there is to say.

    def _told(
        self,
        asked: str,
        account_id: UUID | None,
        records: list[dict[str, Any]],
        lines: list[dict[str, Any]],
    ) -> dict[str, Any]:
        told: dict[str, Any] = {
            "asked": asked,
            "account_id": account_id,
            "records": [],
            "draws": [],
            "entries": [],
            "log": lines,
        }
        if account_id is None or not records:
            return told
        cards = self._cards()
        now = following_store.digests(self._connection, account_id, [one["usage_id"] for one in records])
        for record in records:
            record["host"] = following_store.host_of(self._connection, record["journal_id"])
            for loss in record["loss"]:
                loss["meaning"] = LOSS_CAUSES.get(loss["cause"], "")
            told["records"].append(record)
            told["draws"] += self._draws(account_id, record, cards)
            told["entries"].append(self._entry(account_id, record, now))
        return told

    def _draws(
        self, account_id: UUID, record: Mapping[str, Any], cards: Mapping[str, RateCard]
    ) -> list[dict[str, Any]]:
        """What each part of a record drew: of which grant and bucket, at which rate, and what the bucket was sold for."""
        ids = [UUID(part[0]) for part in record["parts"]]
        buckets = {
            row["bucket_id"]: row for row in following_store.buckets(self._connection, account_id, ids)
        }
        return [
            self._draw(account_id, record, part, buckets.get(UUID(part[0]), {}), cards)
            for part in record["parts"]
        ]

    def _draw(
        self,
        account_id: UUID,
        record: Mapping[str, Any],
        part: Sequence[Any],
        bucket: Mapping[str, Any],
        cards: Mapping[str, RateCard],
    ) -> dict[str, Any]:
        bucket_id, grant_id, rate_version, unit, kind, amount, requests, counts = part
        card = cards.get(rate_version)
        rate = None if card is None else card.rate_for(record["model"])
        charge_id = bucket.get("charge_id")
        charge = (
            None if charge_id is None else charge_store.find_charge(self._connection, account_id, charge_id)
        )
        return {
            "usage_id": record["usage_id"],
            "bucket_id": UUID(bucket_id),
            "kind": kind,
            "unit": unit,
            "amount": amount,
            "requests": requests,
            "counts": counts,
            "product_id": bucket.get("product_id"),
            "grant": grant_store.find_grant(self._connection, account_id, UUID(grant_id)),
            "rate": {
                "rate_version": rate_version,
                "model_class": None if rate is None else rate.model_class,
                "weights": None if rate is None else rate.weights()._asdict(),
            },
            "charge": None
            if charge is None
            else {
                "charge_id": charge.charge_id,
                "kind": charge.kind,
                "description": charge.description,
                "offering_version": charge.offering_version,
                "price_nano": charge.price_nano,
                "amount_nano": charge.amount_nano,
                "currency": charge.currency,
                "bill_id": charge.bill_id,
            },
        }

    def _entry(self, account_id: UUID, record: Mapping[str, Any], now: Mapping[str, bytes]) -> dict[str, Any]:
        """The entry that settled a record, with its postings and its link: `intact` where the record is what was chained."""
        entry_id, usage_id = record["entry_id"], record["usage_id"]
        found = following_store.entry(self._connection, account_id, entry_id) or {"postings": []}
        made = following_store.link(self._connection, account_id, (record["journal_id"], OWN), entry_id)
        link = None
        if made is not None:
            chain_id, link_no, hashed, digests = made
            link = {
                "chain_id": chain_id,
                "link_no": link_no,
                "hash": hashed.hex(),
                "records": len(digests),
                "intact": digests.get(usage_id.hex) == now.get(usage_id.hex),
            }
        return {
            "usage_id": usage_id,
            "entry_id": entry_id,
            "journal_id": record["journal_id"],
            "seq": record["seq"],
            "ref": found.get("ref"),
            "posted_at": found.get("posted_at"),
            "postings": found["postings"],
            "link": link,
        }


def _uuid(text: str) -> UUID | None:
    """An id of ours, with or without dashes; None where it is none."""
    plain = text.replace("-", "")
    if len(plain) != 32 or not plain.isascii():
        return None
    try:
        return UUID(plain)
    except ValueError:
        return None


def _after_attempts(request_id: UUID) -> UUID:
    """An id that no attempt of the request has any more."""
    return uuid7_floor(uuid7_ms(request_id) + ATTEMPTS_WITHIN_MS)


def _day(id_: UUID) -> str:
    return datetime.fromtimestamp(uuid7_ms(id_) // 1000, UTC).date().isoformat()
