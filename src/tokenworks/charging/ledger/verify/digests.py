"""The digests of `chain` in SQL: the database rebuilds the hashed bytes of links from their rows, and returns the links that differ.

The SQL rebuilds the text that settlement hashed (`settle_rows.usage_line`, `chain.entry_digest`), but only for rows that need no
escape. The digest is NULL for a row that may need one (a backslash or a tab in a text, a comma followed by a space in a part, a time
outside 1970 to 9999), or that has losses or several flags. So no other content of a row can give the text that was hashed: a link that
is not returned is right. A link that is returned is checked again, row by row, by the code that settles (`verify/chains.py`).
"""

from typing import Final

_SPAN: Final = "BETWEEN '1970-01-01T00:00:00Z' AND '9999-01-01T00:00:00Z'"
_TEXTS: Final = (
    "request_id",
    "protocol",
    "model",
    "deployment",
    "state",
    "reason",
    "counted_by",
    "upstream_id",
    "asked",
    "choice",
)
# The elements of a part (`messages.Part`) that has no counts. The text of n such parts has this many times n, less one, separators.
_PART_FIELDS: Final = 8


def _hex(column: str) -> str:
    return f"encode(uuid_send({column}), 'hex')"


def _time(column: str) -> str:
    """The text of `datetime.isoformat` in UTC."""
    shown = f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
    return f"replace({shown}, '.000000', '') || '+00:00'"


def _or_null(column: str) -> str:
    return f"coalesce({column}::text, '\\N')"


# The fields of `usage_line`, in its order.
_FIELDS: Final = (
    _hex("account_id"), _hex("usage_id"), "request_id", "attempt_no", _hex("key_id"), _hex("member_id"), "protocol", "model", "deployment",
    "state", "reason", "counted_by", _time("started_at"), _time("ended_at"), _or_null("first_byte_ms"), "latency_ms", "fresh_input",
    "cached_input", "cache_write", "audio_input", "output", "reasoning", "audio_output", "cache_write_1h", _or_null("provider_total"),
    "replace(parts_text, ', ', ',')", "'\\N'", "CASE WHEN flags = '{}' THEN '{}' ELSE '{\"' || flags[1] || '\"}' END", _or_null("upstream_id"),
    "CASE prompt WHEN true THEN 'True' WHEN false THEN 'False' END", _or_null("asked"), _or_null("choice"), _hex("journal_id"), "seq",
    _hex("entry_id"),
)  # fmt: skip
# What the line of a replayed record has beside them; NULL, as for any row that is looked at again, if one of the two is empty.
_REPLAY: Final = f"""CASE WHEN replay_of IS NULL AND replay_percent IS NULL THEN '' ELSE E'\\t' || {_hex("replay_of")} || E'\\t' || replay_percent END"""
_PLAIN: Final = f"""loss IS NULL AND started_at {_SPAN} AND ended_at {_SPAN}
        AND (flags = '{{}}' OR (cardinality(flags) = 1 AND strpos(flags[1], '"') = 0))
        AND strpos(concat({", ".join(_TEXTS)}, flags[1]), '\\') = 0 AND strpos(concat({", ".join(_TEXTS)}, flags[1]), E'\\t') = 0
        AND strpos(parts_text, '\\') = 0 AND octet_length(parts_text) - octet_length(replace(parts_text, ', ', ','))
            = CASE WHEN jsonb_typeof(parts) = 'array' THEN greatest(0, {_PART_FIELDS} * jsonb_array_length(parts) - 1) END"""

_RECORDS: Final = f"""SELECT account_id, entry_id, string_agg(uuid_send(usage_id) || digest, '' ORDER BY usage_id) AS rows FROM (
        SELECT account_id, entry_id, usage_id,
            CASE WHEN {_PLAIN} THEN sha256(convert_to(concat_ws(E'\\t', {", ".join(_FIELDS)}) || {_REPLAY} || E'\\n', 'UTF8')) END AS digest
        FROM usage CROSS JOIN LATERAL unnest(ARRAY[parts::text]) parts_text) r GROUP BY 1, 2"""

# A posting with a text that needs an escape becomes a lone backslash, which valid JSON never has, so the digest differs.
_POSTED: Final = f"""SELECT account_id, entry_id, string_agg(CASE WHEN strpos(ledger_account || unit, '"') = 0 AND strpos(ledger_account || unit, '\\') = 0
            THEN concat(',[', line_no, ',"', ledger_account, '","', unit, '",', coalesce('"' || {_hex("bucket_id")} || '"', 'null'), ',', amount, ']')
            ELSE '\\' END, '' ORDER BY line_no) AS lines
        FROM posting GROUP BY 1, 2"""
_ENTRIES: Final = f"""SELECT account_id, entry_id, CASE WHEN posted_at {_SPAN} AND strpos(kind || ref, '"') = 0 AND strpos(kind || ref, '\\') = 0
            THEN sha256(convert_to(concat('["', {_hex("entry_id")}, '","', kind, '","', ref, '",', (extract(epoch FROM posted_at) * 1000000)::bigint,
                p.lines, ']'), 'UTF8')) END AS digest
        FROM entry LEFT JOIN ({_POSTED}) p USING (account_id, entry_id)"""
_GENESIS: Final = (
    f"sha256(convert_to('tokenworks chain 1 ' || {_hex('account_id')} || ' ' || {_hex('chain_id')}, 'UTF8'))"
)


def differing_links(links: str, seen_no: str = "0", seen_hash: str = "NULL") -> str:
    """A statement for the links that do not, or may not, follow from the previous link and from their rows as they are now.

    It returns (account, chain, link_no, entry, seq, rows, hash, previous link_no, previous hash), ordered by chain. `links`: a table
    with the columns of `chain_link`. The first link of a chain follows (`seen_no`, `seen_hash`), or else the chain's genesis.
    """
    return f"""SELECT account_id, chain_id, link_no, entry_id, seq, l.rows, hash, before_no, before_hash
        FROM (SELECT account_id, chain_id, link_no, entry_id, seq, rows, hash, coalesce(lag(link_no) OVER chain, {seen_no}) AS before_no,
                coalesce(lag(hash) OVER chain, {seen_hash}, {_GENESIS}) AS before_hash
            FROM {links} WINDOW chain AS (PARTITION BY account_id, chain_id ORDER BY link_no)) l
            LEFT JOIN ({_ENTRIES}) e USING (account_id, entry_id) LEFT JOIN ({_RECORDS}) u USING (account_id, entry_id)
        WHERE (link_no = before_no + 1 AND l.rows = coalesce(u.rows, '') AND hash = sha256(before_hash
            || convert_to(concat(link_no, ' ', seq, ' '), 'UTF8') || uuid_send(entry_id) || e.digest || l.rows)) IS NOT TRUE
        ORDER BY account_id, chain_id, link_no"""
