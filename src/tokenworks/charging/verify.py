"""The auditor's pass: recompute every invariant from the tables, and name the rows that break one.

It streams; it holds no table in memory, and it reads one snapshot (REPEATABLE READ), so that it can run beside
a server that settles.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from tokenworks.catalog import TOKEN_CLASSES, Counts, RateCard, Weights, amount
from tokenworks.charging import store
from tokenworks.charging.model import CAP_WEIGHTS, LOSS_CAUSES, losses_of

FINDINGS_MAX: Final = 1000
FETCH_ROWS: Final = 5000


class Finding(NamedTuple):
    """One broken invariant: which, where, and by how much."""

    invariant: str
    where: str
    detail: str


# The losses of a usage row, whichever release wrote it.
_LOSSES: Final = """jsonb_array_elements(CASE WHEN jsonb_typeof(loss->0) = 'number'
                          THEN jsonb_build_array(jsonb_build_array('unnamed', loss->0, loss->1)) ELSE loss END)"""
_ALL_CLASSES: Final = " + ".join(TOKEN_CLASSES)

# Each statement returns (where, detail) of the rows that break its invariant.
_CHECKS: Final[dict[str, str]] = {
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
    "entry: its postings sum to zero per unit": """
        SELECT 'entry ' || entry_id, format('%s %s', sum(amount), unit) FROM posting
        GROUP BY account_id, entry_id, unit HAVING sum(amount) <> 0""",
    "entry: every entry has postings or moved nothing, every posting has its entry": """
        SELECT 'posting of entry ' || p.entry_id, 'has no entry' FROM posting p
        LEFT JOIN entry e USING (account_id, entry_id) WHERE e.entry_id IS NULL""",
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
    "charge: it is the receivable, the tax and the liability of its entry": """
        SELECT 'charge ' || c.charge_id, format('%s with tax %s charged, %s with tax %s posted', c.amount_nano, c.tax_nano,
               coalesce(p.receivable, 0), coalesce(-p.tax, 0))
        FROM charge c LEFT JOIN (
            SELECT account_id, entry_id, unit, sum(amount) FILTER (WHERE ledger_account = 'receivable') AS receivable,
                   sum(amount) FILTER (WHERE ledger_account = 'tax') AS tax FROM posting GROUP BY 1, 2, 3) p
            ON p.account_id = c.account_id AND p.entry_id = c.entry_id AND p.unit = c.currency
        WHERE c.amount_nano <> coalesce(p.receivable, 0) OR c.tax_nano <> coalesce(-p.tax, 0)""",
    "charge: every receivable is of a charge, of the rounding of a line or a credit, or of a payment or its reversal": """
        SELECT 'entry ' || p.entry_id, format('%s receivable, no charge', p.amount) FROM posting p
            JOIN entry e USING (account_id, entry_id)
            LEFT JOIN charge c ON c.account_id = p.account_id AND c.entry_id = p.entry_id
            LEFT JOIN charge k ON k.account_id = p.account_id AND k.settled_entry_id = p.entry_id
            LEFT JOIN bill_line l ON l.account_id = p.account_id AND l.entry_id = p.entry_id
            LEFT JOIN payment_reversal r ON r.account_id = p.account_id AND r.entry_id = p.entry_id AND r.amount_nano = p.amount
            LEFT JOIN payment y ON y.account_id = p.account_id AND y.entry_id = p.entry_id AND y.amount_nano = -p.amount
            LEFT JOIN payout o ON o.account_id = p.account_id AND o.entry_id = p.entry_id AND o.amount_nano = p.amount
        WHERE p.ledger_account = 'receivable' AND c.charge_id IS NULL AND l.bill_id IS NULL AND y.payment_id IS NULL
            AND o.payout_id IS NULL AND k.charge_id IS NULL AND r.payment_id IS NULL""",
    "payment: it is posted, and so is its reversal": """
        SELECT 'payment ' || y.payment_id, format('%s paid, %s posted', y.amount_nano, coalesce(-p.amount, 0)) FROM payment y
            LEFT JOIN posting p ON p.account_id = y.account_id AND p.entry_id = y.entry_id AND p.ledger_account = 'receivable'
        WHERE y.amount_nano <> coalesce(-p.amount, 0)
        UNION ALL
        SELECT 'payment ' || r.payment_id, format('%s reversed of %s, %s posted', r.amount_nano, y.amount_nano, coalesce(p.amount, 0))
        FROM payment_reversal r JOIN payment y USING (payment_id)
            LEFT JOIN posting p ON p.account_id = r.account_id AND p.entry_id = r.entry_id AND p.ledger_account = 'receivable'
        WHERE r.amount_nano <> y.amount_nano OR r.amount_nano <> coalesce(p.amount, 0)""",
    "credit: of a charge on a bill it takes its amount off that line, in fen, the rounding posted": """
        WITH line AS (SELECT account_id, settles_bill_id AS bill_id, settles_line_no AS line_no, sum(settled_nano) AS nano,
                          sum(settled_tax_nano) AS tax FROM charge WHERE settles_bill_id IS NOT NULL GROUP BY 1, 2, 3)
        SELECT 'charge ' || k.charge_id, format('%s credited, %s off the bill, %s posted', -k.amount_nano, k.settled_nano,
               coalesce(p.amount, 0))
        FROM charge k LEFT JOIN charge c ON c.account_id = k.account_id AND c.charge_id = k.of_charge_id
            AND c.bill_id = k.settles_bill_id AND c.line_no = k.settles_line_no
            LEFT JOIN posting p ON p.account_id = k.account_id AND p.entry_id = k.settled_entry_id AND p.ledger_account = 'receivable'
        WHERE k.settles_bill_id IS NOT NULL AND (c.charge_id IS NULL OR k.settled_nano % 10000000 <> 0
            OR -k.amount_nano - coalesce(p.amount, 0) <> k.settled_nano)
        UNION ALL
        SELECT 'charge ' || k.charge_id, 'its charge is on a bill, and it is on none' FROM charge k JOIN charge c
            ON c.account_id = k.account_id AND c.charge_id = k.of_charge_id
        WHERE k.bill_id IS NULL AND k.settles_bill_id IS NULL AND c.bill_id IS NOT NULL
        UNION ALL
        SELECT 'bill ' || n.bill_id || ' line ' || n.line_no, format('%s with tax %s credited of %s with tax %s', n.nano, n.tax,
               l.amount_nano, l.tax_nano)
        FROM line n LEFT JOIN bill_line l USING (bill_id, line_no)
        WHERE l.bill_id IS NULL OR n.nano > l.amount_nano OR n.tax > l.tax_nano OR (n.nano = l.amount_nano AND n.tax <> l.tax_nano)""",
    "credit note: it is what its credits take off its bill": """
        SELECT 'credit note ' || n.credit_note_no, format('%s with tax %s on it, credits %s with tax %s', n.amount_nano, n.tax_nano,
               coalesce(k.nano, 0), coalesce(k.tax, 0))
        FROM credit_note n LEFT JOIN LATERAL (SELECT sum(settled_nano) AS nano, sum(settled_tax_nano) AS tax FROM charge k
            WHERE k.account_id = n.account_id AND k.charge_id = ANY(n.credit_charge_ids) AND k.settles_bill_id = n.bill_id) k ON true
        WHERE n.credit_charge_ids IS NOT NULL AND (n.amount_nano <> coalesce(k.nano, 0) OR n.tax_nano <> coalesce(k.tax, 0))""",
    "numbers: every one up to the last is a document's, or its gap is accounted for": """
        WITH taken AS (
            SELECT 'bill' AS kind, split_part(bill_no, '-', 2)::bigint AS number FROM bill
            UNION ALL SELECT 'credit_note', split_part(credit_note_no, '-', 2)::bigint FROM credit_note
            UNION ALL SELECT kind, number FROM document_gap
        ), found AS (SELECT kind, count(*) AS count, count(DISTINCT number) AS numbers, max(number) AS last FROM taken GROUP BY 1)
        SELECT 'document ' || d.kind, format('%s numbers given, %s documents and gaps with %s numbers up to %s', d.last,
               coalesce(f.count, 0), coalesce(f.numbers, 0), coalesce(f.last, 0))
        FROM document_number d LEFT JOIN found f USING (kind)
        WHERE d.last <> coalesce(f.count, 0) OR d.last <> coalesce(f.numbers, 0) OR d.last <> coalesce(f.last, 0)
        UNION ALL
        SELECT 'charge files ' || layout, format('%s files up to %s', count(*), max(sequence_no)) FROM charge_file GROUP BY layout
        HAVING count(*) <> max(sequence_no)""",
    "charge file: its lines are what it says, and what was accepted is a payment": """
        SELECT 'charge file ' || f.sequence_no, format('%s lines over %s, its rows %s over %s', f.lines, f.amount_nano,
               coalesce(l.count, 0), coalesce(l.nano, 0))
        FROM charge_file f LEFT JOIN (SELECT charge_file_id, count(*) AS count, sum(amount_nano) AS nano FROM charge_file_line
                                      GROUP BY 1) l USING (charge_file_id)
        WHERE f.lines <> coalesce(l.count, 0) OR f.amount_nano <> coalesce(l.nano, 0)
        UNION ALL
        SELECT 'charge file ' || f.sequence_no || ' line ' || l.line_no, format('%s accepted, %s booked', l.amount_nano,
               coalesce(y.amount_nano, 0))
        FROM charge_file_line l JOIN charge_file f USING (charge_file_id)
            LEFT JOIN LATERAL (SELECT amount_nano FROM payment y WHERE y.bill_id = l.bill_id AND y.method = 'phone_bill'
                AND split_part(y.reference, '#', 1) = f.layout || ':' || f.sequence_no || ':' || l.line_no
                ORDER BY payment_id DESC LIMIT 1) y ON true
        WHERE l.state IN ('accepted', 'reversed') AND l.amount_nano <> coalesce(y.amount_nano, 0)
            AND NOT EXISTS (SELECT 1 FROM reconciliation_case r WHERE r.bill_id = l.bill_id AND r.kind = 'unbooked')""",
    "payout: it is posted": """
        SELECT 'payout ' || o.payout_id, format('%s paid out, %s posted', o.amount_nano, coalesce(p.amount, 0)) FROM payout o
            LEFT JOIN posting p ON p.account_id = o.account_id AND p.entry_id = o.entry_id AND p.ledger_account = 'receivable'
        WHERE o.amount_nano <> coalesce(p.amount, 0)""",
    "transfer: both of its buckets are caps of its account, and of its members": """
        SELECT 'transfer ' || t.transfer_id, format('from %s to %s', f.bucket_id, g.bucket_id) FROM transfer t
            LEFT JOIN bucket f ON f.account_id = t.account_id AND f.bucket_id = t.from_bucket_id AND f.kind = 'cap'
                AND f.cap_of = t.from_member_id
            LEFT JOIN bucket g ON g.account_id = t.account_id AND g.bucket_id = t.to_bucket_id AND g.kind = 'cap'
                AND g.cap_of = t.to_member_id
        WHERE f.bucket_id IS NULL OR g.bucket_id IS NULL""",
    "charge: what is owed for it is posted as a liability": """
        WITH owed AS (SELECT account_id, sum(amount_nano - tax_nano - recognised_nano - broken_nano - refunded_nano) AS nano
                      FROM charge WHERE recognise <> 'none' GROUP BY 1),
             posted AS (SELECT account_id, sum(amount) AS nano FROM posting
                        WHERE ledger_account = 'customer_liability' AND unit = 'CNY' GROUP BY 1)
        SELECT 'account ' || coalesce(o.account_id, p.account_id), format('%s owed, %s posted', o.nano, -p.nano)
        FROM owed o FULL JOIN posted p USING (account_id) WHERE coalesce(o.nano, 0) <> coalesce(-p.nano, 0)""",
    "charge: revenue is the part of the price that its usage is of what it brought": """
        WITH held AS (SELECT b.account_id, b.charge_id, sum(b.used + coalesce((SELECT sum(g.used) FROM grants g
                          WHERE g.account_id = b.account_id AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)) AS used
                      FROM bucket b WHERE b.charge_id IS NOT NULL GROUP BY 1, 2)
        SELECT 'charge ' || c.charge_id, format('%s recognised, %s of %s used', recognised_nano, h.used, quantity)
        FROM charge c JOIN held h USING (account_id, charge_id)
        WHERE c.recognise = 'usage' AND recognised_nano > div((amount_nano - tax_nano)::numeric * h.used, quantity)""",
    "charge: it has its product's price": """
        SELECT 'charge ' || c.charge_id, format('%s charged, price %s', c.price_nano, o.content::jsonb->>'price')
        FROM charge c JOIN product p USING (product_id) JOIN offering o ON o.offering_version = c.offering_version
        WHERE c.kind IN ('cycle', 'step', 'change') AND p.parent_id IS NULL
            AND c.price_nano <> (o.content::jsonb->>'price')::numeric * 1000000000
            AND (c.kind = 'step' OR o.content::jsonb->>'first_price' IS NULL
                 OR c.price_nano <> (o.content::jsonb->>'first_price')::numeric * 1000000000
                 -- The first month's is for what is charged first: for a later cycle where those before cost nothing, or were another
                 -- offering's.
                 OR (c.kind = 'cycle' AND c.number > 1 + p.uncharged AND NOT EXISTS (SELECT 1 FROM product_order m
                     WHERE m.product_id = p.product_id AND m.action = 'modify'))
                 OR EXISTS (SELECT 1 FROM charge e JOIN offering v USING (offering_version)
                     WHERE e.product_id = c.product_id AND v.offering_id = o.offering_id AND e.kind IN ('cycle', 'change')
                         AND e.charged_at < c.charged_at AND e.credited_nano < e.amount_nano))
            AND NOT EXISTS (SELECT 1 FROM contract_price t WHERE t.subscriber_id = c.subscriber_id
                            AND t.offering_id = o.offering_id AND t.price_nano = c.price_nano)""",
    "charge: the parts of a bundle are charged its price together": """
        WITH part AS (
            SELECT p.parent_id, c.number, c.subscriber_id, sum(c.price_nano) AS nano, count(*) AS charges
            FROM charge c JOIN product p USING (product_id)
            WHERE c.kind = 'cycle' AND p.parent_id IS NOT NULL GROUP BY 1, 2, 3)
        SELECT 'product ' || part.parent_id, format('cycle %s: %s charged, price %s', part.number, part.nano,
               o.content::jsonb->>'price')
        FROM part JOIN product b ON b.product_id = part.parent_id JOIN offering o ON o.offering_version = b.offering_version
        WHERE part.charges = jsonb_array_length(o.content::jsonb->'parts')
            AND part.nano NOT IN (SELECT (v.content::jsonb->>price)::numeric * 1000000000
                FROM offering v, unnest(ARRAY['price', 'first_price']) price
                WHERE v.offering_id = o.offering_id AND v.content::jsonb->>price IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM contract_price t WHERE t.subscriber_id = part.subscriber_id
                            AND t.offering_id = o.offering_id)""",
    "charge: it is a part of its price": """
        SELECT 'charge ' || charge_id, format('%s of %s: %s / %s', amount_nano, price_nano, share_num, share_den) FROM charge
        WHERE share_num > share_den""",
    "bucket: a balance that was issued is not empty": """
        SELECT 'bucket ' || bucket_id, 'nothing was ever in it' FROM bucket WHERE kind = 'balance' AND total = 0""",
    "product: what pays for its cycle is a charge of its own": """
        SELECT 'product ' || p.product_id, format('charge %s', p.charge_id) FROM product p
        LEFT JOIN charge c ON c.account_id = p.account_id AND c.charge_id = p.charge_id AND c.product_id = p.product_id
            AND c.kind IN ('cycle', 'change')
        WHERE p.charge_id IS NOT NULL AND c.charge_id IS NULL""",
    "charge: what was credited is the sum of its credits": """
        SELECT 'charge ' || c.charge_id, format('%s credited, credits %s', c.credited_nano, coalesce(-r.nano, 0))
        FROM charge c LEFT JOIN (SELECT account_id, of_charge_id, sum(amount_nano) AS nano FROM charge
                                 WHERE of_charge_id IS NOT NULL GROUP BY 1, 2) r
            ON r.account_id = c.account_id AND r.of_charge_id = c.charge_id
        WHERE c.credited_nano <> coalesce(-r.nano, 0) OR (c.recognise <> 'none' AND c.credited_nano > c.amount_nano)""",
    "product: every cycle and step that costs something has its charge": """
        SELECT 'product ' || p.product_id,
               format('cycle %s, step %s, %s free, %s charges', p.cycle_no, p.step_no, p.uncharged, count(c.charge_id))
        FROM product p JOIN offering o USING (offering_version)
        LEFT JOIN charge c ON c.product_id = p.product_id AND c.kind IN ('cycle', 'step')
        WHERE p.state NOT IN ('pendingActive', 'aborted') AND p.ended_at IS NULL
        GROUP BY p.product_id, p.cycle_no, p.step_no, p.uncharged, o.content
        HAVING count(c.charge_id) + p.uncharged <> CASE o.content::jsonb->>'kind' WHEN 'bundle' THEN 0
            WHEN 'pay_as_you_go' THEN p.step_no ELSE p.cycle_no END""",
    "subscriber: what suspends it is open in its history, and its state and account say so": """
        SELECT 'subscriber ' || s.subscriber_id, format('%s, account %s, by %s, open %s', s.state, a.state, s.suspended_by, o.causes)
        FROM subscriber s JOIN account a USING (account_id)
        LEFT JOIN (SELECT subscriber_id, array_agg(cause) AS causes FROM suspension WHERE ended_at IS NULL GROUP BY 1) o
            USING (subscriber_id)
        WHERE NOT (s.suspended_by @> coalesce(o.causes, '{}') AND s.suspended_by <@ coalesce(o.causes, '{}'))
            OR cardinality(s.suspended_by) <> cardinality(coalesce(o.causes, '{}'))
            OR (s.state = 'suspended') <> (a.state = 'frozen') OR (s.state = 'closed') <> (a.state = 'closed')
            OR (s.state = 'active' AND s.suspended_by <> '{}')""",
    "product: no cycle or step was charged while its subscriber was suspended for what stops charging": """
        SELECT 'charge ' || c.charge_id, format('charged at %s, suspended by %s from %s', c.charged_at, x.cause, x.began_at)
        FROM charge c JOIN suspension x USING (subscriber_id)
        -- A lost phone stops serving alone.
        WHERE c.kind IN ('cycle', 'step', 'change') AND x.cause <> 'lost_phone' AND x.reason IS DISTINCT FROM
                'suspended before causes were kept'
            -- Clocks of hosts differ by less than a minute.
            AND c.charged_at > x.began_at + interval '1 minute'
            AND c.charged_at < coalesce(x.ended_at, 'infinity') - interval '1 minute'""",
    "bill: its lines add up to it, and each is its charges rounded to fen, posted": """
        SELECT 'bill ' || b.bill_id, format('%s billed, lines %s', b.amount_nano, coalesce(l.nano, 0))
        FROM bill b LEFT JOIN (SELECT bill_id, sum(amount_nano) AS nano, sum(tax_nano) AS tax FROM bill_line GROUP BY 1) l USING (bill_id)
        WHERE b.amount_nano <> coalesce(l.nano, 0) OR b.tax_nano <> coalesce(l.tax, 0)
        UNION ALL
        SELECT 'bill ' || l.bill_id || ' line ' || l.line_no, format('%s on the line, charges %s, rounding %s', l.amount_nano,
               coalesce(c.nano, 0), coalesce(p.amount, 0))
        FROM bill_line l
        LEFT JOIN (SELECT bill_id, line_no, sum(amount_nano) AS nano FROM charge WHERE bill_id IS NOT NULL GROUP BY 1, 2) c
            USING (bill_id, line_no)
        LEFT JOIN posting p ON p.account_id = l.account_id AND p.entry_id = l.entry_id AND p.ledger_account = 'receivable'
        WHERE l.amount_nano <> coalesce(c.nano, 0) + coalesce(p.amount, 0) OR l.amount_nano % 10000000 <> 0
            OR abs(coalesce(p.amount, 0)) > 5000000""",
    "bill: what is open on it is its lines less credits and payments, the subscriber's free credit netted, oldest first": """
        WITH paid AS (SELECT bill_id, sum(amount_nano) AS nano FROM payment p
                      WHERE NOT EXISTS (SELECT 1 FROM payment_reversal r WHERE r.payment_id = p.payment_id) GROUP BY 1),
             credited AS (SELECT settles_bill_id AS bill_id, sum(settled_nano) AS nano FROM charge
                          WHERE settles_bill_id IS NOT NULL GROUP BY 1),
             own AS (SELECT b.*, b.amount_nano - coalesce(p.nano, 0) - coalesce(c.nano, 0) AS own
                     FROM bill b LEFT JOIN paid p USING (bill_id) LEFT JOIN credited c USING (bill_id)),
             free AS (SELECT o.subscriber_id, sum(greatest(0, -o.own)) - coalesce((SELECT sum(y.amount_nano) FROM payout y
                          WHERE y.subscriber_id = o.subscriber_id), 0) AS nano FROM own o GROUP BY 1),
             owed AS (SELECT o.*, sum(greatest(0, o.own)) OVER (PARTITION BY subscriber_id ORDER BY period_end, bill_id) AS up_to,
                          free.nano AS free FROM own o JOIN free USING (subscriber_id)),
             due AS (SELECT *, least(greatest(0, own), greatest(0, up_to - greatest(0, free))) AS nano FROM owed)
        SELECT 'bill ' || bill_id, format('%s open and %s, by its payments and credits %s', remaining_nano, state, nano) FROM due
        WHERE remaining_nano <> nano OR (state = 'settled') <> (nano = 0) OR (state = 'partiallyPaid') <> (nano > 0 AND nano < amount_nano)""",
    "account: what is owed is what is open and not billed yet, less the free credit": """
        WITH owed AS (SELECT account_id, sum(amount) AS nano FROM posting WHERE ledger_account = 'receivable' GROUP BY 1),
             unbilled AS (SELECT account_id, sum(amount_nano) AS nano FROM charge WHERE bill_id IS NULL AND settles_bill_id IS NULL
                          GROUP BY 1),
             billed AS (SELECT account_id, sum(amount_nano) AS nano FROM bill GROUP BY 1),
             credited AS (SELECT account_id, sum(settled_nano) AS nano FROM charge WHERE settles_bill_id IS NOT NULL GROUP BY 1),
             paid AS (SELECT account_id, sum(nano) AS nano FROM (
                 SELECT account_id, amount_nano AS nano FROM payment UNION ALL SELECT account_id, -amount_nano FROM payment_reversal
                 UNION ALL SELECT account_id, -amount_nano FROM payout) m GROUP BY 1)
        SELECT 'account ' || account_id, format('%s posted, %s billed and %s not, %s credited, %s paid', o.nano, coalesce(b.nano, 0),
               coalesce(u.nano, 0), coalesce(c.nano, 0), coalesce(p.nano, 0))
        FROM owed o LEFT JOIN unbilled u USING (account_id) LEFT JOIN billed b USING (account_id) LEFT JOIN credited c USING (account_id)
            LEFT JOIN paid p USING (account_id)
        WHERE o.nano <> coalesce(b.nano, 0) + coalesce(u.nano, 0) - coalesce(c.nano, 0) - coalesce(p.nano, 0)""",
    "usage: settled once, at a sequence that its journal has settled": """
        SELECT 'usage ' || usage_id, format('sequence %s of journal %s', seq, u.journal_id) FROM usage u
        LEFT JOIN journal j USING (journal_id) WHERE j.journal_id IS NULL OR u.seq > j.settled_seq""",
    "usage: its parts are of its account's buckets, at the bucket's rate version": """
        SELECT 'usage ' || usage_id, format('part %s', p) FROM usage u, jsonb_array_elements(parts) p
        LEFT JOIN bucket b ON b.bucket_id = (p->>0)::uuid
        WHERE b.account_id IS DISTINCT FROM u.account_id OR b.rate_version <> p->>2 OR b.unit <> p->>3 OR b.kind <> p->>4""",
    "usage: the provider's total is the sum of its classes": f"""
        SELECT 'usage ' || usage_id, format('%s reported, classes sum to %s', provider_total,
            {_ALL_CLASSES}) FROM usage
        WHERE provider_total IS NOT NULL AND NOT 'inconsistent' = ANY(flags) AND provider_total <> {_ALL_CLASSES}""",
    "usage: what was lost of it is posted as operator loss": f"""
        WITH lost AS (SELECT account_id, entry_id, 1000 * sum((SELECT sum(t::bigint) FROM jsonb_array_elements_text(l->2) t)) AS amount
                      FROM usage, {_LOSSES} l GROUP BY 1, 2),
             posted AS (SELECT account_id, entry_id, sum(amount) AS amount FROM posting WHERE ledger_account = 'operator_loss' GROUP BY 1, 2)
        SELECT 'entry ' || entry_id, format('lost %s, posted %s', coalesce(lost.amount, 0), coalesce(posted.amount, 0))
        FROM lost FULL JOIN posted USING (account_id, entry_id) WHERE coalesce(lost.amount, 0) <> coalesce(posted.amount, 0)""",
}


def verify(
    connection: store.Connection,
    cards: dict[str, RateCard],
    progress: Callable[[str, int], None] | None = None,
) -> list[Finding]:
    """Every broken invariant, at most `FINDINGS_MAX`. `cards` are the rate cards by version. Changes nothing.

    `progress(what, done)` is called as it goes on.
    """
    findings: list[Finding] = []
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for at, (invariant, statement) in enumerate(_CHECKS.items(), 1):
            rows = connection.execute(f"{statement} LIMIT {FINDINGS_MAX}".encode())
            findings += [Finding(invariant, str(where), str(detail)) for where, detail in rows]
            if progress:
                progress(invariant, at)
        for finding in _rerate(connection, cards):
            findings.append(finding)
            if len(findings) >= FINDINGS_MAX:
                break
        if progress:
            progress("usage: rated anew", len(_CHECKS) + 1)
    return findings[:FINDINGS_MAX]


def steps() -> int:
    """How many steps `progress` counts to."""
    return len(_CHECKS) + 1


def _rerate(connection: store.Connection, cards: dict[str, RateCard]) -> Iterator[Finding]:
    """Each part costs what its card says for the tokens it paid; parts and loss together are the record."""
    invariant = (
        "usage: rated anew, it costs the same, and its parts and losses are its tokens, class by class"
    )
    weights: dict[tuple[str, str], Weights | None] = {}
    columns = ", ".join(TOKEN_CLASSES)
    with connection.cursor("rerate") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(f"SELECT usage_id, model, parts, loss, prompt, {columns} FROM usage".encode())
        for usage_id, model, parts, loss, prompt, *classes in cursor:
            counts = Counts(*classes)
            problem = _problem(parts, loss, model, counts, cards, weights, prompt=prompt)
            if problem:
                yield Finding(invariant, f"usage {usage_id}", problem)


def _problem(
    parts: list[Any],
    loss: Any,
    model: str,
    counts: Counts,
    cards: dict[str, RateCard],
    known: dict[tuple[str, str], Weights | None],
    *,
    prompt: bool,
) -> str | None:
    paid = [0] * (len(counts) + 1)
    for _, _, rate_version, unit, kind, cost, requests, part_counts in parts:
        key = (rate_version, model)
        if key not in known:
            card = cards.get(rate_version)
            rate = card.rate_for(model) if card else None
            known[key] = CAP_WEIGHTS if kind == "cap" else (rate.weights() if rate else None)
        weights = known[key]
        if weights is None:
            return f"no rate for {model} in {rate_version}"
        if unit == "prompt" and not prompt:
            weights = weights._replace(request=0)
        tokens = counts if part_counts is None else Counts(*part_counts)
        expected = amount(weights, tokens) - weights.request * (1 - requests)
        if expected != cost:
            return f"a part says {cost}, its rate says {expected}"
        if kind == "balance":
            paid = [a + b for a, b in zip(paid, [requests, *tokens], strict=True)]
    for cause, requests, tokens in losses_of(loss):
        if cause not in LOSS_CAUSES:
            return f"a loss for no cause that is known: {cause}"
        paid = [a + b for a, b in zip(paid, [requests, *tokens], strict=True)]
    if paid != [1, *counts]:
        return f"parts and losses pay for {paid}, the record is {[1, *counts]}"
    return None
