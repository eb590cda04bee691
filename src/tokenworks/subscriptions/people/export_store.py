"""All that is stored of a person, as one JSON document, streamed.

Tables are found in the database's own catalogue, by the columns that say whom a row is about. So a table that another room adds
is exported without being named here: a list would forget one. What is left out: keyed hashes and MACs, which say nothing to
anybody without the key, and wrapped keys.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import Connection, sql
from psycopg.pq import TransactionStatus

from tokenworks.subscriptions.model import Subscriber
from tokenworks.trust import PersonKey, PersonVault

FORMAT: Final = "tokenworks-export-1"
ROWS_AT_ONCE: Final = 500
CHUNK_BYTES: Final = 65_536
# How a row says whom it is about; the first one that a table has counts.
_ABOUT: Final = (
    ("subscriber_id", "subscriber_id = %(subscriber_id)s"),
    ("account_id", "account_id = %(account_id)s"),
    ("person_id", "person_id = ANY(%(people)s)"),
    ("bill_id", "bill_id IN (SELECT bill_id FROM bill WHERE subscriber_id = %(subscriber_id)s)"),
    (
        "text_sha256",
        "text_sha256 IN (SELECT text_sha256 FROM consent WHERE subscriber_id = %(subscriber_id)s)",
    ),
)
_NOT: Final = frozenset({"person_key"})
_HIDDEN: Final = ("_hash", "_hashes", "_mac", "pepper_version")
# Encrypted columns that are not called `<name>_sealed`.
_DETAILS: Final = "details"


def export(
    connection: Connection, vault: PersonVault, subscriber: Subscriber, at: datetime, more: dict[str, Any]
) -> Iterator[bytes]:
    """The document in pieces, as of one instant. `more`: what no table says, beside it.

    While it is read, a transaction is open on the connection; memory is bounded whatever the length.
    """
    own = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction():
        if own:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        people = _people(connection, subscriber)
        keys = vault.keys(people)
        about = {
            "subscriber_id": subscriber.subscriber_id,
            "account_id": subscriber.account_id,
            "people": people,
        }
        head = {
            "format": FORMAT,
            "made_at": at,
            "subscriber_id": subscriber.subscriber_id,
            "account_id": subscriber.account_id,
            **more,
        }
        buffer = bytearray(f"{_json(head)[:-1]},\n".encode())
        elsewhere = _elsewhere(connection, vault, subscriber)
        buffer += f'"memberships_elsewhere": {_json(elsewhere)},\n"tables": {{'.encode()
        for number, (table, columns, where) in enumerate(_tables(connection)):
            buffer += f'{"," if number else ""}\n"{table}": ['.encode()
            first = True
            for row in _rows(connection, table, columns, where, about):
                buffer += f"{'' if first else ','}\n{_json(_opened(table, row, keys, subscriber))}".encode()
                first = False
                if len(buffer) >= CHUNK_BYTES:
                    yield bytes(buffer)
                    buffer.clear()
            buffer += b"]"
        yield bytes(buffer + b"\n}}\n")


def _people(connection: Connection, subscriber: Subscriber) -> list[UUID]:
    rows = connection.execute(
        "SELECT member_id FROM member WHERE subscriber_id = %s AND role <> 'owner'",
        (subscriber.subscriber_id,),
    )
    return [subscriber.subscriber_id, *(row[0] for row in rows)]


def _elsewhere(connection: Connection, vault: PersonVault, subscriber: Subscriber) -> list[dict[str, Any]]:
    """What other subscribers keep of this number, which is another person's once the subscriber is closed."""
    if not subscriber.phone or subscriber.state == "closed":
        return []
    rows = connection.execute(
        """SELECT member_id, name_sealed, role, state, created_at FROM member
           WHERE phone_hash = %s AND subscriber_id <> %s ORDER BY member_id""",
        (vault.lookup.phone(subscriber.phone), subscriber.subscriber_id),
    ).fetchall()
    keys = vault.keys(row[0] for row in rows)
    return [
        {
            "member_id": row[0],
            "name": keys[row[0]].open("member.name", row[0], row[1]) if row[0] in keys and row[1] else None,
            "phone": subscriber.phone,
            "role": row[2],
            "state": row[3],
            "created_at": row[4],
        }
        for row in rows
    ]


def _tables(connection: Connection) -> list[tuple[str, list[str], str]]:
    """(table, its columns, which rows are the person's), by name; partitions are in what they are partitions of."""
    rows = connection.execute(
        """SELECT c.relname, array_agg(a.attname ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND a.attnum > 0 AND NOT a.attisdropped
           GROUP BY c.relname ORDER BY c.relname"""
    )
    found = []
    for table, columns in rows:
        where = next((where for column, where in _ABOUT if column in columns), None)
        if where is not None and table not in _NOT:
            found.append(
                (
                    table,
                    [name for name in columns if not name.endswith(_HIDDEN) or name == "text_sha256"],
                    where,
                )
            )
    return found


def _rows(
    connection: Connection, table: str, columns: Sequence[str], where: str, about: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    statement = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table), sql.SQL(where)
    )  # fmt: skip
    with connection.cursor(name=f"export_{table}") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(statement, about)
        for row in cursor:
            yield dict(zip(columns, row, strict=True))


def _opened(
    table: str, row: dict[str, Any], keys: dict[UUID, PersonKey], subscriber: Subscriber
) -> dict[str, Any]:
    """With its texts decrypted, under the name of what they are."""
    shown: dict[str, Any] = {}
    for column, value in row.items():
        name = column.removesuffix("_sealed")
        if name == column and not (table == "audit" and column == _DETAILS):
            if value is not None or f"{column}_sealed" not in row:
                shown[column] = value
            continue
        person_id, row_id, place = subscriber.subscriber_id, None, f"{table}.{name}"
        if table == "audit":
            person_id, row_id = row["person_id"], row["audit_id"]
        elif table == "member":
            row_id = row["member_id"]
            person_id = subscriber.subscriber_id if row["role"] == "owner" else row_id
        elif table == "hub_delivery":
            row_id = row["delivery_id"]
        elif table == "kept_answer":
            row_id = row["answer_id"]
        elif table == "charge_file_line":
            row_id, place = row["charge_file_id"], f"{place}:{row['line_no']}"
        else:
            row_id = row.get(f"{table}_id")
        key = keys.get(person_id)
        if key is None or value is None or row_id is None:
            shown[name] = None
        else:
            text = key.open(place, row_id, bytes(value))
            shown[name] = json.loads(text) if column == _DETAILS else text
    return shown


def _json(value: object) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)
