"""The SQL of the catalogue."""

from typing import Any

import psycopg

from tokenworks.catalog.errors import ContentChanged
from tokenworks.catalog.model import Offering, RateCard, canonical, content_version

Connection = psycopg.Connection[tuple[Any, ...]]


def add_rate_card(connection: Connection, card: RateCard) -> str:
    version = card.version()
    connection.execute(
        """INSERT INTO rate_card (rate_version, rate_card_id, effective_from, content)
           VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (version, card.id, card.effective_from, canonical(card)),
    )
    return version


def add_offering(connection: Connection, offering: Offering, rate_version: str) -> bool:
    """Whether this is a new version; the current one points at it either way."""
    version = offering.version(rate_version)
    new = connection.execute(
        """INSERT INTO offering (offering_version, offering_id, rate_version, content)
           VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (version, offering.id, rate_version, canonical(offering)),
    ).fetchone()
    connection.execute(
        """INSERT INTO offering_current (offering_id, offering_version) VALUES (%s, %s)
           ON CONFLICT (offering_id) DO UPDATE SET offering_version = excluded.offering_version""",
        (offering.id, version),
    )
    return new is not None


def _offering(content: str, version: str, rate_version: str) -> Offering:
    if content_version("offering", content, rate_version) != version:
        raise ContentChanged(
            f"offering {version} does not match its hash: restore the catalogue from the backup"
        )
    return Offering.model_validate_json(content)


def current_offerings(connection: Connection) -> list[tuple[str, str, Offering]]:
    """(version, rate version, offering) of all current offerings, by id."""
    rows = connection.execute(
        """SELECT o.offering_version, o.rate_version, o.content FROM offering_current c
           JOIN offering o USING (offering_version) ORDER BY c.offering_id"""
    )
    return [(version, rate, _offering(content, version, rate)) for version, rate, content in rows]


def find_offering(
    connection: Connection, *, offering_id: str | None = None, version: str | None = None
) -> tuple[str, str, Offering] | None:
    """By id (the current one) or by version."""
    row = connection.execute(
        """SELECT o.offering_version, o.rate_version, o.content FROM offering o
           LEFT JOIN offering_current c USING (offering_version)
           WHERE c.offering_id = %s OR o.offering_version = %s""",
        (offering_id, version),
    ).fetchone()
    return None if row is None else (row[0], row[1], _offering(row[2], row[0], row[1]))


def rate_cards(connection: Connection, rate_version: str | None = None) -> dict[str, RateCard]:
    """Every version ever loaded, or one: what was sold keeps its card."""
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


def tell(connection: Connection, what: str) -> None:
    connection.execute("INSERT INTO change (kind, ref) VALUES ('snapshot', %s)", (what,))
