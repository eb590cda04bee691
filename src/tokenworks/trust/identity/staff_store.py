"""The SQL of staff accounts: looking them up, their roles, and their identities at an OpenID provider."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.trust.identity.roles import StaffRole


class StaffRow(NamedTuple):
    """A staff member. `email`, `oidc_issuer`, `oidc_subject`: its identity at the OpenID provider, if it has one."""

    staff_id: UUID
    name: str
    role: StaffRole
    created_at: datetime
    revoked_at: datetime | None
    email: str | None
    oidc_issuer: str | None
    oidc_subject: str | None


_SELECT = """SELECT s.staff_id, s.name, s.role, s.created_at, s.revoked_at, i.email, i.oidc_issuer, i.oidc_subject
             FROM staff s LEFT JOIN staff_identity i USING (staff_id)"""


def _staff(row: TupleRow | None) -> StaffRow | None:
    return None if row is None else StaffRow(*row)


def find(connection: Connection, name: str) -> StaffRow | None:
    return _staff(connection.execute(f"{_SELECT} WHERE s.name = %s".encode(), (name,)).fetchone())


def find_by_subject(connection: Connection, issuer: str, subject: str) -> StaffRow | None:
    return _staff(
        connection.execute(
            f"{_SELECT} WHERE i.oidc_issuer = %s AND i.oidc_subject = %s".encode(), (issuer, subject)
        ).fetchone()
    )


def find_by_email(connection: Connection, email: str) -> StaffRow | None:
    return _staff(connection.execute(f"{_SELECT} WHERE i.email = %s".encode(), (email,)).fetchone())


def lock(connection: Connection, staff_id: UUID) -> bool:
    """Lock a staff member for this transaction. Returns False if it is revoked."""
    row = connection.execute(
        "SELECT revoked_at IS NULL FROM staff WHERE staff_id = %s FOR UPDATE", (staff_id,)
    ).fetchone()
    return row is not None and bool(row[0])


def set_role(connection: Connection, staff_id: UUID, role: StaffRole) -> None:
    connection.execute("UPDATE staff SET role = %s WHERE staff_id = %s", (role, staff_id))


def set_email(connection: Connection, staff_id: UUID, email: str) -> bool:
    """Give an account its email, in place of an earlier identity. Returns False if another account has the email."""
    row = connection.execute(
        """INSERT INTO staff_identity (staff_id, email) SELECT %(id)s, %(email)s
           WHERE NOT EXISTS (SELECT 1 FROM staff_identity WHERE email = %(email)s AND staff_id <> %(id)s)
           ON CONFLICT (staff_id) DO UPDATE SET email = excluded.email, oidc_issuer = NULL, oidc_subject = NULL, linked_at = NULL
           RETURNING 1""",
        {"id": staff_id, "email": email},
    ).fetchone()
    return row is not None


def link(connection: Connection, staff_id: UUID, email: str, issuer: str, subject: str, at: datetime) -> bool:
    """Store the subject of an account that has none yet. Returns False if it has one, or has another email by now."""
    return (
        connection.execute(
            """UPDATE staff_identity SET oidc_issuer = %s, oidc_subject = %s, linked_at = %s
               WHERE staff_id = %s AND email = %s AND oidc_subject IS NULL""",
            (issuer, subject, at, staff_id, email),
        ).rowcount
        == 1
    )


def use_state(connection: Connection, state_mac: bytes, at: datetime) -> bool:
    """Mark a state as used. Returns False if it was used before."""
    row = connection.execute(
        "INSERT INTO staff_oidc_state (state_mac, used_at) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING 1",
        (state_mac, at),
    ).fetchone()
    return row is not None


def delete_states(connection: Connection, before: datetime) -> None:
    connection.execute("DELETE FROM staff_oidc_state WHERE used_at < %s", (before,))
