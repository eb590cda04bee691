"""The SQL of subscribers, orders and products."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.consents import ConsentText
from tokenworks.subscriptions.model import ContractPrice, Member, Order, Product, Subscriber, TopUp, WorkOrder
from tokenworks.trust import PersonKey, PersonVault, has_part

Connection = psycopg.Connection[tuple[Any, ...]]
NAME_CANDIDATES_MAX: Final = 2000

_SUBSCRIBER = """subscriber_id, account_id, phone_sealed, name_sealed, created_at, state, audiences, language, broadband_sealed,
    real_name, bill_day, credit_limit_nano, cap_nano, spend_locked, spill_over, restricted, regions, home_region"""
# Where the encrypted texts of a row are in `_SUBSCRIBER`, and what each is called in its associated data.
_SEALED = ((2, "subscriber.phone"), (3, "subscriber.name"), (8, "subscriber.broadband"))


def _subscribers(vault: PersonVault, rows: Sequence[tuple[Any, ...]]) -> list[Subscriber]:
    """With their texts decrypted; the phone of one who was erased is empty."""
    keys = vault.keys(row[0] for row in rows)
    found = []
    for row in rows:
        values, key = list(row), keys.get(row[0])
        for at, place in _SEALED:
            values[at] = None if key is None or row[at] is None else key.open(place, row[0], row[at])
        values[2] = values[2] or ""
        for at in (6, 16):
            values[at] = None if row[at] is None else tuple(row[at])
        found.append(Subscriber(*values))
    return found


def _one(vault: PersonVault, row: tuple[Any, ...] | None) -> Subscriber | None:
    return None if row is None else _subscribers(vault, [row])[0]


def subscriber_columns(
    vault: PersonVault, key: PersonKey, texts: Mapping[str, str | None]
) -> dict[str, object]:
    """The columns of a subscriber's texts: encrypted, and the hashes that they are found by."""
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
    """False where somebody who is not closed has the number, or somebody has the broadband number."""
    key = vault.add(subscriber.subscriber_id)
    texts = {"phone": subscriber.phone, "name": subscriber.name, "broadband": subscriber.broadband}
    columns = subscriber_columns(vault, key, texts) | {
        "subscriber_id": subscriber.subscriber_id,
        "account_id": subscriber.account_id,
        "created_at": subscriber.created_at,
        "audiences": None if subscriber.audiences is None else list(subscriber.audiences),
        "language": subscriber.language,
        "bill_day": subscriber.bill_day,
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
    return _one(vault, row)


def subscribers(vault: PersonVault, after: UUID | None, limit: int) -> list[Subscriber]:
    rows = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id > %s ORDER BY subscriber_id LIMIT %s".encode(),
        (after or UUID(int=0), limit),
    ).fetchall()
    return _subscribers(vault, rows)


def subscribers_by_tail(vault: PersonVault, digits: str, limit: int) -> list[Subscriber]:
    """Whose number ends in these four digits, those that are not closed first, then by age."""
    rows = vault.connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber WHERE phone_tail_hash = %s
            ORDER BY state = 'closed', subscriber_id LIMIT %s""".encode(),
        (vault.lookup.tail(digits), limit),
    ).fetchall()
    return _subscribers(vault, rows)


def subscribers_by_name(vault: PersonVault, text: str, limit: int) -> list[Subscriber]:
    """Whose name has these parts, in the same order. The hashes leave candidates, of which `has_part` decides on so many."""
    hashes = vault.lookup.asked_name(text)
    if not hashes:
        return []
    rows = vault.connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber WHERE name_hashes @> %s::bytea[]
            ORDER BY state = 'closed', subscriber_id LIMIT %s""".encode(),
        (hashes, NAME_CANDIDATES_MAX),
    ).fetchall()
    found = [one for one in _subscribers(vault, rows) if one.name and has_part(one.name, text)]
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
    """Whose key encrypts a member's texts: the owner is the subscriber."""
    return subscriber_id if role == "owner" else member_id


def _members(vault: PersonVault, rows: Sequence[tuple[Any, ...]]) -> list[Member]:
    """With their texts decrypted; one who was erased has an empty name."""
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
    """False where the subscriber has a member of that name, or with that number."""
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
    """A member and the departments above it."""
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


def move_memberships(vault: PersonVault, phone: str, to: str) -> None:
    """In other people's accounts; where the new number is a member already, the old one has left."""
    old, new = vault.lookup.phone(phone), vault.lookup.phone(to)
    vault.connection.execute(
        """UPDATE member m SET state = 'left', phone_sealed = NULL, phone_hash = NULL WHERE phone_hash = %s AND state <> 'left' AND EXISTS (
               SELECT 1 FROM member o WHERE o.subscriber_id = m.subscriber_id AND o.phone_hash = %s AND o.state <> 'left')""",
        (old, new),
    )
    rows = vault.connection.execute(
        "SELECT member_id FROM member WHERE phone_hash = %s AND state <> 'left' FOR NO KEY UPDATE", (old,)
    ).fetchall()
    for member_id, key in vault.keys(row[0] for row in rows).items():
        vault.connection.execute(
            "UPDATE member SET phone_sealed = %s, phone_hash = %s WHERE member_id = %s",
            (key.seal("member.phone", member_id, to), new, member_id),
        )


def set_member_state(connection: Connection, member_id: UUID, state: str) -> None:
    """Who has left has no number here any more: it is not needed, and may be another person's soon."""
    connection.execute("UPDATE member SET state = %s WHERE member_id = %s", (state, member_id))
    if state == "left":
        connection.execute(
            "UPDATE member SET phone_sealed = NULL, phone_hash = NULL WHERE member_id = %s", (member_id,)
        )


def set_cap(connection: Connection, member_id: UUID, tokens: int | None, period: str | None) -> None:
    connection.execute(
        "UPDATE member SET cap_tokens = %s, cap_period = %s WHERE member_id = %s", (tokens, period, member_id)
    )


def set_parent(connection: Connection, member_id: UUID, parent_id: UUID | None) -> None:
    connection.execute("UPDATE member SET parent_id = %s WHERE member_id = %s", (parent_id, member_id))


# Locks here are FOR NO KEY UPDATE: they exclude each other, and not the rows of other tables that refer to what is locked.
# Those come after an account's lock, so that waiting for them would close a ring.


def lock_subscribers(connection: Connection, subscriber_ids: Sequence[UUID]) -> None:
    connection.execute(
        "SELECT 1 FROM subscriber WHERE subscriber_id = ANY(%s) ORDER BY subscriber_id FOR NO KEY UPDATE",
        (list(subscriber_ids),),
    )


def lock_subscriber(vault: PersonVault, subscriber_id: UUID) -> Subscriber | None:
    """Orders of one subscriber come one after the other."""
    row = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id = %s FOR NO KEY UPDATE".encode(),
        (subscriber_id,),
    ).fetchone()
    return _one(vault, row)


def lock_subscriber_of(vault: PersonVault, account_id: UUID) -> Subscriber | None:
    row = vault.connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE account_id = %s FOR NO KEY UPDATE".encode(),
        (account_id,),
    ).fetchone()
    return _one(vault, row)


def set_subscriber(connection: Connection, subscriber_id: UUID, **fields: object) -> None:
    """Change some columns; personal texts are changed by `set_texts`."""
    sets = ", ".join(f"{name} = %({name})s" for name in fields)
    connection.execute(
        f"UPDATE subscriber SET {sets} WHERE subscriber_id = %(_id)s".encode(),
        {**fields, "_id": subscriber_id},
    )


def set_texts(vault: PersonVault, subscriber_id: UUID, **texts: str | None) -> bool:
    """Change `phone`, `name` or `broadband`. False where the subscriber was erased."""
    key = vault.key(subscriber_id)
    if key is None:
        return False
    set_subscriber(vault.connection, subscriber_id, **subscriber_columns(vault, key, texts))
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


def add_consent(
    connection: Connection,
    subscriber_id: UUID,
    purpose: str,
    given: bool,
    at: datetime,
    text: ConsentText | None = None,
    said_by: str | None = None,
) -> None:
    if text is not None:
        connection.execute(
            """INSERT INTO consent_text (text_sha256, purpose, language, text, first_shown_at) VALUES (%s, %s, %s, %s, %s)
               ON CONFLICT DO NOTHING""",
            (text.sha256, text.purpose, text.language, text.text, at),
        )
    connection.execute(
        """INSERT INTO consent (consent_id, subscriber_id, purpose, given, at, text_sha256, said_by)
           VALUES (%s, %s, %s, %s, %s, %s, %s)""",
        (uuid7(), subscriber_id, purpose, given, at, None if text is None else text.sha256, said_by),
    )


def consents(connection: Connection, subscriber_id: UUID) -> dict[str, bool]:
    """What was said last of each purpose."""
    return {purpose: row[0] for purpose, row in last_consents(connection, subscriber_id).items()}


def last_consents(
    connection: Connection, subscriber_id: UUID
) -> dict[str, tuple[bool, datetime, str | None]]:
    """(given, when, hash of the text that was shown) of what was said last, by purpose."""
    rows = connection.execute(
        """SELECT DISTINCT ON (purpose) purpose, given, at, text_sha256 FROM consent WHERE subscriber_id = %s
           ORDER BY purpose, consent_id DESC""",
        (subscriber_id,),
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


# Identity and erasure.


def add_real_name_check(connection: Connection, check_id: UUID, subscriber_id: UUID, at: datetime) -> None:
    connection.execute(
        "INSERT INTO real_name_check (check_id, subscriber_id, state, asked_at) VALUES (%s, %s, 'asked', %s)",
        (check_id, subscriber_id, at),
    )


def end_real_name_check(connection: Connection, check_id: UUID, state: str) -> None:
    connection.execute("UPDATE real_name_check SET state = %s WHERE check_id = %s", (state, check_id))


def real_name_checks(connection: Connection, subscriber_id: UUID, since: datetime) -> int:
    row = connection.execute(
        "SELECT count(*) FROM real_name_check WHERE subscriber_id = %s AND asked_at > %s",
        (subscriber_id, since),
    ).fetchone()
    return 0 if row is None else int(row[0])


def identity_hash(connection: Connection, subscriber_id: UUID) -> bytes | None:
    row = connection.execute(
        "SELECT identity_hash FROM subscriber WHERE subscriber_id = %s", (subscriber_id,)
    ).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def same_identity(connection: Connection, subscriber_id: UUID) -> list[UUID]:
    """The subscriber, and all that are or were of the same person by identity number, erased ones included."""
    rows = connection.execute(
        """SELECT o.subscriber_id FROM subscriber s JOIN subscriber o ON o.identity_hash = s.identity_hash
           WHERE s.subscriber_id = %s ORDER BY o.subscriber_id""",
        (subscriber_id,),
    )
    return [row[0] for row in rows] or [subscriber_id]


def erasures_asked(connection: Connection, limit: int) -> list[UUID]:
    """Subscribers that are to be erased as soon as nothing is open, those that asked first first."""
    rows = connection.execute(
        """SELECT subscriber_id FROM subscriber WHERE erasure_asked_at IS NOT NULL AND erased_at IS NULL
           ORDER BY erasure_asked_at LIMIT %s""",
        (limit,),
    )
    return [row[0] for row in rows]


def people_of(vault: PersonVault, subscriber_id: UUID, phone: str) -> list[UUID]:
    """Whose keys are destroyed with a subscriber: its own, its members', and its memberships in other accounts."""
    rows = vault.connection.execute(
        "SELECT member_id FROM member WHERE role <> 'owner' AND (subscriber_id = %s OR phone_hash = %s)",
        (subscriber_id, vault.lookup.phone(phone)),
    )
    return [subscriber_id, *(row[0] for row in rows)]


def forget_person(
    connection: Connection,
    subscriber_id: UUID,
    people: Sequence[UUID],
    at: datetime,
    identity_until: datetime | None,
) -> None:
    """Take out the ciphertexts and the hashes; their keys are destroyed in the same transaction. Tables that are history
    (former numbers, the audit trail) keep ciphertexts that nothing opens any more.
    """
    connection.execute(
        """UPDATE subscriber SET phone_sealed = NULL, phone_hash = NULL, phone_tail_hash = NULL, name_sealed = NULL,
               name_hashes = '{}', broadband_sealed = NULL, broadband_hash = NULL, home_region = NULL, audiences = NULL,
               identity_hash = CASE WHEN %s::timestamptz IS NULL THEN NULL ELSE identity_hash END,
               identity_kept_until = CASE WHEN identity_hash IS NULL THEN NULL ELSE %s::timestamptz END, erased_at = %s
           WHERE subscriber_id = %s""",
        (identity_until, identity_until, at, subscriber_id),
    )
    connection.execute(
        """UPDATE member SET phone_sealed = NULL, phone_hash = NULL, name_sealed = NULL, name_hash = NULL, state = 'left'
           WHERE subscriber_id = %s OR member_id = ANY(%s)""",
        (subscriber_id, list(people)),
    )


def forget_identities(connection: Connection, now: datetime) -> int:
    """Identity hashes that have outlived an erasure for as long as declared."""
    return connection.execute(
        "UPDATE subscriber SET identity_hash = NULL, identity_kept_until = NULL WHERE identity_kept_until <= %s",
        (now,),
    ).rowcount


def subscriber_of(connection: Connection, id_: UUID) -> UUID | None:
    """Whom an id of a subscriber, an account, a member, a product, an order or a work order is about."""
    row = connection.execute(
        """SELECT subscriber_id FROM subscriber WHERE subscriber_id = %(id)s OR account_id = %(id)s
           UNION ALL SELECT subscriber_id FROM member WHERE member_id = %(id)s
           UNION ALL SELECT subscriber_id FROM product WHERE product_id = %(id)s
           UNION ALL SELECT subscriber_id FROM product_order WHERE order_id = %(id)s
           UNION ALL SELECT subscriber_id FROM work_order WHERE work_order_id = %(id)s LIMIT 1""",
        {"id": id_},
    ).fetchone()
    return None if row is None else row[0]


def set_contract_price(
    connection: Connection,
    subscriber_id: UUID,
    offering_id: str,
    price_nano: int,
    valid_from: datetime,
    valid_until: datetime | None,
    contract: str,
) -> None:
    connection.execute(
        """INSERT INTO contract_price (subscriber_id, offering_id, price_nano, valid_from, valid_until, contract)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (subscriber_id, offering_id, price_nano, valid_from, valid_until, contract),
    )


def contract_price(connection: Connection, subscriber_id: UUID, offering_id: str, at: datetime) -> int | None:
    row = connection.execute(
        """SELECT price_nano FROM contract_price WHERE subscriber_id = %s AND offering_id = %s AND valid_from <= %s
               AND (valid_until IS NULL OR valid_until > %s) ORDER BY valid_from DESC LIMIT 1""",
        (subscriber_id, offering_id, at, at),
    ).fetchone()
    return None if row is None else int(row[0])


def contract_prices(connection: Connection, subscriber_id: UUID) -> list[ContractPrice]:
    rows = connection.execute(
        """SELECT offering_id, price_nano, valid_from, valid_until, contract FROM contract_price WHERE subscriber_id = %s
           ORDER BY offering_id, valid_from""",
        (subscriber_id,),
    )
    return [ContractPrice(*row) for row in rows]


def add_notification(
    connection: Connection, subscriber_id: UUID, kind: str, ref: str, content: dict[str, Any], at: datetime
) -> bool:
    """Once per (subscriber, kind, ref)."""
    row = connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (uuid7(), subscriber_id, kind, ref, Jsonb(content), at, at),
    ).fetchone()
    return row is not None


def lease_notifications(
    connection: Connection, now: datetime, until: datetime, limit: int
) -> list[tuple[Any, ...]]:
    return connection.execute(
        """WITH due AS (SELECT notification_id FROM notification
                        WHERE next_at <= %s AND delivered_at IS NULL AND given_up_at IS NULL
                        ORDER BY next_at, notification_id LIMIT %s FOR UPDATE SKIP LOCKED)
           UPDATE notification n SET next_at = %s, attempts = attempts + 1 FROM due
           WHERE n.notification_id = due.notification_id
           RETURNING n.notification_id, subscriber_id, kind, ref, content, created_at, attempts""",
        (now, limit, until),
    ).fetchall()


def end_notification(connection: Connection, notification_id: UUID, column: str, at: datetime) -> None:
    connection.execute(
        f"UPDATE notification SET {column} = %s WHERE notification_id = %s".encode(), (at, notification_id)
    )


def retry_notification(connection: Connection, notification_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE notification SET next_at = %s WHERE notification_id = %s", (at, notification_id)
    )


_ORDER = """o.order_id, o.product_id, o.offering_id, o.offering_version, o.ordered_at, o.amount_nano, o.currency, false, o.action,
    o.state, o.completed_at, o.reason"""


def find_order(connection: Connection, subscriber_id: UUID, idempotency_key: str) -> Order | None:
    row = connection.execute(
        f"SELECT {_ORDER} FROM product_order o WHERE o.subscriber_id = %s AND o.idempotency_key = %s".encode(),
        (subscriber_id, idempotency_key),
    ).fetchone()
    return None if row is None else Order(*row)


def order(connection: Connection, order_id: UUID) -> tuple[Order, UUID] | None:
    """An order and its subscriber."""
    row = connection.execute(
        f"SELECT {_ORDER}, o.subscriber_id FROM product_order o WHERE o.order_id = %s".encode(), (order_id,)
    ).fetchone()
    return None if row is None else (Order(*row[:-1]), row[-1])


def _page(
    connection: Connection, columns: str, table: str, order: str, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[tuple[Any, ...]], int]:  # fmt: skip
    """A page of a subscriber's rows, or of all, and how many there are."""
    where = f"FROM {table} WHERE %(id)s::uuid IS NULL OR subscriber_id = %(id)s"
    names = {"id": subscriber_id, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {columns} {where} ORDER BY {order} OFFSET %(offset)s LIMIT %(limit)s".encode(), names
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), names).fetchone()
    assert count is not None
    return rows, int(count[0])


def orders(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[Order], int]:
    """Newest first."""
    rows, count = _page(
        connection, _ORDER, "product_order o", "o.order_id DESC", subscriber_id, offset, limit
    )
    return [Order(*row) for row in rows], count


def add_order(
    connection: Connection, subscriber: Subscriber, order: Order, idempotency_key: str | None
) -> None:
    connection.execute(
        """INSERT INTO product_order (order_id, subscriber_id, account_id, offering_id, offering_version, idempotency_key,
                                      state, ordered_at, action, product_id, amount_nano, currency, completed_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (order.order_id, subscriber.subscriber_id, subscriber.account_id, order.offering_id, order.offering_version,
         idempotency_key, order.state, order.ordered_at, order.action, order.product_id, order.amount_nano, order.currency,
         order.completed_at),
    )  # fmt: skip


def end_order(
    connection: Connection, order_id: UUID, state: str, at: datetime, amount_nano: int, reason: str | None
) -> None:
    connection.execute(
        "UPDATE product_order SET state = %s, completed_at = %s, amount_nano = amount_nano + %s, reason = %s WHERE order_id = %s",
        (state, at, amount_nano, reason, order_id),
    )


def add_amount(connection: Connection, order_id: UUID, amount_nano: int) -> None:
    connection.execute(
        "UPDATE product_order SET amount_nano = amount_nano + %s WHERE order_id = %s", (amount_nano, order_id)
    )


def waiting_orders(connection: Connection, product_id: UUID, state: str) -> list[UUID]:
    """Orders that change or end a product and wait: `pending` for its cycle's end, `inProgress` for its grants."""
    rows = connection.execute(
        "SELECT order_id FROM product_order WHERE product_id = %s AND state = %s AND action <> 'add' ORDER BY order_id",
        (product_id, state),
    )
    return [row[0] for row in rows]


def orders_in_change(connection: Connection, limit: int) -> list[UUID]:
    """Changes whose old buckets may still be granted, oldest first."""
    rows = connection.execute(
        "SELECT order_id FROM product_order WHERE state = 'inProgress' AND action = 'modify' ORDER BY order_id LIMIT %s",
        (limit,),
    )
    return [row[0] for row in rows]


def lock_order(connection: Connection, order_id: UUID) -> tuple[str, dict[str, Any]] | None:
    """An order's state and what was asked, locked."""
    row = connection.execute(
        "SELECT state, asked FROM product_order WHERE order_id = %s FOR NO KEY UPDATE", (order_id,)
    ).fetchone()
    return None if row is None else (row[0], row[1])


def set_asked(connection: Connection, order_id: UUID, asked: dict[str, Any]) -> None:
    connection.execute("UPDATE product_order SET asked = %s WHERE order_id = %s", (Jsonb(asked), order_id))


def add_product(connection: Connection, subscriber: Subscriber, product: Product) -> None:
    connection.execute(
        """INSERT INTO product (product_id, order_id, subscriber_id, account_id, offering_version, state, renews, cycle_no,
                                started_at, cycle_start, cycle_end, parent_id, delivery, price_nano)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (product.product_id, product.order_id, subscriber.subscriber_id, subscriber.account_id, product.offering_version,
         product.state, product.renews, product.cycle_no, product.started_at, product.cycle_start, product.cycle_end,
         product.parent_id, product.delivery, product.price_nano),
    )  # fmt: skip


def set_product(connection: Connection, product_id: UUID, **fields: object) -> None:
    """Change some columns."""
    sets = ", ".join(f"{name} = %({name})s" for name in fields)
    connection.execute(
        f"UPDATE product SET {sets} WHERE product_id = %(_id)s".encode(), {**fields, "_id": product_id}
    )


_PRODUCT = """p.product_id, p.order_id, v.offering_id, p.offering_version, p.state, p.renews, p.cycle_no, p.started_at,
              p.cycle_start, p.cycle_end, p.parent_id, p.delivery, p.price_nano, p.step_no, p.next_version, p.ends_after_cycle"""
_FROM_PRODUCT = "FROM product p JOIN offering v USING (offering_version)"


def newest_offering_version(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute(
        """SELECT offering_version FROM product WHERE account_id = %s
           ORDER BY (state = 'active') DESC, started_at DESC, product_id DESC LIMIT 1""",
        (account_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def products(connection: Connection, subscriber_id: UUID) -> list[Product]:
    rows = connection.execute(
        f"SELECT {_PRODUCT} {_FROM_PRODUCT} WHERE p.subscriber_id = %s ORDER BY p.product_id".encode(),
        (subscriber_id,),
    )
    return [Product(*row) for row in rows]


def products_of_order(connection: Connection, order_id: UUID) -> list[Product]:
    rows = connection.execute(
        f"SELECT {_PRODUCT} {_FROM_PRODUCT} WHERE p.order_id = %s ORDER BY p.product_id".encode(), (order_id,)
    )
    return [Product(*row) for row in rows]


def subscriber_of_product(connection: Connection, product_id: UUID) -> UUID | None:
    row = connection.execute(
        "SELECT subscriber_id FROM product WHERE product_id = %s", (product_id,)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def parts_of(connection: Connection, product_id: UUID) -> list[UUID]:
    """The products of a bundle."""
    rows = connection.execute(
        "SELECT product_id FROM product WHERE parent_id = %s ORDER BY product_id", (product_id,)
    )
    return [row[0] for row in rows]


def product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """A product and its subscriber."""
    row = connection.execute(
        f"SELECT {_PRODUCT}, p.subscriber_id {_FROM_PRODUCT} WHERE p.product_id = %s".encode(), (product_id,)
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


def lock_product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """A product and its subscriber, locked."""
    row = connection.execute(
        f"SELECT {_PRODUCT}, p.subscriber_id {_FROM_PRODUCT} WHERE p.product_id = %s FOR NO KEY UPDATE OF p".encode(),
        (product_id,),
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


def due_products(connection: Connection, now: datetime, limit: int) -> list[UUID]:
    rows = connection.execute(
        "SELECT product_id FROM product WHERE state = 'active' AND cycle_end <= %s ORDER BY product_id LIMIT %s",
        (now, limit),
    )
    return [row[0] for row in rows]


_TOP_UP = "top_up_id, subscriber_id, product_id, steps, amount_nano, made_at"


def top_up(connection: Connection, subscriber_id: UUID, idempotency_key: str) -> TopUp | None:
    row = connection.execute(
        f"SELECT {_TOP_UP} FROM top_up WHERE subscriber_id = %s AND idempotency_key = %s".encode(),
        (subscriber_id, idempotency_key),
    ).fetchone()
    return None if row is None else TopUp(*row)


def find_top_up(connection: Connection, top_up_id: UUID) -> TopUp | None:
    row = connection.execute(
        f"SELECT {_TOP_UP} FROM top_up WHERE top_up_id = %s".encode(), (top_up_id,)
    ).fetchone()
    return None if row is None else TopUp(*row)


def top_ups(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[TopUp], int]:
    """Newest first."""
    rows, count = _page(connection, _TOP_UP, "top_up", "top_up_id DESC", subscriber_id, offset, limit)
    return [TopUp(*row) for row in rows], count


def add_top_up(connection: Connection, made: TopUp, idempotency_key: str) -> None:
    connection.execute(
        f"INSERT INTO top_up ({_TOP_UP}, idempotency_key) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
        (made.top_up_id, made.subscriber_id, made.product_id, made.steps, made.amount_nano, made.made_at, idempotency_key),
    )  # fmt: skip


_WORK = """work_order_id, order_id, product_id, subscriber_id, port, offering_id, delivery, action, state, attempts, reason,
    created_at"""


def add_work_order(connection: Connection, work: WorkOrder) -> None:
    connection.execute(
        f"INSERT INTO work_order ({_WORK}) VALUES ({', '.join(['%s'] * 12)}) ON CONFLICT DO NOTHING".encode(),
        (work.work_order_id, work.order_id, work.product_id, work.subscriber_id, work.port, work.offering_id, work.delivery,
         work.action, work.state, work.attempts, work.reason, work.created_at),
    )  # fmt: skip


def work_orders(connection: Connection, state: str | None, limit: int) -> list[WorkOrder]:
    rows = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE %(s)s::text IS NULL OR state = %(s)s ORDER BY work_order_id LIMIT %(n)s".encode(),
        {"s": state, "n": limit},
    )
    return [WorkOrder(*row) for row in rows]


def subscriber_of_work_order(connection: Connection, work_order_id: UUID) -> UUID | None:
    row = connection.execute(
        "SELECT subscriber_id FROM work_order WHERE work_order_id = %s", (work_order_id,)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def lock_work_order(connection: Connection, work_order_id: UUID) -> WorkOrder | None:
    row = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE work_order_id = %s FOR NO KEY UPDATE".encode(),
        (work_order_id,),
    ).fetchone()
    return None if row is None else WorkOrder(*row)


def delivery_of(connection: Connection, product_id: UUID) -> WorkOrder | None:
    row = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE product_id = %s AND action = 'deliver' FOR NO KEY UPDATE".encode(),
        (product_id,),
    ).fetchone()
    return None if row is None else WorkOrder(*row)


def answer_work_order(
    connection: Connection, work_order_id: UUID, state: str, attempts: int, reason: str | None, at: datetime
) -> None:
    connection.execute(
        "UPDATE work_order SET state = %s, attempts = %s, reason = %s, answered_at = %s WHERE work_order_id = %s",
        (state, attempts, reason, at, work_order_id),
    )
