"""The SQL of subscribers and members. Only this module encrypts and decrypts their personal texts.

A subscriber's texts are encrypted under its own key, a member's under the member's, and the owner's under the subscriber's. Keyed
hashes beside the texts are for the search.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.errors import BroadbandTaken
from tokenworks.subscriptions.model import Member, Subscriber
from tokenworks.trust import PersonKey, PersonVault, has_part

NAME_CANDIDATES_MAX: Final = 2000
_SUBSCRIBER = """subscriber_id, account_id, phone_sealed, name_sealed, created_at, state, audiences, language, broadband_sealed,
    real_name, bill_day, credit_limit_nano, cap_nano, spend_locked, spill_over, restricted, regions, home_region,
    suspended_by, cap_raises"""
# (index in `_SUBSCRIBER`, name in the associated data) of the encrypted texts.
_SEALED = ((2, "subscriber.phone"), (3, "subscriber.name"), (8, "subscriber.broadband"))


def _subscribers(vault: PersonVault, rows: Sequence[TupleRow]) -> list[Subscriber]:
    """Subscribers with their texts decrypted; an erased one has an empty phone number."""
    keys = vault.keys(row[0] for row in rows)
    found = []
    for row in rows:
        values, key = list(row), keys.get(row[0])
        for at, place in _SEALED:
            values[at] = None if key is None or row[at] is None else key.open(place, row[0], row[at])
        values[2] = values[2] or ""
        for at in (6, 16):
            values[at] = None if row[at] is None else tuple(row[at])
        values[18] = tuple(row[18])
        found.append(Subscriber(*values))
    return found


def _subscriber_of(vault: PersonVault, row: TupleRow | None) -> Subscriber | None:
    return None if row is None else _subscribers(vault, [row])[0]


def subscriber_columns(
    vault: PersonVault, key: PersonKey, texts: Mapping[str, str | None]
) -> dict[str, object]:
    """The columns of a subscriber's texts: the encrypted texts, and their keyed hashes for the search."""
    lookup, columns = vault.lookup, dict[str, object]()
    for name, text in texts.items():
        columns[f"{name}_sealed"] = (
            None if text is None else key.seal(f"subscriber.{name}", key.person_id, text)
        )
        if name == "phone":
            columns["phone_hash"] = None if text is None else lookup.phone(text)
            columns["phone_tail_hash"] = None if text is None else lookup.tail(text)
        elif name == "name":
            columns["name_hashes"] = [] if text is None else lookup.name(text)
        else:
            columns["broadband_hash"] = None if text is None else lookup.hash("broadband", text)
    return columns


def add_subscriber(vault: PersonVault, subscriber: Subscriber, owner_id: UUID) -> bool:
    """Add a subscriber and its owner. Return False if another subscriber that is not closed has the number or the broadband
    number.
    """
    key = vault.add(subscriber.subscriber_id)
    texts = {"phone": subscriber.phone, "name": subscriber.name, "broadband": subscriber.broadband}
    columns = subscriber_columns(vault, key, texts) | {
        "subscriber_id": subscriber.subscriber_id,
        "account_id": subscriber.account_id,
        "created_at": subscriber.created_at,
        "audiences": None if subscriber.audiences is None else list(subscriber.audiences),
        "language": subscriber.language,
        "bill_day": subscriber.bill_day,
        "real_name": subscriber.real_name,
        "credit_limit_nano": subscriber.credit_limit_nano,
        "regions": None if subscriber.regions is None else list(subscriber.regions),
        "home_region": subscriber.home_region,
    }
    row = vault.connection.execute(
        f"""INSERT INTO subscriber ({", ".join(columns)}) VALUES ({", ".join(f"%({name})s" for name in columns)})
            ON CONFLICT DO NOTHING RETURNING 1""".encode(),
        columns,
    ).fetchone()
    if row is not None:
        owner = Member(
            owner_id, subscriber.account_id, subscriber.subscriber_id, subscriber.name or "owner", "owner", None, None, None,
            subscriber.created_at,
        )  # fmt: skip
        add_member(vault, owner)
    return row is not None


def find_subscriber(
    vault: PersonVault,
    *,
    subscriber_id: UUID | None = None,
    phone: str | None = None,
    broadband: str | None = None,
    account_id: UUID | None = None,
) -> Subscriber | None:
    row = vault.connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber
            WHERE subscriber_id = %s OR account_id = %s
                OR (phone_hash = %s AND state <> 'closed') OR (broadband_hash = %s AND state <> 'closed')""".encode(),
        (
            subscriber_id,
            account_id,
            None if phone is None else vault.lookup.phone(phone),
            None if broadband is None else vault.lookup.hash("broadband", broadband),
        ),
    ).fetchone()
    return _subscriber_of(vault, row)


def subscribers(vault: PersonVault, after: UUID | None, limit: int) -> list[Subscriber]:
    rows = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id > %s ORDER BY subscriber_id LIMIT %s".encode(),
        (after or UUID(int=0), limit),
    ).fetchall()
    return _subscribers(vault, rows)


def subscribers_by_tail(vault: PersonVault, digits: str, limit: int) -> list[Subscriber]:
    """Subscribers whose number ends in these four digits, closed ones last, then by age."""
    rows = vault.connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber WHERE phone_tail_hash = %s
            ORDER BY state = 'closed', subscriber_id LIMIT %s""".encode(),
        (vault.lookup.tail(digits), limit),
    ).fetchall()
    return _subscribers(vault, rows)


def subscribers_by_name(vault: PersonVault, text: str, limit: int) -> list[Subscriber]:
    """Subscribers whose name has this part, closed ones last, then by age. The hashes find candidates, at most
    `NAME_CANDIDATES_MAX`, among which `has_part` decides.
    """
    hashes = vault.lookup.search_hashes(text)
    if not hashes:
        return []
    rows = vault.connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber WHERE name_hashes @> %s::bytea[]
            ORDER BY state = 'closed', subscriber_id LIMIT %s""".encode(),
        (hashes, NAME_CANDIDATES_MAX),
    ).fetchall()
    candidates = _subscribers(vault, rows)
    found = [candidate for candidate in candidates if candidate.name and has_part(candidate.name, text)]
    return found[:limit]


def phones(vault: PersonVault, subscriber_ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id = ANY(%s)".encode(),
        (list(subscriber_ids),),
    ).fetchall()
    return {found.subscriber_id: found.phone for found in _subscribers(vault, rows)}


def owner_of(connection: Connection, subscriber_id: UUID) -> UUID:
    row = connection.execute(
        "SELECT member_id FROM member WHERE subscriber_id = %s AND role = 'owner'", (subscriber_id,)
    ).fetchone()
    assert row is not None, f"subscriber {subscriber_id} has no owner"
    return UUID(str(row[0]))


_MEMBER = """member_id, account_id, subscriber_id, name_sealed, role, parent_id, cap_tokens, cap_period, created_at, phone_sealed,
    state"""


def _person_of(role: str, member_id: UUID, subscriber_id: UUID) -> UUID:
    """The person whose key encrypts a member's texts: for the owner, the subscriber."""
    return subscriber_id if role == "owner" else member_id


def _members(vault: PersonVault, rows: Sequence[TupleRow]) -> list[Member]:
    """Members with their texts decrypted; an erased one has an empty name."""
    people = [_person_of(row[4], row[0], row[2]) for row in rows]
    keys = vault.keys(people)
    found = []
    for row, person_id in zip(rows, people, strict=True):
        values, key = list(row), keys.get(person_id)
        values[3] = "" if key is None or row[3] is None else key.open("member.name", row[0], row[3])
        values[9] = None if key is None or row[9] is None else key.open("member.phone", row[0], row[9])
        found.append(Member(*values))
    return found


def add_member(vault: PersonVault, member: Member) -> bool:
    """Add a member. Return False if the subscriber has a member with that name or number."""
    key = vault.key(member.subscriber_id) if member.role == "owner" else vault.add(member.member_id)
    assert key is not None, "a subscriber who was erased has no owner to be named"
    phone = member.phone
    row = vault.connection.execute(
        f"""INSERT INTO member ({_MEMBER}, name_hash, phone_hash) VALUES ({", ".join(["%s"] * 13)})
            ON CONFLICT DO NOTHING RETURNING 1""".encode(),
        (member.member_id, member.account_id, member.subscriber_id, key.seal("member.name", member.member_id, member.name),
         member.role, member.parent_id, member.cap_tokens, member.cap_period, member.created_at,
         None if phone is None else key.seal("member.phone", member.member_id, phone), member.state,
         vault.lookup.hash("name", member.name), None if phone is None else vault.lookup.phone(phone)),
    ).fetchone()  # fmt: skip
    if row is None and member.role != "owner":
        vault.forget(member.member_id)
    return row is not None


def members(vault: PersonVault, subscriber_id: UUID) -> list[Member]:
    rows = vault.connection.execute(
        f"SELECT {_MEMBER} FROM member WHERE subscriber_id = %s ORDER BY created_at, member_id".encode(),
        (subscriber_id,),
    ).fetchall()
    return _members(vault, rows)


def line_of(vault: PersonVault, member_id: UUID) -> list[Member]:
    """A member and the departments above it, upwards."""
    columns = ", ".join(f"m.{name.strip()}" for name in _MEMBER.split(","))
    rows = vault.connection.execute(
        f"""WITH RECURSIVE up AS (
                SELECT {_MEMBER}, 1 AS level FROM member WHERE member_id = %s
                UNION ALL
                SELECT {columns}, level + 1 FROM member m JOIN up ON m.member_id = up.parent_id WHERE level < 4)
            SELECT {_MEMBER} FROM up ORDER BY level""".encode(),
        (member_id,),
    ).fetchall()
    return _members(vault, rows)


def memberships(vault: PersonVault, phone: str) -> list[Member]:
    """Memberships of this phone number in other subscribers' accounts, invited or active."""
    rows = vault.connection.execute(
        f"SELECT {_MEMBER} FROM member WHERE phone_hash = %s AND state <> 'left' ORDER BY created_at, member_id".encode(),
        (vault.lookup.phone(phone),),
    ).fetchall()
    return _members(vault, rows)


def move_memberships(vault: PersonVault, phone: str, to: str) -> tuple[list[UUID], list[UUID]]:
    """Move the memberships of a number in other accounts to a new number. Return (the members with the new number, the members
    that have left, since the new number is a member of the account already).
    """
    old, new = vault.lookup.phone(phone), vault.lookup.phone(to)
    left = vault.connection.execute(
        """UPDATE member m SET state = 'left', phone_sealed = NULL, phone_hash = NULL WHERE phone_hash = %s AND state <> 'left' AND EXISTS (
               SELECT 1 FROM member o WHERE o.subscriber_id = m.subscriber_id AND o.phone_hash = %s AND o.state <> 'left')
           RETURNING member_id""",
        (old, new),
    ).fetchall()
    rows = vault.connection.execute(
        "SELECT member_id FROM member WHERE phone_hash = %s AND state <> 'left' FOR NO KEY UPDATE", (old,)
    ).fetchall()
    for member_id, key in vault.keys(row[0] for row in rows).items():
        vault.connection.execute(
            "UPDATE member SET phone_sealed = %s, phone_hash = %s WHERE member_id = %s",
            (key.seal("member.phone", member_id, to), new, member_id),
        )
    return [row[0] for row in rows], [row[0] for row in left]


def end_memberships(vault: PersonVault, phone: str) -> list[UUID]:
    """End the memberships of a number in other accounts, and delete the number there. Return the members that have left."""
    rows = vault.connection.execute(
        """UPDATE member SET state = 'left', phone_sealed = NULL, phone_hash = NULL
           WHERE phone_hash = %s AND state <> 'left' RETURNING member_id""",
        (vault.lookup.phone(phone),),
    ).fetchall()
    return [row[0] for row in rows]


def set_member_state(connection: Connection, member_id: UUID, state: str) -> None:
    """Set a member's state. The number of a member who has left is deleted, since it may have a new holder soon."""
    connection.execute("UPDATE member SET state = %s WHERE member_id = %s", (state, member_id))
    if state == "left":
        connection.execute(
            "UPDATE member SET phone_sealed = NULL, phone_hash = NULL WHERE member_id = %s", (member_id,)
        )


# Locks are FOR NO KEY UPDATE: they exclude each other, but not inserts of rows in other tables that refer to the locked row.
# Those inserts come after an account's lock, so that waiting for them would be a deadlock.


def lock_subscriber(vault: PersonVault, subscriber_id: UUID) -> Subscriber | None:
    """Lock a subscriber, so that its orders run one after the other."""
    row = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id = %s FOR NO KEY UPDATE".encode(),
        (subscriber_id,),
    ).fetchone()
    return _subscriber_of(vault, row)


def lock_subscriber_of(vault: PersonVault, account_id: UUID) -> Subscriber | None:
    row = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE account_id = %s FOR NO KEY UPDATE".encode(),
        (account_id,),
    ).fetchone()
    return _subscriber_of(vault, row)


def set_subscriber(connection: Connection, subscriber_id: UUID, **fields: object) -> None:
    """Set the named columns of a subscriber; `set_texts` sets personal texts."""
    sets = ", ".join(f"{name} = %({name})s" for name in fields)
    connection.execute(
        f"UPDATE subscriber SET {sets} WHERE subscriber_id = %(_id)s".encode(),
        {**fields, "_id": subscriber_id},
    )


def set_texts(vault: PersonVault, subscriber_id: UUID, **texts: str | None) -> bool:
    """Set `phone`, `name` or `broadband`. Return False if the subscriber was erased. Raises `BroadbandTaken`."""
    key = vault.key(subscriber_id)
    if key is None:
        return False
    try:
        with vault.connection.transaction():
            set_subscriber(vault.connection, subscriber_id, **subscriber_columns(vault, key, texts))
    except psycopg.errors.UniqueViolation as error:
        if error.diag.constraint_name != "subscriber_broadband_hash":
            raise
        raise BroadbandTaken("that broadband number is another account's: check it, or ask support") from None
    return True


def phone_is_taken(vault: PersonVault, phone: str) -> bool:
    return (
        vault.connection.execute(
            "SELECT 1 FROM subscriber WHERE phone_hash = %s AND state <> 'closed'",
            (vault.lookup.phone(phone),),
        ).fetchone()
        is not None
    )


def add_phone_history(vault: PersonVault, subscriber_id: UUID, phone: str, reason: str, at: datetime) -> None:
    key, id_ = vault.key(subscriber_id), uuid7()
    if key is not None:
        vault.connection.execute(
            """INSERT INTO phone_history (phone_history_id, subscriber_id, phone_sealed, reason, changed_at)
               VALUES (%s, %s, %s, %s, %s)""",
            (id_, subscriber_id, key.seal("phone_history.phone", id_, phone), reason, at),
        )


def set_cap(connection: Connection, member_id: UUID, tokens: int | None, period: str | None) -> None:
    connection.execute(
        "UPDATE member SET cap_tokens = %s, cap_period = %s, cap_set_at = clock_timestamp() WHERE member_id = %s",
        (tokens, period, member_id),
    )


def set_parent(connection: Connection, member_id: UUID, parent_id: UUID | None) -> None:
    connection.execute("UPDATE member SET parent_id = %s WHERE member_id = %s", (parent_id, member_id))


def lock_subscribers(connection: Connection, subscriber_ids: Sequence[UUID]) -> None:
    connection.execute(
        "SELECT 1 FROM subscriber WHERE subscriber_id = ANY(%s) ORDER BY subscriber_id FOR NO KEY UPDATE",
        (list(subscriber_ids),),
    )
