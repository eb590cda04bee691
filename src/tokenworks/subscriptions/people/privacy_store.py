"""The SQL of consents, of identities and of erasure."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import FORGOTTEN, uuid7
from tokenworks.subscriptions.model import ConsentText


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
    """A subscriber's last answers, by purpose."""
    return {purpose: row[0] for purpose, row in last_consents(connection, subscriber_id).items()}


def last_consents(
    connection: Connection, subscriber_id: UUID
) -> dict[str, tuple[bool, datetime, str | None]]:
    """A subscriber's last answers, by purpose: (given, instant, hash of the text that was shown)."""
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
    """The ids of all subscribers with the same identity, erased ones included; this subscriber's alone if it has no identity."""
    rows = connection.execute(
        """SELECT o.subscriber_id FROM subscriber s JOIN subscriber o ON o.identity_hash = s.identity_hash
           WHERE s.subscriber_id = %s ORDER BY o.subscriber_id""",
        (subscriber_id,),
    )
    return [row[0] for row in rows] or [subscriber_id]


def erasures_asked(connection: Connection, after: UUID, limit: int) -> list[tuple[UUID, bool]]:
    """Subscribers whose erasure waits, by id: (id, True if the operator has given up what they owe)."""
    rows = connection.execute(
        """SELECT subscriber_id, erasure_gives_up FROM subscriber
           WHERE erasure_asked_at IS NOT NULL AND erased_at IS NULL AND subscriber_id > %s
           ORDER BY subscriber_id LIMIT %s""",
        (after, limit),
    )
    return [(row[0], row[1]) for row in rows]


def gives_up(connection: Connection, subscriber_id: UUID) -> bool:
    """True if the operator has given up the debt of a subscriber whose erasure waits."""
    row = connection.execute(
        "SELECT erasure_gives_up FROM subscriber WHERE subscriber_id = %s", (subscriber_id,)
    ).fetchone()
    return row is not None and bool(row[0])


def erased(connection: Connection, after: UUID, limit: int) -> list[UUID]:
    rows = connection.execute(
        """SELECT subscriber_id FROM subscriber WHERE erased_at IS NOT NULL AND subscriber_id > %s
           ORDER BY subscriber_id LIMIT %s""",
        (after, limit),
    )
    return [row[0] for row in rows]


def people_of(connection: Connection, subscriber_id: UUID) -> list[UUID]:
    """The ids of the persons whose keys are destroyed with a subscriber: the subscriber, and its members other than the owner."""
    rows = connection.execute(
        "SELECT member_id FROM member WHERE role <> 'owner' AND subscriber_id = %s", (subscriber_id,)
    )
    return [subscriber_id, *(row[0] for row in rows)]


def forget_members(connection: Connection, member_ids: Sequence[UUID]) -> None:
    """Delete the personal texts of memberships in other accounts; their keys are destroyed in the same transaction."""
    connection.execute(
        """UPDATE member SET phone_sealed = NULL, phone_hash = NULL, name_sealed = NULL, name_hash = NULL, state = 'left'
           WHERE member_id = ANY(%s)""",
        (list(member_ids),),
    )


def forget_person(
    connection: Connection,
    subscriber_id: UUID,
    people: Sequence[UUID],
    at: datetime,
    identity_until: datetime | None,
) -> None:
    """Delete the ciphertexts and hashes of a subscriber and its members; their keys are destroyed in the same transaction. Tables
    of history (former numbers, the audit trail) keep ciphertexts that no key decrypts any more.
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
    # Free texts about the person, which `app/database/text_columns.py` lists. A reason that a migration wrote stays.
    for statement in (
        """UPDATE work_order SET broadband_sealed = NULL, reason = CASE WHEN reason IS NOT NULL THEN %(gone)s END,
               push_error = NULL WHERE subscriber_id = %(id)s""",
        """UPDATE suspension SET reason = CASE WHEN reason IS NOT NULL THEN %(gone)s END,
               end_reason = CASE WHEN end_reason IS NOT NULL THEN %(gone)s END
           WHERE subscriber_id = %(id)s AND reason IS DISTINCT FROM 'suspended before causes were kept'""",
        """UPDATE product_order SET reason = %(gone)s WHERE subscriber_id = %(id)s AND reason IS NOT NULL""",
        "UPDATE contract_price SET contract = %(gone)s WHERE subscriber_id = %(id)s",
    ):
        connection.execute(statement.encode(), {"gone": FORGOTTEN, "id": subscriber_id})


def forget_member(connection: Connection, member_id: UUID) -> None:
    """Delete a member's personal texts; its key is destroyed in the same transaction."""
    connection.execute(
        """UPDATE member SET phone_sealed = NULL, phone_hash = NULL, name_sealed = NULL, name_hash = NULL, state = 'left'
           WHERE member_id = %s""",
        (member_id,),
    )


def forget_identities(connection: Connection, now: datetime) -> int:
    """Delete the identity hashes of erased subscribers whose time (`identity_hash_days`) is over. Return how many."""
    return connection.execute(
        "UPDATE subscriber SET identity_hash = NULL, identity_kept_until = NULL WHERE identity_kept_until <= %s",
        (now,),
    ).rowcount


def subscriber_of(connection: Connection, id_: UUID) -> UUID | None:
    """The subscriber of the subscriber, account, member, product, order or work order with this id."""
    row = connection.execute(
        """SELECT subscriber_id FROM subscriber WHERE subscriber_id = %(id)s OR account_id = %(id)s
           UNION ALL SELECT subscriber_id FROM member WHERE member_id = %(id)s
           UNION ALL SELECT subscriber_id FROM product WHERE product_id = %(id)s
           UNION ALL SELECT subscriber_id FROM product_order WHERE order_id = %(id)s
           UNION ALL SELECT subscriber_id FROM work_order WHERE work_order_id = %(id)s LIMIT 1""",
        {"id": id_},
    ).fetchone()
    return None if row is None else row[0]
