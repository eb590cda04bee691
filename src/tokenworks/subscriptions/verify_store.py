"""The auditor's checks of subscribers, members, orders and products: each statement returns the rows that break its invariant."""

from typing import Final

CHECKS: Final[dict[str, str]] = {
    "charge: it has its product's price": """
        SELECT 'charge ' || c.charge_id || ' of subscriber ' || c.subscriber_id, format('%s charged, price %s', c.price_nano, o.content::jsonb->>'price')
        FROM charge c JOIN product p USING (product_id) JOIN offering o ON o.offering_version = c.offering_version
        WHERE c.kind IN ('cycle', 'step', 'change') AND p.parent_id IS NULL
            AND c.price_nano <> (o.content::jsonb->>'price')::numeric * 1000000000
            AND (c.kind = 'step' OR o.content::jsonb->>'first_price' IS NULL
                 OR c.price_nano <> (o.content::jsonb->>'first_price')::numeric * 1000000000
                 -- The first month's price is for the first charge of the offering. That is a later cycle if the cycles before cost
                 -- nothing, or were of another offering.
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
    "product: what pays for its cycle is a charge of its own": """
        SELECT 'product ' || p.product_id, format('charge %s', p.charge_id) FROM product p
        LEFT JOIN charge c ON c.account_id = p.account_id AND c.charge_id = p.charge_id AND c.product_id = p.product_id
            AND c.kind IN ('cycle', 'change')
        WHERE p.charge_id IS NOT NULL AND c.charge_id IS NULL""",
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
        SELECT 'charge ' || c.charge_id || ' of subscriber ' || c.subscriber_id, format('charged at %s, suspended by %s from %s', c.charged_at, x.cause, x.began_at)
        FROM charge c JOIN suspension x USING (subscriber_id)
        -- A lost phone stops only serving.
        WHERE c.kind IN ('cycle', 'step', 'change') AND x.cause <> 'lost_phone' AND x.reason IS DISTINCT FROM
                'suspended before causes were kept'
            -- Clocks of hosts differ by less than a minute.
            AND c.charged_at > x.began_at + interval '1 minute'
            AND c.charged_at < coalesce(x.ended_at, 'infinity') - interval '1 minute'""",
    "cap: a bucket of a member's cap is of one of its periods, and as large as the cap with what was moved": """
        WITH moved AS (
            SELECT account_id, bucket_id, sum(amount) AS amount FROM (
                SELECT account_id, to_bucket_id AS bucket_id, amount FROM transfer
                UNION ALL SELECT account_id, from_bucket_id, -amount FROM transfer) t GROUP BY 1, 2),
        cap AS (
            SELECT b.*, b.valid_from AT TIME ZONE 'UTC' + interval '8 hours' AS begins, m.member_id, m.account_id AS of_account, m.cap_tokens,
                m.cap_period, m.cap_set_at, m.created_at AS member_since, coalesce(v.amount, 0) AS moved
            FROM bucket b LEFT JOIN member m ON m.member_id = b.cap_of LEFT JOIN moved v ON v.account_id = b.account_id
                AND v.bucket_id = b.bucket_id
            WHERE b.cap_of IS NOT NULL)
        SELECT 'bucket ' || bucket_id || ' of account ' || account_id || ', cap of member ' || cap_of,
            format('%s with %s moved, the cap is %s tokens for each %s since %s', total, moved, cap_tokens, cap_period, cap_set_at)
        FROM cap WHERE member_id IS NULL OR of_account <> account_id OR NOT (
                (valid_until IS NULL AND valid_from = member_since)
                OR (begins = date_trunc('day', begins) AND valid_until = valid_from + interval '1 day')
                OR (begins = date_trunc('month', begins)
                    AND valid_until AT TIME ZONE 'UTC' + interval '8 hours' = begins + interval '1 month'))
            -- The cap before it was last set is not stored.
            OR (created_at > cap_set_at + interval '1 minute' AND total - moved <> cap_tokens * 1000)
            OR (created_at > cap_set_at + interval '1 minute' AND cap_period IS DISTINCT FROM CASE WHEN valid_until IS NULL THEN 'total'
                WHEN valid_until = valid_from + interval '1 day' THEN 'day' ELSE 'month' END)""",
    "account: it is one subscriber's, and what is a subscriber's is of its account": """
        SELECT 'account ' || a.account_id, format('%s, subscriber %s', a.state, s.state) FROM account a LEFT JOIN subscriber s USING (account_id)
        WHERE s.subscriber_id IS NULL OR (a.state = 'closed') <> (s.state = 'closed') OR (a.state = 'frozen') <> (s.state = 'suspended')
        UNION ALL
        SELECT x.what || ' ' || x.id || ' of account ' || x.account_id || ' subscriber ' || x.subscriber_id, format('the subscriber''s account is %s', s.account_id)
        FROM (SELECT 'product' AS what, product_id AS id, account_id, subscriber_id FROM product
              UNION ALL SELECT 'order', order_id, account_id, subscriber_id FROM product_order
              UNION ALL SELECT 'member', member_id, account_id, subscriber_id FROM member
              UNION ALL SELECT 'charge', charge_id, account_id, subscriber_id FROM charge) x
            LEFT JOIN subscriber s USING (subscriber_id)
        WHERE s.account_id IS DISTINCT FROM x.account_id
        UNION ALL
        SELECT x.what || ' ' || x.id || ' of account ' || x.account_id, format('product %s of account %s, subscriber %s', x.product_id, p.account_id,
               p.subscriber_id)
        FROM (SELECT 'bucket' AS what, bucket_id AS id, account_id, product_id, NULL::uuid AS subscriber_id FROM bucket
              UNION ALL SELECT 'charge', charge_id, account_id, product_id, subscriber_id FROM charge) x
            LEFT JOIN product p USING (product_id)
        WHERE x.product_id IS NOT NULL AND (p.account_id IS DISTINCT FROM x.account_id OR p.subscriber_id <> x.subscriber_id)
        UNION ALL
        SELECT 'bucket ' || bucket_id || ' of account ' || account_id, format('a %s of no product', kind) FROM bucket
        WHERE kind <> 'cap' AND product_id IS NULL""",
    "member: one owner for each subscriber, a department above, and a number only of who has not left": """
        SELECT 'subscriber ' || s.subscriber_id || ' of account ' || s.account_id, format('%s owners', count(m.member_id))
        FROM subscriber s LEFT JOIN member m ON m.subscriber_id = s.subscriber_id AND m.role = 'owner'
        GROUP BY s.subscriber_id, s.account_id HAVING count(m.member_id) <> 1
        UNION ALL
        SELECT 'member ' || m.member_id || ' of account ' || m.account_id, format('%s, %s, above %s', m.role, m.state, m.parent_id)
        FROM member m LEFT JOIN member d ON d.member_id = m.parent_id
        WHERE (m.parent_id IS NOT NULL AND (d.role IS DISTINCT FROM 'department' OR d.account_id <> m.account_id))
            OR (m.state = 'left' AND m.phone_hash IS NOT NULL) OR (m.phone_hash IS NULL) <> (m.phone_sealed IS NULL)
            OR (m.name_hash IS NULL) <> (m.name_sealed IS NULL) OR (m.role = 'department' AND m.phone_hash IS NOT NULL)
            OR (m.state = 'invited' AND m.phone_hash IS NULL) OR (m.role = 'owner' AND m.state = 'invited')
            OR (m.role = 'owner' AND m.parent_id IS NOT NULL)""",
    "key: it is a member's of its account, and its cap is as large as was said": """
        SELECT 'key ' || k.key_id || ' of account ' || k.account_id, format('member %s of account %s, cap %s of %s tokens, bucket of %s', k.member_id,
               m.account_id, k.cap_bucket_id, k.cap_tokens, b.total)
        FROM api_key k LEFT JOIN member m USING (member_id)
            LEFT JOIN bucket b ON b.account_id = k.account_id AND b.bucket_id = k.cap_bucket_id
        WHERE m.account_id IS DISTINCT FROM k.account_id OR (k.cap_bucket_id IS NULL) <> (k.cap_tokens IS NULL)
            OR (k.cap_bucket_id IS NOT NULL AND (b.kind IS DISTINCT FROM 'cap' OR b.cap_of IS NOT NULL OR b.total <> k.cap_tokens * 1000))
        UNION ALL
        SELECT 'bucket ' || b.bucket_id || ' of account ' || b.account_id, format('the cap of %s keys', count(k.key_id))
        FROM bucket b LEFT JOIN api_key k ON k.account_id = b.account_id AND k.cap_bucket_id = b.bucket_id
        WHERE b.kind = 'cap' AND b.cap_of IS NULL GROUP BY b.bucket_id, b.account_id HAVING count(k.key_id) <> 1""",
    "usage: it is of a key of its member, of its account": """
        SELECT 'usage ' || u.usage_id || ' of account ' || u.account_id, format('key %s of member %s; of member %s of account %s', u.key_id,
               u.member_id, k.member_id, k.account_id)
        FROM usage u LEFT JOIN api_key k USING (key_id)
        WHERE k.account_id IS DISTINCT FROM u.account_id OR k.member_id <> u.member_id""",
    "limit: it is of an account that is there, and of its key or member": """
        SELECT 'limit ' || l.limit_id || coalesce(' of account ' || l.account_id, ''), format('%s %s', scope, ref)
        FROM rate_limit l LEFT JOIN account a USING (account_id)
        WHERE CASE scope WHEN 'deployment' THEN l.account_id IS NOT NULL ELSE a.account_id IS NULL END
            OR (scope = 'subscriber' AND replace(ref, '-', '') <> replace(l.account_id::text, '-', ''))
            OR (scope = 'key' AND NOT EXISTS (SELECT 1 FROM api_key k WHERE k.account_id = l.account_id
                AND replace(k.key_id::text, '-', '') = replace(l.ref, '-', '')))
            OR (scope = 'member' AND NOT EXISTS (SELECT 1 FROM member m WHERE m.account_id = l.account_id
                AND replace(m.member_id::text, '-', '') = replace(l.ref, '-', '')))""",
    "order: it is of an offering's version, and of a product of its subscriber": """
        SELECT 'order ' || r.order_id || ' of account ' || r.account_id || ' subscriber ' || r.subscriber_id,
            format('%s %s of product %s, %s at %s', r.action, r.offering_version, r.product_id, r.state, r.completed_at)
        FROM product_order r LEFT JOIN offering o USING (offering_version) LEFT JOIN product p ON p.product_id = r.product_id
        WHERE o.offering_id IS DISTINCT FROM r.offering_id OR (p.subscriber_id IS DISTINCT FROM r.subscriber_id AND NOT (p.product_id IS NULL AND r.starts_at IS NOT NULL
                AND r.state IN ('acknowledged', 'cancelled', 'failed')))
            OR (r.action = 'add' AND p.order_id <> r.order_id) OR r.currency <> coalesce(o.content::jsonb->>'currency', 'CNY')
            OR (r.state IN ('completed', 'cancelled', 'failed')) <> (r.completed_at IS NOT NULL) OR r.completed_at < r.ordered_at
            OR r.action = 'noChange' OR r.state NOT IN ('acknowledged', 'pending', 'inProgress', 'completed', 'cancelled', 'failed')
            OR (r.state = 'acknowledged' AND (r.action <> 'add' OR r.starts_at IS NULL))
            OR (r.action = 'add' AND r.state = 'pending') OR (r.state = 'failed' AND r.action <> 'add')
            OR (r.action = 'add' AND r.asked <> '{}')
            -- An order is completed when all its products have begun.
            OR (r.action = 'add' AND r.state = 'completed' AND EXISTS (SELECT 1 FROM product w WHERE w.order_id = r.order_id
                AND w.state = 'pendingActive'))
            OR (r.action <> 'add' AND r.state = 'pending' AND p.ended_at IS NOT NULL)""",
    "order: its amount is what was charged for it, less what came back": """
        WITH first AS (
            SELECT p.order_id, coalesce(sum(c.amount_nano), 0) AS nano, bool_or(p.state = 'aborted') AS aborted FROM product p
                LEFT JOIN charge c ON c.account_id = p.account_id AND c.product_id = p.product_id AND c.kind = 'cycle' AND c.number = 1
            GROUP BY 1),
        later AS (
            SELECT r.product_id, sum(r.amount_nano) AS nano FROM product_order r WHERE r.action <> 'add' GROUP BY 1),
        moved AS (
            SELECT c.product_id, coalesce(sum(c.amount_nano), 0) AS nano FROM charge c
            WHERE c.kind = 'change' OR (c.kind = 'credit' AND (c.description_zh LIKE '%（变更退费）' OR c.description_zh LIKE '%（退订退费）'))
            GROUP BY 1),
        -- A bundle is credited by its parts.
        family AS (SELECT coalesce(p.parent_id, p.product_id) AS product_id, sum(m.nano) AS nano FROM product p JOIN moved m USING (product_id) GROUP BY 1)
        SELECT 'order ' || r.order_id || ' of account ' || r.account_id, format('%s, %s charged', r.amount_nano, f.nano)
        FROM product_order r LEFT JOIN first f USING (order_id)
        WHERE r.action = 'add' AND r.amount_nano <> CASE WHEN r.state = 'failed' THEN 0 ELSE coalesce(f.nano, 0) END
        UNION ALL
        SELECT 'order ' || r.order_id || ' of account ' || r.account_id, format('%s, all of its product %s, charged and given back %s', r.amount_nano,
               l.nano, coalesce(f.nano, 0))
        FROM product_order r JOIN later l USING (product_id) LEFT JOIN family f USING (product_id)
        WHERE r.action <> 'add' AND l.nano <> coalesce(f.nano, 0)""",
    "product: it is of its order, and its state, its times and its parts agree": """
        WITH sold AS MATERIALIZED (SELECT offering_version, offering_id, content::jsonb AS content FROM offering)
        SELECT 'product ' || p.product_id || ' of account ' || p.account_id, format('%s of order %s, cycle %s from %s to %s, ended %s', p.state, p.order_id,
               p.cycle_no, p.cycle_start, p.cycle_end, p.ended_at)
        FROM product p LEFT JOIN product_order r USING (order_id) LEFT JOIN sold o ON o.offering_version = p.offering_version
            LEFT JOIN product b ON b.product_id = p.parent_id LEFT JOIN sold v ON v.offering_version = b.offering_version
        WHERE r.subscriber_id IS DISTINCT FROM p.subscriber_id OR r.action <> 'add'
            OR (p.parent_id IS NULL) <> (r.product_id = p.product_id)
            OR (p.parent_id IS NOT NULL AND (b.order_id IS DISTINCT FROM p.order_id OR v.content->>'kind' <> 'bundle'))
            OR (p.state IN ('cancelled', 'aborted', 'expired')) <> (p.ended_at IS NOT NULL) OR p.ended_at < p.started_at
            OR (p.state = 'suspended' AND p.suspended_at IS NULL) OR (p.state = 'active' AND p.suspended_at IS NOT NULL)
            OR p.suspended_at < p.started_at
            OR p.renews <> (o.content->>'cycle' <> 'once') OR p.cycle_no < 1 OR p.uncharged > p.cycle_no + p.step_no OR p.cycle_start < p.started_at
            OR (p.cycle_no = 1) <> (p.cycle_start = p.started_at)
            OR (p.delivery IS NOT NULL AND (o.content->>'fulfilment' IS NULL
                -- A part of a bundle is delivered in the way that the bundle's order names.
                OR (p.parent_id IS NULL AND NOT o.content->'deliveries' ? p.delivery)))
            OR (p.delivery IS NULL AND jsonb_array_length(coalesce(o.content->'deliveries', '[]')) > 0)
            OR p.held_at <> p.suspended_at OR (p.held_at IS NOT NULL AND p.state <> 'suspended')
            OR (r.delivery IS NOT NULL AND p.parent_id IS NULL AND p.delivery <> r.delivery)
            OR p.started_at < greatest(r.ordered_at, r.starts_at) - interval '1 minute' OR (p.state = 'expired' AND p.ended_at < p.cycle_end)
            OR (o.content->>'fulfilment' IS NULL AND p.started_at > coalesce(r.starts_at, r.ordered_at) + interval '1 minute'
                -- The time of a suspension is not charged: the product begins when the suspension ends.
                AND NOT EXISTS (SELECT 1 FROM suspension x WHERE x.subscriber_id = p.subscriber_id AND x.ended_at > r.starts_at))
            OR (p.step_no > 0 AND o.content->>'kind' <> 'pay_as_you_go')
            OR (p.ends_after_cycle AND p.ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM product_order d
                WHERE d.product_id = coalesce(p.parent_id, p.product_id) AND d.action = 'delete' AND d.state = 'pending'))
            OR (NOT p.ends_after_cycle AND EXISTS (SELECT 1 FROM product_order d WHERE d.product_id = p.product_id AND d.action = 'delete'
                AND d.state = 'pending'))
            OR (p.next_version IS NULL AND EXISTS (SELECT 1 FROM product_order d WHERE d.product_id = p.product_id AND d.action = 'modify'
                AND d.state = 'pending'))
            OR (p.next_version IS NOT NULL AND (p.next_version = p.offering_version OR NOT EXISTS (SELECT 1 FROM sold n
                WHERE n.offering_version = p.next_version AND (n.offering_id = o.offering_id OR EXISTS (SELECT 1 FROM product_order d
                    WHERE d.product_id = p.product_id AND d.action = 'modify' AND d.offering_version = n.offering_version
                        AND (d.state <> 'cancelled' OR p.ended_at IS NOT NULL))))))
            -- Most products are of the offering of their own order; an index finds the other orders of a subscriber.
            OR (r.offering_id IS DISTINCT FROM o.offering_id AND NOT EXISTS (SELECT 1 FROM product_order d WHERE d.subscriber_id = p.subscriber_id
                    AND d.product_id = p.product_id AND d.state <> 'cancelled' AND d.offering_id = o.offering_id
                UNION ALL SELECT 1 FROM sold n WHERE n.offering_version = r.offering_version AND n.content->'parts' ? o.offering_id))
            OR (p.parent_id IS NULL AND p.price_nano IS NOT NULL)
        UNION ALL
        SELECT 'order ' || r.order_id || ' of account ' || r.account_id, 'left no product' FROM product_order r
        WHERE r.action = 'add' AND NOT EXISTS (SELECT 1 FROM product p WHERE p.order_id = r.order_id AND p.product_id = r.product_id)
            AND NOT (r.starts_at IS NOT NULL AND r.state IN ('acknowledged', 'cancelled', 'failed'))
        UNION ALL
        SELECT 'order ' || order_id || ' of account ' || account_id, format('%s of %s, to begin %s, by %s', action, ordered_at, starts_at, delivery)
        FROM product_order WHERE (starts_at IS NOT NULL AND (action <> 'add' OR starts_at <= ordered_at OR starts_at > ordered_at + interval '91 days'))
            OR (starts_at IS NULL AND delivery IS NOT NULL)""",
    "product: what pays for its cycle is what was charged last, and gives a part its price": """
        SELECT 'product ' || p.product_id || ' of account ' || p.account_id, format('charge %s, last %s; price %s', p.charge_id, l.charge_id, p.price_nano)
        FROM product p JOIN LATERAL (SELECT c.charge_id, c.price_nano, c.kind, c.number, c.period_start, c.charged_at FROM charge c WHERE c.account_id = p.account_id
                AND c.product_id = p.product_id AND c.kind IN ('cycle', 'change') ORDER BY c.charged_at DESC, c.charge_id DESC LIMIT 1) l ON true
        WHERE (p.charge_id IS NOT NULL AND p.charge_id <> l.charge_id) OR (p.charge_id IS NULL AND p.uncharged = 0
                -- A change that costs nothing has no charge.
                AND NOT EXISTS (SELECT 1 FROM product_order d WHERE d.product_id = coalesce(p.parent_id, p.product_id) AND d.action = 'modify'
                    AND d.state = 'completed' AND d.completed_at > l.charged_at))
            OR (p.charge_id = l.charge_id AND p.parent_id IS NOT NULL AND p.price_nano IS DISTINCT FROM l.price_nano)
            OR (p.charge_id = l.charge_id AND l.kind = 'cycle' AND (l.number <> p.cycle_no OR l.period_start <> p.cycle_start))""",
    "product: what it has is held back while it is suspended, and ends with it": """
        SELECT 'bucket ' || b.bucket_id || ' of account ' || b.account_id, format('paused: %s, closing: %s, product %s', b.paused, b.closing, p.state)
        FROM bucket b JOIN product p USING (product_id)
        WHERE (b.closing IS NULL AND b.paused AND p.state = 'active') OR (NOT b.paused AND p.state = 'suspended' AND b.closing IS NULL)
            OR (b.closing IS NULL AND p.ended_at IS NOT NULL)
            OR (b.kind = 'window' AND (b.valid_from < p.started_at OR (b.closing IS NULL AND
                b.valid_until IS DISTINCT FROM CASE WHEN p.renews THEN NULL ELSE p.cycle_end END)))
            OR (b.charge_id IS NULL AND b.kind = 'balance' AND (b.valid_from < p.started_at
                OR (b.valid_from = p.cycle_start AND b.valid_until IS DISTINCT FROM p.cycle_end)))""",
    "charge: its number is one of its product's cycles, steps or changes": """
        SELECT 'charge ' || c.charge_id || ' of account ' || c.account_id, format('%s %s of product %s: cycle %s, step %s', c.kind, c.number,
               c.product_id, p.cycle_no, p.step_no)
        FROM charge c LEFT JOIN product p USING (product_id)
        WHERE (c.kind = 'cycle' AND c.number NOT BETWEEN 1 AND p.cycle_no) OR (c.kind = 'step' AND c.number NOT BETWEEN 1 AND p.step_no)
            OR (c.kind = 'change' AND (c.number NOT BETWEEN 1 AND (SELECT count(*) FROM charge d WHERE d.product_id = c.product_id
                    AND d.kind = 'change')
                OR NOT EXISTS (SELECT 1 FROM product_order r WHERE r.product_id = c.product_id AND r.action = 'modify'
                    AND r.offering_version = c.offering_version AND r.ordered_at <= c.charged_at + interval '1 minute'
                    AND r.ordered_at > c.charged_at - interval '1 minute')))
            OR (c.kind IN ('cycle', 'step', 'change') AND c.charged_at < c.period_start - interval '1 minute')
            OR (c.kind = 'step' AND (c.period_start > c.charged_at OR c.period_start < c.charged_at - interval '1 minute'))""",
    "work order: another system is asked once for each delivery of a product": """
        SELECT 'work order ' || w.work_order_id || ' of subscriber ' || w.subscriber_id, format('%s %s for product %s of order %s by %s: %s at %s', w.action,
               w.offering_id, w.product_id, w.order_id, w.port, w.state, w.answered_at)
        FROM work_order w LEFT JOIN product p USING (product_id) LEFT JOIN offering o ON o.offering_version = p.offering_version
        WHERE p.order_id IS DISTINCT FROM w.order_id OR p.subscriber_id <> w.subscriber_id OR o.offering_id <> w.offering_id
            OR o.content::jsonb->>'fulfilment' IS DISTINCT FROM w.port OR p.delivery IS DISTINCT FROM w.delivery
            OR (w.state <> 'open' AND w.answered_at IS NULL) OR (w.state = 'open' AND w.attempts = 1 AND w.answered_at IS NOT NULL)
            OR w.answered_at < w.created_at OR w.asked_at < w.created_at OR w.attempts < 1 OR w.push_tries < 0 OR w.pushed_at < w.created_at
            OR (w.action = 'deliver' AND w.state = 'done' AND p.state = 'aborted' AND NOT EXISTS (SELECT 1 FROM work_order x
                WHERE x.product_id = w.product_id AND x.action = 'withdraw'))
            OR (w.action = 'deliver' AND w.state = 'refused' AND p.state IN ('active', 'suspended'))
            OR (w.action = 'deliver' AND w.state = 'open' AND p.state <> 'pendingActive')
            OR (w.action = 'withdraw' AND p.ended_at IS NULL)
        UNION ALL
        SELECT 'product ' || p.product_id || ' of order ' || p.order_id || ' of account ' || p.account_id || ' subscriber ' || p.subscriber_id,
            'is delivered by another system, which was not asked, or was not asked to withdraw it'
        FROM product p JOIN offering o USING (offering_version)
        WHERE o.content::jsonb->>'fulfilment' IS NOT NULL AND (NOT EXISTS (SELECT 1 FROM work_order w WHERE w.product_id = p.product_id AND w.action = 'deliver')
            OR (p.ended_at IS NOT NULL AND EXISTS (SELECT 1 FROM work_order w WHERE w.product_id = p.product_id AND w.action = 'deliver' AND w.state = 'done')
                AND NOT EXISTS (SELECT 1 FROM work_order w WHERE w.product_id = p.product_id AND w.action = 'withdraw')))""",
    "top-up: so many steps were bought, at their price": """
        SELECT 'top-up ' || t.top_up_id || ' of subscriber ' || t.subscriber_id, format('%s steps for %s of product %s, %s charged for %s', t.steps, t.amount_nano,
               t.product_id, c.steps, c.nano)
        FROM top_up t LEFT JOIN product p USING (product_id)
            LEFT JOIN LATERAL (SELECT count(*) AS steps, coalesce(sum(c.price_nano), 0) AS nano FROM charge c WHERE c.product_id = t.product_id
                AND c.kind = 'step' AND c.charged_at BETWEEN t.made_at - interval '1 minute' AND t.made_at) c ON true
        WHERE p.subscriber_id IS DISTINCT FROM t.subscriber_id OR c.steps < t.steps OR c.nano * t.steps <> t.amount_nano * c.steps
        UNION ALL
        SELECT 'top-up of subscriber ' || t.subscriber_id, format('%s steps bought by hand, product %s has %s', sum(t.steps), t.product_id, p.step_no)
        FROM top_up t JOIN product p USING (product_id) GROUP BY t.subscriber_id, t.product_id, p.step_no HAVING sum(t.steps) > p.step_no""",
    "contract: its price is of an offering that is there, and what was charged in its time has it": """
        SELECT 'contract price of subscriber ' || t.subscriber_id || ' for ' || t.offering_id, format('%s from %s to %s, charge %s of %s', t.price_nano,
               t.valid_from, t.valid_until, c.charge_id, c.price_nano)
        FROM contract_price t LEFT JOIN offering o USING (offering_id) LEFT JOIN charge c ON c.subscriber_id = t.subscriber_id
            AND c.offering_version = o.offering_version AND c.kind IN ('cycle', 'step', 'change') AND c.period_start >= t.valid_from
            AND (t.valid_until IS NULL OR c.period_start < t.valid_until) AND EXISTS (SELECT 1 FROM product p WHERE p.product_id = c.product_id
                AND p.parent_id IS NULL)
            AND NOT EXISTS (SELECT 1 FROM contract_price n WHERE n.subscriber_id = t.subscriber_id AND n.offering_id = t.offering_id
                AND n.valid_from > t.valid_from AND n.valid_from <= c.period_start)
        WHERE o.offering_id IS NULL OR t.valid_until <= t.valid_from OR c.price_nano <> t.price_nano""",
    "subscriber: closed when its state says so, of one account, and as it last said": """
        SELECT 'subscriber ' || s.subscriber_id || ' of account ' || s.account_id, format('%s, closed at %s, erased at %s, real name %s, spill over %s',
               s.state, s.closed_at, s.erased_at, s.real_name, s.spill_over)
        FROM subscriber s
            LEFT JOIN LATERAL (SELECT c.given FROM consent c WHERE c.subscriber_id = s.subscriber_id AND c.purpose = 'spill_over'
                               ORDER BY c.consent_id DESC LIMIT 1) said ON true
            LEFT JOIN person_key k ON k.person_id = s.subscriber_id
        WHERE (s.state = 'closed') <> (s.closed_at IS NOT NULL) OR s.closed_at < s.created_at OR s.erased_at < s.erasure_asked_at
            OR s.spill_over <> coalesce(said.given, false) OR cap_raises < 0 OR s.erasure_asked_at < s.created_at
            OR (s.erased_at IS NOT NULL AND (s.state <> 'closed' OR num_nonnulls(s.phone_sealed, s.phone_hash, s.phone_tail_hash, s.name_sealed,
                s.broadband_sealed, s.broadband_hash) > 0 OR s.name_hashes <> '{}' OR k.destroyed_at IS NULL))
            OR (s.phone_sealed IS NULL) <> (s.phone_hash IS NULL) OR (s.phone_hash IS NULL) <> (s.phone_tail_hash IS NULL)
            OR (s.erased_at IS NULL AND k.destroyed_at IS NOT NULL)
            OR (s.name_sealed IS NULL) <> (s.name_hashes = '{}') OR (s.broadband_sealed IS NULL) <> (s.broadband_hash IS NULL)
            OR s.cap_raises < 0 OR (s.identity_kept_until IS NOT NULL AND (s.erased_at IS NULL OR s.identity_hash IS NULL))
            OR NOT s.suspended_by <@ ARRAY['payment', 'operator', 'fraud', 'lost_phone', 'own_wish']""",
    "suspension: it ends after it began, one of a cause at a time, while its subscriber is there": """
        SELECT 'suspension ' || x.suspension_id || ' of subscriber ' || x.subscriber_id, format('%s from %s to %s', x.cause, x.began_at, x.ended_at)
        FROM suspension x LEFT JOIN subscriber s USING (subscriber_id)
        WHERE x.ended_at < x.began_at OR x.began_at < s.created_at - interval '1 minute' OR x.ended_at > s.closed_at + interval '1 minute'
            OR (x.end_reason IS NOT NULL AND x.ended_at IS NULL)
            OR EXISTS (SELECT 1 FROM suspension y WHERE y.subscriber_id = x.subscriber_id AND y.cause = x.cause AND y.suspension_id <> x.suspension_id
                AND y.began_at < coalesce(x.ended_at, 'infinity') AND x.began_at < coalesce(y.ended_at, 'infinity'))""",
    "consent: it is to a text that was shown, of its purpose": """
        SELECT 'consent ' || c.consent_id || ' of subscriber ' || c.subscriber_id, format('%s to %s, a text on %s', c.purpose, c.text_sha256, t.purpose)
        FROM consent c LEFT JOIN consent_text t USING (text_sha256)
        WHERE c.text_sha256 IS NOT NULL AND (t.purpose IS DISTINCT FROM c.purpose OR t.first_shown_at > c.at)
        UNION ALL
        SELECT 'consent text ' || text_sha256, format('its hash is %s', encode(sha256(convert_to(text, 'UTF8')), 'hex')) FROM consent_text
        WHERE encode(sha256(convert_to(text, 'UTF8')), 'hex') <> text_sha256
            OR NOT EXISTS (SELECT 1 FROM consent c WHERE c.text_sha256 = consent_text.text_sha256)""",
}

TIMED: Final[dict[str, str]] = {
    "key: it was made before it ended, and nothing was used with it before that or long after it": """
        SELECT 'key ' || k.key_id || ' of account ' || k.account_id, format('made %s, ends %s, revoked %s, used %s', k.created_at, k.expires_at, k.revoked_at,
               k.used_at)
        FROM api_key k WHERE k.expires_at <= k.created_at - interval '1 hour' OR k.revoked_at < k.created_at - interval '1 hour'
            OR k.used_at < k.created_at - interval '1 hour'
        UNION ALL
        SELECT 'usage ' || usage_id || ' of account ' || account_id, format('ended %s, settled %s', ended_at, settled_at) FROM usage
        WHERE ended_at > settled_at + interval '1 hour'
        UNION ALL
        SELECT 'usage ' || u.usage_id || ' of account ' || u.account_id || ' key ' || k.key_id, format('from %s, the key was made %s, revoked %s, ended %s',
               u.started_at, k.created_at, k.revoked_at, k.expires_at)
        FROM usage u JOIN api_key k USING (key_id)
        WHERE u.started_at > least(k.revoked_at, k.expires_at) + interval '1 day' OR u.started_at < k.created_at - interval '1 hour'""",
}
"""Checks that compare instants of the database's clock and of a host's clock. Tests that move a clock leave them out."""
