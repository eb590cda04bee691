"""The SQL of API keys and of the peppers' versions."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.trust.model import ApiKey, ApiKeyInfo


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
    cap_tokens: int | None,
    expires_at: datetime | None,
    origins: Sequence[str] | None,
    fallbacks: Sequence[str] | None = None,
) -> None:
    connection.execute(
        """INSERT INTO api_key (key_id, account_id, member_id, key_mac, pepper_version, hint, name, models,
                                cap_bucket_id, cap_tokens, expires_at, origins, fallbacks)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
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
            cap_tokens,
            expires_at,
            None if origins is None else list(origins),
            None if fallbacks is None else list(fallbacks),
        ),
    )
    # A host may have cached this MAC as unknown: the change makes it look the key up again.
    connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (mac.hex(),))


def add_imported(connection: Connection, foreign_mac: bytes, key_id: UUID, *, kept: bool) -> None:
    """Store that a key was imported. The hosts read whether there are kept keys with their snapshot."""
    connection.execute(
        "INSERT INTO imported_key (foreign_mac, key_id, kept) VALUES (%s, %s, %s)",
        (foreign_mac, key_id, kept),
    )
    if kept:
        connection.execute("INSERT INTO change (kind, ref) VALUES ('snapshot', 'imported_key')")


def imported(connection: Connection, macs: Sequence[bytes]) -> UUID | None:
    row = connection.execute(
        "SELECT key_id FROM imported_key WHERE foreign_mac = ANY(%s)", (list(macs),)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def any_kept(connection: Connection) -> bool:
    return connection.execute("SELECT 1 FROM imported_key WHERE kept LIMIT 1").fetchone() is not None


def find_keys(connection: Connection, macs: Sequence[bytes]) -> dict[bytes, ApiKey]:
    """The live keys among these MACs, without expired and revoked keys and those of closed accounts. Keys of frozen accounts are
    included, so that the client is told why the request is refused.
    """
    rows = connection.execute(
        """SELECT key_mac, key_id, k.account_id, member_id, models, cap_bucket_id, expires_at, origins, fallbacks,
               coalesce(content_log, false), coalesce(response_cache, false)
           FROM api_key k JOIN account a ON a.account_id = k.account_id
           WHERE key_mac = ANY(%s) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
             AND a.state <> 'closed'""",
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
            fallbacks=None if fallbacks is None else tuple(fallbacks),
            content_log=logged,
            response_cache=cached,
        )
        for mac, key_id, account_id, member_id, models, cap_bucket_id, expires_at, origins, fallbacks, logged, cached in rows
    }


def ended_keys(connection: Connection, macs: Sequence[bytes]) -> dict[bytes, str]:
    """The keys among these MACs that `find_keys` omits, and why. If both apply, a closed account comes before the key's own end."""
    rows = connection.execute(
        """SELECT key_mac, CASE WHEN a.state = 'closed' THEN 'closed' WHEN revoked_at IS NOT NULL THEN 'revoked' ELSE 'expired' END
           FROM api_key k JOIN account a ON a.account_id = k.account_id
           WHERE key_mac = ANY(%s) AND (revoked_at IS NOT NULL OR expires_at <= now() OR a.state = 'closed')""",
        (list(macs),),
    )
    return {bytes(mac): str(why) for mac, why in rows}


def list_keys(
    connection: Connection,
    account_id: UUID,
    caps: dict[UUID, int],
    after: UUID | None = None,
    limit: int | None = None,
) -> list[ApiKeyInfo]:
    """The account's keys, newest last: all, or at most `limit` after the key `after`.

    `caps`: cap bucket -> its total in thousandths of a token. A key whose bucket is not in `caps` is listed without a cap.
    """
    where = "account_id = %s AND key_id > %s ORDER BY key_id LIMIT %s"
    return _infos(connection, where, (account_id, after or UUID(int=0), limit), caps)


def count_keys(connection: Connection, account_id: UUID) -> int:
    row = connection.execute("SELECT count(*) FROM api_key WHERE account_id = %s", (account_id,)).fetchone()
    return 0 if row is None else int(row[0])


def count_live_keys(
    connection: Connection, account_id: UUID, member_id: UUID, now: datetime
) -> tuple[int, int]:
    """(live keys of the member, live keys of the account)."""
    row = connection.execute(
        """SELECT count(*) FILTER (WHERE member_id = %s), count(*) FROM api_key
           WHERE account_id = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > %s)""",
        (member_id, account_id, now),
    ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def key_info(connection: Connection, key_id: UUID) -> ApiKeyInfo | None:
    return next(iter(_infos(connection, "key_id = %s", (key_id,), {})), None)


def _infos(
    connection: Connection, where: str, values: tuple[object, ...], caps: dict[UUID, int]
) -> list[ApiKeyInfo]:
    rows = connection.execute(
        f"""SELECT key_id, name, hint, models, cap_bucket_id, expires_at, created_at, revoked_at, used_at, fallbacks,
                coalesce(content_log, false), coalesce(response_cache, false)
            FROM api_key WHERE {where}""".encode(),
        values,
    )
    return [
        ApiKeyInfo(
            key_id, name, hint, None if models is None else tuple(models),
            caps[cap] // 1000 if cap in caps else None, expires_at, created_at, revoked_at, used_at,
            None if fallbacks is None else tuple(fallbacks), logged, cached,
        )
        for key_id, name, hint, models, cap, expires_at, created_at, revoked_at, used_at, fallbacks, logged, cached in rows
    ]  # fmt: skip


def live_keys_of(connection: Connection, member_id: UUID) -> set[UUID]:
    rows = connection.execute(
        "SELECT key_id FROM api_key WHERE member_id = %s AND revoked_at IS NULL", (member_id,)
    )
    return {row[0] for row in rows}


def set_fallbacks(connection: Connection, key_id: UUID, fallbacks: Sequence[str] | None) -> bool:
    """Set the models to which a key's requests fall back, and notify the hosts. Returns False if there is no such live key."""
    row = connection.execute(
        "UPDATE api_key SET fallbacks = %s WHERE key_id = %s AND revoked_at IS NULL RETURNING key_mac",
        (None if fallbacks is None else list(fallbacks), key_id),
    ).fetchone()
    if row is not None:
        connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (bytes(row[0]).hex(),))
    return row is not None


def set_content_log(connection: Connection, key_id: UUID, *, on: bool) -> bool:
    """Turn the log of a key's content on or off, and notify the hosts. Returns False if there is no such live key."""
    row = connection.execute(
        "UPDATE api_key SET content_log = %s WHERE key_id = %s AND revoked_at IS NULL RETURNING key_mac",
        (on, key_id),
    ).fetchone()
    if row is not None:
        connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (bytes(row[0]).hex(),))
    return row is not None


def set_response_cache(connection: Connection, key_id: UUID, *, on: bool) -> bool:
    """Have a key's requests wish the response cache or not, and notify the hosts. Returns False if there is no such live key."""
    row = connection.execute(
        "UPDATE api_key SET response_cache = %s WHERE key_id = %s AND revoked_at IS NULL RETURNING key_mac",
        (on, key_id),
    ).fetchone()
    if row is not None:
        connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (bytes(row[0]).hex(),))
    return row is not None


def revoke(connection: Connection, key_id: UUID) -> bool:
    """Revoke a key and notify the hosts. Returns False if there is no such key that is not revoked."""
    with connection.transaction():
        row = connection.execute(
            "UPDATE api_key SET revoked_at = now() WHERE key_id = %s AND revoked_at IS NULL RETURNING key_mac",
            (key_id,),
        ).fetchone()
        if row is not None:
            connection.execute("INSERT INTO change (kind, ref) VALUES ('key', %s)", (bytes(row[0]).hex(),))
    return row is not None


def store_last_use(connection: Connection, key_ids: Sequence[UUID]) -> None:
    """Store the time of the last use of these keys, to a minute. A locked row is skipped: another transaction is writing the same."""
    connection.execute(
        """WITH due AS (SELECT key_id FROM api_key
                        WHERE key_id = ANY(%s) AND (used_at IS NULL OR used_at < now() - interval '1 minute')
                        ORDER BY key_id FOR NO KEY UPDATE SKIP LOCKED)
           UPDATE api_key k SET used_at = now() FROM due WHERE k.key_id = due.key_id""",
        (list(key_ids),),
    )


class PepperRow(NamedTuple):
    version: int
    fingerprint: bytes
    added_at: datetime
    used_since: datetime | None
    retired_at: datetime | None


def peppers(connection: Connection) -> list[PepperRow]:
    rows = connection.execute(
        "SELECT version, fingerprint, added_at, used_since, retired_at FROM pepper ORDER BY version"
    )
    return [PepperRow(row[0], bytes(row[1]), *row[2:]) for row in rows]


def add_pepper(
    connection: Connection, version: int, fingerprint: bytes, at: datetime, used_since: datetime | None
) -> None:
    """Add a version, unless it exists: of two concurrent calls, the first one wins."""
    connection.execute(
        """INSERT INTO pepper (version, fingerprint, added_at, used_since) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING""",
        (version, fingerprint, at, used_since),
    )


def set_pepper(connection: Connection, version: int, column: str, at: datetime) -> None:
    connection.execute(f"UPDATE pepper SET {column} = %s WHERE version = %s".encode(), (at, version))


def peppers_changed(connection: Connection) -> None:
    """Notify the hosts that a pepper was added, put into use or retired."""
    connection.execute("INSERT INTO change (kind, ref) VALUES ('pepper', '')")


def made_under(connection: Connection, version: int, now: datetime) -> dict[str, int]:
    """How many live keys, sessions, staff tokens and webhooks were made under a pepper. Rows without a version count for version 1."""
    found = {}
    for what, query in (
        ("key(s)", "FROM api_key WHERE pepper_version = %(v)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > %(now)s)"),
        ("session(s)", "FROM session WHERE coalesce(pepper_version, 1) = %(v)s AND ended_at IS NULL AND expires_at > %(now)s"),
        ("staff session(s)", "FROM staff_session WHERE pepper_version = %(v)s AND ended_at IS NULL AND expires_at > %(now)s"),
        ("staff token(s)", "FROM staff_token WHERE coalesce(pepper_version, 1) = %(v)s AND expires_at > %(now)s"),
        ("webhook(s)", "FROM hub_listener WHERE removed_at IS NULL AND (pepper_version = %(v)s OR overlap_version = %(v)s AND overlap_until > %(now)s)"),
        ("webhook(s) for notices", "FROM notice_address WHERE channel = 'webhook' AND (pepper_version = %(v)s OR overlap_version = %(v)s AND overlap_until > %(now)s)"),
    ):  # fmt: skip
        row = connection.execute(f"SELECT count(*) {query}".encode(), {"v": version, "now": now}).fetchone()
        found[what] = 0 if row is None else int(row[0])
    return found


def exists(connection: Connection, key_id: UUID) -> bool:
    return connection.execute("SELECT 1 FROM api_key WHERE key_id = %s", (key_id,)).fetchone() is not None


def forget_names(connection: Connection, account_id: UUID, member_ids: list[UUID]) -> None:
    """Erase the names of keys. A name is free text, so it can contain personal data."""
    connection.execute(
        "UPDATE api_key SET name = 'erased' WHERE account_id = %s OR member_id = ANY(%s)",
        (account_id, member_ids),
    )


def keys_of_member(connection: Connection, member_id: UUID) -> set[UUID]:
    """All keys of a member, including revoked and expired ones."""
    rows = connection.execute("SELECT key_id FROM api_key WHERE member_id = %s", (member_id,))
    return {row[0] for row in rows}


def forget_names_of_member(connection: Connection, member_id: UUID) -> None:
    connection.execute("UPDATE api_key SET name = 'erased' WHERE member_id = %s", (member_id,))
