"""The auditor's checks of the catalogue: each statement returns the rows that break its invariant."""

from typing import Final

CHECKS: Final[dict[str, str]] = {
    "catalogue: an offering and a rate card are what their versions' hashes say": """
        SELECT 'offering ' || offering_version || ' ' || offering_id, format('its content is not what the version says, at %s', rate_version) FROM offering
        WHERE offering_version <> 'offering-' || left(encode(sha256(convert_to(content || E'\n' || rate_version, 'UTF8')), 'hex'), 32)
        UNION ALL
        SELECT 'rate card ' || rate_version || ' ' || rate_card_id, 'its content is not what the version says' FROM rate_card
        WHERE rate_version <> 'rate-' || left(encode(sha256(convert_to(content, 'UTF8')), 'hex'), 32)""",
    "catalogue: an offering and a rate card are called as their contents say": """
        SELECT 'offering ' || o.offering_version || ' ' || o.offering_id, format('%s, rate card %s', o.content::jsonb->>'id', r.rate_card_id)
        FROM offering o LEFT JOIN rate_card r USING (rate_version)
        WHERE o.content::jsonb->>'id' <> o.offering_id OR o.content::jsonb->>'rate_card' IS DISTINCT FROM r.rate_card_id
        UNION ALL
        SELECT 'rate card ' || rate_version || ' ' || rate_card_id, format('%s from %s', content::jsonb->>'id', content::jsonb->>'effective_from') FROM rate_card
        WHERE content::jsonb->>'id' <> rate_card_id OR (content::jsonb->>'effective_from')::timestamptz <> effective_from""",
    "catalogue: what is on sale is a version of its offering, one from the beginning": """
        SELECT 'offering ' || c.offering_id || ' ' || c.offering_version, format('on sale from %s as %s', c.from_at, o.offering_id)
        FROM offering_current c LEFT JOIN offering o USING (offering_version) WHERE o.offering_id IS DISTINCT FROM c.offering_id
        UNION ALL
        SELECT 'offering ' || offering_id, 'was never on sale' FROM (SELECT DISTINCT offering_id FROM offering) o
        WHERE NOT EXISTS (SELECT 1 FROM offering_current c WHERE c.offering_id = o.offering_id AND c.from_at = '-infinity')""",
}
