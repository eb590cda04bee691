"""The outbox of notices, and their deliveries. A cause writes one notice in its own transaction. A job makes it into deliveries, one
for each person and channel; the sender (`app.ports.notice_sender`) leases deliveries, sends them and marks them. A failed delivery is
tried again with growing waits, for a day; then it is failed, with its cause, and staff can send it again.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.kernel import Clock, Conflict, NotFound, check_line, uuid7
from tokenworks.subscriptions.errors import SubscriberNotFound
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.hub.notice_choices import NoticeChoices
from tokenworks.subscriptions.hub.notice_kinds import (
    CHANNELS,
    CONFIRM,
    MARKETING,
    Channel,
    NoticeKind,
    due_from,
    kind_of,
    sms_at,
)
from tokenworks.subscriptions.hub.notice_model import (
    DAY_LIMIT,
    NO_ADDRESS,
    NO_MEMBER,
    NO_PORT,
    NOT_WANTED,
    Notice,
    NoticeDelivery,
    NoticeSkipped,
    NoticeState,
    Outgoing,
    ShownNotice,
    notice_text,
    notice_title,
)
from tokenworks.subscriptions.model import Member, Subscriber
from tokenworks.subscriptions.people.consents import Consents
from tokenworks.subscriptions.people.members import Members
from tokenworks.subscriptions.service import Subscriptions
from tokenworks.texts import Language

LEASE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)
GIVE_UP_AFTER: Final = timedelta(days=1)
ATTEMPTS_MAX: Final = 50
# A notice whose deliveries can't be made, for instance because its content can't be read, is looked at again after this time.
UNREADABLE_WAIT: Final = timedelta(hours=1)
ADMINS_MAX: Final = 20
INVITATIONS_DAY_MAX: Final = 50
UNREAD_MAX: Final = 1000
# Deleted at once, and in one hour: more than a works with a million subscribers writes in it.
OLD_BATCH: Final = 1000
OLD_BATCHES_MAX: Final = 100
ANNOUNCED_BATCH: Final = 1000
SAID_CHARS_MAX: Final = 300
REF_CHARS_MAX: Final = 64

# Channels to an address that the person gave.
_AT_ADDRESS: Final = frozenset[Channel]({"email", "webhook"})


class NoticeNotFound(NotFound):
    """No such notice, or delivery of one."""


class NoticeNotResent(Conflict):
    """The delivery waits or was sent: only a failed or skipped one is sent again."""


class Notices:
    """The outbox, the deliveries and the console's list, on one connection."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        subscriptions: Subscriptions,
        members: Members,
        consents: Consents,
        choices: NoticeChoices,
        days_kept: int,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._subscriptions = subscriptions
        self._members = members
        self._consents = consents
        self._choices = choices
        self._days_kept = days_kept

    # From a notice to deliveries.

    def fan_out(self, limit: int, ports: Collection[Channel]) -> tuple[list[Notice], int]:
        """Make the deliveries of notices that have none, in the caller's transaction. `ports`: the channels that are set up here; a
        delivery by another one is skipped, with its cause. Return the notices of which people are told, and how many were read.
        """
        now = self._clock.now()
        read = [Notice(*row) for row in notice_store.lock_notifications(self._connection, now, limit)]
        told: list[tuple[Notice, NoticeKind, list[UUID]]] = []
        found: list[Notice] = []
        for notice in read:
            if not self._may_be_told(notice):
                notice_store.end_notification(self._connection, notice.notification_id, now, wanted=False)
                continue
            kind = kind_of(notice.kind)
            try:
                # A kind of another release has no text here: only the operator's own webhook gets it.
                people = [] if kind is None else self._people(notice, kind)
                if kind is not None:
                    notice_text(notice.kind, notice.content, "en")
            except (ValueError, AssertionError, KeyError, IndexError, TypeError):
                again = now + UNREADABLE_WAIT
                notice_store.postpone_notification(self._connection, notice.notification_id, again)
                continue
            found.append(notice)
            if kind is not None:
                told.append((notice, kind, people))
            notice_store.end_notification(self._connection, notice.notification_id, now, wanted=True)
        notice_store.add_deliveries(self._connection, self._rows(told, ports, now))
        return found, len(read)

    def _may_be_told(self, notice: Notice) -> bool:
        """False for marketing that the subscriber does not agree to when it is sent."""
        return not notice.kind.startswith(f"{MARKETING}.") or self._consents.agrees_to_marketing(
            notice.subscriber_id
        )

    def _people(self, notice: Notice, kind: NoticeKind) -> list[UUID]:
        """The ids of the persons who are told. Raises `ValueError` if the notice does not name its person."""
        if kind.to in {"member", "invited"}:
            return [UUID(str(notice.content.get("person_id")))]
        admins = (
            notice_store.admins(self._connection, notice.subscriber_id, ADMINS_MAX)
            if kind.to == "managers"
            else []
        )
        return [notice.subscriber_id, *admins]

    def _rows(
        self,
        told: Sequence[tuple[Notice, NoticeKind, list[UUID]]],
        ports: Collection[Channel],
        now: datetime,
    ) -> list[tuple[object, ...]]:
        """The rows of deliveries."""
        people = list({person_id for _, _, persons in told for person_id in persons})
        chosen = self._choices.chosen(people)
        has = self._choices.channels(people)
        since = now - timedelta(days=1)
        counts = self._day_counts(people, since)
        invited: dict[UUID, int] = {}
        rows: list[tuple[object, ...]] = []
        for notice, kind, persons in told:
            for person_id in persons:
                for channel in kind.channels:
                    chosen_here = chosen.get((person_id, kind.name, channel))
                    if not kind.wants(channel, chosen_here) or (
                        channel in _AT_ADDRESS
                        and kind.name != CONFIRM
                        and channel not in has.get(person_id, ())
                    ):
                        continue
                    place = (person_id, kind.name, channel)
                    counts[place] = counts.get(place, 0) + 1
                    cause = self._not_sent(kind, channel, counts[place], ports)
                    if (
                        cause is None
                        and kind.to == "invited"
                        and not self._may_invite(notice, invited, since)
                    ):
                        cause = DAY_LIMIT
                    state = "sent" if channel == "console" else "waits"
                    if cause is not None:
                        state = "skipped"
                    begun_at = sms_at(kind, now) if channel == "sms" else now
                    next_at = due_from(kind, begun_at)
                    ended_at = None if state == "waits" else now
                    rows.append(
                        (uuid7(), notice.notification_id, notice.subscriber_id, person_id, notice.kind, channel, state, cause,
                         now, begun_at, next_at, ended_at)
                    )  # fmt: skip
        return rows

    def _day_counts(self, person_ids: Sequence[UUID], since: datetime) -> dict[tuple[UUID, str, str], int]:
        """(person, kind, channel) -> deliveries since an instant that were not skipped; all campaigns are one kind."""
        counts: dict[tuple[UUID, str, str], int] = {}
        for (person_id, name, channel), count in notice_store.day_counts(
            self._connection, person_ids, since
        ).items():
            kind = kind_of(name)
            place = (person_id, name if kind is None else kind.name, channel)
            counts[place] = counts.get(place, 0) + count
        return counts

    def _may_invite(self, notice: Notice, invited: dict[UUID, int], since: datetime) -> bool:
        """False if the account has sent all invitations of a day. `invited`: by account, those of the day with those of this batch."""
        account = notice.subscriber_id
        if account not in invited:
            invited[account] = notice_store.invited_count(self._connection, account, notice.kind, since)
        invited[account] += 1
        return invited[account] <= INVITATIONS_DAY_MAX

    def _not_sent(
        self, kind: NoticeKind, channel: Channel, count: int, ports: Collection[Channel]
    ) -> str | None:
        """Why a delivery is skipped; None if it is made. `count`: this person's of the kind by the channel in a day, with this one."""
        if channel != "console" and channel not in ports:
            return NO_PORT
        if channel in kind.required and kind.to != "member":
            return None  # its causes are bounded: a bill, a step of dunning
        return DAY_LIMIT if count > kind.day_max else None

    # From a delivery to a message.

    def lease(self, channels: Collection[Channel], limit: int) -> list[NoticeDelivery]:
        """Lease the deliveries that are due, urgent ones first, then oldest first: no other process sends them for a minute."""
        now = self._clock.now()
        rows = notice_store.lease(self._connection, list(channels), now, now + LEASE, limit)
        return sorted((NoticeDelivery(*row) for row in rows), key=_turn_of)

    def message(self, delivery: NoticeDelivery) -> Outgoing:
        """What a delivery says now. Raises `NoticeSkipped` if the person is gone, has no address, or no longer wants it."""
        try:
            subscriber = self._subscriptions.find_exact(str(delivery.subscriber_id))
        except SubscriberNotFound:
            raise NoticeSkipped(NO_MEMBER) from None
        kind = kind_of(delivery.kind)
        if kind is None:
            raise NoticeSkipped(NOT_WANTED)
        member = self._member(delivery, kind)
        chosen = self._choices.chosen([delivery.person_id])
        wanted = kind.wants(delivery.channel, chosen.get((delivery.person_id, kind.name, delivery.channel)))
        if not wanted or (
            kind.name == MARKETING and not self._consents.agrees_to_marketing(subscriber.subscriber_id)
        ):
            raise NoticeSkipped(NOT_WANTED)
        language: Language = subscriber.language
        title = notice_title(delivery.kind, language)
        text = notice_text(delivery.kind, delivery.content or {}, language)
        if delivery.channel == "sms":
            return Outgoing(self._phone(subscriber, member), title, text, language)
        address = self._choices.address(delivery.person_id, delivery.channel)
        if address is None:
            raise NoticeSkipped(NO_ADDRESS)
        if delivery.channel == "webhook":
            return Outgoing(
                address.address, title, text, language, tuple(self._choices.signing_secrets(address))
            )
        if kind.name == CONFIRM:
            if delivery.content is None or delivery.content.get("address_id") != str(address.address_id):
                raise NoticeSkipped(NO_ADDRESS)
            return Outgoing(address.address, title, text, language, token=self._choices.confirmation(address))
        if address.confirmed_at is None:
            raise NoticeSkipped(NO_ADDRESS)
        token = self._choices.unsubscription(address, kind)
        return Outgoing(address.address, title, text, language, token=token)

    def _member(self, delivery: NoticeDelivery, kind: NoticeKind) -> Member | None:
        """The member who gets a delivery; None for the owner."""
        if delivery.person_id == delivery.subscriber_id:
            return None
        member = self._members.by_id(delivery.person_id)
        state = "invited" if kind.to == "invited" else "active"
        if member is None or member.subscriber_id != delivery.subscriber_id or member.state != state:
            raise NoticeSkipped(NO_MEMBER)
        if kind.to == "managers" and member.role != "admin":
            raise NoticeSkipped(NO_MEMBER)
        return member

    def _phone(self, subscriber: Subscriber, member: Member | None) -> str:
        phone = member.phone if member is not None else subscriber.phone
        if not phone or (member is None and not self._subscriptions.has_number(subscriber)):
            raise NoticeSkipped(NO_ADDRESS)
        return phone

    # The end of a delivery.

    def mark_sent(self, delivery: NoticeDelivery) -> None:
        """Mark a delivery that its receiver has accepted."""
        self._end(delivery, "sent", None)

    def mark_skipped(self, delivery: NoticeDelivery, cause: str) -> None:
        """Mark a delivery that must not be sent."""
        self._end(delivery, "skipped", cause)

    def mark_failed(self, delivery: NoticeDelivery, cause: str, *, for_good: bool = False) -> None:
        """Make a failed delivery due again after a growing wait, or end it: after a day, after `ATTEMPTS_MAX` attempts, or
        (`for_good`) if the receiver will never take it. `cause`: a code, without an address.
        """
        now = self._clock.now()
        if for_good or now - delivery.begun_at >= GIVE_UP_AFTER or delivery.attempts >= ATTEMPTS_MAX:
            self._end(delivery, "failed", cause)
            return
        notice_store.retry(
            self._connection, delivery.delivery_id, delivery.attempts, now + _wait(delivery), cause
        )

    def postpone(self, delivery: NoticeDelivery) -> None:
        """Make a delivery that was leased and not tried due again after `FIRST_WAIT`."""
        notice_store.postpone(
            self._connection, delivery.delivery_id, delivery.attempts, self._clock.now() + FIRST_WAIT
        )

    def skip_without_port(self, ports: Collection[Channel]) -> None:
        """Skip deliveries that have waited for `GIVE_UP_AFTER` for a channel that is not set up any more: nothing else ends them, and
        their notices would be kept for ever.
        """
        now = self._clock.now()
        gone = [channel for channel in CHANNELS if channel != "console" and channel not in ports]
        notice_store.end_waiting(self._connection, gone, NO_PORT, now - GIVE_UP_AFTER, now)

    def _end(self, delivery: NoticeDelivery, state: NoticeState, cause: str | None) -> None:
        notice_store.end(
            self._connection, delivery.delivery_id, delivery.attempts, state, cause, self._clock.now()
        )

    # For staff.

    def log(
        self,
        subscriber: Subscriber | None = None,
        state: NoticeState | None = None,
        channel: Channel | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> tuple[list[NoticeDelivery], int]:
        """A page of deliveries, newest first, and the number of all of them."""
        subscriber_id = None if subscriber is None else subscriber.subscriber_id
        rows, count = notice_store.deliveries(self._connection, subscriber_id, state, channel, offset, limit)
        return [NoticeDelivery(*row) for row in rows], count

    def delivery(self, delivery_id: UUID) -> NoticeDelivery:
        """A delivery, locked in the caller's transaction. Raises `NoticeNotFound`."""
        row = notice_store.lock_delivery(self._connection, delivery_id)
        if row is None:
            raise NoticeNotFound("there is no such delivery: `tokenworks notice list` shows them")
        return NoticeDelivery(*row)

    def resend(self, delivery_id: UUID) -> NoticeDelivery:
        """Send a failed or skipped delivery again. Raises `NoticeNotFound`, `NoticeNotResent`."""
        with self._connection.transaction():
            found = self.delivery(delivery_id)
            if found.state not in {"failed", "skipped"} or found.channel == "console":
                raise NoticeNotResent(f"the delivery is {found.state}: a failed or skipped one is sent again")
            notice_store.resend(self._connection, delivery_id, self._clock.now())
            return self.delivery(delivery_id)

    def announce(self, subscriber_ids: Sequence[UUID], ref: str, said: str, said_zh: str) -> int:
        """Tell subscribers of an incident, each of them once for a `ref`: how many were not told before. `said`, `said_zh`: the text in
        both languages; it names no person. Raises `Invalid`.
        """
        said = check_line(said, "the English text", chars_max=SAID_CHARS_MAX)
        said_zh = check_line(said_zh, "the Chinese text", chars_max=SAID_CHARS_MAX)
        ref = check_line(ref, "ref", chars_max=REF_CHARS_MAX)
        content, now = {"said": said, "said_zh": said_zh}, self._clock.now()
        with self._connection.transaction():
            return notice_store.add_notifications(
                self._connection, "incident", [(id_, ref, content) for id_ in subscriber_ids], now
            )

    def subscribers_after(self, last_id: UUID | None) -> list[UUID]:
        """The next `ANNOUNCED_BATCH` subscribers that are not closed, by id."""
        return notice_store.live_subscribers(self._connection, last_id or UUID(int=0), ANNOUNCED_BATCH)

    def standing(self) -> list[tuple[Channel, int, int]]:
        """(channel, age in seconds of the oldest delivery that is due, deliveries that failed in the last day) for each channel that
        sends.
        """
        now = self._clock.now()
        return [
            (row[0], int(row[1]), int(row[2]))
            for row in notice_store.standing(self._connection, now, now - timedelta(days=1))
        ]

    # The console.

    def shown(
        self,
        subscriber: Subscriber,
        person_id: UUID,
        *,
        unread: bool = False,
        offset: int = 0,
        limit: int = 20,
    ) -> tuple[list[ShownNotice], int]:
        """A page of a person's notices, newest first, and the number of all of them."""
        rows, count = notice_store.shown(
            self._connection, person_id, unread=unread, offset=offset, limit=limit
        )
        return [_shown(row, subscriber.language) for row in rows], count

    def unread(self, person_id: UUID) -> int:
        """The number of a person's unread notices, counted up to `UNREAD_MAX`."""
        return notice_store.unread(self._connection, person_id, UNREAD_MAX)

    def mark_read(self, person_id: UUID, notice_id: UUID, *, read: bool) -> None:
        """Mark a notice as read or unread. Raises `NoticeNotFound` if it is another person's."""
        at = self._clock.now() if read else None
        if not notice_store.mark_read(self._connection, person_id, notice_id, at):
            raise NoticeNotFound("there is no such notice")

    def mark_all_read(self, person_id: UUID, last_id: UUID) -> int:
        """Mark a person's notices as read, up to the newest one that it has seen. Return how many."""
        return notice_store.mark_all_read(self._connection, person_id, last_id, self._clock.now())

    # Retention and erasure.

    def forget_old(self) -> int:
        """Delete notices that are older than `notice_days`, with their deliveries, in at most `OLD_BATCHES_MAX` batches. Return how many."""
        before = self._clock.now() - timedelta(days=self._days_kept)
        self._choices.forget_old()
        total = 0
        for _ in range(OLD_BATCHES_MAX):
            gone = notice_store.delete_old(self._connection, before, OLD_BATCH)
            total += gone
            if gone < OLD_BATCH:
                break
        return total

    def forget(self, subscriber: Subscriber) -> None:
        """Forget a subscriber who is erased, and its members, in the erasure's transaction: no notice is sent any more."""
        notice_store.forget(self._connection, subscriber.subscriber_id, None, self._clock.now())
        self._choices.forget(subscriber.subscriber_id, None)

    def forget_member(self, member_id: UUID) -> None:
        """Forget a member who is erased, in the erasure's transaction."""
        notice_store.forget(self._connection, None, member_id, self._clock.now())
        self._choices.forget(None, member_id)

    def export_of_member(self, member: Member) -> dict[str, object]:
        """A member's own notices, choices and addresses, for its export."""
        subscriber = self._subscriptions.find_exact(str(member.subscriber_id))
        found, _ = self.shown(subscriber, member.member_id, limit=UNREAD_MAX)
        return {
            "notices": [
                {"kind": notice.kind, "text": notice.text, "at": notice.created_at, "read_at": notice.read_at}
                for notice in found
            ],
            **self._choices.export(member.member_id),
        }


def _shown(row: TupleRow, language: Language) -> ShownNotice:
    found = NoticeDelivery(*row)
    return ShownNotice(
        found.delivery_id,
        found.kind,
        notice_title(found.kind, language),
        notice_text(found.kind, found.content or {}, language),
        found.ref,
        found.created_at,
        found.read_at,
    )


def _turn_of(delivery: NoticeDelivery) -> tuple[datetime, UUID]:
    return due_from(kind_of(delivery.kind), delivery.begun_at), delivery.delivery_id


def _wait(delivery: NoticeDelivery) -> timedelta:
    """The wait before the next attempt: it doubles, and is up to a quarter longer by the id, so that deliveries that failed together
    are not all tried at one moment.
    """
    wait: timedelta = min(WAIT_MAX, FIRST_WAIT * 2 ** min(delivery.attempts, 20))
    return wait * (1 + delivery.delivery_id.int % 1000 / 4000)
