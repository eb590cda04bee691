"""The checks of buckets, grants, windows, transfers and adjustments: statements that return the rows that break an invariant."""

from typing import Final

# What open grants of a bucket have used. The bucket's own `used` gets it when a grant is closed.
_OPEN: Final = (
    """SELECT account_id, bucket_id, sum(used) AS used FROM grants WHERE state = 'open' GROUP BY 1, 2"""
)

CHECKS: Final[dict[str, str]] = {
    "bucket: total = remaining + granted + used + expired + withdrawn": """
        SELECT 'bucket ' || bucket_id, format('%s <> %s + %s + %s + %s + %s', total, remaining, granted, used, expired, withdrawn)
        FROM bucket WHERE total <> remaining + granted + used + expired + withdrawn
            OR least(remaining, granted, used, expired, withdrawn) < 0""",
    "bucket: granted is the sum of its open grants": """
        SELECT 'bucket ' || b.bucket_id, format('granted %s, open grants %s', b.granted, coalesce(g.amount, 0))
        FROM bucket b LEFT JOIN (SELECT account_id, bucket_id, sum(amount) AS amount FROM grants WHERE state = 'open'
                                 GROUP BY 1, 2) g USING (account_id, bucket_id)
        WHERE b.granted <> coalesce(g.amount, 0)""",
    "bucket: used is what its closed grants used": """
        SELECT 'bucket ' || b.bucket_id, format('used %s, closed grants %s', b.used, coalesce(g.used, 0))
        FROM bucket b LEFT JOIN (SELECT account_id, bucket_id, sum(used) AS used FROM grants WHERE state <> 'open'
                                 GROUP BY 1, 2) g USING (account_id, bucket_id)
        WHERE b.used <> coalesce(g.used, 0)""",
    "grant: used is the sum of the usage parts drawn from it, and at most its amount": """
        WITH part AS (SELECT account_id, (p->>1)::uuid AS grant_id, sum((p->>5)::bigint) AS amount
                      FROM usage, jsonb_array_elements(parts) p WHERE (p->>5)::bigint > 0 GROUP BY 1, 2)
        SELECT 'grant ' || coalesce(g.grant_id, part.grant_id),
               format('used %s of %s, usage parts %s', g.used, g.amount, coalesce(part.amount, 0))
        FROM grants g FULL JOIN part USING (account_id, grant_id)
        WHERE g.used IS DISTINCT FROM coalesce(part.amount, 0) OR g.used > g.amount""",
    "postings: a bucket's liability is its total less what was used, expired or withdrawn": """
        WITH posted AS (SELECT account_id, bucket_id, sum(amount) AS amount FROM posting
                        WHERE ledger_account = 'customer_liability' AND bucket_id IS NOT NULL GROUP BY 1, 2),
             open AS (SELECT account_id, bucket_id, sum(used) AS used FROM grants WHERE state = 'open' GROUP BY 1, 2)
        SELECT 'bucket ' || coalesce(b.bucket_id, posted.bucket_id),
               format('liability posted %s, bucket says %s', posted.amount,
                      b.total - b.used - coalesce(open.used, 0) - b.expired - b.withdrawn)
        FROM (SELECT * FROM bucket WHERE kind = 'balance') b FULL JOIN posted USING (account_id, bucket_id)
            LEFT JOIN open USING (account_id, bucket_id)
        WHERE posted.amount IS DISTINCT FROM b.total - b.used - coalesce(open.used, 0) - b.expired - b.withdrawn""",
    "window: what it has left and what was used of it within its length are its quantity": """
        WITH open AS (SELECT account_id, bucket_id, sum(used) AS used FROM grants WHERE state = 'open' GROUP BY 1, 2),
             lately AS (SELECT account_id, bucket_id, sum(amount) AS amount FROM window_use GROUP BY 1, 2)
        SELECT 'bucket ' || b.bucket_id,
               format('%s left and %s used lately of %s', b.remaining + b.granted - coalesce(open.used, 0),
                      coalesce(lately.amount, 0), b.window_quantity)
        FROM bucket b LEFT JOIN open USING (account_id, bucket_id) LEFT JOIN lately USING (account_id, bucket_id)
        WHERE b.kind = 'window' AND b.closing IS NULL
            AND b.window_quantity <> b.remaining + b.granted - coalesce(open.used, 0) + coalesce(lately.amount, 0)""",
    "transfer: both of its buckets are caps of its account, and of its members": """
        SELECT 'transfer ' || t.transfer_id, format('from %s to %s', f.bucket_id, g.bucket_id) FROM transfer t
            LEFT JOIN bucket f ON f.account_id = t.account_id AND f.bucket_id = t.from_bucket_id AND f.kind = 'cap'
                AND f.cap_of = t.from_member_id
            LEFT JOIN bucket g ON g.account_id = t.account_id AND g.bucket_id = t.to_bucket_id AND g.kind = 'cap'
                AND g.cap_of = t.to_member_id
        WHERE f.bucket_id IS NULL OR g.bucket_id IS NULL""",
    "bucket: no balance was issued with a quantity of zero": """
        SELECT 'bucket ' || bucket_id, 'nothing was ever in it' FROM bucket WHERE kind = 'balance' AND total = 0""",
    "bucket: its total, used, expired and withdrawn quantities are the sums of its entries": f"""
        WITH moved AS (
            SELECT p.account_id, p.bucket_id, count(*) FILTER (WHERE ledger_account = 'issued') AS issues,
                coalesce(-sum(amount) FILTER (WHERE ledger_account = 'issued'), 0) AS issued,
                coalesce(sum(amount) FILTER (WHERE ledger_account = 'used'), 0) AS used,
                coalesce(sum(amount) FILTER (WHERE ledger_account = 'breakage'), 0) AS expired,
                coalesce(sum(amount) FILTER (WHERE ledger_account = 'withdrawn'), 0) AS withdrawn,
                coalesce(sum(amount) FILTER (WHERE e.kind = 'adjust' AND amount > 0), 0) AS added,
                coalesce(-sum(amount) FILTER (WHERE e.kind = 'adjust' AND amount < 0), 0) AS taken,
                coalesce(sum(amount) FILTER (WHERE e.kind = 'rollover' AND ledger_account = 'customer_liability' AND amount > 0), 0)
                    AS rolled_in,
                coalesce(-sum(amount) FILTER (WHERE e.kind = 'rollover' AND NOT (ledger_account = 'customer_liability' AND amount > 0)), 0)
                    AS rolled_out
            FROM posting p JOIN entry e USING (account_id, entry_id) WHERE p.bucket_id IS NOT NULL GROUP BY 1, 2),
        open AS ({_OPEN}),
        rolled AS (SELECT DISTINCT account_id, rollover_to AS bucket_id FROM bucket WHERE rollover_to IS NOT NULL)
        SELECT 'bucket ' || coalesce(b.bucket_id, m.bucket_id) || ' of account ' || account_id,
            format('total %s, used %s, expired %s, withdrawn %s; %s issues of %s, added %s, rolled in %s and out %s, used %s, expired %s, withdrawn %s, taken %s',
                   b.total, b.used + coalesce(o.used, 0), b.expired, b.withdrawn, m.issues, m.issued, m.added, m.rolled_in, m.rolled_out,
                   m.used, m.expired, m.withdrawn, m.taken)
        FROM (SELECT * FROM bucket WHERE kind = 'balance') b FULL JOIN moved m USING (account_id, bucket_id)
            LEFT JOIN open o USING (account_id, bucket_id) LEFT JOIN rolled r USING (account_id, bucket_id)
        WHERE b.kind IS NULL OR m.issues IS NULL OR b.total <> m.issued + m.added + m.rolled_in OR b.used + coalesce(o.used, 0) <> m.used
            OR b.expired <> m.expired OR b.withdrawn <> m.withdrawn + m.rolled_out + m.taken
            OR m.issues <> CASE WHEN r.bucket_id IS NULL THEN 1 ELSE 0 END
            OR (b.rollover_to IS NOT NULL) <> (m.rolled_out > 0)""",
    "bucket: its rollover goes to a bucket that begins at its end, with the same product, unit and rates": """
        SELECT 'bucket ' || f.bucket_id || ' of account ' || f.account_id, format('goes on in %s, %s', f.rollover_to, b.bucket_id) FROM bucket f
        LEFT JOIN bucket b ON b.account_id = f.account_id AND b.bucket_id = f.rollover_to AND b.kind = 'balance'
            AND (b.product_id, b.unit, b.rate_version, b.valid_from, b.valid_until, b.model_classes, b.priority)
                = (f.product_id, f.unit, f.rate_version, f.valid_until, f.rollover_until, f.model_classes, greatest(0, f.priority - 1))
            AND b.charge_id IS NOT DISTINCT FROM f.charge_id
        WHERE f.rollover_to IS NOT NULL AND b.bucket_id IS NULL""",
    "bucket: a closed one has no remainder, and closed for the reason that its entries have": """
        SELECT 'bucket ' || bucket_id || ' of account ' || account_id, format('%s: %s left, %s expired', closing, remaining, expired) FROM bucket b
        WHERE (closing IS NOT NULL AND remaining > 0)
            OR (expired > 0 AND closing IS DISTINCT FROM 'expire' AND closing IS DISTINCT FROM 'rollover')
            OR (closing = 'rollover' AND (rollover_left IS NULL OR valid_until IS NULL))
            OR (closing IS DISTINCT FROM 'withdraw' AND EXISTS (SELECT 1 FROM posting p WHERE p.account_id = b.account_id
                AND p.bucket_id = b.bucket_id AND p.ledger_account = 'withdrawn'))
            OR (rollover_to IS NOT NULL AND closing IS DISTINCT FROM 'rollover')""",
    "bucket: a balance and a window belong to a product, a cap does not": """
        SELECT 'bucket ' || bucket_id || ' of account ' || account_id, format('%s, product %s, charge %s, cap of %s, %s of %s seconds', kind,
               product_id, charge_id, cap_of, window_quantity, window_s) FROM bucket
        WHERE (kind <> 'cap' AND cap_of IS NOT NULL) OR (kind <> 'balance' AND (charge_id IS NOT NULL OR rollover_left IS NOT NULL))
            OR (kind = 'window') <> (window_quantity IS NOT NULL)
            OR (kind = 'cap' AND (product_id IS NOT NULL OR unit <> 'token' OR priority <> 0 OR model_classes <> '{*}' OR rate_version <> 'cap'
                OR paused))""",
    "bucket: it is valid for the period of its charge": """
        SELECT 'bucket ' || b.bucket_id || ' of account ' || b.account_id, format('%s to %s, charge %s of %s', b.valid_from, b.valid_until,
               c.charge_id, c.period_start)
        FROM bucket b LEFT JOIN charge c ON c.account_id = b.account_id AND c.charge_id = b.charge_id AND c.product_id = b.product_id
            AND c.kind IN ('cycle', 'step', 'change')
        WHERE b.charge_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bucket f WHERE f.account_id = b.account_id AND f.rollover_to = b.bucket_id)
            AND (c.charge_id IS NULL OR b.valid_from <> c.period_start
                -- A charge that is earned by time ends early if its product does; its bucket is then withdrawn.
                OR (b.valid_until IS DISTINCT FROM c.period_end AND NOT (c.recognise = 'time' AND b.closing IS NOT NULL
                    AND (b.valid_until IS NULL OR b.valid_until > c.period_end))))""",
    "grant: its bucket and its journal exist, and it has a closing time exactly if it is not open": """
        SELECT 'grant ' || g.grant_id || ' of account ' || g.account_id, format('bucket %s, journal %s, %s, closed at %s, doubt %s', g.bucket_id,
               g.journal_id, g.state, g.closed_at, g.doubt)
        FROM grants g LEFT JOIN bucket b USING (account_id, bucket_id) LEFT JOIN journal j USING (journal_id)
        WHERE b.bucket_id IS NULL OR j.journal_id IS NULL OR (g.state = 'open') <> (g.closed_at IS NULL)
            OR (g.doubt = 'quarantine' AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.account_id = g.account_id
                AND q.journal_id = g.journal_id AND q.state = 'held'))
            OR g.doubt <> 'quarantine'""",
    "grant: only usage of its journal draws on it, and for its bucket": """
        SELECT 'grant ' || g.grant_id || ' of account ' || g.account_id, format('usage %s of journal %s, bucket %s', u.usage_id, u.journal_id, p->>0)
        FROM usage u CROSS JOIN LATERAL jsonb_array_elements(u.parts) p
            JOIN grants g ON g.account_id = u.account_id AND g.grant_id = (p->>1)::uuid
        WHERE (p->>5)::bigint > 0 AND (g.journal_id <> u.journal_id OR encode(uuid_send(g.bucket_id), 'hex') <> p->>0)""",
    "window: each use has the amount and the time of its usage record": """
        SELECT 'bucket ' || w.bucket_id || ' of account ' || w.account_id, format('usage %s, %s at %s', w.usage_id, w.amount, w.used_at)
        FROM window_use w LEFT JOIN usage u USING (account_id, usage_id) LEFT JOIN bucket b USING (account_id, bucket_id)
        WHERE u.usage_id IS NULL OR b.kind IS DISTINCT FROM 'window' OR w.used_at <> u.ended_at OR w.amount <> (
            SELECT coalesce(sum((p->>5)::bigint), 0) FROM jsonb_array_elements(u.parts) p
            WHERE p->>0 = replace(w.bucket_id::text, '-', '') AND p->>4 = 'window')""",
    "adjustment: one that was done has one entry, any other has none": """
        WITH posted AS (
            SELECT e.account_id, e.ref, count(DISTINCT e.entry_id) AS entries, min(e.entry_id::text) AS entry_id, count(*) AS lines,
                sum(amount) FILTER (WHERE ledger_account = 'customer_liability' AND line_no = 1) AS amount,
                min(p.bucket_id::text) FILTER (WHERE ledger_account = 'customer_liability' AND line_no = 1) AS bucket_id,
                count(*) FILTER (WHERE ledger_account = 'adjusted' AND line_no = 2 AND p.bucket_id IS NULL) AS against,
                min(unit) AS unit, max(unit) AS unit_too
            FROM entry e LEFT JOIN posting p USING (account_id, entry_id) WHERE e.kind = 'adjust' GROUP BY 1, 2)
        SELECT concat_ws(' ', 'adjustment ' || a.adjustment_id, 'entry ' || p.entry_id),
            format('%s of bucket %s asked, %s of bucket %s posted by %s entries', a.amount, a.bucket_id, p.amount, p.bucket_id, p.entries)
        FROM (SELECT *, adjustment_id::text AS ref FROM adjustment WHERE state = 'done') a FULL JOIN posted p USING (account_id, ref)
        WHERE a.adjustment_id IS NULL OR p.ref IS NULL OR p.entries <> 1 OR p.lines <> 2 OR p.against <> 1
            OR a.amount IS DISTINCT FROM p.amount OR a.bucket_id::text IS DISTINCT FROM p.bucket_id OR a.unit <> p.unit OR a.unit <> p.unit_too""",
    "adjustment: it is for a balance of its account, and its decision came after its request": """
        SELECT 'adjustment ' || a.adjustment_id, format('%s of bucket %s, %s by %s at %s', a.unit, a.bucket_id, a.state, a.decided_by, a.decided_at)
        FROM adjustment a LEFT JOIN bucket b USING (account_id, bucket_id)
        WHERE b.kind IS DISTINCT FROM 'balance' OR b.unit <> a.unit OR (a.state = 'asked') <> (a.decided_by IS NULL)
            OR (a.state = 'asked') <> (a.decided_at IS NULL) OR a.decided_at < a.asked_at""",
}
