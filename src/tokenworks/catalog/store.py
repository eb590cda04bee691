"""The SQL of the catalogue."""

from collections.abc import Sequence
from datetime import datetime

from psycopg import Connection

from tokenworks.catalog.errors import ContentChanged
from tokenworks.catalog.model import Offering, RateCard, canonical, content_version


def add_rate_card(connection: Connection, card: RateCard) -> str:
    version = card.version()
    connection.execute(
        """INSERT INTO rate_card (rate_version, rate_card_id, effective_from, content)
           VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (version, card.id, card.effective_from, canonical(card)),
    )
    return version


def add_offering(connection: Connection, offering: Offering, rate_version: str, now: datetime) -> bool:
    """Store an offering's version. Return True if it is new. It is sold from its `valid_from` on, or from now on if that has
    passed; the version before it is on sale until then.
    """
    version = offering.version(rate_version)
    new = connection.execute(
        """INSERT INTO offering (offering_version, offering_id, rate_version, content)
           VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (version, offering.id, rate_version, canonical(offering)),
    ).fetchone()
    begins = offering.valid_from
    from_at = begins if begins is not None and begins > now else now
    connection.execute(
        """INSERT INTO offering_current (offering_id, offering_version, from_at)
           SELECT %(id)s, %(version)s, CASE WHEN EXISTS (SELECT 1 FROM offering_current WHERE offering_id = %(id)s)
                                       THEN %(from)s::timestamptz ELSE '-infinity' END
           WHERE %(version)s IS DISTINCT FROM (SELECT offering_version FROM offering_current
               WHERE offering_id = %(id)s AND from_at <= %(from)s ORDER BY from_at DESC LIMIT 1)
           ON CONFLICT (offering_id, from_at) DO UPDATE SET offering_version = excluded.offering_version""",
        {"id": offering.id, "version": version, "from": from_at},
    )
    return new is not None


def is_known(connection: Connection, offering_id: str) -> bool:
    row = connection.execute("SELECT 1 FROM offering_current WHERE offering_id = %s LIMIT 1", (offering_id,))
    return row.fetchone() is not None


def forget_planned(connection: Connection, offering_ids: Sequence[str], now: datetime) -> None:
    """Delete the planned versions of offerings: the file that is loaded has them again, or has other ones."""
    connection.execute(
        "DELETE FROM offering_current WHERE offering_id = ANY(%s) AND from_at > %s", (list(offering_ids), now)
    )


def _offering(content: str, version: str, rate_version: str) -> Offering:
    if content_version("offering", content, rate_version) != version:
        raise ContentChanged(
            f"offering {version} does not match its hash: restore the catalogue from the backup"
        )
    return Offering.model_validate_json(content)


_CURRENT = """(SELECT DISTINCT ON (offering_id) offering_id, offering_version FROM offering_current
               WHERE from_at <= %(now)s ORDER BY offering_id, from_at DESC)"""


def current_offerings(connection: Connection, now: datetime) -> list[tuple[str, str, Offering]]:
    """(version, rate version, offering) of the versions that are sold at a time, by the offering's id."""
    rows = connection.execute(
        f"""SELECT o.offering_version, o.rate_version, o.content FROM {_CURRENT} c
            JOIN offering o USING (offering_version) ORDER BY c.offering_id""".encode(),
        {"now": now},
    )
    return [(version, rate, _offering(content, version, rate)) for version, rate, content in rows]


def find_offering(
    connection: Connection, now: datetime, *, offering_id: str | None = None, version: str | None = None
) -> tuple[str, str, Offering] | None:
    """(version, rate version, offering), by the offering's id (the version that is sold at a time) or by version."""
    row = connection.execute(
        """SELECT o.offering_version, o.rate_version, o.content FROM offering o
           WHERE o.offering_version = coalesce(%(version)s, (
               SELECT offering_version FROM offering_current WHERE offering_id = %(id)s AND from_at <= %(now)s
               ORDER BY from_at DESC LIMIT 1))""",
        {"version": version, "id": offering_id, "now": now},
    ).fetchone()
    return None if row is None else (row[0], row[1], _offering(row[2], row[0], row[1]))


def rate_cards(connection: Connection, rate_version: str | None = None) -> dict[str, RateCard]:
    """The rate cards of all versions (or of one), by version: a sold product keeps the card of its version."""
    cards = {}
    rows = connection.execute(
        "SELECT rate_version, content FROM rate_card WHERE %(v)s::text IS NULL OR rate_version = %(v)s",
        {"v": rate_version},
    )
    for version, content in rows:
        if content_version("rate", content) != version:
            raise ContentChanged(
                f"rate card {version} does not match its hash: restore the catalogue from the backup"
            )
        cards[version] = RateCard.model_validate_json(content)
    return cards


def announce_change(connection: Connection, ref: str) -> None:
    """Tell all hosts, by the change feed, to read the catalogue again."""
    connection.execute("INSERT INTO change (kind, ref) VALUES ('snapshot', %s)", (ref,))
