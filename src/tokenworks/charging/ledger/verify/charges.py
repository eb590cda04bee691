"""The checks of charges: their amounts and tax, the revenue recognised from them, and their credits."""

from typing import Final

CHECKS: Final[dict[str, str]] = {
    "charge: its amount and tax are the receivable and the tax of its entry": """
        SELECT 'charge ' || c.charge_id, format('%s with tax %s charged, %s with tax %s posted', c.amount_nano, c.tax_nano,
               coalesce(p.receivable, 0), coalesce(-p.tax, 0))
        FROM charge c LEFT JOIN (
            SELECT account_id, entry_id, unit, sum(amount) FILTER (WHERE ledger_account = 'receivable') AS receivable,
                   sum(amount) FILTER (WHERE ledger_account = 'tax') AS tax FROM posting GROUP BY 1, 2, 3) p
            ON p.account_id = c.account_id AND p.entry_id = c.entry_id AND p.unit = c.currency
        WHERE c.amount_nano <> coalesce(p.receivable, 0) OR c.tax_nano <> coalesce(-p.tax, 0)""",
    "charge: what is still owed for charges is posted as customer liability": """
        WITH owed AS (SELECT account_id, sum(amount_nano - tax_nano - recognised_nano - broken_nano - refunded_nano) AS nano
                      FROM charge WHERE recognise <> 'none' GROUP BY 1),
             posted AS (SELECT account_id, sum(amount) AS nano FROM posting
                        WHERE ledger_account = 'customer_liability' AND unit = 'CNY' GROUP BY 1)
        SELECT 'account ' || coalesce(o.account_id, p.account_id), format('%s owed, %s posted', o.nano, -p.nano)
        FROM owed o FULL JOIN posted p USING (account_id) WHERE coalesce(o.nano, 0) <> coalesce(-p.nano, 0)""",
    "charge: its revenue is at most the used share of its price": """
        WITH held AS (SELECT b.account_id, b.charge_id, sum(b.used + coalesce((SELECT sum(g.used) FROM grants g
                          WHERE g.account_id = b.account_id AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)) AS used
                      FROM bucket b WHERE b.charge_id IS NOT NULL GROUP BY 1, 2)
        SELECT 'charge ' || c.charge_id, format('%s recognised, %s of %s used', recognised_nano, h.used, quantity)
        FROM charge c JOIN held h USING (account_id, charge_id)
        WHERE c.recognise = 'usage' AND recognised_nano > div((amount_nano - tax_nano)::numeric * h.used, quantity)""",
    "charge: its share of the price is at most the whole price": """
        SELECT 'charge ' || charge_id, format('%s of %s: %s / %s', amount_nano, price_nano, share_num, share_den) FROM charge
        WHERE share_num > share_den""",
    "charge: its credited amount is the sum of its credits": """
        SELECT 'charge ' || c.charge_id, format('%s credited, credits %s', c.credited_nano, coalesce(-r.nano, 0))
        FROM charge c LEFT JOIN (SELECT account_id, of_charge_id, sum(amount_nano) AS nano FROM charge
                                 WHERE of_charge_id IS NOT NULL GROUP BY 1, 2) r
            ON r.account_id = c.account_id AND r.of_charge_id = c.charge_id
        WHERE c.credited_nano <> coalesce(-r.nano, 0) OR (c.recognise <> 'none' AND c.credited_nano > c.amount_nano)""",
    "charge: its tax rate and description are those of its offering; a credit has those of its charge": """
        WITH sold AS MATERIALIZED (SELECT offering_version, offering_id, content::jsonb AS content FROM offering)
        SELECT 'charge ' || c.charge_id || ' of account ' || c.account_id, format('%s of %s: %s %% in %s, %s', c.kind, c.offering_version,
               c.vat_percent, c.currency, c.description)
        FROM charge c LEFT JOIN sold o USING (offering_version)
            LEFT JOIN charge f ON f.account_id = c.account_id AND f.charge_id = c.of_charge_id AND f.kind NOT IN ('credit', 'refund')
        WHERE CASE WHEN c.kind IN ('credit', 'refund') THEN f.charge_id IS NULL OR c.amount_nano >= 0 OR c.number <> 0
                OR (c.subscriber_id, c.vat_percent, c.currency) <> (f.subscriber_id, f.vat_percent, f.currency)
                OR c.product_id IS DISTINCT FROM f.product_id OR c.offering_version IS DISTINCT FROM f.offering_version
                OR NOT starts_with(c.description, f.description || ': ') OR NOT starts_with(c.description_zh, f.description_zh || '（')
                OR (c.share_num, c.share_den) <> (1, 1) OR c.price_nano <> -c.amount_nano
                OR c.period_start <> c.charged_at OR c.period_end IS NOT NULL OR c.charged_at < f.charged_at
            WHEN c.kind = 'adjustment' THEN c.of_charge_id IS NOT NULL
            ELSE c.of_charge_id IS NOT NULL OR c.amount_nano <= 0 OR o.offering_id IS NULL OR c.product_id IS NULL
                OR c.vat_percent <> coalesce((o.content->>'vat_percent')::integer, 6)
                OR c.currency <> coalesce(o.content->>'currency', 'CNY')
                OR c.description <> o.content->>'name' OR c.description_zh <> o.content->>'name_zh' END""",
    "charge: its quantity is that of its buckets if it is earned by usage, and zero otherwise": """
        WITH brought AS (
            SELECT p.account_id, b.charge_id, sum(p.amount) AS amount FROM posting p JOIN bucket b USING (account_id, bucket_id)
                JOIN entry e USING (account_id, entry_id)
            WHERE e.kind = 'issue' AND p.ledger_account = 'customer_liability' AND b.charge_id IS NOT NULL GROUP BY 1, 2)
        SELECT 'charge ' || c.charge_id || ' of account ' || c.account_id, format('%s by %s, it brought %s', c.quantity, c.recognise, b.amount)
        FROM charge c LEFT JOIN brought b USING (account_id, charge_id)
        WHERE c.quantity <> CASE WHEN c.recognise = 'usage' THEN coalesce(b.amount, 0) ELSE 0 END
            OR (c.recognise = 'usage' AND c.quantity = 0) OR (c.recognise = 'none') <> (c.kind IN ('credit', 'refund'))""",
    "charge: its refunded amount is the liability that its credits removed": """
        WITH taken AS (
            SELECT k.account_id, k.of_charge_id AS charge_id, sum(p.amount) AS nano, -sum(k.tax_nano) AS tax FROM charge k
                JOIN posting p ON p.account_id = k.account_id AND p.entry_id = k.entry_id AND p.ledger_account = 'customer_liability'
            WHERE k.of_charge_id IS NOT NULL GROUP BY 1, 2)
        SELECT 'charge ' || c.charge_id || ' of account ' || c.account_id, format('%s refunded, credits took %s', c.refunded_nano, coalesce(t.nano, 0))
        FROM charge c LEFT JOIN taken t USING (account_id, charge_id)
        WHERE c.refunded_nano <> coalesce(t.nano, 0)
            -- The tax of a charge's credits is the tax of their sum, rounded half up.
            OR coalesce(t.tax, 0) <> div(2 * c.credited_nano::numeric * c.vat_percent + 100 + c.vat_percent, 2 * (100 + c.vat_percent))
            OR (c.amount_nano > 0 AND c.tax_nano <> div(2 * c.amount_nano::numeric * c.vat_percent + 100 + c.vat_percent,
                                                        2 * (100 + c.vat_percent)))""",
    "charge: a closed one has nothing left to deliver": """
        SELECT 'charge ' || charge_id || ' of account ' || account_id, format('closed at %s, %s net, %s recognised, %s broken, %s refunded', closed_at,
               amount_nano - tax_nano, recognised_nano, broken_nano, refunded_nano) FROM charge
        WHERE (recognise <> 'none' AND closed_at IS NOT NULL AND amount_nano - tax_nano <> recognised_nano + broken_nano + refunded_nano)
            OR (recognise = 'none' AND closed_at IS DISTINCT FROM charged_at) OR closed_at < charged_at
            OR (recognise = 'none' AND (recognised_nano <> 0 OR broken_nano <> 0 OR refunded_nano <> 0 OR credited_nano <> 0))""",
}
