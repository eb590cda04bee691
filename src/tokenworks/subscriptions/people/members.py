"""Members of a subscriber's account: people and departments, invitations, caps, and transfers between them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.charging import Ledger, Transfer, Transfers
from tokenworks.kernel import Clock, Invalid, check_name, normal_name, uuid7
from tokenworks.subscriptions.errors import MemberExists, MemberNotFound
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import (
    CapPeriod,
    Member,
    Subscriber,
    check_idempotency_key,
    parse_phone,
    period_of,
)
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import Keys, PersonVault

MEMBERS_MAX: Final = 10_000
CAP_TOKENS_MAX: Final = 10**12


class Members:
    """Adds, invites, moves, caps and removes members, on one connection."""

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        clock: Clock,
        transfers: Transfers,
        vault: PersonVault,
        keys: Keys,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._clock = clock
        self._transfers = transfers
        self._vault = vault
        self._keys = keys

    def of(self, subscriber: Subscriber) -> list[Member]:
        """A subscriber's members, oldest first: the owner is the oldest."""
        return people_store.members(self._vault, subscriber.subscriber_id)

    def by_id(self, member_id: UUID) -> Member | None:
        """The member with this id, of any subscriber."""
        return next(iter(people_store.line_of(self._vault, member_id)), None)

    def find(self, subscriber: Subscriber, reference: str) -> Member:
        """A subscriber's member by its id or its name. Raises `MemberNotFound`."""
        name = normal_name(reference)
        for member in self.of(subscriber):
            if reference in {str(member.member_id), member.member_id.hex} or name == normal_name(member.name):
                return member
        raise MemberNotFound(f"there is no member {reference}: tokenworks member list --subscriber …")

    def add(
        self,
        subscriber: Subscriber,
        name: str,
        *,
        department: bool = False,
        parent: str | None = None,
        cap_tokens: int | None = None,
        cap_period: CapPeriod = "month",
    ) -> Member:
        """Add a person or a department, in the department that `parent` names. Departments have two levels at most.

        Raises `MemberExists`, `MemberNotFound`, `Invalid`.
        """
        name = self._check_new_member(subscriber, name, cap_tokens)
        parent_id = self._department(subscriber, parent)
        if (
            department
            and parent_id is not None
            and self.find(subscriber, str(parent_id)).parent_id is not None
        ):
            raise Invalid("departments go two levels deep")
        member = Member(
            uuid7(), subscriber.account_id, subscriber.subscriber_id, name, "department" if department else "member",
            parent_id, cap_tokens, None if cap_tokens is None else cap_period, self._clock.now(),
        )  # fmt: skip
        if not people_store.add_member(self._vault, member):
            raise MemberExists(f"there is a member {name} already")
        return member

    def invite(
        self,
        subscriber: Subscriber,
        phone: str,
        name: str,
        *,
        role: Literal["member", "admin"] = "member",
        cap_tokens: int | None = None,
        cap_period: CapPeriod = "month",
        parent: str | None = None,
    ) -> Member:
        """Invite a person by phone number to spend from the account, or (`admin`) to manage it. The person is a member after its
        acceptance. `parent`: its department. Raises `MemberExists`, `MemberNotFound`, `Invalid`.
        """
        name = self._check_new_member(subscriber, name, cap_tokens)
        if role not in {"member", "admin"}:
            raise Invalid("a member's role is member or admin")
        member = Member(
            uuid7(), subscriber.account_id, subscriber.subscriber_id, name, role, self._department(subscriber, parent), cap_tokens,
            None if cap_tokens is None else cap_period, self._clock.now(), parse_phone(phone), "invited",
        )  # fmt: skip
        with self._connection.transaction():
            if not people_store.add_member(self._vault, member):
                raise MemberExists(f"there is a member {name}, or one with that number, already")
            notice_store.add_notification(
                self._connection, subscriber.subscriber_id, "invitation", str(member.member_id),
                {"person_id": str(member.member_id)}, self._clock.now(),
            )  # fmt: skip
        return member

    def memberships(self, phone: str) -> list[Member]:
        """The memberships and open invitations of a phone number, oldest first."""
        return people_store.memberships(self._vault, phone)

    def accept(self, phone: str, member_id: UUID) -> Member:
        """Accept an invitation. Raises `MemberNotFound`."""
        return self._set_state(phone, member_id, "active")

    def leave(self, phone: str, member_id: UUID) -> Member:
        """End a membership, or decline an invitation; the member's keys are revoked. Raises `MemberNotFound`."""
        return self._set_state(phone, member_id, "left")

    def remove(self, member: Member) -> None:
        """Remove a member and revoke its keys. Raises `Invalid` for the owner and for a department, which can't be removed."""
        if not member.can_leave:
            raise Invalid(f"the {member.role} can't be removed")
        with self._connection.transaction():
            people_store.set_member_state(self._connection, member.member_id, "left")
            self.stop_keys([member.member_id])

    def set_department(self, subscriber: Subscriber, member: Member, department: str | None) -> None:
        """Put a person in a department (None: in none), whose caps hold from now on. The change is sent to all hosts.

        Raises `MemberNotFound`, and `Invalid` for the owner and for a department.
        """
        if member.role in {"owner", "department"}:
            raise Invalid(f"the {member.role} can't be moved to a department")
        parent_id = self._department(subscriber, department)
        with self._connection.transaction():
            people_store.set_parent(self._connection, member.member_id, parent_id)
            self._ledger.notify_hosts(member.account_id)

    def stop_keys(self, member_ids: Sequence[UUID]) -> None:
        """Revoke the keys of members who have left the account."""
        for member_id in member_ids:
            for key_id in self._keys.of_member(member_id):
                self._keys.revoke(key_id)

    def set_cap(self, member: Member, cap_tokens: int | None, cap_period: CapPeriod = "month") -> None:
        """Set a member's cap, or remove it (None). What was used in the running period still counts. The change is sent to all
        hosts.
        """
        _check_cap(cap_tokens)
        with self._connection.transaction():
            people_store.set_cap(
                self._connection, member.member_id, cap_tokens, None if cap_tokens is None else cap_period
            )
            self._ledger.notify_hosts(member.account_id)

    def caps(self, member_id: UUID) -> tuple[list[UUID], datetime | None]:
        """The buckets of the caps that limit a member now, its own and its departments', and when the first of their periods
        ends.
        """
        now = self._clock.now()
        found: list[UUID] = []
        ends: list[datetime] = []
        for member in people_store.line_of(self._vault, member_id):
            if member.cap_tokens is None or member.cap_period is None:
                continue
            bucket_id, end = self._cap_of(member, now)
            found.append(bucket_id)
            if end is not None:
                ends.append(end)
        return found, min(ends, default=None)

    def line_of(self, member_id: UUID) -> list[UUID]:
        """The ids of a member and of the departments above it, upwards."""
        return [member.member_id for member in people_store.line_of(self._vault, member_id)]

    def transfer(
        self,
        subscriber: Subscriber,
        giver: Member,
        taker: Member,
        tokens: int,
        reason: str,
        *,
        made_by: str,
        idempotency_key: str,
    ) -> Transfer:
        """Move a part of what a member (or department) may still spend in its period to another one, for that one's period.

        A repeated idempotency key returns the first transfer. Raises `Invalid`, `MemberNotFound`, `TransferNotAllowed`.
        """
        check_idempotency_key(idempotency_key)
        # The caller's members may be out of date: a cap may have been set since they were read.
        giver, taker = self._reread(giver), self._reread(taker)
        for member in (giver, taker):
            if member.subscriber_id != subscriber.subscriber_id or member.state != "active":
                raise MemberNotFound(f"{member.name} is no active member of this account")
        now = self._clock.now()
        before = self._transfers.of_key(subscriber.account_id, idempotency_key)
        if before is None:
            for member in (giver, taker):
                if member.cap_tokens is None:
                    raise Invalid(f"{member.name} has no cap: only the account's buckets limit it")
        caps = [
            (giver.member_id, before.from_bucket_id if before else self._cap_of(giver, now)[0]),
            (taker.member_id, before.to_bucket_id if before else self._cap_of(taker, now)[0]),
        ]
        return self._transfers.move(
            subscriber.account_id, caps[0], caps[1], tokens, reason, made_by, idempotency_key
        )

    def _reread(self, member: Member) -> Member:
        found = self.by_id(member.member_id)
        if found is None:
            raise MemberNotFound(f"{member.name} is no member any more")
        return found

    def _cap_of(self, member: Member, now: datetime) -> tuple[UUID, datetime | None]:
        """The bucket of a member's own cap in the present period, and when the period ends."""
        assert member.cap_tokens is not None and member.cap_period is not None
        begin, end = period_of(member.cap_period, member.created_at, now)
        bucket_id = self._ledger.cap_bucket(
            member.account_id, member.member_id, begin, end, member.cap_tokens
        )
        return bucket_id, end

    def _set_state(self, phone: str, member_id: UUID, state: Literal["active", "left"]) -> Member:
        for member in self.memberships(phone):
            if member.member_id == member_id:
                with self._connection.transaction():
                    people_store.set_member_state(self._connection, member_id, state)
                    if state == "left":
                        self.stop_keys([member_id])
                return replace(member, state=state)
        raise MemberNotFound("there is no such invitation")

    def _department(self, subscriber: Subscriber, reference: str | None) -> UUID | None:
        """The id of a department by id or name. Raises `MemberNotFound`, and `Invalid` if the member is no department."""
        if reference is None:
            return None
        found = self.find(subscriber, reference)
        if found.role != "department":
            raise Invalid(f"{found.name} is not a department")
        return found.member_id

    def _check_new_member(self, subscriber: Subscriber, name: str, cap_tokens: int | None) -> str:
        """The new member's name as it is stored. Raises `Invalid`."""
        name = check_name(name, "a member's name")
        if len(self.of(subscriber)) >= MEMBERS_MAX:
            raise Invalid(f"a subscriber has at most {MEMBERS_MAX} members")
        _check_cap(cap_tokens)
        return name


def _check_cap(tokens: int | None) -> None:
    if tokens is not None and not 0 < tokens <= CAP_TOKENS_MAX:
        raise Invalid(f"a cap is 1 to {CAP_TOKENS_MAX} tokens")
