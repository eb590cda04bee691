"""Many subscribers at once, by set-based SQL: what a bill run finds at a month's end. Each has a plan's charge with its
postings and bucket; every tenth three steps of pay-as-you-go beside. The ledger of it verifies. Ids are in the order of time
(UUIDv7), as they are in service. Nobody of it has a number or a name: those are encrypted, which a bill run does not need.
"""

SQL = """
CREATE TEMP TABLE crowd AS
SELECT n, uuidv7(%(at)s::timestamptz - now()) AS account_id, uuidv7(%(at)s::timestamptz - now()) AS subscriber_id, uuidv7(%(at)s::timestamptz - now()) AS member_id,
       uuidv7(%(at)s::timestamptz - now()) AS order_id, uuidv7(%(at)s::timestamptz - now()) AS product_id,
       (SELECT offering_version FROM offering_current WHERE offering_id = 'ctc-light') AS offering_version,
       (SELECT offering_version FROM offering_current WHERE offering_id = 'shanghai-mobile-payg') AS step_version,
       (SELECT o.rate_version FROM offering o JOIN offering_current c USING (offering_version) WHERE c.offering_id = 'ctc-light')
           AS rate_version, uuidv7(%(at)s::timestamptz - now()) AS step_order_id, uuidv7(%(at)s::timestamptz - now()) AS step_product_id
FROM generate_series(%(first)s::bigint, %(last)s::bigint) n;
INSERT INTO account (account_id, created_at) SELECT account_id, %(at)s FROM crowd;
INSERT INTO subscriber (subscriber_id, account_id, created_at) SELECT subscriber_id, account_id, %(at)s FROM crowd;
INSERT INTO member (member_id, account_id, subscriber_id, role) SELECT member_id, account_id, subscriber_id, 'owner' FROM crowd;
UPDATE member m SET created_at = %(at)s FROM crowd c WHERE c.member_id = m.member_id;
INSERT INTO product_order (order_id, subscriber_id, account_id, offering_id, offering_version, state, ordered_at, action, product_id,
                           amount_nano, completed_at)
SELECT order_id, subscriber_id, account_id, 'ctc-light', offering_version, 'completed', %(at)s, 'add', product_id, 9900000000, %(at)s FROM crowd
UNION ALL
SELECT step_order_id, subscriber_id, account_id, 'shanghai-mobile-payg', step_version, 'completed', %(at)s, 'add', step_product_id, 0, %(at)s
FROM crowd WHERE n %% 10 = 0;
INSERT INTO product (product_id, order_id, subscriber_id, account_id, offering_version, state, renews, cycle_no, started_at, cycle_start,
                     cycle_end, step_no)
SELECT product_id, order_id, subscriber_id, account_id, offering_version, 'active', true, 1, %(at)s::timestamptz, %(at)s::timestamptz,
       %(until)s::timestamptz, 0 FROM crowd
UNION ALL
SELECT step_product_id, step_order_id, subscriber_id, account_id, step_version, 'active', false, 1, %(at)s, %(at)s, NULL, 3
FROM crowd WHERE n %% 10 = 0;
CREATE TEMP TABLE sold AS
SELECT c.*, uuidv7(%(at)s::timestamptz - now()) AS charge_id, uuidv7(%(at)s::timestamptz - now()) AS entry_id, uuidv7(%(at)s::timestamptz - now()) AS bucket_id, uuidv7(%(at)s::timestamptz - now()) AS issue_id,
       k.kind, k.number, k.product, k.version, k.price, k.quantity, k.description, k.description_zh, k.tax
FROM crowd c CROSS JOIN LATERAL (
    SELECT 'cycle' AS kind, 1 AS number, c.product_id AS product, c.offering_version AS version, 9900000000::bigint AS price,
           10000000000::bigint AS quantity, 'China Telecom Light' AS description, '中国电信轻享版' AS description_zh, 560377358::bigint AS tax
    UNION ALL
    SELECT 'step', s, c.step_product_id, c.step_version, 1000000000, 400000000, 'Shanghai Mobile pay as you go', '上海移动随用随付', 56603774
    FROM generate_series(1, 3) s WHERE c.n %% 10 = 0) k;
INSERT INTO entry (account_id, entry_id, kind, ref, posted_at) SELECT account_id, entry_id, 'charge', charge_id::text, %(at)s::timestamptz FROM sold
UNION ALL SELECT account_id, issue_id, 'issue', bucket_id::text, %(at)s FROM sold;
INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
SELECT account_id, entry_id, 1, 'receivable', 'CNY', NULL::uuid, price FROM sold
UNION ALL SELECT account_id, entry_id, 2, 'tax', 'CNY', NULL, -tax FROM sold
UNION ALL SELECT account_id, entry_id, 3, 'customer_liability', 'CNY', NULL, tax - price FROM sold
UNION ALL SELECT account_id, issue_id, 1, 'issued', 'token', bucket_id, -quantity FROM sold
UNION ALL SELECT account_id, issue_id, 2, 'customer_liability', 'token', bucket_id, quantity FROM sold;
INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from, valid_until, model_classes,
                    rate_version, charge_id, created_at)
SELECT account_id, bucket_id, product, 'balance', 'token', quantity, quantity, CASE kind WHEN 'step' THEN 50 ELSE 10 END, %(at)s,
       CASE kind WHEN 'step' THEN %(at)s::timestamptz + interval '31 days' ELSE %(until)s::timestamptz END, '{*}', rate_version, charge_id, %(at)s FROM sold;
INSERT INTO charge (account_id, charge_id, subscriber_id, product_id, offering_version, kind, number, charged_at, period_start, period_end,
                    description, description_zh, price_nano, amount_nano, vat_percent, tax_nano, currency, entry_id, quantity, recognise)
SELECT account_id, charge_id, subscriber_id, product, version, kind, number, %(at)s, %(at)s,
       CASE kind WHEN 'step' THEN %(at)s::timestamptz + interval '31 days' ELSE %(until)s::timestamptz END, description, description_zh, price,
       price, 6, tax, 'CNY', entry_id, quantity, 'usage' FROM sold;
UPDATE product p SET charge_id = sold.charge_id FROM sold WHERE sold.kind = 'cycle' AND p.product_id = sold.product;
DROP TABLE crowd, sold
"""


def seed(connection, count, at, until, *, batch=20_000, progress=None):
    """`count` subscribers who ordered at `at`, in transactions of `batch`."""
    for first in range(1, count + 1, batch):
        with connection.transaction():
            names = {"first": first, "last": min(count, first + batch - 1), "at": at, "until": until}
            for statement in SQL.split(";\n"):
                used = {name: value for name, value in names.items() if f"%({name})s" in statement}
                connection.execute(
                    statement.encode() if used else statement.replace("%%", "%").encode(), used or None
                )
        if progress is not None:
            progress(min(count, first + batch - 1))
    connection.execute("ANALYZE subscriber, charge, bill, product, bucket, posting, entry")
