"""The SQL of keys."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from tokenworks.trust.model import ApiKey, ApiKeyInfo

Connection = psycopg.Connection[tuple[Any, ...]]


def add_key(
    connection: Connection,
    *,
    key_id: UUID,
    account_id: UUID,
    member_id: UUID,
    mac: bytes,
    pepper_version: int,
    hint: str,
    name: str,
    models: Sequence[str] | None,
    cap_bucket_id: UUID | None,
    expires_at: datetime | None,
    origins: Sequence[str] | None,
) -> None:
    connection.execute(
        """INSERT INTO api_key (key_id, account_id, member_id, key_mac, pepper_version, hint, name, models,
                                cap_bucket_id, expires_at, origins)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (
            key_id,
            account_id,
            member_id,
            mac,
            pepper_version,
            hint,
            name,
            None if models is None else list(models),
            cap_bucket_id,
            expires_at,
            None if origins is None else list(origins),
        ),
    )
    # Who was told that it is unknown, a moment ago, looks again.
    connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (mac.hex(),))


def find_keys(connection: Connection, macs: Sequence[bytes]) -> dict[bytes, ApiKey]:
    """The live keys among these MACs; expired and revoked ones are absent."""
    rows = connection.execute(
        """SELECT key_mac, key_id, k.account_id, member_id, models, cap_bucket_id, expires_at, origins
           FROM api_key k JOIN account a ON a.account_id = k.account_id
           WHERE key_mac = ANY(%s) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
             AND a.state = 'open'""",
        (list(macs),),
    )
    return {
        bytes(mac): ApiKey(
            key_id=key_id,
            account_id=account_id,
            member_id=member_id,
            models=None if models is None else frozenset(models),
            cap_bucket_id=cap_bucket_id,
            expires_at_ms=None if expires_at is None else int(expires_at.timestamp() * 1000),
            origins=None if origins is None else frozenset(origins),
        )
        for mac, key_id, account_id, member_id, models, cap_bucket_id, expires_at, origins in rows
    }


def list_keys(
    connection: Connection,
    account_id: UUID,
    caps: dict[UUID, int],
    after: UUID | None = None,
    limit: int | None = None,
) -> list[ApiKeyInfo]:
    """The account's keys, newest last: all, or at most `limit` after one. `caps` gives the total of each cap bucket in thousandths of a token; the cap of a key
    whose bucket is not in it is not said.
    """
    where = "account_id = %s AND key_id > %s ORDER BY key_id LIMIT %s"
    return _infos(connection, where, (account_id, after or UUID(int=0), limit), caps)


def count_keys(connection: Connection, account_id: UUID) -> int:
    row = connection.execute("SELECT count(*) FROM api_key WHERE account_id = %s", (account_id,)).fetchone()
    return 0 if row is None else int(row[0])


def key_info(connection: Connection, key_id: UUID) -> ApiKeyInfo | None:
    return next(iter(_infos(connection, "key_id = %s", (key_id,), {})), None)


def _infos(
    connection: Connection, where: str, values: tuple[object, ...], caps: dict[UUID, int]
) -> list[ApiKeyInfo]:
    rows = connection.execute(
        f"""SELECT key_id, name, hint, models, cap_bucket_id, expires_at, created_at, revoked_at
            FROM api_key WHERE {where}""".encode(),
        values,
    )
    return [
        ApiKeyInfo(
            key_id, name, hint, None if models is None else tuple(models),
            caps[cap] // 1000 if cap in caps else None, expires_at, created_at, revoked_at,
        )
        for key_id, name, hint, models, cap, expires_at, created_at, revoked_at in rows
    ]  # fmt: skip


def live_keys_of(connection: Connection, member_id: UUID) -> set[UUID]:
    rows = connection.execute(
        "SELECT key_id FROM api_key WHERE member_id = %s AND revoked_at IS NULL", (member_id,)
    )
    return {row[0] for row in rows}


def revoke(connection: Connection, key_id: UUID) -> bool:
    """Whether the key was live until now. Also tells every host."""
    with connection.transaction():
        row = connection.execute(
            "UPDATE api_key SET revoked_at = now() WHERE key_id = %s AND revoked_at IS NULL RETURNING key_mac",
            (key_id,),
        ).fetchone()
        if row is not None:
            connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (bytes(row[0]).hex(),))
    return row is not None


def exists(connection: Connection, key_id: UUID) -> bool:
    return connection.execute("SELECT 1 FROM api_key WHERE key_id = %s", (key_id,)).fetchone() is not None


def forget_names(connection: Connection, account_id: UUID) -> None:
    """What its owner called each key: free text, of which nobody knows what it says."""
    connection.execute("UPDATE api_key SET name = 'erased' WHERE account_id = %s", (account_id,))
