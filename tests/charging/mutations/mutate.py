"""Every way to corrupt a row that the schema allows, made from the schema itself: columns changed by type, moved to another row's
value, emptied; rows doubled and deleted; entries forged.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.json import Jsonb

# What tells rows of a table apart: one row of each combination is corrupted.
KINDS = {
    "adjustment": ("state",), "api_key": ("cap_bucket_id IS NULL", "models IS NULL"), "bill": ("state",), "bill_line": ("kind", "entry_id IS NULL"),
    "bucket": ("kind", "closing", "cap_of IS NULL", "product_id IS NULL", "charge_id IS NULL", "rollover_to IS NULL", "rollover_left IS NULL", "paused"),
    "charge": ("kind", "recognise", "bill_id IS NULL", "settles_bill_id IS NULL", "closed_at IS NULL"),
    "charge_file_line": ("state",), "entry": ("kind",), "grants": ("state", "doubt"), "member": ("role", "cap_period", "state"),
    "payment": ("method", "asked_nano IS NULL"), "product": ("state", "parent_id IS NULL", "charge_id IS NULL", "step_no = 0"),
    "product_order": ("action", "state"), "quarantine": ("state",), "rate_limit": ("scope",), "refund": ("part",),
    "subscriber": ("state",), "usage": ("state", "loss IS NULL", "flags"), "work_order": ("action", "state"), "dispute": ("state",),
    "suspension": ("cause",), "dunning": ("step",), "window_use": ("amount",), "reconciliation_case": ("kind",), "approval": ("state",),
    "posting": ("(SELECT kind FROM entry e WHERE e.account_id = t.account_id AND e.entry_id = t.entry_id)", "ledger_account"),
    "real_name_check": ("state",), "staff": ("role",), "document_number": ("kind",), "account": ("state",),
}  # fmt: skip
# Columns that name a row beside its key: a finding that has one of their values names the row.
NAMES = {
    "entry_id", "account_id", "subscriber_id", "bill_no", "credit_note_no", "sequence_no", "offering_id",
}  # fmt: skip


class _Endless(TimestamptzLoader):
    """`-infinity`, from which an offering's first version is sold, is no `datetime`: it stays text."""

    def load(self, data: Any) -> Any:
        text = bytes(data).decode()
        return text if "infinity" in text else super().load(data)


def corrupting(connection: psycopg.Connection[Any]) -> None:
    """Let this connection, which is the owner's, do what no service does: no trigger and no foreign key holds it."""
    connection.adapters.register_loader("timestamptz", _Endless)
    connection.execute("SET session_replication_role = replica")
    # The same hundred statements again and again: planned once.
    connection.prepare_threshold, connection.prepared_max = 0, 1000
    connection.execute("SET jit = off")


@dataclass(frozen=True)
class Mutation:
    """One corruption: `what` is said in reports; `values` are what may name the row."""

    table: str
    what: str
    statement: sql.Composable
    params: tuple[Any, ...]
    values: frozenset[str] = field(compare=False)
    # Of an entry that is there: its kind.
    kind: str = ""

    @property
    def column(self) -> str:
        return self.what.split(" ", 1)[1] if " " in self.what else ""


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    nullable: bool
    allowed: tuple[str, ...]


def columns_of(connection: psycopg.Connection[Any], table: str) -> list[Column]:
    checks = " ".join(
        row[0]
        for row in connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'",
            (table,),
        )
    )
    found = []
    for name, type_, not_null in connection.execute(
        """SELECT attname, format_type(atttypid, NULL), attnotnull FROM pg_attribute
           WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum""",
        (table,),
    ):
        listed = re.search(rf"\({name} = ANY \(ARRAY\[(.*?)\]\)", checks)
        allowed = tuple(re.findall(r"'([^']*)'", listed[1])) if listed else ()
        found.append(Column(name, type_, not not_null, allowed))
    return found


def keys_of(connection: psycopg.Connection[Any], table: str) -> list[str]:
    return [
        row[0]
        for row in connection.execute(
            """SELECT a.attname FROM pg_constraint c CROSS JOIN unnest(c.conkey) WITH ORDINALITY k(no, at)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.no
               WHERE c.conrelid = %s::regclass AND c.contype = 'p' ORDER BY k.at""",
            (table,),
        )
    ]


def _rows(
    connection: psycopg.Connection[Any], table: str, columns: list[Column], keys: list[str]
) -> list[dict[str, Any]]:
    kinds = KINDS.get(table, ("(SELECT 1)",))
    names = sql.SQL(", ").join(sql.Identifier(c.name) for c in columns)
    order = sql.SQL(", ").join(sql.Identifier(k) for k in keys)
    distinct = sql.SQL(", ").join(sql.SQL(k) for k in kinds)
    rows = connection.execute(
        sql.SQL("SELECT DISTINCT ON ({}) {} FROM {} t ORDER BY {}, {}").format(
            distinct, names, sql.Identifier(table), distinct, order
        )
    ).fetchall()
    return [dict(zip([c.name for c in columns], row, strict=True)) for row in rows]


def _adapted(value: Any) -> Any:
    return (
        Jsonb(value)
        if isinstance(value, dict | list)
        and not (isinstance(value, list) and all(isinstance(v, str | bytes | UUID) for v in value))
        else value
    )


def _changed_json(value: Any) -> Any:
    """The same with its first number higher by a thousand."""
    text = json.dumps(value)
    at = list(re.finditer(r"(?<![\w\"-])\d+(?![\w\"-])", text))
    if not at:
        return [*value, 1] if isinstance(value, list) else {**value, "forged": 1}
    found = at[0]
    return json.loads(text[: found.start()] + str(int(found[0]) + 1000) + text[found.end() :])


def _changes(
    connection: psycopg.Connection[Any], table: str, column: Column, row: dict[str, Any]
) -> list[tuple[str, Any]]:
    """(what, new value) of a column, by its type."""
    old = row[column.name]
    found: list[tuple[str, Any]] = []
    others = [
        r[0]
        for r in connection.execute(
            sql.SQL(
                "SELECT DISTINCT {c} FROM {t} WHERE {c} IS NOT NULL AND {c} IS DISTINCT FROM %s ORDER BY 1 LIMIT 50"
            ).format(c=sql.Identifier(column.name), t=sql.Identifier(table)),
            (_adapted(old),),
        )
    ]
    if column.type == "uuid":
        found.append(("change", uuid4()))
        if others:
            found.append(("move", others[0]))
    elif column.type == "boolean":
        found.append(("change", not old))
    elif column.type in {"bigint", "integer"}:
        found += (
            [("change", (old or 0) + 1), ("raise", (old or 0) + 5_000_000)]
            if column.type == "bigint"
            else [("change", (old or 0) + 1)]
        )
        if old:
            found.append(("lower", old - 1))
    elif column.type.startswith("timestamp"):
        base = old if isinstance(old, datetime) else datetime(2026, 1, 1).astimezone()
        found += [("change", base + timedelta(days=1)), ("month", base - timedelta(days=40))]
    elif column.type == "date":
        found.append(("change", old + timedelta(days=1)))
    elif column.type == "text":
        if column.allowed:
            found += [("change", value) for value in column.allowed if value != old][:2]
        else:
            found.append(("change", f"{old or ''}x"))
            if others:
                found.append(("move", others[0]))
    elif column.type == "jsonb":
        found.append(("change", _changed_json(old or [])))
    elif column.type == "bytea":
        found.append(("change", bytes(old or b"") + b"x"))
    elif column.type.endswith("[]"):
        element = uuid4() if column.type == "uuid[]" else (b"x" if column.type == "bytea[]" else "forged")
        found.append(("change", [*(old or []), element]))
        if old:
            found.append(("cut", old[:-1]))
    if column.nullable and old is not None:
        found.append(("empty", None))
    return found


def _named(keys: list[str], *rows: dict[str, Any]) -> frozenset[str]:
    found = set()
    for row in rows:
        for name, value in row.items():
            if value is not None and (name in NAMES or (name in keys and isinstance(value, UUID | str))):
                found.add(str(value))
    return frozenset(found)


def kind_of(table: str, row: dict[str, Any]) -> str:
    return str(row["kind"]) if table == "entry" else ""


def mutations_of(connection: psycopg.Connection[Any], table: str) -> list[Mutation]:
    columns, keys = columns_of(connection, table), keys_of(connection, table)
    found = []
    t = sql.Identifier(table)
    for row in _rows(connection, table, columns, keys):
        where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(key)) for key in keys)
        at = tuple(row[key] for key in keys)
        found.append(
            Mutation(
                table,
                "delete",
                sql.SQL("DELETE FROM {} WHERE {}").format(t, where),
                at,
                _named(keys, row),
                kind_of(table, row),
            )
        )
        doubled = _doubled(connection, table, columns, keys, row)
        if doubled is not None:
            found.append(doubled)
        for column in columns:
            for what, value in _changes(connection, table, column, row):
                cast = sql.SQL("%s::{}").format(sql.SQL(column.type))
                statement = sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(
                    t, sql.Identifier(column.name), cast, where
                )
                found.append(
                    Mutation(
                        table, f"{what} {column.name}", statement, (_adapted(value), *at),
                        _named(keys, row, {**row, column.name: value}), kind_of(table, row),
                    )
                )  # fmt: skip
    return found


def _doubled(
    connection: psycopg.Connection[Any],
    table: str,
    columns: list[Column],
    keys: list[str],
    row: dict[str, Any],
) -> Mutation | None:
    """The same row again, another id and other unique texts."""
    unique = {
        name
        for (names,) in connection.execute(
            """SELECT ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey))
               FROM pg_index i WHERE i.indrelid = %s::regclass AND i.indisunique""",
            (table,),
        )
        for name in names
    }
    copy = dict(row)
    own = [k for k in keys if k not in {"account_id", "subscriber_id"}] or keys
    types = {c.name: c for c in columns}
    for name in [own[-1], *(n for n in unique if n not in keys)]:
        value, type_ = copy[name], types[name].type
        if value is None or name in {"account_id", "subscriber_id", "product_id", "kind", "method", "layout"}:
            continue
        if type_ == "uuid":
            copy[name] = uuid4()
        elif type_ in {"bigint", "integer"}:
            copy[name] = value + 100_000
        elif type_ == "text" and not types[name].allowed:
            copy[name] = f"{value}-2"
        elif type_ == "bytea":
            copy[name] = bytes(value) + b"2"
        elif type_.startswith("timestamp"):
            copy[name] = value + timedelta(days=400) if isinstance(value, datetime) else "infinity"
    names = sql.SQL(", ").join(sql.Identifier(c.name) for c in columns)
    slots = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(c.type)) for c in columns)
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        sql.Identifier(table), names, slots
    )
    return Mutation(
        table,
        "double",
        statement,
        tuple(_adapted(copy[c.name]) for c in columns),
        _named(keys, row, copy),
        kind_of(table, row),
    )


def forged_entries(connection: psycopg.Connection[Any]) -> list[Mutation]:
    """Of each kind a balanced entry more, with the postings of one that is there, and with a cause that is there or not."""
    found = []
    for kind, account_id, entry_id, ref in connection.execute(
        "SELECT DISTINCT ON (kind) kind, account_id, entry_id, ref FROM entry ORDER BY kind, entry_id"
    ).fetchall():
        for what, forged_ref in (("its cause", ref), ("no cause", str(uuid4()))):
            forged = uuid4()
            statement = sql.SQL(
                """WITH p AS (INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
                              SELECT account_id, %s, line_no, ledger_account, unit, bucket_id, amount FROM posting
                              WHERE account_id = %s AND entry_id = %s)
                   INSERT INTO entry (account_id, entry_id, kind, ref) VALUES (%s, %s, %s, %s)"""
            )
            found.append(
                Mutation(
                    "entry", f"forge {kind} of {what}", statement,
                    (forged, account_id, entry_id, account_id, forged, kind, forged_ref),
                    frozenset({str(forged), str(account_id)}),
                )
            )  # fmt: skip
    row = connection.execute(
        "SELECT account_id, bucket_id, unit FROM bucket WHERE kind = 'balance' LIMIT 1"
    ).fetchone()
    assert row is not None
    forged = uuid4()
    found.append(
        Mutation(
            "entry", "forge five million tokens", sql.SQL(
                """WITH e AS (INSERT INTO entry (account_id, entry_id, kind, ref) VALUES (%s, %s, 'issue', %s)),
                        b AS (UPDATE bucket SET total = total + 5000000000, remaining = remaining + 5000000000
                              WHERE account_id = %s AND bucket_id = %s)
                   INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
                   VALUES (%s, %s, 1, 'issued', %s, %s, -5000000000), (%s, %s, 2, 'customer_liability', %s, %s, 5000000000)"""
            ),
            (row[0], forged, str(row[1]), row[0], row[1], row[0], forged, row[2], row[1], row[0], forged, row[2], row[1]),
            frozenset({str(forged), str(row[0]), str(row[1])}),
        )
    )  # fmt: skip
    return found


def tried(
    connection: psycopg.Connection[Any],
    mutation: Mutation,
    checks: list[tuple[str, Any]],
    hits: dict[str, Counter[str]],
) -> str:
    """`refused` by the schema, `named`, or `unseen`; the database is as it was after it. `hits`: which checks named rows of each table
    before; they are asked first.
    """
    known = hits.setdefault(mutation.table, Counter())
    with connection.transaction(force_rollback=True):
        try:
            with connection.transaction():
                changed = connection.execute(mutation.statement, mutation.params).rowcount
        except (psycopg.IntegrityError, psycopg.DataError):
            return "refused"
        assert changed, mutation
        for invariant, check in sorted(checks, key=lambda one: -known[one[0]]):
            for finding in check(connection):
                if any(value in finding.where for value in mutation.values):
                    known[invariant] += 1
                    return "named"
    return "unseen"
