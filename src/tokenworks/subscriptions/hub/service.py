"""Other systems that are told what happens (TMF630, the hub): who listens to what, what was sent to whom, and again.

Events are written by the database, in the transaction of what they tell, where anybody listens. Each becomes a delivery for each
listener, whose body is made once: a replay sends the same bytes. At least once, under the event's id. A body names people, so it is
kept encrypted under the key of the subscriber that it is about.
"""

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.factory import address_refusal, parse_address
from tokenworks.kernel import Clock, Conflict, Invalid, NotFound, Unavailable, check_line, uuid7
from tokenworks.subscriptions.hub import hub_store as store
from tokenworks.subscriptions.model import Subscriber
from tokenworks.trust import PersonKey, PersonVault, issuing

LISTENERS_MAX: Final = 100
URL_CHARS_MAX: Final = 500
QUERY_CHARS_MAX: Final = 500
LEASE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)
GIVE_UP_AFTER: Final = timedelta(days=1)
OVERLAP_DEFAULT: Final = timedelta(days=1)
OVERLAP_MAX: Final = timedelta(days=30)
# What was delivered or given up is shown, and can be sent again, for so long.
LOG_KEPT: Final = timedelta(days=30)
ERROR_CHARS_MAX: Final = 200
# What a body is bound to, with its row and person.
_PLACE: Final = "hub_delivery.body"
# What stands for the operator's own webhook where listeners are named by id.
_OWN: Final = UUID(int=0)

Api = Literal["productOrdering", "productInventory", "customerBill", "payment", "serviceOrdering"]
# What the standards call the events of each API (TMF622, 637, 678, 676, 641).
EVENTS: Final[dict[Api, tuple[str, ...]]] = {
    "productOrdering": ("ProductOrderCreateEvent", "ProductOrderStateChangeEvent"),
    "productInventory": ("ProductCreateEvent", "ProductStateChangeEvent"),
    "customerBill": ("CustomerBillCreateEvent", "CustomerBillStateChangeEvent"),
    "payment": ("PaymentCreateEvent",),
    "serviceOrdering": ("ServiceOrderCreateEvent", "ServiceOrderStateChangeEvent"),
}


class ListenerNotFound(NotFound):
    """Nobody of this id listens."""


class DeliveryNotFound(NotFound):
    """No such delivery is in the log."""


class DeliveryNotDone(Conflict):
    """A delivery that is still tried needs no replay."""


@dataclass(frozen=True, slots=True)
class Listener:
    listener_id: UUID
    api: Api
    callback: str
    query: str
    generation: int
    pepper_version: int
    # Until then what is sent is signed with the secret of before, too.
    overlap_until: datetime | None
    overlap_version: int | None
    made_by: str
    created_at: datetime

    @property
    def event_types(self) -> tuple[str, ...]:
        """What it wants; all of its API's where it does not say."""
        named = _event_types(self.query)
        return named or EVENTS[self.api]


@dataclass(frozen=True, slots=True)
class Event:
    event_id: UUID
    at: datetime
    api: Api
    event_type: str
    ref: UUID
    subscriber_id: UUID
    state: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """`listener_id` is None for the operator's own webhook (`webhook_url`), `body` where nothing opens it any more: its subscriber
    was erased at the moment in which it was made.
    """

    delivery_id: UUID
    listener_id: UUID | None
    event_id: UUID
    event_type: str
    subscriber_id: UUID
    body: str | None
    created_at: datetime
    attempts: int
    replays: int
    delivered_at: datetime | None
    given_up_at: datetime | None
    tried_at: datetime | None
    status: int | None
    error: str | None

    @property
    def state(self) -> str:
        return "delivered" if self.delivered_at else "given_up" if self.given_up_at else "waits"


def _event_types(query: str) -> tuple[str, ...]:
    return tuple(kind for name, value in parse_qsl(query) if name == "eventType" for kind in value.split(","))


class Hub:
    """On one connection. `peppers` by version: a listener's secret is derived from one, and kept nowhere."""

    def __init__(
        self,
        connection: Connection,
        peppers: Mapping[int, bytes],
        clock: Clock,
        vault: PersonVault,
        *,
        allow_private: bool = False,
        need_tls: bool = False,
    ) -> None:
        self._connection = connection
        self._peppers = peppers
        self._clock = clock
        self._vault = vault
        self._allow_private = allow_private
        self._need_tls = need_tls

    # Who listens.

    def subscribe(self, api: Api, callback: str, query: str, made_by: str) -> tuple[Listener, str]:
        """(the listener, its secret, which is shown this once). Raises `Invalid`."""
        self._check_callback(callback)
        query = check_line(query, "query", chars_max=QUERY_CHARS_MAX, chars_min=0)
        named = _event_types(query)
        unknown = {name for name, _ in parse_qsl(query, keep_blank_values=True)} - {"eventType"}
        if (query and not named) or unknown or not set(named) <= set(EVENTS[api]):
            raise Invalid(f"query: eventType=… of {', '.join(EVENTS[api])}; left out, all of them")
        with self._connection.transaction():
            store.lock_listeners(self._connection)
            if len(store.listeners(self._connection)) >= LISTENERS_MAX:
                raise Invalid(f"at most {LISTENERS_MAX} listeners are told: remove one first")
            made = Listener(
                uuid7(),
                api,
                callback,
                query,
                1,
                issuing(self._peppers),
                None,
                None,
                made_by,
                self._clock.now(),
            )
            store.add_listener(self._connection, made)
        return made, self._secret(made.listener_id, 1, made.pepper_version)

    def _check_callback(self, callback: str) -> None:
        if len(callback) > URL_CHARS_MAX:
            raise Invalid(f"callback: a URL of at most {URL_CHARS_MAX} characters")
        try:
            parts = urlsplit(callback)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise Invalid("callback: not a URL") from None
        if (
            parts.scheme not in {"http", "https"}
            or not host
            or not callback.isascii()
            or any(char <= " " or char in '\\"<>\x7f' for char in callback)
        ):
            raise Invalid("callback: a URL such as https://crm.example/events")
        if "@" in parts.netloc or parts.fragment:
            raise Invalid("callback: a URL without a user, a password or a fragment")
        if self._need_tls and parts.scheme != "https" and not self._allow_private:
            raise Invalid('callback: https outside environment = "dev", since what is sent names people')
        try:
            address = parse_address(host)
        except ValueError:
            return  # a name: what it resolves to is checked whenever something is sent
        if address_refusal(address, allow_private=self._allow_private):
            raise Invalid("callback: a loopback, private or link-local address is refused")

    def unsubscribe(self, listener_id: UUID, api: Api | None = None) -> None:
        """Nothing more is sent there, not even what waits. Raises `ListenerNotFound`."""
        with self._connection.transaction():
            found = self.listener(listener_id)
            if api is not None and found.api != api:
                raise ListenerNotFound("there is no such listener")
            store.remove_listener(self._connection, listener_id, self._clock.now())

    def listeners(self) -> list[Listener]:
        """Oldest first."""
        return [Listener(*row) for row in store.listeners(self._connection)]

    def listener(self, listener_id: UUID) -> Listener:
        """Raises `ListenerNotFound`."""
        found = next((one for one in self.listeners() if one.listener_id == listener_id), None)
        if found is None:
            raise ListenerNotFound("there is no such listener: `tokenworks webhook list` shows them")
        return found

    def rotate(self, listener_id: UUID, overlap: timedelta = OVERLAP_DEFAULT, *, force: bool = False) -> str:
        """A new secret, shown this once. Until the overlap has passed, what is sent is signed with the one of before as well.

        Raises `ListenerNotFound`, `Invalid`, and `Conflict` while an earlier overlap lasts, but for `force`, which ends that one.
        """
        if not timedelta(0) <= overlap <= OVERLAP_MAX:
            raise Invalid(f"an overlap is at most {OVERLAP_MAX.days} days")
        with self._connection.transaction():
            store.lock_listeners(self._connection)
            found = self.listener(listener_id)
            until = found.overlap_until
            if until is not None and self._clock.now() < until and not force:
                raise Conflict(
                    f"its secret was rotated already, and the one of before signs until {until:%Y-%m-%d %H:%M} UTC: the receiver may "
                    "have that one alone. Rotate again after that, or with --force, which ends it now"
                )
            version = issuing(self._peppers)
            store.rotate_listener(
                self._connection, listener_id, version, found.pepper_version, self._clock.now() + overlap
            )
        return self._secret(listener_id, found.generation + 1, version)

    def secrets(self, listener: Listener) -> list[bytes]:
        """What a delivery is signed with now: the secret, and in an overlap the one of before."""
        found = [self._secret(listener.listener_id, listener.generation, listener.pepper_version)]
        if (
            listener.overlap_until is not None
            and listener.overlap_version is not None
            and listener.overlap_version in self._peppers
            and self._clock.now() < listener.overlap_until
        ):
            found.append(
                self._secret(listener.listener_id, listener.generation - 1, listener.overlap_version)
            )
        return [text.encode() for text in found]

    def _secret(self, listener_id: UUID, generation: int, version: int) -> str:
        if version not in self._peppers:
            raise Invalid(
                f"pepper-{version} is not in secrets_dir of this host: copy it there, or, where it is retired, rotate the listener's "
                "secret"
            )
        text = f"webhook:{listener_id}:{generation}".encode()
        mac = hmac.new(self._peppers[version], text, hashlib.sha256).digest()
        return "whs_" + base64.urlsafe_b64encode(mac).decode().rstrip("=")

    # What is sent.

    def events(self, limit: int) -> list[Event]:
        """What happened and is no delivery yet, in order, locked. In the caller's transaction."""
        return [Event(*row) for row in store.lock_events(self._connection, limit)]

    def expand(self, event: Event, bodies: Mapping[UUID, str]) -> None:
        """Make an event into deliveries, by listener."""
        for listener_id, body in bodies.items():
            self._enqueue(listener_id, event.event_id, event.event_type, event.subscriber_id, body)
        store.expanded(self._connection, event.event_id, self._clock.now())

    def enqueue_own(self, event_id: UUID, event_type: str, subscriber_id: UUID, body: str) -> None:
        """For the operator's own webhook, once for an event."""
        self._enqueue(None, event_id, event_type, subscriber_id, body)

    def _enqueue(
        self, listener_id: UUID | None, event_id: UUID, event_type: str, subscriber_id: UUID, body: str
    ) -> None:
        delivery_id = uuid7()
        # What is made after an erasure names nobody any more.
        key = self._vault.key(subscriber_id) or self._vault.own()
        sealed = key.seal_bytes(_PLACE, delivery_id, body.encode())
        store.add_delivery(
            self._connection, delivery_id, listener_id, event_id, event_type, subscriber_id, sealed, self._clock.now()
        )  # fmt: skip

    def _opened(self, rows: Sequence[TupleRow]) -> list[Delivery]:
        """With their bodies decrypted."""
        keys = self._vault.keys(row[4] for row in rows)
        own = self._vault.own() if any(row[4] not in keys for row in rows) else None
        found = []
        for row in rows:
            values = list(row)
            values[5] = self._body(row, keys.get(row[4]) or own)
            found.append(Delivery(*values))
        return found

    @staticmethod
    def _body(row: TupleRow, key: PersonKey | None) -> str | None:
        if row[5] is None or key is None:
            return None
        try:
            return key.open_bytes(_PLACE, row[0], bytes(row[5])).decode()
        except Unavailable:
            return None

    def lease(self, limit: int, *, own: bool, but: Collection[UUID | None] = ()) -> list[Delivery]:
        """What is due, what was tried less often first, then oldest first; nobody else sends it within a minute. `own`: the operator's own webhook is there, too.
        `but`: of these listeners nothing.
        """
        now, beside = self._clock.now(), [_OWN if one is None else one for one in but]
        rows = store.lease_deliveries(self._connection, now, now + LEASE, limit, beside, own=own)
        return sorted(self._opened(rows), key=lambda one: (one.attempts, one.delivery_id))

    def delivered(self, delivery: Delivery, status: int) -> None:
        store.end_delivery(
            self._connection, delivery.delivery_id, "delivered_at", self._clock.now(), status, None
        )

    def later(self, delivery: Delivery) -> None:
        """It was not tried: due again at once."""
        store.put_off(self._connection, delivery.delivery_id, self._clock.now())

    def behind(self, delivery: Delivery) -> None:
        """It was not tried, since another one to the same listener has failed: due a little later."""
        store.put_off(self._connection, delivery.delivery_id, self._clock.now() + FIRST_WAIT)

    def gone(self, delivery: Delivery) -> None:
        """Its listener was removed."""
        store.end_delivery(
            self._connection, delivery.delivery_id, "given_up_at", self._clock.now(), None, store.REMOVED
        )

    def failed(self, delivery: Delivery, status: int | None, error: str) -> None:
        """Again later, or, a day after it was made or replayed, never. What else waits for the same listener comes before it
        then, a little later: a body that it never takes is in no other's way.
        """
        now, error = self._clock.now(), error[:ERROR_CHARS_MAX]
        wait = min(WAIT_MAX, FIRST_WAIT * 2 ** min(delivery.attempts, 20))
        with self._connection.transaction():
            store.retry_delivery(self._connection, delivery.delivery_id, now, now + wait, status, error)
            store.give_up(self._connection, delivery.listener_id, now - GIVE_UP_AFTER, now, status, error)
            store.put_off_all(self._connection, delivery.listener_id, now + FIRST_WAIT)

    # The log.

    def log(
        self,
        state: Literal["waits", "delivered", "given_up"] | None = None,
        listener_id: UUID | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> tuple[list[Delivery], int]:
        """A page of what was sent, newest first, and how many there are."""
        rows, count = store.deliveries(self._connection, state, listener_id, offset, limit)
        return self._opened(rows), count

    def replay(self, delivery_id: UUID) -> Delivery:
        """Send a delivery again, delivered or given up: the same bytes under the same id.

        Raises `DeliveryNotFound`, `DeliveryNotDone`.
        """
        with self._connection.transaction():
            row = store.lock_delivery(self._connection, delivery_id)
            if row is None:
                raise DeliveryNotFound("there is no such delivery: `tokenworks webhook log` shows them")
            (found,) = self._opened([row])
            if found.listener_id is not None:
                self.listener(found.listener_id)
            if found.state == "waits":
                raise DeliveryNotDone("the delivery is still tried: wait until it is delivered or given up")
            store.replay(self._connection, delivery_id, self._clock.now())
        (made,) = self._opened([store.delivery(self._connection, delivery_id)])
        return made

    def forget(self, subscriber: Subscriber) -> None:
        """Of one who is erased, in its transaction, before its key is destroyed: what was sent goes. What still waits goes out
        first, within a day: until then it is encrypted under the installation's own key; `forget_old` takes it out after that.
        """
        store.delete_of_erased(self._connection, subscriber.subscriber_id)
        key = self._vault.key(subscriber.subscriber_id)
        if key is None:
            return
        for delivery_id, sealed in store.lock_waiting(self._connection, subscriber.subscriber_id):
            body = key.open_bytes(_PLACE, delivery_id, sealed)
            store.set_body(
                self._connection, delivery_id, self._vault.own().seal_bytes(_PLACE, delivery_id, body)
            )

    def give_up(self, delivery: Delivery, error: str) -> None:
        """It can't be sent, now or later."""
        store.end_delivery(
            self._connection, delivery.delivery_id, "given_up_at", self._clock.now(), None, error[:ERROR_CHARS_MAX]
        )  # fmt: skip

    def forget_old(self) -> None:
        """What the log keeps no longer."""
        store.delete_old(self._connection, self._clock.now() - LOG_KEPT)
        store.delete_of_erased(self._connection, None)


def signature(secrets: list[bytes], at_s: int, body: bytes) -> str:
    """`t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>", hex>`, a `v1` for each secret that is good now: the receiver checks
    that one of them is right, and that the time is near.
    """
    macs = (hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join((f"t={at_s}", *(f"v1={mac}" for mac in macs)))


def event_content(event: Event, resource: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """An event as the standard says it (TMF630, notification)."""
    return {
        "eventId": str(event.event_id),
        "eventTime": event.at.isoformat(),
        "eventType": event.event_type,
        "domain": event.api,
        "event": {name: resource or {"id": str(event.ref)}},
    }
