"""The export of a person: all rows about it, as one JSON document, streamed.

The tables are found in the database's own catalogue, by the columns that name the person of a row. So a table that another room
adds is exported without an entry here. Left out are keyed hashes and MACs, which mean nothing without their key, and wrapped
keys.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection, sql
from psycopg.pq import TransactionStatus

from tokenworks.subscriptions.model import Subscriber
from tokenworks.trust import PersonKey, PersonVault

FORMAT: Final = "tokenworks-export-1"
ROWS_AT_ONCE: Final = 500
# Of tables whose rows have requests and answers of up to megabytes.
_LARGE_ROWS_AT_ONCE: Final = 10
_LARGE_ROWS: Final = frozenset({"content_log", "replay_answer"})
CHUNK_BYTES: Final = 65_536
# (column, condition for the person's rows); the first column that a table has counts.
_PERSON_COLUMNS: Final = (
    ("subscriber_id", "subscriber_id = %(subscriber_id)s"),
    ("account_id", "account_id = %(account_id)s"),
    ("person_id", "person_id = ANY(%(people)s)"),
    ("bill_id", "bill_id IN (SELECT bill_id FROM bill WHERE subscriber_id = %(subscriber_id)s)"),
    (
        "text_sha256",
        "text_sha256 IN (SELECT text_sha256 FROM consent WHERE subscriber_id = %(subscriber_id)s)",
    ),
)
_LEFT_OUT_TABLES: Final = frozenset({"person_key"})
_LEFT_OUT_SUFFIXES: Final = ("_hash", "_hashes", "_mac", "pepper_version")
# The encrypted column (of `audit`) that is not called `<name>_sealed`.
_DETAILS: Final = "details"


# The id columns that are not called `<table>_id`: the encrypted texts of a row are bound to its id.
_ID_COLUMNS: Final = {
    "hub_delivery": "delivery_id",
    "kept_answer": "answer_id",
    "charge_file_line": "charge_file_id",
    "replay_answer": "answer_id",
}


class _PersonTable(NamedTuple):
    name: str
    columns: list[str]
    # The condition for the person's rows.
    where: str


def export(
    connection: Connection,
    vault: PersonVault,
    subscriber: Subscriber,
    at: datetime,
    more: Mapping[str, object],
) -> Iterator[bytes]:
    """The document in pieces, as of one instant. `more`: values of the document that are in no table.

    A transaction is open on the connection while the document is read; the memory that it takes does not depend on its length.
    """
    is_idle = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction():
        if is_idle:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        people = _people(connection, subscriber)
        keys = vault.keys(people)
        person = {
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
        elsewhere = _memberships_elsewhere(connection, vault, subscriber)
        buffer += f'"memberships_elsewhere": {_json(elsewhere)},\n"tables": {{'.encode()
        for number, table in enumerate(_person_tables(connection)):
            buffer += f'{"," if number else ""}\n"{table.name}": ['.encode()
            is_first = True
            for row in _rows(connection, table, person):
                shown = _decrypted(table.name, row, keys, subscriber)
                buffer += f"{'' if is_first else ','}\n{_json(shown)}".encode()
                is_first = False
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


def _memberships_elsewhere(
    connection: Connection, vault: PersonVault, subscriber: Subscriber
) -> list[dict[str, object]]:
    """The memberships of the subscriber's number in other accounts; none if it is closed, since the number may have a new holder."""
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


def _person_tables(connection: Connection) -> list[_PersonTable]:
    """The tables with rows about persons, by name, without partitions: their rows are in the partitioned table."""
    rows = connection.execute(
        """SELECT c.relname, array_agg(a.attname ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND a.attnum > 0 AND NOT a.attisdropped
           GROUP BY c.relname ORDER BY c.relname"""
    )
    found = []
    for table, columns in rows:
        where = next((where for column, where in _PERSON_COLUMNS if column in columns), None)
        if where is not None and table not in _LEFT_OUT_TABLES:
            found.append(_PersonTable(table, _shown_columns(columns), where))
    return found


def _shown_columns(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if not name.endswith(_LEFT_OUT_SUFFIXES) or name == "text_sha256"]


def _rows(
    connection: Connection, table: _PersonTable, person: Mapping[str, object]
) -> Iterator[dict[str, object]]:
    statement = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(map(sql.Identifier, table.columns)), sql.Identifier(table.name), sql.SQL(table.where)
    )  # fmt: skip
    with connection.cursor(name=f"export_{table.name}") as cursor:
        cursor.itersize = _LARGE_ROWS_AT_ONCE if table.name in _LARGE_ROWS else ROWS_AT_ONCE
        cursor.execute(statement, person)
        for row in cursor:
            yield dict(zip(table.columns, row, strict=True))


def _decrypted(
    table: str, row: Mapping[str, object], keys: Mapping[UUID, PersonKey], subscriber: Subscriber
) -> dict[str, object]:
    """A row with its encrypted texts decrypted, each under its column's name without `_sealed`."""
    shown: dict[str, object] = {}
    for column, value in row.items():
        name = column.removesuffix("_sealed")
        if name == column and not (table == "audit" and column == _DETAILS):
            if value is not None or f"{column}_sealed" not in row:
                shown[column] = value
            continue
        person_id: object = subscriber.subscriber_id
        row_id = row.get(_ID_COLUMNS.get(table, f"{table}_id"))
        place = f"{table}.{name}"
        if table == "notice_address" and row["person_id"] != subscriber.subscriber_id:
            # A member's own address is in the member's export alone.
            row_id = None
        if table == "audit":
            person_id = row["person_id"]
        elif table == "member":
            person_id = subscriber.subscriber_id if row["role"] == "owner" else row_id
        elif table == "charge_file_line":
            place = f"{place}:{row['line_no']}"
        key = keys.get(person_id) if isinstance(person_id, UUID) else None
        if key is None or value is None or row_id is None:
            shown[name] = None
        else:
            assert isinstance(row_id, UUID) and isinstance(value, bytes | memoryview)
            # Content may be cut within a character, or be no text.
            text = key.open_bytes(place, row_id, bytes(value)).decode(errors="replace")
            shown[name] = json.loads(text) if column == _DETAILS else text
    return shown


def _json(value: object) -> str:
    return json.dumps(value, default=_json_value, ensure_ascii=False)


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)
