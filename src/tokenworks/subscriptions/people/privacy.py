"""Real names and a person's rights: the carrier's real-name check, the export and the erasure of a subscriber."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol
from uuid import UUID

from psycopg import Connection

from tokenworks.charging import Charges
from tokenworks.kernel import Clock, check_line, uuid7
from tokenworks.subscriptions.errors import RealNameRefused, SubscriberNotActive, SubscriberNotFound
from tokenworks.subscriptions.model import PrivacyRules, Subscriber
from tokenworks.subscriptions.orders import work_store
from tokenworks.subscriptions.people import people_store, privacy_store
from tokenworks.subscriptions.people.export_store import export
from tokenworks.subscriptions.people.member_rights import MemberRights
from tokenworks.subscriptions.service import Subscriptions
from tokenworks.trust import Identity, Keys, PersonVault, normal_id_number

RealNameAnswer = Literal["verified", "pending", "refused"]
# Checks of one subscriber in a day: they limit guesses of a document's number.
CHECKS_A_DAY_MAX: Final = 5
ERASURES_BATCH: Final = 100
FEN_NANO: Final = 10_000_000


class RealNameCheck(Protocol):
    """The port of the carrier's real-name check."""

    def __call__(self, phone: str, name: str, id_number: str) -> RealNameAnswer:
        """Check that the document's number and the name are those of the phone number's holder. Raises `Unavailable`."""
        ...


# What an erasure waits for: a debt or a credit needs a person, and an open work order needs the person's number.
WaitsFor = Literal["owed", "work_orders"]


@dataclass(frozen=True, slots=True)
class Erasure:
    """The result of a request for erasure: erased, or waiting until nothing is open."""

    subscriber_id: UUID
    state: Literal["erased", "waiting"]
    owes_nano: int
    # When the last backup that has the person's key is deleted; None while the erasure waits.
    backups_forget_at: datetime | None
    identity_kept_until: datetime | None = None
    waits_for: tuple[WaitsFor, ...] = ()


class Privacy:
    """Checks real names, exports and erases subscribers, on one connection."""

    def __init__(
        self,
        connection: Connection,
        vault: PersonVault,
        subscriptions: Subscriptions,
        charges: Charges,
        keys: Keys,
        identity: Identity,
        clock: Clock,
        rules: PrivacyRules,
        backup_days: int,
        real_name_check: Callable[[], RealNameCheck],
        members: MemberRights,
        forget: Sequence[Callable[[Subscriber], None]] = (),
    ) -> None:
        """`forget`: what other rooms do in the transaction of an erasure. `members`: the rights of members."""
        self.members = members
        self._connection = connection
        self._vault = vault
        self._subscriptions = subscriptions
        self._charges = charges
        self._keys = keys
        self._identity = identity
        self._clock = clock
        self._rules = rules
        self._backup_days = backup_days
        self._real_name_check = real_name_check
        self._forget = forget

    # Real names.

    def check_real_name(self, subscriber: Subscriber, name: str, id_number: str) -> Subscriber:
        """Ask the carrier if the name and the document's number are those of the phone number's holder.

        Of the document's number, only a keyed hash is stored, so that limits hold for a person and not for a phone number. Raises
        `Invalid`, `RealNameRefused` after too many checks or for another identity, `SubscriberNotActive`, `Unavailable`.
        """
        name = check_line(name, "a name")
        number = normal_id_number(id_number)
        hashed = self._vault.lookup.identity(number)
        now = self._clock.now()
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed")
            known = privacy_store.identity_hash(self._connection, found.subscriber_id)
            if found.real_name == "verified" and known is not None and known != hashed:
                raise RealNameRefused(
                    "the number is verified for another identity: only the operator may change the owner"
                )
            checks = privacy_store.real_name_checks(
                self._connection, found.subscriber_id, now - timedelta(days=1)
            )
            if checks >= CHECKS_A_DAY_MAX:
                raise RealNameRefused("the real name was checked too often today: try again tomorrow")
            check_id = uuid7()
            privacy_store.add_real_name_check(self._connection, check_id, found.subscriber_id, now)
        # Outside of the transaction: the answer of the carrier's system may take seconds.
        state = self._real_name_check()(found.phone, name, number)
        with self._connection.transaction():
            current = people_store.lock_subscriber(self._vault, found.subscriber_id)
            privacy_store.end_real_name_check(self._connection, check_id, state)
            if current is None or current.state == "closed":
                raise SubscriberNotActive("the subscriber is closed")
            if state == "pending" and current.real_name == "verified":
                state = "verified"  # an earlier check verified the name
            fields: dict[str, object] = {"real_name": state}
            # A number that is not verified may be another person's, whose limits it would use up.
            if state == "verified":
                fields["identity_hash"] = hashed
            people_store.set_subscriber(self._connection, found.subscriber_id, **fields)
            if state == "verified" and found.name is None:
                people_store.set_texts(self._vault, found.subscriber_id, name=name)
        return self._subscriptions.find_exact(str(found.subscriber_id))

    def same_person(self, subscriber: Subscriber) -> list[UUID]:
        """The ids of all subscribers with the same identity, this one, closed and erased ones included; this one alone if it has
        no identity.
        """
        return privacy_store.same_identity(self._connection, subscriber.subscriber_id)

    # Export.

    def export(self, subscriber: Subscriber) -> Iterator[bytes]:
        """All that is stored of the person, as JSON in pieces: its rows of every table, with its texts decrypted."""
        # A closed subscriber's numbers may have a new holder, to whom the codes of these numbers belong.
        numbers = (subscriber.phone, subscriber.broadband) if subscriber.state != "closed" else ()
        codes = [code for identifier in numbers if identifier for code in self._identity.codes_of(identifier)]
        more: dict[str, object] = {
            "backup_days": self._backup_days,
            "identity_hash_days": self._rules.identity_hash_days,
            "sign_in_codes": codes,
        }
        return export(self._connection, self._vault, subscriber, self._clock.now(), more)

    # Erasure.

    def erase(self, subscriber: Subscriber, *, even_if_owed: bool = False, dry_run: bool = False) -> Erasure:
        """Close the subscriber, end its sessions and API keys, and destroy the keys that encrypt its personal texts.

        While there is a debt or a credit, the subscriber is closed at once, and a job erases it when that is settled.
        `even_if_owed`: do not wait for that; the debt can't be collected then. The erasure always waits for open work orders,
        since the delivering system needs the person's number to withdraw a delivery. Bills, charges and postings stay, without
        the person's texts. A repeated call changes nothing.
        """
        with self._connection.transaction(force_rollback=dry_run):
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            assert found is not None
            if found.state != "closed":
                # Its memberships in other accounts are found by its number, which belongs to it until it is closed.
                memberships = people_store.memberships(self._vault, found.phone)
                elsewhere = [m.member_id for m in memberships]
                self._subscriptions.close(found)
                privacy_store.forget_members(self._connection, elsewhere)
                self._keys.forget_names(found.account_id, elsewhere)
                self._identity.forget_places(found.subscriber_id, elsewhere)
                for member in memberships:
                    self.members.forget_answers(member)
                self._vault.destroy(elsewhere)
            self._identity.end_sessions(found.subscriber_id)
            self._identity.forget_places(found.subscriber_id)
            owes_nano = self._charges.receivable(found.account_id)
            now = self._clock.now()
            gives_up = even_if_owed or privacy_store.gives_up(self._connection, found.subscriber_id)
            waits_for = self._waits_for(found, gives_up=gives_up)
            if waits_for:
                people_store.set_subscriber(
                    self._connection, found.subscriber_id, erasure_asked_at=now, erasure_gives_up=gives_up
                )
                return Erasure(found.subscriber_id, "waiting", owes_nano, None, waits_for=waits_for)
            days = self._rules.identity_hash_days
            until = now + timedelta(days=days) if days else None
            people = privacy_store.people_of(self._connection, found.subscriber_id)
            for member_id in people[1:]:
                for key_id in self._keys.of_member(member_id):
                    self._keys.revoke(key_id)
            if found.phone and self._subscriptions.has_number(found):
                self._identity.forget_identifier(found.phone)
            if found.broadband:
                self._identity.forget_identifier(found.broadband)
            self._keys.forget_names(found.account_id)
            privacy_store.forget_person(self._connection, found.subscriber_id, people, now, until)
            for forget in self._forget:
                forget(found)
            self._vault.destroy(people)
        return Erasure(
            found.subscriber_id, "erased", owes_nano, now + timedelta(days=self._backup_days),
            until if privacy_store.identity_hash(self._connection, found.subscriber_id) else None,
        )  # fmt: skip

    def _waits_for(self, found: Subscriber, *, gives_up: bool) -> tuple[WaitsFor, ...]:
        owed = not gives_up and abs(self._charges.receivable(found.account_id)) >= FEN_NANO
        services = work_store.any_open(self._connection, found.subscriber_id)
        open_: tuple[tuple[WaitsFor, bool], ...] = (("owed", owed), ("work_orders", services))
        return tuple(what for what, is_open in open_ if is_open)

    def erased(self) -> Iterator[UUID]:
        """The ids of all erased subscribers, in order."""
        after = UUID(int=0)
        while page := privacy_store.erased(self._connection, after, ERASURES_BATCH):
            yield from page
            after = page[-1]

    def erase_again(self, subscriber_id: str) -> bool:
        """Erase a subscriber that a restored backup brought back. Return False if the backup does not have it, or it is erased in
        the backup, too.
        """
        try:
            found = self._subscriptions.find_exact(subscriber_id)
        except SubscriberNotFound:
            return False
        if self._vault.key(found.subscriber_id) is None:
            return False
        return self.erase(found, even_if_owed=True).state == "erased"

    def run_erasures(self) -> int:
        """Erase the subscribers whose erasure waits for nothing any more, and delete identity hashes whose time is over. Return
        the number of erased subscribers.
        """
        privacy_store.forget_identities(self._connection, self._clock.now())
        done, after = 0, UUID(int=0)
        # Each page continues after the last id, so that erasures that must still wait do not block others.
        while page := privacy_store.erasures_asked(self._connection, after, ERASURES_BATCH):
            for subscriber_id, gives_up in page:
                with self._connection.transaction():
                    found = people_store.find_subscriber(self._vault, subscriber_id=subscriber_id)
                    assert found is not None
                    if not self._waits_for(found, gives_up=gives_up):
                        done += self.erase(found).state == "erased"
            after = page[-1][0]
        return done
