"""Invariants of bills, payments, charge files and refunds, as statements for `ledger verify` that return the rows that break them."""

from typing import Final

CHECKS: Final[dict[str, str]] = {
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
        SELECT 'credit note ' || n.credit_note_no || ' of account ' || n.account_id, format('%s with tax %s on it, credits %s with tax %s', n.amount_nano, n.tax_nano,
               coalesce(k.nano, 0), coalesce(k.tax, 0))
        FROM credit_note n LEFT JOIN LATERAL (SELECT sum(settled_nano) AS nano, sum(settled_tax_nano) AS tax FROM charge k
            WHERE k.account_id = n.account_id AND k.charge_id = ANY(n.credit_charge_ids) AND k.settles_bill_id = n.bill_id) k ON true
        WHERE n.credit_charge_ids IS NOT NULL AND (n.amount_nano <> coalesce(k.nano, 0) OR n.tax_nano <> coalesce(k.tax, 0))""",
    "numbers: every one up to the last is a document's, or its gap is accounted for": """
        WITH taken AS (
            SELECT 'bill' AS kind, CASE WHEN bill_no ~ '^[0-9]{8}-[0-9]{9,18}$' THEN split_part(bill_no, '-', 2)::bigint END AS number FROM bill
            UNION ALL SELECT 'credit_note', CASE WHEN credit_note_no ~ '^C[0-9]{8}-[0-9]{9,18}$' THEN split_part(credit_note_no, '-', 2)::bigint END FROM credit_note
            UNION ALL SELECT kind, number FROM document_gap
        ), found AS (SELECT kind, count(*) AS count, count(DISTINCT number) AS numbers, max(number) AS last FROM taken GROUP BY 1)
        SELECT 'document ' || d.kind, format('%s numbers given, %s documents and gaps with %s numbers up to %s', d.last,
               coalesce(f.count, 0), coalesce(f.numbers, 0), coalesce(f.last, 0))
        FROM document_number d LEFT JOIN found f USING (kind)
        WHERE d.last <> coalesce(f.count, 0) OR d.last <> coalesce(f.numbers, 0) OR d.last <> coalesce(f.last, 0)
        UNION ALL
        SELECT 'document ' || kind, 'has no counter' FROM (VALUES ('bill'), ('credit_note')) AS k (kind)
        WHERE NOT EXISTS (SELECT 1 FROM document_number d WHERE d.kind = k.kind)
        UNION ALL
        SELECT 'document ' || f.kind || ' number ' || g.number, 'has a document, and a gap that is accounted for' FROM document_gap g JOIN taken f
            USING (kind, number) GROUP BY f.kind, g.number HAVING count(*) > 1
        UNION ALL
        SELECT 'charge files ' || layout || ': ' || string_agg(charge_file_id::text, ' ' ORDER BY sequence_no DESC), format('%s files up to %s', count(*), max(sequence_no)) FROM charge_file GROUP BY layout
        HAVING count(*) <> max(sequence_no)""",
    "charge file: its lines are what it says, and what was accepted is a payment": """
        SELECT 'charge file ' || f.charge_file_id || ', ' || f.sequence_no, format('%s lines over %s, its rows %s over %s', f.lines, f.amount_nano,
               coalesce(l.count, 0), coalesce(l.nano, 0))
        FROM charge_file f LEFT JOIN (SELECT charge_file_id, count(*) AS count, sum(amount_nano) AS nano FROM charge_file_line
                                      GROUP BY 1) l USING (charge_file_id)
        WHERE f.lines <> coalesce(l.count, 0) OR f.amount_nano <> coalesce(l.nano, 0)
        UNION ALL
        SELECT 'charge file ' || f.charge_file_id || ', ' || f.sequence_no || ' line ' || l.line_no, format('%s accepted, %s booked', l.amount_nano,
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
    "entry: a payment, a payout, a reversal and a rounding each have theirs, and it posts what they say": """
        WITH charged AS (SELECT bill_id, line_no, sum(amount_nano) AS nano, sum(tax_nano) AS tax FROM charge WHERE bill_id IS NOT NULL GROUP BY 1, 2),
        cause AS (
            SELECT account_id, entry_id, 'payment' AS kind, 'payment ' || payment_id AS what, payment_id::text AS ref, currency,
                CASE method WHEN 'write_off' THEN 'bad_debt' ELSE 'paid:' || method END AS first, amount_nano AS one, 'receivable' AS second,
                -amount_nano AS two, NULL::bigint AS three FROM payment
            UNION ALL
            SELECT account_id, entry_id, 'payment', 'payout ' || payout_id, payout_id::text, currency, 'paid:' || method, -amount_nano, 'receivable',
                amount_nano, NULL FROM payout
            UNION ALL
            SELECT r.account_id, r.entry_id, 'payment_reversal', 'payment ' || r.payment_id || ' reversal ' || r.reversal_id, r.payment_id::text,
                y.currency, CASE y.method WHEN 'write_off' THEN 'bad_debt' ELSE 'paid:' || y.method END, -r.amount_nano, 'receivable', r.amount_nano, NULL
            FROM payment_reversal r LEFT JOIN payment y USING (payment_id)
            UNION ALL
            SELECT l.account_id, l.entry_id, 'round', 'bill ' || l.bill_id || ' line ' || l.line_no, l.bill_id || ':' || l.line_no, 'CNY', 'receivable',
                l.amount_nano - c.nano, 'tax', c.tax - l.tax_nano, (l.tax_nano - c.tax) - (l.amount_nano - c.nano)
            FROM bill_line l LEFT JOIN charged c USING (bill_id, line_no) WHERE l.entry_id IS NOT NULL
            UNION ALL
            SELECT k.account_id, k.settled_entry_id, 'round', 'charge ' || k.charge_id, 'credit:' || k.charge_id, 'CNY', 'receivable',
                -k.amount_nano - k.settled_nano, 'tax', k.settled_tax_nano + k.tax_nano,
                -(-k.amount_nano - k.settled_nano) - (k.settled_tax_nano + k.tax_nano)
            FROM charge k WHERE k.settled_entry_id IS NOT NULL),
        posted AS (
            SELECT e.account_id, e.entry_id, e.kind, e.ref, count(p.line_no) AS lines, count(p.bucket_id) AS buckets, min(unit) AS unit, max(unit) AS unit_too,
                min(ledger_account) FILTER (WHERE line_no = 1) AS first, sum(amount) FILTER (WHERE line_no = 1) AS one,
                min(ledger_account) FILTER (WHERE line_no = 2) AS second, sum(amount) FILTER (WHERE line_no = 2) AS two,
                sum(amount) FILTER (WHERE line_no = 3 AND ledger_account = 'rounding') AS three
            FROM entry e LEFT JOIN posting p USING (account_id, entry_id) WHERE e.kind IN ('payment', 'payment_reversal', 'round') GROUP BY 1, 2, 3, 4)
        SELECT concat_ws(' ', 'entry ' || entry_id, c.what, 'account ' || account_id),
            format('%s %s %s, %s %s, %s; posted for %s: %s %s, %s %s, %s', c.kind, c.first, c.one, c.second, c.two, c.three, p.ref, p.first, p.one, p.second,
                   p.two, p.three)
        FROM posted p FULL JOIN cause c USING (account_id, entry_id)
        WHERE c.ref IS NULL OR p.ref IS NULL OR (p.kind, p.ref) <> (c.kind, c.ref) OR p.buckets > 0 OR p.unit IS DISTINCT FROM c.currency
            OR p.unit_too IS DISTINCT FROM c.currency OR p.first IS DISTINCT FROM c.first OR p.second IS DISTINCT FROM c.second
            OR p.one IS DISTINCT FROM c.one OR p.two IS DISTINCT FROM c.two OR p.three IS DISTINCT FROM c.three
            OR p.lines <> CASE WHEN c.kind = 'round' THEN 3 ELSE 2 END
        UNION ALL
        SELECT 'bill ' || l.bill_id || ' line ' || l.line_no, format('%s with tax %s of charges of %s with %s, rounding %s', l.amount_nano, l.tax_nano,
               c.nano, c.tax, l.entry_id)
        FROM bill_line l LEFT JOIN charged c USING (bill_id, line_no)
        WHERE (l.entry_id IS NULL) <> (l.amount_nano = c.nano AND l.tax_nano = c.tax) OR c.nano IS NULL
        UNION ALL
        SELECT 'charge ' || k.charge_id || ' of account ' || k.account_id, format('%s with tax %s settled as %s with %s, rounding %s', k.amount_nano,
               k.tax_nano, k.settled_nano, k.settled_tax_nano, k.settled_entry_id)
        FROM charge k WHERE (k.settles_bill_id IS NULL) <> (k.settled_nano IS NULL) OR (k.settles_bill_id IS NULL) <> (k.settled_tax_nano IS NULL)
            OR (k.settles_bill_id IS NULL) <> (k.settles_line_no IS NULL)
            OR (k.settled_entry_id IS NULL) <> coalesce(k.settled_nano = -k.amount_nano AND k.settled_tax_nano = -k.tax_nano, true)""",
    "bill: it is of its subscriber's period, numbered and due as all of its day": """
        WITH before AS (SELECT *, lag(period_end) OVER (PARTITION BY subscriber_id ORDER BY period_end) AS last,
                            period_end AT TIME ZONE 'UTC' + interval '8 hours' AS ends FROM bill),
        days AS (SELECT issued_at, mode() WITHIN GROUP (ORDER BY due_at - issued_at) AS due FROM bill GROUP BY 1),
        begun AS (SELECT bill_id, min(charged_at) AS first, max(charged_at) AS latest FROM charge WHERE bill_id IS NOT NULL GROUP BY 1)
        SELECT 'bill ' || b.bill_id || ' ' || b.bill_no || ' of account ' || b.account_id || ' subscriber ' || b.subscriber_id,
            format('%s to %s, issued %s, due %s, %s, %s', b.period_start, b.period_end, b.issued_at, b.due_at, b.currency, b.channel)
        FROM before b LEFT JOIN subscriber s USING (subscriber_id) LEFT JOIN days d USING (issued_at) LEFT JOIN begun g USING (bill_id)
        WHERE s.account_id IS DISTINCT FROM b.account_id OR b.currency <> 'CNY' OR b.bill_no !~ '^[0-9]{8}-[0-9]{9,18}$'
            OR left(b.bill_no, 8) <> to_char(b.ends, 'YYYYMMDD') OR b.ends <> date_trunc('day', b.ends) OR extract(day FROM b.ends) > 28
            OR b.period_start <> coalesce(b.last, g.first) OR b.period_start >= b.period_end OR b.issued_at < b.period_end
            OR g.latest >= b.period_end OR b.due_at - b.issued_at <> d.due OR b.due_at <= b.issued_at
            OR b.due_at - b.issued_at <> date_trunc('day', b.due_at - b.issued_at)
            OR (b.state = 'sent') <> (b.remaining_nano > 0 AND b.remaining_nano = b.amount_nano AND EXISTS (SELECT 1 FROM charge_file_line l
                WHERE l.bill_id = b.bill_id AND l.state = 'sent'))
            OR b.file_failures > (SELECT count(*) FROM charge_file_line l WHERE l.bill_id = b.bill_id)
                + (SELECT count(*) FROM payment y JOIN payment_reversal r USING (payment_id) WHERE y.bill_id = b.bill_id AND y.method = 'phone_bill')
            OR (b.reopened_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM payment y JOIN payment_reversal r USING (payment_id)
                WHERE y.subscriber_id = b.subscriber_id AND r.reversed_at BETWEEN b.reopened_at - interval '1 minute' AND b.reopened_at + interval '1 minute')
                AND NOT EXISTS (SELECT 1 FROM payout o WHERE o.subscriber_id = b.subscriber_id))
            OR NOT EXISTS (SELECT 1 FROM bill_line l WHERE l.bill_id = b.bill_id)""",
    "bill: each line says what its charges are, and each charge is on the line that it says": """
        WITH charged AS (
            SELECT bill_id, line_no, count(*) AS charges, sum(amount_nano) AS nano, min(account_id::text) AS account, max(account_id::text) AS account_too,
                min(product_id::text) AS product, max(product_id::text) AS product_too, min(offering_version) AS version, max(offering_version) AS version_too,
                min(kind) AS kind, max(kind) AS kind_too, min(description) AS said, max(description) AS said_too, min(description_zh) AS zh,
                max(description_zh) AS zh_too, min(vat_percent) AS vat, max(vat_percent) AS vat_too
            FROM charge WHERE bill_id IS NOT NULL GROUP BY 1, 2)
        SELECT concat_ws(' ', 'bill ' || bill_id, 'line ' || line_no, 'account ' || coalesce(l.account_id::text, c.account)),
            format('%s charges over %s of %s; %s over %s of %s', l.charges, l.charged_nano, l.description, c.charges, c.nano, c.said)
        FROM bill_line l FULL JOIN charged c USING (bill_id, line_no) LEFT JOIN bill b USING (bill_id)
        WHERE l.account_id IS NULL OR c.nano IS NULL OR b.account_id <> l.account_id OR l.account_id::text <> c.account OR c.account <> c.account_too
            OR l.charges <> c.charges OR l.charged_nano <> c.nano OR l.product_id::text IS DISTINCT FROM c.product OR c.product <> c.product_too
            OR l.offering_version IS DISTINCT FROM c.version OR c.version <> c.version_too OR l.kind <> c.kind OR c.kind <> c.kind_too
            OR l.description <> c.said OR c.said <> c.said_too OR l.description_zh <> c.zh OR c.zh <> c.zh_too OR l.vat_percent <> c.vat OR c.vat <> c.vat_too
            OR l.tax_nano <> sign(l.amount_nano) * 10000000 * div(2 * abs(l.amount_nano / 10000000)::numeric * l.vat_percent + 100 + l.vat_percent,
                                                                 2 * (100 + l.vat_percent))
        UNION ALL
        SELECT 'bill ' || bill_id || ' of account ' || min(account_id::text), format('%s lines up to %s', count(*), max(line_no)) FROM bill_line GROUP BY bill_id
        HAVING count(*) <> max(line_no) OR min(line_no) <> 1
        UNION ALL
        SELECT 'charge ' || c.charge_id || ' of account ' || c.account_id, format('on line %s of bill %s of subscriber %s', c.line_no, c.bill_id, b.subscriber_id)
        FROM charge c LEFT JOIN bill b USING (bill_id)
        WHERE (c.bill_id IS NULL) <> (c.line_no IS NULL) OR (c.bill_id IS NOT NULL AND (b.subscriber_id IS DISTINCT FROM c.subscriber_id
            OR c.charged_at >= b.period_end))""",
    "credit note: it has its date in its number, and its credits are of that line": """
        SELECT 'credit note ' || n.credit_note_id || ' ' || n.credit_note_no || ' of account ' || n.account_id, format('line %s of bill %s: charge %s, %s, at %s',
               n.line_no, n.bill_id, n.charge_id, n.reason, n.issued_at)
        FROM credit_note n LEFT JOIN bill b USING (bill_id)
            LEFT JOIN LATERAL (SELECT count(*) AS found, min(k.settles_line_no) AS line_no, max(k.settles_line_no) AS line_too,
                    bool_and(k.kind = 'credit' AND k.settles_bill_id = n.bill_id AND starts_with(k.description, f.description || ': ')
                        AND k.description_zh LIKE '%（更正）' AND n.issued_at BETWEEN k.charged_at AND k.charged_at + interval '1 minute') AS fits
                FROM charge k LEFT JOIN charge f ON f.account_id = k.account_id AND f.charge_id = k.of_charge_id
                WHERE k.account_id = n.account_id AND k.charge_id = ANY(n.credit_charge_ids)) k ON true
        WHERE n.credit_note_no !~ '^C[0-9]{8}-[0-9]{9,18}$'
            OR substr(n.credit_note_no, 2, 8) <> to_char(n.issued_at AT TIME ZONE 'UTC' + interval '8 hours', 'YYYYMMDD')
            OR b.account_id IS DISTINCT FROM n.account_id OR n.issued_at < b.issued_at
            -- What was written before lines were named has no credits.
            OR (n.credit_charge_ids IS NULL) <> (n.line_no IS NULL)
            OR (n.credit_charge_ids IS NOT NULL AND (n.charge_id IS DISTINCT FROM n.credit_charge_ids[1] OR k.found <> cardinality(n.credit_charge_ids)
                OR NOT k.fits OR k.line_no <> n.line_no OR k.line_too <> n.line_no))
        UNION ALL
        SELECT 'charge ' || k.charge_id || ' of account ' || k.account_id || ' off bill ' || k.settles_bill_id, 'corrects a bill, and is on no credit note, or on two'
        FROM charge k WHERE k.settles_bill_id IS NOT NULL AND k.description_zh LIKE '%（更正）'
            AND (SELECT count(*) FROM credit_note n WHERE n.account_id = k.account_id AND (k.charge_id = ANY(n.credit_charge_ids)
                OR n.charge_id = k.charge_id)) <> 1""",
    "payment: it is of its subscriber's account and bill, and of the line that its reference names": """
        SELECT 'payment ' || y.payment_id || ' of account ' || y.account_id || ' subscriber ' || y.subscriber_id,
            format('%s %s of %s asked, bill %s of %s, %s', y.method, y.reference, y.asked_nano, y.bill_id, b.subscriber_id, y.reason)
        FROM payment y LEFT JOIN subscriber s USING (subscriber_id) LEFT JOIN bill b ON b.bill_id = y.bill_id
        WHERE s.account_id IS DISTINCT FROM y.account_id OR (y.bill_id IS NOT NULL AND b.subscriber_id IS DISTINCT FROM y.subscriber_id)
            OR y.asked_nano <> y.amount_nano OR (y.method = 'write_off') <> (y.reason IS NOT NULL) OR y.paid_at < b.issued_at
            OR y.currency <> b.currency
            OR (y.method = 'phone_bill' AND NOT EXISTS (SELECT 1 FROM charge_file f JOIN charge_file_line l USING (charge_file_id)
                WHERE split_part(y.reference, '#', 1) = f.layout || ':' || f.sequence_no || ':' || l.line_no AND l.bill_id = y.bill_id
                    AND l.amount_nano = y.amount_nano AND y.asked_nano = y.amount_nano))
        UNION ALL
        SELECT 'payment ' || r.payment_id || ' reversal ' || r.reversal_id || ' of account ' || r.account_id, format('reversed at %s, paid at %s', r.reversed_at, y.paid_at)
        FROM payment_reversal r LEFT JOIN payment y USING (payment_id)
        WHERE y.account_id IS DISTINCT FROM r.account_id OR r.reversed_at < y.paid_at
        UNION ALL
        SELECT 'payout ' || o.payout_id || ' of account ' || o.account_id || ' subscriber ' || o.subscriber_id, format('subscriber %s closed at %s', s.state, s.closed_at)
        FROM payout o LEFT JOIN subscriber s USING (subscriber_id)
        WHERE s.account_id IS DISTINCT FROM o.account_id OR s.state <> 'closed' OR o.paid_at < s.closed_at OR o.amount_nano % 10000000 <> 0""",
    "refund: it is of a charge of its order, and its credit is what it gave back": """
        SELECT 'refund ' || f.refund_id || ' of account ' || f.account_id, format('%s of charge %s of order %s: %s, asked %s, kept %s, credit %s of %s', f.part,
               f.charge_id, f.order_id, f.amount_nano, f.asked_nano, f.kept, f.credit_charge_id, k.amount_nano)
        FROM refund f LEFT JOIN product_order r USING (order_id)
            LEFT JOIN charge c ON c.account_id = f.account_id AND c.charge_id = f.charge_id
            LEFT JOIN product p ON p.product_id = c.product_id
            LEFT JOIN charge k ON k.account_id = f.account_id AND k.charge_id = f.credit_charge_id
            LEFT JOIN refund g ON g.refund_id = f.batch_id
            LEFT JOIN LATERAL (SELECT coalesce(sum(b.used), 0) AS used FROM bucket b WHERE b.account_id = f.account_id AND b.charge_id = f.charge_id) u ON true
            LEFT JOIN LATERAL (SELECT coalesce(sum(-x.amount_nano), 0) AS nano FROM charge x WHERE x.account_id = f.account_id AND x.of_charge_id = f.charge_id
                AND x.charge_id < f.credit_charge_id) before ON true
        WHERE r.account_id IS DISTINCT FROM f.account_id OR p.order_id IS DISTINCT FROM f.order_id
            OR c.kind NOT IN ('cycle', 'step', 'change') OR (f.state = 'done') <> (f.done_at IS NOT NULL) OR (f.state = 'done') <> (f.amount_nano IS NOT NULL)
            OR f.done_at < f.asked_at OR (f.credit_charge_id IS NOT NULL) <> (coalesce(f.amount_nano, 0) > 0)
            OR (f.credit_charge_id IS NOT NULL AND (k.kind IS DISTINCT FROM 'refund' OR k.of_charge_id <> f.charge_id OR k.amount_nano <> -f.amount_nano
                OR k.charged_at > f.done_at OR k.charged_at < f.done_at - interval '1 minute'))
            OR (f.batch_id IS NOT NULL AND (g.order_id IS DISTINCT FROM f.order_id OR g.part <> f.part OR g.reason <> f.reason OR g.asked_at > f.asked_at))
            OR (f.part = 'amount' AND (f.asked_nano IS NULL OR f.amount_nano IS DISTINCT FROM f.asked_nano OR f.kept IS NOT NULL))
            OR (f.part = 'whole' AND (f.asked_nano IS NOT NULL OR f.kept IS NOT NULL
                OR f.amount_nano <> c.amount_nano - before.nano))
            OR (f.part = 'unused' AND ((f.kept IS NULL) <> (f.asked_nano IS NOT NULL) OR (f.kept IS NOT NULL) <> (c.quantity > 0) OR f.kept > c.quantity
                OR (f.kept IS NOT NULL AND f.amount_nano <> least(c.amount_nano - before.nano,
                    div(c.amount_nano::numeric * greatest(0, f.kept - u.used), greatest(1, c.quantity))))
                OR (f.asked_nano IS NOT NULL AND f.amount_nano <> least(c.amount_nano - before.nano, f.asked_nano))))
        UNION ALL
        SELECT 'charge ' || k.charge_id || ' of account ' || k.account_id, 'is a refund, and of none, or of two' FROM charge k
        WHERE k.kind = 'refund' AND (SELECT count(*) FROM refund f WHERE f.account_id = k.account_id AND f.credit_charge_id = k.charge_id) <> 1""",
    "dunning: its steps are of bills that were due, and in force while something is open on them": """
        SELECT 'bill ' || d.bill_id || ' step ' || d.step || ' of subscriber ' || d.subscriber_id, format('taken %s, lifted %s, due %s, %s open', d.taken_at,
               d.lifted_at, b.due_at, b.remaining_nano)
        FROM dunning d LEFT JOIN bill b USING (bill_id)
        WHERE b.subscriber_id IS DISTINCT FROM d.subscriber_id OR d.taken_at < b.due_at OR d.lifted_at < d.taken_at
            OR (d.lifted_at IS NOT NULL AND b.remaining_nano > 0)
            OR EXISTS (SELECT 1 FROM dunning e WHERE e.bill_id = d.bill_id AND e.taken_at > d.taken_at
                AND array_position(ARRAY['remind', 'restrict', 'suspend', 'close'], e.step)
                    < array_position(ARRAY['remind', 'restrict', 'suspend', 'close'], d.step))
        UNION ALL
        SELECT 'subscriber ' || s.subscriber_id || ' of account ' || s.account_id, format('restricted: %s, suspended by %s, steps in force %s', s.restricted,
               s.suspended_by, d.steps)
        FROM subscriber s LEFT JOIN (SELECT subscriber_id, array_agg(DISTINCT step) AS steps FROM dunning WHERE lifted_at IS NULL GROUP BY 1) d
            USING (subscriber_id)
        WHERE s.state <> 'closed' AND (s.restricted <> (coalesce(d.steps, '{}') && ARRAY['restrict', 'suspend'])
            OR ('payment' = ANY(s.suspended_by)) <> ('suspend' = ANY(coalesce(d.steps, '{}'))))""",
    "charge file: its text says what its lines are, and each line is answered once": """
        WITH said AS (
            SELECT f.charge_file_id, t.at, string_to_array(t.row, '|') AS fields, t.row
            FROM charge_file f CROSS JOIN LATERAL unnest(string_to_array(rtrim(f.content, E'\n'), E'\n')) WITH ORDINALITY t (row, at))
        SELECT 'charge file ' || f.charge_file_id || ', ' || f.sequence_no, format('%s at %s, its text: %s', f.layout, f.made_at, s.row)
        FROM charge_file f LEFT JOIN said s ON s.charge_file_id = f.charge_file_id AND s.at = 1
            LEFT JOIN said t ON t.charge_file_id = f.charge_file_id AND t.at = f.lines + 2
        WHERE s.fields IS DISTINCT FROM ARRAY['H', f.layout, f.sequence_no::text, to_char(f.made_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                f.lines::text, (f.amount_nano / 10000000)::text]
            OR t.fields IS DISTINCT FROM ARRAY['T', f.lines::text, (f.amount_nano / 10000000)::text, '@']
            OR (SELECT count(*) FROM said n WHERE n.charge_file_id = f.charge_file_id) <> f.lines + 2
            OR (f.acknowledged_at IS NOT NULL AND EXISTS (SELECT 1 FROM charge_file_line l WHERE l.charge_file_id = f.charge_file_id AND l.state = 'sent'))
            OR (f.acknowledged_at IS NULL AND EXISTS (SELECT 1 FROM charge_file_line l WHERE l.charge_file_id = f.charge_file_id
                AND l.state IN ('accepted', 'reversed')))
            OR f.acknowledged_at < f.made_at OR f.content NOT LIKE E'%\n'
        UNION ALL
        SELECT 'charge file ' || l.charge_file_id || ' line ' || l.line_no, format('%s of bill %s, %s %s; its text: %s', l.amount_nano, b.bill_no, l.state, l.reason, s.row)
        FROM charge_file_line l LEFT JOIN bill b USING (bill_id) LEFT JOIN charge_file f USING (charge_file_id)
            LEFT JOIN said s ON s.charge_file_id = l.charge_file_id AND s.at = l.line_no + 1
        WHERE s.fields IS NULL OR b.bill_no IS NULL OR s.fields[1:7] IS DISTINCT FROM ARRAY['D', l.line_no::text, b.bill_no, '@',
                to_char(b.period_start AT TIME ZONE 'UTC' + interval '8 hours', 'YYYYMMDD'),
                to_char(b.period_end AT TIME ZONE 'UTC' + interval '8 hours' - interval '1 microsecond', 'YYYYMMDD'), (l.amount_nano / 10000000)::text]
            OR cardinality(s.fields) <> 8 OR l.amount_nano % 10000000 <> 0 OR l.amount_nano > b.amount_nano OR f.made_at < b.issued_at
            OR (l.state = 'rejected') <> (l.reason IS NOT NULL)
            OR (l.state IN ('sent', 'rejected') AND EXISTS (SELECT 1 FROM payment y WHERE y.bill_id = l.bill_id AND y.method = 'phone_bill'
                AND split_part(y.reference, '#', 1) = f.layout || ':' || f.sequence_no || ':' || l.line_no
                AND NOT EXISTS (SELECT 1 FROM payment_reversal r WHERE r.payment_id = y.payment_id)))
            OR (l.state = 'accepted' AND NOT EXISTS (SELECT 1 FROM payment y WHERE y.bill_id = l.bill_id AND y.method = 'phone_bill'
                    AND split_part(y.reference, '#', 1) = f.layout || ':' || f.sequence_no || ':' || l.line_no
                    AND NOT EXISTS (SELECT 1 FROM payment_reversal r WHERE r.payment_id = y.payment_id))
                AND NOT EXISTS (SELECT 1 FROM reconciliation_case r WHERE r.bill_id = l.bill_id AND r.kind = 'unbooked'))""",
    "collection: it is of its subscriber's bill, and what was booked is one payment": """
        SELECT 'collection ' || c.collection_id || ' of subscriber ' || c.subscriber_id, format('%s %s, %s of bill %s, payment %s of %s', c.state, c.reference,
               c.amount_nano, c.bill_id, y.payment_id, y.amount_nano)
        FROM collection c LEFT JOIN bill b USING (bill_id) LEFT JOIN payment y ON y.method = c.method AND y.reference = c.reference
        WHERE (b.subscriber_id, b.currency) IS DISTINCT FROM (c.subscriber_id, c.currency) OR c.answered_at < c.asked_at
            OR (c.state = 'booked' AND ((y.bill_id, y.amount_nano) IS DISTINCT FROM (c.bill_id, c.amount_nano) OR y.paid_at < c.asked_at
                OR c.answered_at > y.paid_at + interval '1 minute'))
        UNION ALL
        SELECT 'collections ' || string_agg(collection_id::text, ' ') || ' of subscriber ' || min(subscriber_id::text), format('%s of one payment', count(*))
        FROM collection WHERE state = 'booked' GROUP BY method, reference HAVING count(*) > 1""",
    "case: it is of its subscriber's bill and payment": """
        SELECT 'case ' || r.case_id || ' of subscriber ' || r.subscriber_id, format('%s over %s, bill %s, payment %s of %s', r.kind, r.amount_nano, r.bill_id,
               r.payment_id, y.amount_nano)
        FROM reconciliation_case r LEFT JOIN bill b USING (bill_id) LEFT JOIN payment y USING (payment_id)
        WHERE (r.bill_id IS NOT NULL AND b.subscriber_id IS DISTINCT FROM r.subscriber_id) OR r.bill_id IS NULL
            OR (r.payment_id IS NOT NULL AND (y.bill_id IS DISTINCT FROM r.bill_id OR r.opened_at < y.paid_at))
            OR (r.kind IN ('surplus', 'paid_out')) <> (r.payment_id IS NOT NULL) AND r.kind <> 'unbooked'
            OR (r.kind = 'surplus' AND (r.amount_nano > y.amount_nano OR r.opened_at > y.paid_at + interval '1 minute'))
            OR (r.kind = 'rejected' AND r.amount_nano > b.amount_nano) OR r.closed_at < r.opened_at
            OR (r.kind = 'paid_out' AND NOT EXISTS (SELECT 1 FROM payment_reversal x WHERE x.payment_id = r.payment_id))
        UNION ALL
        SELECT 'case of payment ' || payment_id || ' of subscriber ' || min(subscriber_id::text) || ': ' || string_agg(case_id::text, ' '), format('%s cases', count(*))
        FROM reconciliation_case WHERE kind = 'surplus' GROUP BY payment_id HAVING count(*) > 1
        UNION ALL
        SELECT 'bill ' || b.bill_id || ' payment ' || y.payment_id || ' of subscriber ' || b.subscriber_id, format('%s came in for a bill of %s, and no case says so',
               y.amount_nano, b.amount_nano)
        FROM payment y JOIN bill b USING (bill_id)
        WHERE y.amount_nano > b.amount_nano AND NOT EXISTS (SELECT 1 FROM reconciliation_case r WHERE r.payment_id = y.payment_id)""",
    "dispute: it is of its subscriber's bill, and answered after it was asked": """
        SELECT 'dispute ' || d.dispute_id || ' of subscriber ' || d.subscriber_id, format('bill %s of %s, line %s, asked %s, answered %s', d.bill_id, b.subscriber_id,
               d.line_no, d.asked_at, d.answered_at)
        FROM dispute d LEFT JOIN bill b USING (bill_id)
        WHERE b.subscriber_id IS DISTINCT FROM d.subscriber_id OR d.answered_at < d.asked_at OR d.asked_at < b.issued_at
            OR EXISTS (SELECT 1 FROM dispute e WHERE e.bill_id = d.bill_id AND e.line_no = d.line_no AND e.dispute_id <> d.dispute_id
                AND e.question = d.question AND e.asked_at = d.asked_at)""",
}
