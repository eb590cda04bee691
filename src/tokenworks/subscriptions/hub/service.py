"""The hub (TMF630): listeners of other systems, the events that they get, the log of deliveries, and replays.

The database writes an event in the transaction of the change that it reports, if there is any listener. Each event becomes one
delivery for each listener. The body of a delivery is made once, so that a replay sends the same bytes; a delivery is sent at
least once, under the event's id. A body names people, so that it is encrypted under the key of its subscriber.
"""

import base64
import hashlib
import hmac
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol
from urllib.parse import parse_qsl
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.kernel import Clock, Conflict, Invalid, NotFound, Unavailable, check_line, uuid7
from tokenworks.subscriptions.hub import hub_store as store
from tokenworks.subscriptions.hub.callback import check_callback
from tokenworks.subscriptions.model import Subscriber
from tokenworks.trust import PersonKey, PersonVault, issuing

LISTENERS_MAX: Final = 100
QUERY_CHARS_MAX: Final = 500
LEASE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)
GIVE_UP_AFTER: Final = timedelta(days=1)
OVERLAP_DEFAULT: Final = timedelta(days=1)
OVERLAP_MAX: Final = timedelta(days=30)
# A delivery is in the log, and can be replayed, for this long.
LOG_KEPT: Final = timedelta(days=30)
ERROR_CHARS_MAX: Final = 200
# The associated data of an encrypted body, with its row and person.
_PLACE: Final = "hub_delivery.body"
# The id of the operator's own webhook in a list of listener ids.
_OWN_WEBHOOK: Final = UUID(int=0)

Api = Literal["productOrdering", "productInventory", "customerBill", "payment", "serviceOrdering"]
# The events of each API by their names in the standards (TMF622, 637, 678, 676, 641).
EVENTS: Final[dict[Api, tuple[str, ...]]] = {
    "productOrdering": ("ProductOrderCreateEvent", "ProductOrderStateChangeEvent"),
    "productInventory": ("ProductCreateEvent", "ProductStateChangeEvent"),
    "customerBill": ("CustomerBillCreateEvent", "CustomerBillStateChangeEvent"),
    "payment": ("PaymentCreateEvent",),
    "serviceOrdering": ("ServiceOrderCreateEvent", "ServiceOrderStateChangeEvent"),
}


class ListenerNotFound(NotFound):
    """No such listener."""


class DeliveryNotFound(NotFound):
    """No such delivery is in the log."""


class RotatingSecret(Protocol):
    """The present generation of a secret that is derived under a pepper, and until when the former one signs, too."""

    @property
    def generation(self) -> int: ...
    @property
    def pepper_version(self) -> int: ...
    @property
    def overlap_until(self) -> datetime | None: ...
    @property
    def overlap_version(self) -> int | None: ...


def signing_generations(
    secret: RotatingSecret, peppers: Container[int], now: datetime
) -> list[tuple[int, int]]:
    """(generation, version of its pepper) of each secret that signs now: the present one, and during an overlap the former one."""
    found = [(secret.generation, secret.pepper_version)]
    if (
        secret.overlap_until is not None
        and secret.overlap_version is not None
        and secret.overlap_version in peppers
        and now < secret.overlap_until
    ):
        found.append((secret.generation - 1, secret.overlap_version))
    return found


class DeliveryNotDone(Conflict):
    """The delivery is still tried: it needs no replay."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A callback of another system for the events of one API."""

    listener_id: UUID
    api: Api
    callback: str
    query: str
    generation: int
    pepper_version: int
    # Until then, deliveries are also signed with the former secret.
    overlap_until: datetime | None
    overlap_version: int | None
    made_by: str
    created_at: datetime

    @property
    def event_types(self) -> tuple[str, ...]:
        """The events that the listener wants: those of its query, else all of its API."""
        named = _event_types(self.query)
        return named or EVENTS[self.api]


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the resource `ref` that listeners are to be told."""

    event_id: UUID
    at: datetime
    api: Api
    event_type: str
    ref: UUID
    subscriber_id: UUID
    state: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request to one listener. `listener_id` is None for the operator's own webhook (`webhook_url`). `body` is None if no key
    decrypts it: its subscriber was erased while the delivery was made.
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
    """Listeners, deliveries and their log, on one connection. `peppers` by version: a listener's secret is derived from one of
    them and not stored.
    """

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

    # Listeners.

    def subscribe(self, api: Api, callback: str, query: str, made_by: str) -> tuple[Listener, str]:
        """Add a listener: (the listener, its secret, which can't be shown again). Raises `Invalid`."""
        check_callback(callback, allow_private=self._allow_private, need_tls=self._need_tls)
        query = check_line(query, "query", chars_max=QUERY_CHARS_MAX, chars_min=0)
        named = _event_types(query)
        unknown = {name for name, _ in parse_qsl(query, keep_blank_values=True)} - {"eventType"}
        if (query and not named) or unknown or not set(named) <= set(EVENTS[api]):
            raise Invalid(f"query: eventType=… of {', '.join(EVENTS[api])}; without it, all of them")
        with self._connection.transaction():
            store.lock_listeners(self._connection)
            if len(store.listeners(self._connection)) >= LISTENERS_MAX:
                raise Invalid(f"there are at most {LISTENERS_MAX} listeners: remove one first")
            listener = Listener(
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
            store.add_listener(self._connection, listener)
        return listener, self._secret(listener.listener_id, 1, listener.pepper_version)

    def unsubscribe(self, listener_id: UUID, api: Api | None = None) -> None:
        """Remove a listener; its waiting deliveries are given up. Raises `ListenerNotFound`."""
        with self._connection.transaction():
            found = self.listener(listener_id)
            if api is not None and found.api != api:
                raise ListenerNotFound("there is no such listener")
            store.remove_listener(self._connection, listener_id, self._clock.now())

    def listeners(self) -> list[Listener]:
        """All listeners, oldest first."""
        return [Listener(*row) for row in store.listeners(self._connection)]

    def listener(self, listener_id: UUID) -> Listener:
        """Raises `ListenerNotFound`."""
        found = next((known for known in self.listeners() if known.listener_id == listener_id), None)
        if found is None:
            raise ListenerNotFound("there is no such listener: `tokenworks webhook list` shows them")
        return found

    def rotate(self, listener_id: UUID, overlap: timedelta = OVERLAP_DEFAULT, *, force: bool = False) -> str:
        """Make a new secret and return it; it can't be shown again. During the overlap, deliveries are signed with the former
        secret, too.

        Raises `ListenerNotFound`, `Invalid`, and `Conflict` while an earlier overlap lasts, unless `force` ends that.
        """
        if not timedelta(0) <= overlap <= OVERLAP_MAX:
            raise Invalid(f"an overlap is at most {OVERLAP_MAX.days} days")
        with self._connection.transaction():
            store.lock_listeners(self._connection)
            found = self.listener(listener_id)
            until = found.overlap_until
            if until is not None and self._clock.now() < until and not force:
                raise Conflict(
                    f"the secret was rotated before, and the former one signs until {until:%Y-%m-%d %H:%M} UTC: the receiver may have "
                    "only that one. Rotate again after that time, or with --force, which ends the overlap now"
                )
            version = issuing(self._peppers)
            store.rotate_listener(
                self._connection, listener_id, version, found.pepper_version, self._clock.now() + overlap
            )
        return self._secret(listener_id, found.generation + 1, version)

    def secrets(self, listener: Listener) -> list[bytes]:
        """The secrets that a delivery is signed with now: the listener's, and during an overlap the former one."""
        return [
            self._secret(listener.listener_id, generation, version).encode()
            for generation, version in signing_generations(listener, self._peppers, self._clock.now())
        ]

    def _secret(self, listener_id: UUID, generation: int, version: int) -> str:
        if version not in self._peppers:
            raise Invalid(
                f"pepper-{version} is not in secrets_dir of this host: copy it there, or, if it is retired, rotate the listener's secret"
            )
        text = f"webhook:{listener_id}:{generation}".encode()
        mac = hmac.new(self._peppers[version], text, hashlib.sha256).digest()
        return "whs_" + base64.urlsafe_b64encode(mac).decode().rstrip("=")

    # Events and deliveries.

    def events(self, limit: int) -> list[Event]:
        """Lock the events that are not made into deliveries yet, in order. In the caller's transaction."""
        return [Event(*row) for row in store.lock_events(self._connection, limit)]

    def expand(self, event: Event, bodies: Mapping[UUID, str]) -> None:
        """Make an event into deliveries. `bodies`: by listener."""
        for listener_id, body in bodies.items():
            self._enqueue(listener_id, event.event_id, event.event_type, event.subscriber_id, body)
        store.mark_expanded(self._connection, event.event_id, self._clock.now())

    def enqueue_own(self, event_id: UUID, event_type: str, subscriber_id: UUID, body: str) -> None:
        """Add a delivery to the operator's own webhook, once for an event."""
        self._enqueue(None, event_id, event_type, subscriber_id, body)

    def _enqueue(
        self, listener_id: UUID | None, event_id: UUID, event_type: str, subscriber_id: UUID, body: str
    ) -> None:
        delivery_id = uuid7()
        # A body that is made after the subscriber's erasure names no person: the installation's key is enough.
        key = self._vault.key(subscriber_id) or self._vault.own()
        sealed = key.seal_bytes(_PLACE, delivery_id, body.encode())
        store.add_delivery(
            self._connection, delivery_id, listener_id, event_id, event_type, subscriber_id, sealed, self._clock.now()
        )  # fmt: skip

    def _decrypted(self, rows: Sequence[TupleRow]) -> list[Delivery]:
        """The deliveries of rows, with their bodies decrypted."""
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
        """Lease the deliveries that are due: no other process sends them for a minute. Those with fewer attempts come first, then
        the older ones. `own`: with those of the operator's own webhook. `but`: without those of these listeners.
        """
        now = self._clock.now()
        excluded = [_OWN_WEBHOOK if listener_id is None else listener_id for listener_id in but]
        rows = store.lease_deliveries(self._connection, now, now + LEASE, limit, excluded, own=own)
        return sorted(self._decrypted(rows), key=lambda delivery: (delivery.attempts, delivery.delivery_id))

    def mark_delivered(self, delivery: Delivery, status: int) -> None:
        """Mark a delivery that the listener has accepted, with the HTTP status of its answer."""
        store.end_delivery(
            self._connection, delivery.delivery_id, "delivered_at", self._clock.now(), status, None
        )

    def postpone(self, delivery: Delivery) -> None:
        """Make a delivery that was not tried due again at once."""
        store.postpone(self._connection, delivery.delivery_id, self._clock.now())

    def postpone_after_failure(self, delivery: Delivery) -> None:
        """Make a delivery that was not tried, since another one to its listener failed, due after `FIRST_WAIT`."""
        store.postpone(self._connection, delivery.delivery_id, self._clock.now() + FIRST_WAIT)

    def give_up_removed(self, delivery: Delivery) -> None:
        """Give up a delivery whose listener was removed."""
        store.end_delivery(
            self._connection, delivery.delivery_id, "given_up_at", self._clock.now(), None, store.REMOVED
        )

    def mark_failed(self, delivery: Delivery, status: int | None, error: str) -> None:
        """Make a failed delivery due again after a growing wait, or give it up a day after it was made or replayed. The other
        deliveries of the listener are due after `FIRST_WAIT`, so that a body that the listener never accepts does not block them.
        """
        now, error = self._clock.now(), error[:ERROR_CHARS_MAX]
        wait = min(WAIT_MAX, FIRST_WAIT * 2 ** min(delivery.attempts, 20))
        with self._connection.transaction():
            store.retry_delivery(self._connection, delivery.delivery_id, now, now + wait, status, error)
            store.give_up(self._connection, delivery.listener_id, now - GIVE_UP_AFTER, now, status, error)
            store.postpone_all(self._connection, delivery.listener_id, now + FIRST_WAIT)

    # The log.

    def log(
        self,
        state: Literal["waits", "delivered", "given_up"] | None = None,
        listener_id: UUID | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> tuple[list[Delivery], int]:
        """A page of deliveries, newest first, and the number of all of them."""
        rows, count = store.deliveries(self._connection, state, listener_id, offset, limit)
        return self._decrypted(rows), count

    def replay(self, delivery_id: UUID) -> Delivery:
        """Send a delivered or given-up delivery again: the same bytes under the same id.

        Raises `DeliveryNotFound`, `DeliveryNotDone`.
        """
        with self._connection.transaction():
            row = store.lock_delivery(self._connection, delivery_id)
            if row is None:
                raise DeliveryNotFound("there is no such delivery: `tokenworks webhook log` shows them")
            (found,) = self._decrypted([row])
            if found.listener_id is not None:
                self.listener(found.listener_id)
            if found.state == "waits":
                raise DeliveryNotDone("the delivery is still tried: wait until it is delivered or given up")
            store.replay(self._connection, delivery_id, self._clock.now())
        (replayed,) = self._decrypted([store.delivery(self._connection, delivery_id)])
        return replayed

    def forget(self, subscriber: Subscriber) -> None:
        """Forget a subscriber who is erased, in the erasure's transaction, before its key is destroyed. Deliveries that were sent
        are deleted. Those that wait are encrypted again under the installation's own key, so that they can be sent within a day;
        `forget_old` deletes them after that.
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
        """Give up a delivery that can't be sent at all."""
        store.end_delivery(
            self._connection, delivery.delivery_id, "given_up_at", self._clock.now(), None, error[:ERROR_CHARS_MAX]
        )  # fmt: skip

    def forget_old(self) -> None:
        """Delete what is older than `LOG_KEPT`, and the deliveries of erased subscribers."""
        store.delete_old(self._connection, self._clock.now() - LOG_KEPT)
        store.delete_of_erased(self._connection, None)


def signature(secrets: list[bytes], at_s: int, body: bytes) -> str:
    """`t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>", hex>`, with one `v1` for each valid secret. The receiver checks that
    one of them is right, and that the time is near.
    """
    macs = (hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join((f"t={at_s}", *(f"v1={mac}" for mac in macs)))


def event_content(event: Event, resource: Mapping[str, object] | None, name: str) -> dict[str, object]:
    """An event as a notification of TMF630. `resource`: what the event is about, under `name`; None: only its id."""
    return {
        "eventId": str(event.event_id),
        "eventTime": event.at.isoformat(),
        "eventType": event.event_type,
        "domain": event.api,
        "event": {name: resource or {"id": str(event.ref)}},
    }
