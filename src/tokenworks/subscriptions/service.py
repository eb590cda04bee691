"""Subscribers: registration, search, profile, suspensions, and closing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, Unpack
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
    Profile,
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
from tokenworks.subscriptions.people.profiles import BROADBAND, check_profile, checked_name
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
# Causes with which another person may hold the phone that the subscriber signs in with.
_PHONE_COMPROMISED: Final = frozenset({"lost_phone", "fraud"})
# A Chinese mobile number without its country code.
_CHINESE_MOBILE = re.compile(r"1[0-9]{10}")
# The error for an ambiguous search names this many subscribers at most.
SEVERAL_SHOWN_MAX: Final = 5
# The fields of a profile that are encrypted.
_TEXTS: Final = ("name", "broadband")


class Subscriptions:
    """Registers, finds, changes, suspends and closes subscribers, on one connection."""

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

    def register(self, phone: str, name: str | None = None, **profile: Unpack[Profile]) -> Subscriber:
        """Add a subscriber, its account and its owner, in one transaction.

        Raises `Invalid` or `PhoneTaken`.
        """
        phone = parse_phone(phone)
        check_profile({"name": name, **profile})
        audiences, regions = profile.get("audiences"), profile.get("regions")
        with self._connection.transaction():
            account_id = self._ledger.open_account()
            subscriber = Subscriber(
                uuid7(),
                account_id,
                phone,
                checked_name(name),
                self._clock.now(),
                audiences=None if audiences is None else tuple(audiences),
                language=profile.get("language", "zh"),
                broadband=profile.get("broadband"),
                real_name=profile.get("real_name", "unknown"),
                bill_day=profile.get("bill_day", 1),
                credit_limit_nano=profile.get("credit_limit_nano"),
                regions=None if regions is None else tuple(regions),
                home_region=profile.get("home_region"),
            )
            if not people_store.add_subscriber(self._vault, subscriber, uuid7()):
                raise PhoneTaken(
                    f"{subscriber.phone_masked} is registered already: `tokenworks subscriber show --phone` finds it"
                )
        return subscriber

    def find(self, text: str) -> Subscriber:
        """The only subscriber that a text names. The text is an id, a phone number (with or without +86), its last four digits, a
        broadband number, a name or a part of a name. Raises `SubscriberNotFound`, `SeveralFound`, `Invalid`.
        """
        found = self.search(text, SEVERAL_SHOWN_MAX + 1)
        if not found:
            raise SubscriberNotFound(
                "there is no such subscriber: search by id or phone number, by its last four digits, by broadband number or by name; "
                "`tokenworks subscriber list` shows all subscribers"
            )
        if len(found) > 1:
            several = ", ".join(
                f"{match.subscriber_id} ({match.phone_masked})" for match in found[:SEVERAL_SHOWN_MAX]
            )
            more = " and more" if len(found) > SEVERAL_SHOWN_MAX else ""
            raise SeveralFound(
                f"this names more than one subscriber: {several}{more}: use the id of one of them"
            )
        return found[0]

    def find_by_number(self, number: str) -> Subscriber:
        """The subscriber with this phone number (E.164) or broadband number. Sign-in uses this search, since both numbers have
        one spelling each, by which its requests are counted. Raises `SubscriberNotFound`, `Invalid`.
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
        """The subscriber with this id, phone number (E.164) or broadband number. Raises `SubscriberNotFound`, `Invalid`."""
        found = self._exact(reference)
        if found is None:
            raise SubscriberNotFound("there is no such subscriber")
        return found

    def search(self, text: str, limit: int = LIST_MAX) -> list[Subscriber]:
        """The subscribers that a text may name, as in `find`: those that are not closed, or else the closed ones. Raises
        `Invalid`.
        """
        limit = min(limit, LIST_MAX)
        text = check_line(text, "the search text")
        exact = self._exact(text)
        if exact is not None:
            return [exact]
        if len(text) == TAIL_DIGITS and is_digits(text):
            found = people_store.subscribers_by_tail(self._vault, text, limit)
        elif text.startswith("+") or _as_uuid(text) is not None:
            return []
        else:
            found = people_store.subscribers_by_name(self._vault, text, limit)
        live = [subscriber for subscriber in found if subscriber.state != "closed"]
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
        """The subscriber of the subscriber, account, member, product, order or work order with this id."""
        id_ = _as_uuid(ref)
        return None if id_ is None else privacy_store.subscriber_of(self._connection, id_)

    def of_account(self, account_id: UUID) -> Subscriber:
        """The subscriber of an account. Raises `SubscriberNotFound`."""
        found = people_store.find_subscriber(self._vault, account_id=account_id)
        if found is None:
            raise SubscriberNotFound("there is no such account")
        return found

    def all(self, after: UUID | None = None, limit: int = LIST_MAX) -> list[Subscriber]:
        return people_store.subscribers(self._vault, after, min(limit, LIST_MAX))

    def phones(self, subscriber_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The phone numbers of subscribers; empty for an erased one."""
        return people_store.phones(self._vault, subscriber_ids)

    def lock(self, subscriber_ids: Sequence[UUID]) -> None:
        """Lock subscribers in the caller's transaction. A subscriber is locked first, then its account, then its bills."""
        people_store.lock_subscribers(self._connection, subscriber_ids)

    def owner_of(self, subscriber: Subscriber) -> UUID:
        return people_store.owner_of(self._connection, subscriber.subscriber_id)

    # Profile and identity.

    def set_profile(self, subscriber: Subscriber, **fields: object) -> Subscriber:
        """Change what is known of a subscriber: name, audiences, language, broadband, real_name, bill_day,
        credit_limit_nano, regions, home_region. A change of regions is sent to all hosts. Raises `Invalid`.
        """
        unknown = set(fields) - _PROFILE
        if unknown:
            raise Invalid(f"a subscriber's {min(unknown)} can't be set")
        check_profile(fields)
        if fields:
            with self._connection.transaction():
                texts: dict[str, str | None] = {}
                for name in _TEXTS:
                    if name in fields:
                        text = fields.pop(name)
                        assert text is None or isinstance(text, str)
                        texts[name] = text
                if texts and not people_store.set_texts(self._vault, subscriber.subscriber_id, **texts):
                    raise SubscriberNotActive("the person was erased")
                if fields:
                    people_store.set_subscriber(self._connection, subscriber.subscriber_id, **fields)
                if "regions" in fields or "home_region" in fields:
                    self._ledger.notify_hosts(subscriber.account_id)
        return self.find(str(subscriber.subscriber_id))

    def identify(self, subscriber: Subscriber, document: Document, number: str) -> None:
        """Store the keyed hash of a subscriber's identity document, and nothing else of it. With the hash, limits per person
        count over all subscribers of the person, closed ones too. The same document again changes nothing.

        Raises `Invalid`, `SubscriberNotActive`, and `IdentityKnown` if another document is known.
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
        """Change the number of a subscriber; account, products and keys stay. Raises `PhoneTaken`, `SubscriberNotActive`,
        `Invalid`.
        """
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
            # The next holder of the old number must not have its memberships, or a session of it in another account.
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
        """Set a contract's price of an offering for this subscriber, from a time on. Charges that were made stay as they are.

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

    # Suspensions: each has a cause, and only an event of that cause lifts it.

    def set_state(self, subscriber: Subscriber, state: Literal["active", "suspended"]) -> None:
        """Begin or end the suspension by the operator; suspensions of other causes stay. A repeated call changes nothing.

        Raises `SubscriberNotActive` if the subscriber is closed.
        """
        self._set_cause(subscriber, "operator", holds=state == "suspended", reason=None)

    def suspend(
        self, subscriber: Subscriber, cause: SuspensionCause, reason: str | None = None
    ) -> Subscriber:
        """Suspend for a cause; `SUSPENSIONS` says what that stops. A cause that suspends already changes nothing. For a lost
        phone and for fraud, all sessions of the number end.

        Raises `SubscriberNotActive` if the subscriber is closed, and `Invalid` for `payment`, which dunning alone sets.
        """
        with self._connection.transaction():
            self._set_cause(subscriber, checked_cause(cause), holds=True, reason=checked_reason(reason))
            if cause in _PHONE_COMPROMISED:
                elsewhere = people_store.memberships(self._vault, subscriber.phone)
                self._identity.end_sessions(subscriber.subscriber_id)
                self._identity.end_sessions_of([member.member_id for member in elsewhere])
        return self.find(str(subscriber.subscriber_id))

    def lift(self, subscriber: Subscriber, cause: SuspensionCause, reason: str | None = None) -> Subscriber:
        """End the suspension of one cause. If no other cause stops that, the subscriber is served again, and the cycles that
        waited begin now. Raises `NotSuspended`, `SubscriberNotActive`, and `Invalid` for `payment`, which a payment alone lifts.
        """
        cause = checked_cause(cause)
        if not self._set_cause(subscriber, cause, holds=False, reason=checked_reason(reason)):
            causes = ", ".join(self.find(str(subscriber.subscriber_id)).suspended_by) or "nothing"
            raise NotSuspended(f"the subscriber is not suspended by {cause}: what suspends it is {causes}")
        return self.find(str(subscriber.subscriber_id))

    def set_dunned(self, subscriber: Subscriber, *, restricted: bool, suspended: bool) -> None:
        """Set what dunning decided: `restricted` (the subscriber can't buy), and suspended by `payment`. Billing alone calls
        this; suspensions of other causes stay. Raises `SubscriberNotActive` if the subscriber is closed.
        """
        with self._connection.transaction():
            self._set_cause(subscriber, "payment", holds=suspended, reason=None)
            people_store.set_subscriber(self._connection, subscriber.subscriber_id, restricted=restricted)

    def suspensions(self, subscriber: Subscriber) -> list[Suspension]:
        """A subscriber's suspensions, newest first, at most `LIST_MAX`."""
        return suspension_store.suspensions(self._connection, subscriber.subscriber_id, LIST_MAX)

    def _set_cause(
        self, subscriber: Subscriber, cause: SuspensionCause, *, holds: bool, reason: str | None
    ) -> bool:
        """Begin or end a cause's suspension. Return True if that changed it. The account is frozen exactly while a cause stops
        serving.
        """
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
            updated = replace(found, state=state, suspended_by=causes)
            if updated.begins_cycles and not found.begins_cycles:
                self._orders.resume_cycles(updated)
        return changed

    def notify(self, subscriber_id: UUID, kind: str, ref: str, content: Mapping[str, object]) -> bool:
        """Add a notice for a subscriber, once per kind and ref. Return False if it was added before, or if it is marketing (its
        kind begins with `marketing.`) that the subscriber has not agreed to.
        """
        if kind.startswith("marketing.") and not self._consents.agrees_to_marketing(subscriber_id):
            return False
        return notice_store.add_notification(
            self._connection, subscriber_id, kind, ref, content, self._clock.now()
        )

    def notify_many(self, kind: str, notices: Sequence[tuple[UUID, str, Mapping[str, object]]]) -> None:
        """Add notices of one kind, each (subscriber, ref, content), with one statement."""
        notice_store.add_notifications(self._connection, kind, notices, self._clock.now())

    def close(self, subscriber: Subscriber) -> None:
        """Close a subscriber: its products and its memberships in other accounts end, its account gives no grants, its keys stop,
        its number is free. A debt stays and is on a last bill, which the carrier does not collect with the phone bill. Raises
        `SubscriberNotActive` if it is closed already.
        """
        with self._connection.transaction():
            found = people_store.lock_subscriber(self._vault, subscriber.subscriber_id)
            if found is None or found.state == "closed":
                raise SubscriberNotActive("the subscriber is closed already")
            # A product whose cycle is over ends, or renews, by its own rule before the others are cancelled.
            for end in (self._orders.catch_up, self._orders.cancel):
                for product in self._orders.products(found):
                    if product.state in LIVE_STATES and product.parent_id is None:
                        end(product.product_id)
            self._orders.cancel_orders_to_come(found, "closed")
            suspension_store.end_suspensions(
                self._connection, found.subscriber_id, None, self._clock.now(), "closed"
            )
            people_store.set_subscriber(
                self._connection, found.subscriber_id, state="closed", suspended_by=[], closed_at=self._clock.now()
            )  # fmt: skip
            self._identity.end_sessions(found.subscriber_id)
            # The next holder of the number must not have its memberships.
            left = people_store.end_memberships(self._vault, found.phone)
            self._members.stop_keys(left)
            self._identity.end_sessions_of(left)
            people_store.set_texts(self._vault, found.subscriber_id, broadband=None)
            self._ledger.close_account(found.account_id)

    def has_number(self, subscriber: Subscriber) -> bool:
        """True if the number belongs to the subscriber: a closed subscriber's number may have a new holder."""
        if subscriber.state != "closed":
            return True
        return bool(subscriber.phone) and not people_store.phone_is_taken(self._vault, subscriber.phone)

    def change_owner(
        self, subscriber: Subscriber, name: str | None = None, **profile: Unpack[Profile]
    ) -> Subscriber:
        """Give a number to a new holder, in one transaction: close its subscriber, with products, keys and memberships, and
        register the number again. Debts and credits stay with the old subscriber. Return the new subscriber. Raises
        `SubscriberNotActive`, `Invalid`.
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
        """The prices of a subscriber's contracts, by offering and time."""
        return price_store.contract_prices(self._connection, subscriber.subscriber_id)

    def policy(self, account_id: UUID) -> ChargingPolicy:
        """The charging policy of the account's newest active product, else of its newest product, so that the policy holds after
        the product is used up.
        """
        version = product_store.newest_offering_version(self._connection, account_id)
        return ChargingPolicy() if version is None else self._offerings.sold(version).offering.policy

    def service(self, account_id: UUID) -> Service:
        """The service that the account's newest active product promises, else the one of its newest product."""
        version = product_store.newest_offering_version(self._connection, account_id)
        return Service() if version is None else self._offerings.sold(version).offering.service

    def counts_prompts(self, account_id: UUID) -> bool:
        """True if a plan of the account counts prompts, so that the gateway must tell a tool's result from a prompt."""
        return self._ledger.counts_prompts(account_id)


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
