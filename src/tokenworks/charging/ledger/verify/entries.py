"""The checks of entries: each entry has a known kind, and its postings match the row that caused it.

Payments, reversals, payouts and roundings are caused by rows of billing, so the checks of billing cover them.
"""

from typing import Final

KINDS: Final = (
    "issue", "expire", "withdraw", "rollover", "adjust", "usage", "charge", "credit", "refund", "recognise", "round", "payment",
    "payment_reversal", "heads",
)  # fmt: skip
"""Every kind of entry. An entry of another kind is forged, or written by a newer release."""

_KINDS_TEXT: Final = ", ".join(f"'{kind}'" for kind in KINDS)

CHECKS: Final[dict[str, str]] = {
    "entry: its postings sum to zero per unit": """
        SELECT 'entry ' || entry_id, format('%s %s', sum(amount), unit) FROM posting
        GROUP BY account_id, entry_id, unit HAVING sum(amount) <> 0""",
    "entry: every posting has an entry": """
        SELECT 'posting of entry ' || p.entry_id, 'has no entry' FROM posting p
        LEFT JOIN entry e USING (account_id, entry_id) WHERE e.entry_id IS NULL""",
    "entry: its kind is known, and it has postings unless its kind needs none": f"""
        SELECT 'entry ' || entry_id || ' of account ' || account_id, format('kind %s', kind) FROM entry e
        WHERE kind NOT IN ({_KINDS_TEXT})
            OR (kind NOT IN ('usage', 'heads') AND NOT EXISTS (SELECT 1 FROM posting p WHERE p.account_id = e.account_id AND p.entry_id = e.entry_id))
            OR (kind = 'heads' AND EXISTS (SELECT 1 FROM posting p WHERE p.account_id = e.account_id AND p.entry_id = e.entry_id))""",
    "entry: an issue, an expiry, a withdrawal and a rollover post to their bucket and their ledger accounts": """
        WITH shape (kind, line_no, ledger_account, sign) AS (VALUES
            ('issue', 1, 'issued', -1), ('issue', 2, 'customer_liability', 1),
            ('expire', 1, 'customer_liability', -1), ('expire', 2, 'breakage', 1),
            ('withdraw', 1, 'customer_liability', -1), ('withdraw', 2, 'withdrawn', 1),
            ('rollover', 1, 'customer_liability', -1), ('rollover', 2, 'customer_liability', 1), ('rollover', 2, 'breakage', 1))
        SELECT 'entry ' || e.entry_id || ' of account ' || e.account_id,
            format('%s of %s: line %s, %s %s %s of bucket %s', e.kind, e.ref, p.line_no, p.amount, p.unit, p.ledger_account, p.bucket_id)
        FROM entry e LEFT JOIN posting p USING (account_id, entry_id)
            LEFT JOIN shape s ON s.kind = e.kind AND s.line_no = p.line_no AND s.ledger_account = p.ledger_account AND s.sign = sign(p.amount)
            LEFT JOIN bucket b ON b.account_id = e.account_id AND b.bucket_id = p.bucket_id AND b.unit = p.unit AND b.kind = 'balance'
            LEFT JOIN bucket f ON f.account_id = e.account_id AND f.rollover_to = p.bucket_id AND e.kind = 'rollover' AND p.line_no = 2
                AND p.ledger_account = 'customer_liability'
        WHERE e.kind IN ('issue', 'expire', 'withdraw', 'rollover') AND (s.kind IS NULL OR b.bucket_id IS NULL
            OR e.ref <> coalesce(f.bucket_id, b.bucket_id)::text
            OR (e.kind = 'rollover' AND p.line_no = 2 AND p.ledger_account = 'customer_liability' AND f.bucket_id IS NULL))""",
    "entry: each charge, credit and refund has one, which posts its amounts": """
        WITH cause AS (SELECT account_id, entry_id, charge_id, CASE WHEN kind IN ('credit', 'refund') THEN kind ELSE 'charge' END AS kind,
                           currency, amount_nano, tax_nano FROM charge),
        posted AS (
            SELECT e.account_id, e.entry_id, e.kind, e.ref, count(p.line_no) AS lines, count(p.bucket_id) AS buckets,
                min(unit) AS unit, max(unit) AS unit_too,
                sum(amount) FILTER (WHERE line_no = 1 AND ledger_account = 'receivable') AS receivable,
                sum(amount) FILTER (WHERE line_no = 2 AND ledger_account = 'tax') AS tax,
                sum(amount) FILTER (WHERE line_no = 3 AND ledger_account = 'customer_liability') AS liability,
                sum(amount) FILTER (WHERE line_no = 4 AND ledger_account = 'refund') AS refund
            FROM entry e LEFT JOIN posting p USING (account_id, entry_id) WHERE e.kind IN ('charge', 'credit', 'refund') GROUP BY 1, 2, 3, 4)
        SELECT concat_ws(' ', 'entry ' || entry_id, 'charge ' || c.charge_id, 'account ' || account_id),
            format('%s %s with tax %s; %s of %s posts receivable %s, tax %s, liability %s, refund %s', c.kind, c.amount_nano, c.tax_nano,
                   p.kind, p.ref, p.receivable, p.tax, p.liability, p.refund)
        FROM posted p FULL JOIN cause c USING (account_id, entry_id)
        WHERE c.charge_id IS NULL OR p.ref IS NULL OR p.kind <> c.kind OR p.ref <> c.charge_id::text OR p.buckets > 0
            OR p.unit IS DISTINCT FROM c.currency OR p.unit_too IS DISTINCT FROM c.currency
            OR p.receivable IS DISTINCT FROM c.amount_nano OR p.tax IS DISTINCT FROM -c.tax_nano
            OR p.lines <> CASE WHEN c.kind = 'charge' THEN 3 ELSE 4 END
            OR CASE WHEN c.kind = 'charge' THEN p.liability IS DISTINCT FROM c.tax_nano - c.amount_nano
                ELSE p.liability IS NULL OR p.liability < 0 OR p.refund IS NULL OR p.refund < 0
                    OR p.liability + p.refund <> c.tax_nano - c.amount_nano END""",
    "entry: its lines are numbered consecutively": """
        SELECT 'entry ' || e.entry_id || ' of account ' || e.account_id, format('%s: %s lines from %s to %s', e.kind, count(*), min(line_no), max(line_no))
        FROM entry e JOIN posting p USING (account_id, entry_id) GROUP BY e.account_id, e.entry_id, e.kind
        -- An entry of recognised revenue omits lines that are zero; lines of a loss are numbered from a million.
        HAVING min(line_no) <> 1 AND e.kind <> 'usage' OR min(line_no) < 1
            OR (e.kind NOT IN ('usage', 'recognise') AND max(line_no) <> count(*))""",
    "entry: recognised revenue and breakage belong to a charge, whose sums include them": """
        WITH posted AS (
            SELECT e.account_id, e.ref, min(e.entry_id::text) AS entry_id, min(unit) AS unit, max(unit) AS unit_too,
                count(*) FILTER (WHERE p.bucket_id IS NOT NULL OR NOT coalesce((line_no, ledger_account) IN (
                    (1, 'customer_liability'), (2, 'revenue'), (3, 'breakage'))
                    AND sign(amount) = CASE line_no WHEN 1 THEN 1 ELSE -1 END, false)) AS strange,
                coalesce(-sum(amount) FILTER (WHERE ledger_account = 'revenue'), 0) AS recognised,
                coalesce(-sum(amount) FILTER (WHERE ledger_account = 'breakage'), 0) AS broken
            FROM entry e LEFT JOIN posting p USING (account_id, entry_id) WHERE e.kind = 'recognise' GROUP BY 1, 2)
        SELECT concat_ws(' ', 'charge ' || c.charge_id, 'entry ' || p.entry_id, 'account ' || account_id),
            format('%s recognised and %s broken, entries of %s say %s and %s', c.recognised_nano, c.broken_nano, ref, p.recognised, p.broken)
        FROM (SELECT *, charge_id::text AS ref FROM charge WHERE recognised_nano <> 0 OR broken_nano <> 0) c FULL JOIN posted p USING (account_id, ref)
        WHERE c.charge_id IS NULL OR p.entry_id IS NULL OR p.strange > 0 OR p.unit <> c.currency OR p.unit_too <> c.currency
            OR c.recognised_nano <> p.recognised OR c.broken_nano <> p.broken""",
}
