"""Encrypts the personal texts that were stored before schemas 0019 and 0021. `tokenworks init` runs it after the schema.

It works in batches by ascending id, each in a transaction of its own. The table `sealing` stores the progress, so a run that was
interrupted goes on where it stopped. At the end of a table its constraint is checked for all rows and the table is rewritten, so that
no dead row and no index keeps a plain text. Older log files and backups keep plain texts until they are deleted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing import phone_field, phones_in, without_phones
from tokenworks.subscriptions import subscriber_columns
from tokenworks.trust import NO_PERSON, PersonKey, PersonVault, audit_details

BATCH: Final = 1000
# A charge file has up to 100,000 lines.
FILES_BATCH: Final = 1
# The tables, in this order: an owner is a member that uses the key of its subscriber.
PLACES: Final = (
    "subscriber",
    "member",
    "phone_history",
    "work_order",
    "charge_file",
    "audit",
    "hub_delivery",
)
_ROW: Final = {
    "subscriber": "subscriber_id",
    "member": "member_id",
    "phone_history": "phone_history_id",
    "work_order": "work_order_id",
    "charge_file": "charge_file_id",
    "audit": "audit_id",
    "hub_delivery": "delivery_id",
}
Progress = Callable[[str, int, int], None]
"""Called with (the table, the rows that are encrypted, how many rows there are)."""


def seal_existing(connection: Connection, vault: PersonVault, progress: Progress, batch: int = BATCH) -> int:
    """Encrypt all rows that are not encrypted yet. Returns how many. Needs a connection with autocommit."""
    done_in_all = 0
    for place in PLACES:
        row = connection.execute(
            "SELECT after FROM sealing WHERE place = %s AND done_at IS NULL", (place,)
        ).fetchone()
        if row is None:
            continue
        count = connection.execute(
            f"SELECT count(*) FROM {place} WHERE {_ROW[place]} > %s".encode(), (row[0],)
        ).fetchone()
        total, done = (0 if count is None else int(count[0])), 0
        progress(place, 0, total)
        while found := _batch(connection, vault, place, FILES_BATCH if place == "charge_file" else batch):
            done += found
            progress(place, done, max(total, done))
        connection.execute(f"ALTER TABLE {place} VALIDATE CONSTRAINT {place}_is_sealed".encode())
        connection.execute(f"VACUUM (FULL) {place}".encode())
        connection.execute("UPDATE sealing SET done_at = now() WHERE place = %s", (place,))
        done_in_all += done
    return done_in_all


def _batch(connection: Connection, vault: PersonVault, place: str, limit: int) -> int:
    seal = {
        "subscriber": _subscribers,
        "member": _members,
        "phone_history": _phone_history,
        "work_order": _work_orders,
        "charge_file": _charge_files,
        "audit": _audit,
        "hub_delivery": _hub_deliveries,
    }[place]
    with connection.transaction():
        row = connection.execute("SELECT after FROM sealing WHERE place = %s FOR UPDATE", (place,)).fetchone()
        assert row is not None
        ids = [
            id_
            for (id_,) in connection.execute(
                f"SELECT {_ROW[place]} FROM {place} WHERE {_ROW[place]} > %s ORDER BY 1 LIMIT %s FOR UPDATE".encode(),
                (row[0], limit),
            )
        ]
        if ids:
            seal(connection, vault, ids)
            connection.execute("UPDATE sealing SET after = %s WHERE place = %s", (ids[-1], place))
    return len(ids)


def _many(
    connection: Connection,
    statement: str,
    rows: Sequence[tuple[object, ...]] | Sequence[Mapping[str, object]],
) -> None:
    """Run a statement for each row of parameters."""
    with connection.cursor() as cursor:
        cursor.executemany(statement.encode(), rows)


def _subscribers(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    rows = connection.execute(
        """SELECT subscriber_id, phone, name, broadband FROM subscriber
           WHERE subscriber_id = ANY(%s) AND phone IS NOT NULL""",
        (list(ids),),
    ).fetchall()
    keys = vault.add_many([row[0] for row in rows])
    sealed = [
        subscriber_columns(vault, keys[id_], {"phone": phone, "name": name, "broadband": broadband})
        | {"id": id_}
        for id_, phone, name, broadband in rows
    ]
    if sealed:
        sets = ", ".join(f"{column} = %({column})s" for column in sealed[0] if column != "id")
        _many(
            connection,
            f"UPDATE subscriber SET {sets}, phone = NULL, name = NULL, broadband = NULL WHERE subscriber_id = %(id)s",
            sealed,
        )


def _members(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    rows = connection.execute(
        """SELECT member_id, subscriber_id, role, name, phone, state FROM member
           WHERE member_id = ANY(%s) AND name IS NOT NULL""",
        (list(ids),),
    ).fetchall()
    keys = vault.keys(row[1] for row in rows if row[2] == "owner")
    keys |= vault.add_many([row[0] for row in rows if row[2] != "owner"])
    sealed = []
    for id_, subscriber_id, role, name, phone, state in rows:
        key = keys[subscriber_id if role == "owner" else id_]
        # A member who has left has no phone number here any more.
        kept = phone if state != "left" else None
        sealed.append(
            (
                key.seal("member.name", id_, name), vault.lookup.hash("name", name),
                None if kept is None else key.seal("member.phone", id_, kept), None if kept is None else vault.lookup.phone(kept),
                id_,
            )
        )  # fmt: skip
    statement = """UPDATE member SET name_sealed = %s, name_hash = %s, phone_sealed = %s, phone_hash = %s, name = NULL, phone = NULL
        WHERE member_id = %s"""
    _many(connection, statement, sealed)


def _phone_history(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    rows = connection.execute(
        """SELECT phone_history_id, subscriber_id, phone FROM phone_history
           WHERE phone_history_id = ANY(%s) AND phone IS NOT NULL""",
        (list(ids),),
    ).fetchall()
    keys = vault.keys(row[1] for row in rows)
    connection.execute("ALTER TABLE phone_history DISABLE TRIGGER phone_history_is_history")
    _many(
        connection,
        "UPDATE phone_history SET phone_sealed = %s, phone = NULL WHERE phone_history_id = %s",
        [
            (_seal(keys.get(subscriber_id), "phone_history.phone", id_, phone), id_)
            for id_, subscriber_id, phone in rows
        ],
    )
    connection.execute("ALTER TABLE phone_history ENABLE TRIGGER phone_history_is_history")


def _work_orders(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    rows = connection.execute(
        """SELECT work_order_id, subscriber_id, broadband FROM work_order
           WHERE work_order_id = ANY(%s) AND broadband IS NOT NULL""",
        (list(ids),),
    ).fetchall()
    keys = vault.keys(row[1] for row in rows)
    _many(
        connection,
        "UPDATE work_order SET broadband_sealed = %s, broadband = NULL WHERE work_order_id = %s",
        [
            (_seal(keys.get(subscriber_id), "work_order.broadband", id_, broadband), id_)
            for id_, subscriber_id, broadband in rows
        ],
    )


def _charge_files(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    works_key = vault.ensure(NO_PERSON)
    assert works_key is not None
    for file_id in ids:
        row = connection.execute(
            "SELECT content, sha256 FROM charge_file WHERE charge_file_id = %s AND NOT phones_apart",
            (file_id,),
        ).fetchone()
        if row is None:
            continue
        phones = phones_in(row[0])
        lines = connection.execute(
            """SELECT l.line_no, b.subscriber_id FROM charge_file_line l JOIN bill b USING (bill_id)
               WHERE l.charge_file_id = %s""",
            (file_id,),
        ).fetchall()
        keys = vault.keys(subscriber_id for _, subscriber_id in lines)
        _many(
            connection,
            "UPDATE charge_file_line SET phone_sealed = %s WHERE charge_file_id = %s AND line_no = %s",
            [
                (_seal(keys.get(subscriber_id), phone_field(no), file_id, phones.get(no)), file_id, no)
                for no, subscriber_id in lines
            ],
        )
        connection.execute(
            """UPDATE charge_file SET content = %s, sha256_sealed = %s, sha256 = NULL, phones_apart = true
               WHERE charge_file_id = %s""",
            (without_phones(row[0]), works_key.seal("charge_file.sha256", file_id, row[1]), file_id),
        )


def _audit(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    works_key = vault.ensure(NO_PERSON)
    assert works_key is not None
    rows = connection.execute(
        """SELECT audit_id, before, after,
               (SELECT s.subscriber_id FROM subscriber s WHERE s.subscriber_id = a.id
                UNION ALL SELECT p.subscriber_id FROM product p WHERE p.product_id = a.id
                UNION ALL SELECT o.subscriber_id FROM product_order o WHERE o.order_id = a.id LIMIT 1)
           FROM (SELECT *, CASE WHEN ref ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN ref::uuid END AS id
                 FROM audit WHERE audit_id = ANY(%s) AND person_id IS NULL) a""",
        (list(ids),),
    ).fetchall()
    keys = vault.keys(row[3] for row in rows if row[3] is not None)
    sealed = []
    for id_, before, after, subscriber_id in rows:
        key = keys.get(subscriber_id, works_key)
        details = None
        if before is not None or after is not None:
            details = key.seal("audit.details", id_, audit_details(before, after))
        sealed.append((key.person_id, details, id_))
    # As for former phone numbers: the content of history stays the same, only its form changes.
    connection.execute("ALTER TABLE audit DISABLE TRIGGER audit_is_history")
    _many(
        connection,
        "UPDATE audit SET person_id = %s, details = %s, before = NULL, after = NULL WHERE audit_id = %s",
        sealed,
    )
    connection.execute("ALTER TABLE audit ENABLE TRIGGER audit_is_history")


def _hub_deliveries(connection: Connection, vault: PersonVault, ids: Sequence[UUID]) -> None:
    rows = connection.execute(
        """SELECT delivery_id, coalesce(subscriber_id, %s), body FROM hub_delivery
           WHERE delivery_id = ANY(%s) AND body IS NOT NULL""",
        (NO_PERSON, list(ids)),
    ).fetchall()
    keys, own = vault.keys(row[1] for row in rows), vault.own()
    _many(
        connection,
        "UPDATE hub_delivery SET subscriber_id = %s, body_sealed = %s, body = NULL WHERE delivery_id = %s",
        [
            (subscriber_id, keys.get(subscriber_id, own).seal_bytes("hub_delivery.body", id_, body.encode()), id_)
            for id_, subscriber_id, body in rows
        ],
    )  # fmt: skip


def _seal(key: PersonKey | None, place: str, row_id: UUID, text: str | None) -> bytes | None:
    return None if key is None or text is None else key.seal(place, row_id, text)
