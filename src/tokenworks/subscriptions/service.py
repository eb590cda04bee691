"""Subscribers: who they are, what suspends them, and their end."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import ChargingPolicy, Offerings, Service
from tokenworks.charging import Ledger
from tokenworks.kernel import (
    Clock,
    Invalid,
    check_line,
    check_name,
    is_digits,
    parse_money,
    uuid7,
)
from tokenworks.subscriptions.errors import (
    IdentityKnown,
    NotSuspended,
    PhoneTaken,
    SeveralFound,
    SubscriberNotActive,
    SubscriberNotFound,
)
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import (
    SUSPENSIONS,
    ContractPrice,
    Subscriber,
    Suspension,
    SuspensionCause,
    parse_phone,
)
from tokenworks.subscriptions.orders import price_store, product_store
from tokenworks.subscriptions.orders.eligibility import LIVE_STATES, checked_cause, checked_reason
from tokenworks.subscriptions.orders.service import Orders
from tokenworks.subscriptions.people import people_store, privacy_store, suspension_store
from tokenworks.subscriptions.people.consents import Consents
from tokenworks.subscriptions.people.members import Members
from tokenworks.subscriptions.people.profiles import BROADBAND, check_profile
from tokenworks.trust import TAIL_DIGITS, Document, Identity, PersonVault, checked_id_number

LIST_MAX: Final = 1000
_PROFILE: Final = frozenset(
    {
        "name",
        "audiences",
        "language",
        "broadband",
        "real_name",
        "bill_day",
        "credit_limit_nano",
        "regions",
        "home_region",
    }
)
# Somebody else may have what the subscriber signs in with.
_TAKEN_OVER: Final = frozenset({"lost_phone", "fraud"})
# A Chinese mobile number, as people say it.
_CHINESE_MOBILE = re.compile(r"1[0-9]{10}")
# Of those that a text names, so many are said.
SEVERAL_SHOWN_MAX: Final = 5
_TEXTS: Final = frozenset({"name", "broadband"})


class Subscriptions:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: Connection,
        offerings: Offerings,
        ledger: Ledger,
        clock: Clock,
        orders: Orders,
        members: Members,
        consents: Consents,
        vault: PersonVault,
        identity: Identity,
    ) -> None:
        self._connection = connection
        self._identity = identity
        self._vault = vault
        self._offerings = offerings
        self._ledger = ledger
        self._clock = clock
        self._orders = orders
        self._members = members
        self._consents = consents

    def register(self, phone: str, name: str | None = None, **profile: Any) -> Subscriber:
        """A subscriber, its account and its owner, in one transaction. `profile` is as in `set_profile`.

        Raises `Invalid` or `PhoneTaken`.
        """
        phone = parse_phone(phone)
        profile = {"name": name, **profile}
        check_profile(profile)
        with self._connection.transaction():
            account_id = self._ledger.open_account()
            name = profile.pop("name")
            for many in ("audiences", "regions"):
                if profile.get(many) is not None:
                    profile[many] = tuple(profile[many])
            subscriber = Subscriber(uuid7(), account_id, phone, name, self._clock.now(), **profile)
            if not people_store.add_subscriber(self._vault, subscriber, uuid7()):
                raise PhoneTaken(
                    f"{subscriber.phone_masked} is registered already: `tokenworks subscriber show --phone` finds it"
                )
        return subscriber

    def find(self, text: str) -> Subscriber:
        """The one that a text names: an id, a phone number (with or without +86), its last four digits, a broadband number, a
        name or part of one. Raises `SubscriberNotFound`, `SeveralFound`, `Invalid`.
        """
        found = self.search(text, SEVERAL_SHOWN_MAX + 1)
        if not found:
            raise SubscriberNotFound(
                "there is no such subscriber; one is named by id or phone number, by its last four digits, by broadband number, "
                "or by name: `tokenworks subscriber list` shows them"
            )
        if len(found) > 1:
            several = ", ".join(
                f"{one.subscriber_id} ({one.phone_masked})" for one in found[:SEVERAL_SHOWN_MAX]
            )
            more = " and more" if len(found) > SEVERAL_SHOWN_MAX else ""
            raise SeveralFound(f"this names more than one subscriber: {several}{more}: say which by its id")
        return found[0]

    def find_by_number(self, number: str) -> Subscriber:
        """By phone number (E.164) or broadband number alone, which have one spelling each: what somebody says who is not signed
        in, by which its askings are counted. Raises `SubscriberNotFound`, `Invalid`.
        """
        found = None
        if number.startswith("+"):
            found = people_store.find_subscriber(self._vault, phone=parse_phone(number))
        elif BROADBAND.fullmatch(number):
            found = people_store.find_subscriber(self._vault, broadband=number)
        if found is None:
            raise SubscriberNotFound("there is no such subscriber")
        return found

    def find_exact(self, reference: str) -> Subscriber:
        """By id, phone number (E.164) or broadband number alone. Raises `SubscriberNotFound`, `Invalid`."""
        found = self._exact(reference)
        if found is None:
            raise SubscriberNotFound("there is no such subscriber")
        return found

    def search(self, text: str, limit: int = LIST_MAX) -> list[Subscriber]:
        """All that a text may name, as in `find`, those that are not closed first. Raises `Invalid`."""
        limit = min(limit, LIST_MAX)
        text = check_line(text, "whom to look for")
        exact = self._exact(text)
        if exact is not None:
            return [exact]
        if len(text) == TAIL_DIGITS and is_digits(text):
            found = people_store.subscribers_by_tail(self._vault, text, limit)
        elif text.startswith("+") or _as_uuid(text) is not None:
            return []
        else:
            found = people_store.subscribers_by_name(self._vault, text, limit)
        live = [one for one in found if one.state != "closed"]
        return live or found

    def _exact(self, text: str) -> Subscriber | None:
        if text.startswith("+"):
            return people_store.find_subscriber(self._vault, phone=parse_phone(text))
        if (id_ := _as_uuid(text)) is not None:
            return people_store.find_subscriber(self._vault, subscriber_id=id_)
        if _CHINESE_MOBILE.fullmatch(text):
            found = people_store.find_subscriber(self._vault, phone=f"+86{text}")
            if found is not None:
                return found
        return (
            people_store.find_subscriber(self._vault, broadband=text) if BROADBAND.fullmatch(text) else None
        )

    def subscriber_of(self, ref: str) -> UUID | None:
        """Whom an id of a subscriber, an account, a member, a product, an order or a work order is about."""
        id_ = _as_uuid(ref)
        return None if id_ is None else privacy_store.subscriber_of(self._connection, id_)

    def of_account(self, account_id: UUID) -> Subscriber:
        """Raises `SubscriberNotFound`."""
        found = people_store.find_subscriber(self._vault, account_id=account_id)
        if found is None:
            raise SubscriberNotFound("there is no such account")
        return found

    def all(self, after: UUID | None = None, limit: int = LIST_MAX) -> list[Subscriber]:
        return people_store.subscribers(self._vault, after, min(limit, LIST_MAX))

    def phones(self, subscriber_ids: Sequence[UUID]) -> dict[UUID, str]:
        """Their numbers now; empty of one who was erased."""
        return people_store.phones(self._vault, subscriber_ids)

    def lock(self, subscriber_ids: Sequence[UUID]) -> None:
        """First of all that is locked of a subscriber: then its accounts, then its bills. In the caller's transaction."""
        people_store.lock_subscribers(self._connection, subscriber_ids)

    def owner_of(self, subscriber: Subscriber) -> UUID:
        return people_store.owner_of(self._connection, subscriber.subscriber_id)

    # Who they are.

    def set_profile(self, subscriber: Subscriber, **fields: Any) -> Subscriber:
        """Change what is known of a subscriber: name, audiences, language, broadband, real_name, bill_day,
        credit_limit_nano, regions, home_region. Hosts hear of regions. Raises `Invalid`.
        """
        unknown = set(fields) - _PROFILE
        if unknown:
            raise Invalid(f"a subscriber's {min(unknown)} can't be set")
        check_profile(fields)
        if fields:
            with self._connection.transaction():
                texts = {name: fields.pop(name) for name in _TEXTS & set(fields)}
                if texts and not people_store.set_texts(self._vault, subscriber.subscriber_id, **texts):
                    raise SubscriberNotActive("the person was erased")
                if fields:
                    people_store.set_subscriber(self._connection, subscriber.subscriber_id, **fields)
                if "regions" in fields or "home_region" in fields:
                    self._ledger.tell_account(subscriber.account_id)
        return self.find(str(subscriber.subscriber_id))

    def identify(self, subscriber: Subscriber, document: Document, number: str) -> None:
        """Keep who a subscriber is, as the keyed hash of an identity document's number and nothing else: what one person may have
        so often counts over all of its subscribers, closed ones too. The same document again changes nothing.

        Raises `Invalid`, `SubscriberNotActive`, and `IdentityKnown` where it is another one's.
        """
        hashed = self._vault.lookup.identity(checked_id_number(document, number))
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed")
            known = privacy_store.identity_hash(self._connection, found.subscriber_id)
            if known is not None and known != hashed:
                raise IdentityKnown("the subscriber is identified by another document already")
            people_store.set_subscriber(self._connection, found.subscriber_id, identity_hash=hashed)

    def change_phone(
        self, subscriber: Subscriber, phone: str, reason: Literal["change", "port_in", "port_out"] = "change"
    ) -> Subscriber:
        """Another number for the same subscriber, account, products and keys. Raises `PhoneTaken`, `Invalid`."""
        phone = parse_phone(phone)
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed")
            if phone == found.phone:
                return found
            if people_store.phone_is_taken(self._vault, phone):
                raise PhoneTaken("that number has a subscriber already")
            people_store.add_phone_history(
                self._vault, found.subscriber_id, found.phone, reason, self._clock.now()
            )
            people_store.set_texts(self._vault, found.subscriber_id, phone=phone)
            # Who has the old number next is nobody's member, and nobody goes on with a session that it opened elsewhere.
            moved, left = people_store.move_memberships(self._vault, found.phone, phone)
            self._members.stop_keys(left)
            self._identity.end_sessions_of(moved + left)
            self._identity.end_sessions(found.subscriber_id)
        return self.find(str(subscriber.subscriber_id))

    def set_contract_price(
        self,
        subscriber: Subscriber,
        offering_id: str,
        price: str,
        contract: str,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> None:
        """What a contract says that an offering costs this subscriber, from a time on. Charges that are made stay.

        Raises `OfferingNotFound`, `Invalid`.
        """
        sold = self._offerings.on_sale(offering_id)
        price_nano = parse_money(price).amount_nano
        if sold.offering.kind == "pay_as_you_go" and not price_nano:
            raise Invalid("a step of pay-as-you-go costs more than zero: a plan can be free")
        valid_from = valid_from or self._clock.now()
        if valid_until is not None and valid_until <= valid_from:
            raise Invalid("a contract's price ends after it begins")
        contract = check_name(contract, "a contract's name")
        price_store.set_contract_price(
            self._connection, subscriber.subscriber_id, offering_id, price_nano, valid_from, valid_until,
            contract,
        )  # fmt: skip

    # Suspensions: each has a cause, and is lifted by that cause's own event.

    def set_state(self, subscriber: Subscriber, state: Literal["active", "suspended"]) -> None:
        """What an operator says: suspended by the operator, or that no more. Other causes stay. Saying it again changes nothing.

        Raises `SubscriberNotActive` where the subscriber is closed.
        """
        self._set_cause(subscriber, "operator", holds=state == "suspended", reason=None)

    def suspend(
        self, subscriber: Subscriber, cause: SuspensionCause, reason: str | None = None
    ) -> Subscriber:
        """Suspend for a cause; what that stops is in `SUSPENSIONS`. Where it holds already, nothing changes. With a lost phone, or
        for fraud, all sessions of the number end.

        Raises `SubscriberNotActive` where the subscriber is closed, `Invalid` for `payment`: dunning alone says so.
        """
        with self._connection.transaction():
            self._set_cause(subscriber, checked_cause(cause), holds=True, reason=checked_reason(reason))
            if cause in _TAKEN_OVER:
                elsewhere = people_store.memberships(self._vault, subscriber.phone)
                self._identity.end_sessions(subscriber.subscriber_id)
                self._identity.end_sessions_of([member.member_id for member in elsewhere])
        return self.find(str(subscriber.subscriber_id))

    def lift(self, subscriber: Subscriber, cause: SuspensionCause, reason: str | None = None) -> Subscriber:
        """End what one cause suspended. Where nothing else stops it, the subscriber is served again, and the cycles that waited
        begin now. Raises `NotSuspended`, `SubscriberNotActive`, and `Invalid` for `payment`: only paying lifts that.
        """
        cause = checked_cause(cause)
        if not self._set_cause(subscriber, cause, holds=False, reason=checked_reason(reason)):
            held = ", ".join(self.find(str(subscriber.subscriber_id)).suspended_by) or "nothing"
            raise NotSuspended(f"the subscriber is not suspended by {cause}: what suspends it is {held}")
        return self.find(str(subscriber.subscriber_id))

    def set_dunned(self, subscriber: Subscriber, *, restricted: bool, suspended: bool) -> None:
        """What unpaid bills have come to: nothing more is bought, and, beyond that, suspended by `payment`. Billing alone says
        so; what suspends for other causes stays. Raises `SubscriberNotActive` where the subscriber is closed.
        """
        with self._connection.transaction():
            self._set_cause(subscriber, "payment", holds=suspended, reason=None)
            people_store.set_subscriber(self._connection, subscriber.subscriber_id, restricted=restricted)

    def suspensions(self, subscriber: Subscriber) -> list[Suspension]:
        """Newest first, at most `LIST_MAX`."""
        return suspension_store.suspensions(self._connection, subscriber.subscriber_id, LIST_MAX)

    def _set_cause(
        self, subscriber: Subscriber, cause: SuspensionCause, *, holds: bool, reason: str | None
    ) -> bool:
        """Whether that changed anything. The account is frozen exactly while a cause stops serving."""
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed")
            causes = tuple(c for c in found.suspended_by if c != cause) + ((cause,) if holds else ())
            stopped = any(SUSPENSIONS[c].serving for c in causes)
            state: Literal["active", "suspended"] = "suspended" if stopped else "active"
            changed = holds != (cause in found.suspended_by)
            if changed:
                now = self._clock.now()
                if holds:
                    begun = Suspension(uuid7(), found.subscriber_id, cause, reason, now)
                    suspension_store.begin_suspension(self._connection, begun)
                else:
                    suspension_store.end_suspensions(
                        self._connection, found.subscriber_id, cause, now, reason
                    )
            if changed or state != found.state:
                people_store.set_subscriber(
                    self._connection, found.subscriber_id, state=state, suspended_by=list(causes)
                )
                self._ledger.set_frozen(found.account_id, frozen=state == "suspended")
            now_is = replace(found, state=state, suspended_by=causes)
            if now_is.begins_cycles and not found.begins_cycles:
                self._orders.go_on(now_is)
        return changed

    def notify(self, subscriber_id: UUID, kind: str, ref: str, content: dict[str, Any]) -> bool:
        """Tell a subscriber something, once per kind and ref. False where it was told before, and where it is marketing (its
        kind begins so) that the subscriber has not agreed to.
        """
        if kind.startswith("marketing.") and not self._consents.agrees_to_marketing(subscriber_id):
            return False
        return notice_store.add_notification(
            self._connection, subscriber_id, kind, ref, content, self._clock.now()
        )

    def close(self, subscriber: Subscriber) -> None:
        """The end: every product ends, nothing is granted, keys are unknown, the number is free again, and its memberships in
        other accounts end. What is owed stays owed and comes on a last bill, which the carrier does not collect by the number.
        Raises `SubscriberNotActive` where it is closed.
        """
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed already")
            for act in (self._orders.catch_up, self._orders.cancel):  # what ended with its cycle ends so
                for product in self._orders.products(found):
                    if product.state in LIVE_STATES and product.parent_id is None:
                        act(product.product_id)
            self._orders.drop_to_come(found, "closed")
            suspension_store.end_suspensions(
                self._connection, found.subscriber_id, None, self._clock.now(), "closed"
            )
            people_store.set_subscriber(
                self._connection, found.subscriber_id, state="closed", suspended_by=[], closed_at=self._clock.now()
            )  # fmt: skip
            self._identity.end_sessions(found.subscriber_id)
            # Who has the number next is nobody's member, as with another number.
            left = people_store.end_memberships(self._vault, found.phone)
            self._members.stop_keys(left)
            self._identity.end_sessions_of(left)
            people_store.set_texts(self._vault, found.subscriber_id, broadband=None)
            self._ledger.close_account(found.account_id)

    def has_number(self, subscriber: Subscriber) -> bool:
        """Whether a subscriber's number is its own: a closed one's may be somebody else's by now."""
        if subscriber.state != "closed":
            return True
        return bool(subscriber.phone) and not people_store.phone_is_taken(self._vault, subscriber.phone)

    def change_owner(self, subscriber: Subscriber, name: str | None = None, **profile: Any) -> Subscriber:
        """A number goes to somebody else: its subscriber is closed, with its products, keys and memberships, and the number is
        registered anew, in one transaction. What the old one owes, or is owed, stays its own: a bill does not follow a number to
        another holder. `profile` is as in `register`. Returns the new subscriber. Raises `SubscriberNotActive`, `Invalid`.
        """
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed already")
            self.close(found)
            people_store.add_phone_history(
                self._vault, found.subscriber_id, found.phone, "new_owner", self._clock.now()
            )
            return self.register(found.phone, name, **profile)

    def contract_prices(self, subscriber: Subscriber) -> list[ContractPrice]:
        """By offering and time."""
        return price_store.contract_prices(self._connection, subscriber.subscriber_id)

    def policy(self, account_id: UUID) -> ChargingPolicy:
        """The charging policy of the newest active product, else of the newest one: what it says of the end holds when it is used up."""
        version = product_store.newest_offering_version(self._connection, account_id)
        return ChargingPolicy() if version is None else self._offerings.sold(version).offering.policy

    def service(self, account_id: UUID) -> Service:
        """What the newest active product (else the newest one) promises beside its tokens."""
        version = product_store.newest_offering_version(self._connection, account_id)
        return Service() if version is None else self._offerings.sold(version).offering.service

    def counts_prompts(self, account_id: UUID) -> bool:
        """Whether a plan of the account counts prompts, so that a tool's result has to be told from one."""
        return self._ledger.counts_prompts(account_id)


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
