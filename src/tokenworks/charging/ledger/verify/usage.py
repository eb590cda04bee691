"""The checks of usage records, journals and quarantine, and the check that rates every record again."""

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg import Connection

from tokenworks.catalog import TOKEN_CLASSES, Counts, RateCard, Weights, amount
from tokenworks.charging.ledger import day_store
from tokenworks.charging.ledger.followed import PartRow
from tokenworks.charging.ledger.verify.finding import Finding
from tokenworks.charging.model import CAP_WEIGHTS, LOSS_CAUSES, losses_of

INVARIANT: Final = (
    "usage: rated again, it costs the same, and its parts and losses add up to its tokens, class by class"
)
FETCH_ROWS: Final = 5000

# The losses of a usage row, in the current format or that of an earlier release.
_LOSSES: Final = """jsonb_array_elements(CASE WHEN jsonb_typeof(loss->0) = 'number'
                          THEN jsonb_build_array(jsonb_build_array('unnamed', loss->0, loss->1)) ELSE loss END)"""
_ALL_CLASSES: Final = " + ".join(TOKEN_CLASSES)
# The start of a CASE on a usage entry's reference: its journal, and the first and last sequence that the entry settled.
_REF_STRICT: Final = (
    """CASE WHEN e.ref ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9]{1,18}(-[0-9]{1,18})?$' THEN"""
)
_REF: Final = """CASE WHEN e.ref ~ '^[0-9a-f-]{36}:[0-9]{1,18}(-[0-9]{1,18})?$' THEN"""

CHECKS: Final[dict[str, str]] = {
    "usage: settled once, at a sequence that its journal has settled": """
        SELECT 'usage ' || usage_id || ' of journal ' || u.journal_id, format('sequence %s', seq) FROM usage u
        LEFT JOIN journal j USING (journal_id) WHERE j.journal_id IS NULL OR u.seq > j.settled_seq""",
    "usage: its parts draw on buckets of its account, at the bucket's rate version": """
        SELECT 'usage ' || usage_id, format('part %s', p) FROM usage u CROSS JOIN LATERAL jsonb_array_elements(parts) p
        LEFT JOIN bucket b ON b.account_id = u.account_id AND b.bucket_id = (p->>0)::uuid
        WHERE b.bucket_id IS NULL OR b.rate_version <> p->>2 OR b.unit <> p->>3 OR b.kind <> p->>4""",
    "usage: the provider's total is the sum of its classes": f"""
        SELECT 'usage ' || usage_id, format('%s reported, classes sum to %s', provider_total,
            {_ALL_CLASSES}) FROM usage
        WHERE provider_total IS NOT NULL AND NOT 'inconsistent' = ANY(flags) AND provider_total <> {_ALL_CLASSES}""",
    "usage: its losses are posted as operator loss": f"""
        WITH lost AS (SELECT account_id, entry_id, 1000 * sum((SELECT sum(t::bigint) FROM jsonb_array_elements_text(l->2) t)) AS amount
                      FROM usage, {_LOSSES} l GROUP BY 1, 2),
             posted AS (SELECT account_id, entry_id, sum(amount) AS amount FROM posting WHERE ledger_account = 'operator_loss' GROUP BY 1, 2)
        SELECT 'entry ' || entry_id, format('lost %s, posted %s', coalesce(lost.amount, 0), coalesce(posted.amount, 0))
        FROM lost FULL JOIN posted USING (account_id, entry_id) WHERE coalesce(lost.amount, 0) <> coalesce(posted.amount, 0)""",
    "usage: its entry has its account, journal, sequence and time of settlement": f"""
        -- The reference of an entry is parsed once for all of its records.
        WITH settled AS MATERIALIZED (
            SELECT e.account_id, e.entry_id, e.kind, e.ref, e.posted_at, {_REF_STRICT} split_part(e.ref, ':', 1)::uuid END AS of_journal,
                {_REF_STRICT} split_part(split_part(e.ref, ':', 2), '-', 1)::bigint END AS first,
                {_REF_STRICT} coalesce(nullif(split_part(split_part(e.ref, ':', 2), '-', 2), ''), split_part(e.ref, ':', 2))::bigint END AS last
            FROM entry e WHERE e.kind = 'usage')
        SELECT 'usage ' || u.usage_id || ' entry ' || u.entry_id || ' of account ' || u.account_id,
            format('sequence %s of journal %s settled at %s; %s %s of %s', u.seq, u.journal_id, u.settled_at, e.kind, e.ref, e.posted_at)
        FROM usage u LEFT JOIN settled e USING (account_id, entry_id)
        WHERE (e.posted_at = u.settled_at AND e.of_journal = u.journal_id AND u.seq BETWEEN e.first AND e.last) IS NOT TRUE
        UNION ALL
        SELECT 'entry ' || e.entry_id || ' of account ' || e.account_id, format('%s settles no record', e.ref) FROM entry e
        WHERE e.kind = 'usage' AND NOT EXISTS (SELECT 1 FROM usage u WHERE u.account_id = e.account_id AND u.entry_id = e.entry_id)""",
    "usage: its entry posts exactly what its parts drew and what was lost": f"""
        WITH used AS (
            SELECT account_id, entry_id, replace(p->>0, '-', '') AS bucket, p->>3 AS unit, sum((p->>5)::bigint) AS amount
            FROM usage CROSS JOIN LATERAL jsonb_array_elements(parts) p WHERE p->>4 = 'balance' AND (p->>5)::bigint > 0 GROUP BY 1, 2, 3, 4),
        lost AS (
            SELECT account_id, entry_id, 1000 * sum((SELECT sum(t::bigint) FROM jsonb_array_elements_text(l->2) t)) AS amount
            FROM usage, {_LOSSES} l GROUP BY 1, 2),
        expected AS (
            SELECT account_id, entry_id, side.ledger_account, unit, bucket, side.sign * amount AS amount
            FROM used CROSS JOIN (VALUES ('customer_liability', -1), ('used', 1)) side (ledger_account, sign)
            UNION ALL
            SELECT account_id, entry_id, side.ledger_account, 'token', '', side.sign * amount
            FROM lost CROSS JOIN (VALUES ('produced', -1), ('operator_loss', 1)) side (ledger_account, sign) WHERE amount > 0),
        posted AS (
            SELECT account_id, entry_id, ledger_account, unit, coalesce(replace(bucket_id::text, '-', ''), '') AS bucket, sum(amount) AS amount,
                count(*) AS lines
            FROM posting p JOIN entry e USING (account_id, entry_id) WHERE e.kind = 'usage' GROUP BY 1, 2, 3, 4, 5)
        SELECT 'entry ' || entry_id || ' of account ' || account_id,
            format('%s %s of bucket %s: %s by its records, %s posted in %s lines', ledger_account, unit, bucket, x.amount, p.amount, p.lines)
        FROM expected x FULL JOIN posted p USING (account_id, entry_id, ledger_account, unit, bucket)
        WHERE x.amount IS DISTINCT FROM p.amount OR p.lines <> 1""",
    "usage: each attempt of a request has one record, with plausible times": """
        -- One sequence of a journal has all records that a worker reported at once, of many requests.
        SELECT 'usage ' || min(usage_id::text) || ' and ' || max(usage_id::text), format('attempt %s of request %s of account %s: %s records',
               attempt_no, request_id, account_id, count(*))
        FROM usage GROUP BY account_id, request_id, attempt_no HAVING count(*) > 1
        UNION ALL
        SELECT 'usage ' || usage_id || ' of account ' || account_id, format('attempt %s of request %s', attempt_no, request_id) FROM usage
        -- The first attempt of a request has the request's id.
        WHERE (attempt_no = 1) <> (request_id = replace(usage_id::text, '-', ''))
        UNION ALL
        SELECT 'usage ' || usage_id || ' of account ' || account_id, format('%s from %s to %s, attempt %s', reason, started_at, ended_at, attempt_no)
        -- A host's clock is set to the database's now and then, by less than a minute.
        FROM usage WHERE reason = '' OR ended_at < started_at - interval '1 minute' OR attempt_no < 1
            OR first_byte_ms < 0 OR latency_ms < 0""",
    "usage: a replayed record repeats a complete record of its account, for the declared share of that record's charge": f"""
        WITH original AS (
            SELECT account_id, usage_id, request_id, state, {", ".join(TOKEN_CLASSES)},
                (SELECT array_agg(lost.tokens ORDER BY lost.at) FROM (
                    SELECT t.at, sum(t.tokens::bigint)::bigint AS tokens FROM {_LOSSES} l,
                        jsonb_array_elements_text(l->2) WITH ORDINALITY t (tokens, at) GROUP BY t.at) lost) AS lost
            FROM usage),
        shared AS (SELECT r.account_id, r.usage_id, {
        ", ".join(
            f"div((o.{name} - coalesce(o.lost[{at}], 0)) * r.replay_percent::numeric, 100) AS {name}"
            for at, name in enumerate(TOKEN_CLASSES, 1)
        )
    }
            FROM usage r JOIN original o ON o.account_id = r.account_id AND o.usage_id = r.replay_of
            WHERE o.state = 'complete')
        SELECT 'usage ' || r.usage_id || ' of account ' || r.account_id, format('%s for %s %% of the charge of %s', r.reason, r.replay_percent,
               r.replay_of)
        FROM usage r LEFT JOIN shared s USING (account_id, usage_id)
        WHERE r.state = 'replayed' AND (s.usage_id IS NULL OR r.replay_percent NOT BETWEEN 0 AND 100 OR r.replay_percent IS NULL
                OR r.reason NOT IN ('idempotency_key', 'response_cache') OR (r.reason = 'idempotency_key' AND r.replay_percent <> 0)
                OR (r.reason = 'response_cache' AND NOT EXISTS (SELECT 1 FROM offering o
                    WHERE (o.content::jsonb->'service'->>'cache_percent')::integer = r.replay_percent))
                OR r.provider_total IS NOT NULL OR r.upstream_id IS NOT NULL OR r.deployment <> ''
                OR ({", ".join(f"r.{name}" for name in TOKEN_CLASSES)}) IS DISTINCT FROM ({
        ", ".join(f"s.{name}" for name in TOKEN_CLASSES)
    }))
            OR (r.state = 'replayed') <> (r.replay_of IS NOT NULL) OR (r.state = 'replayed') <> (r.replay_percent IS NOT NULL)""",
    "usage: an id is of one record": """
        SELECT 'usage ' || usage_id || ' of accounts ' || string_agg(account_id::text, ' '), format('%s records have this id', count(*))
        FROM usage GROUP BY usage_id HAVING count(*) > 1""",
    "usage by day: it is the sum of its records": f"""
        WITH counted AS ({day_store.SUMS}), kept AS (
            SELECT account_id, member_id, day, unit, sum(records) AS records, sum(input_tokens) AS input_tokens,
                sum(output_tokens) AS output_tokens, sum(amount) AS amount
            FROM usage_day GROUP BY 1, 2, 3, 4)
        SELECT format('%s of member %s of account %s', day, member_id, account_id),
            format('%s records, %s + %s tokens, %s %s; its records are %s, %s + %s tokens, %s', k.records, k.input_tokens, k.output_tokens,
                k.amount, unit, c.records, c.input_tokens, c.output_tokens, c.amount)
        FROM counted c FULL JOIN kept k USING (account_id, member_id, day, unit)
        WHERE (c.records, c.input_tokens, c.output_tokens, c.amount)
            IS DISTINCT FROM (k.records, k.input_tokens, k.output_tokens, k.amount)""",
    "quarantine: exactly the released records have a usage record": """
        SELECT 'quarantine ' || q.quarantine_id || ' of account ' || q.account_id, format('%s, record %s at %s of journal %s, decided at %s', q.state,
               q.usage_id, q.seq, q.journal_id, q.decided_at)
        FROM quarantine q LEFT JOIN journal j USING (journal_id)
            -- The same sequence also has the other records of the same report. A record that could not be read got its id when it was repaired.
            LEFT JOIN usage u ON u.account_id = q.account_id AND u.journal_id = q.journal_id AND u.seq = q.seq
                AND u.usage_id = coalesce(substring(q.usage_id FROM '^[0-9a-f]{32}$'),
                    substring(q.record FROM '"usage_id": ?"([0-9a-f]{32})"'))::uuid
        WHERE j.journal_id IS NULL OR q.seq > j.settled_seq OR (q.state = 'held') <> (q.decided_at IS NULL) OR q.reason = ''
            OR (q.usage_id !~ '^[0-9a-f]{32}$' AND split_part(q.usage_id, ':', 1) <> q.seq::text)
            OR (q.state = 'released') <> (u.usage_id IS NOT NULL)
            OR (q.usage_id ~ '^[0-9a-f]{32}$' AND (substring(q.record FROM '"usage_id": ?"([0-9a-f]{32})"') IS DISTINCT FROM q.usage_id
                OR substring(q.record FROM '"account_id": ?"([0-9a-f]{32})"') IS DISTINCT FROM replace(q.account_id::text, '-', '')))""",
    "journal: it has settled what its records say": f"""
        WITH settled AS (
            SELECT split_part(e.ref, ':', 1) AS journal_id, max(e.posted_at) AS at,
                max(coalesce(nullif(split_part(split_part(e.ref, ':', 2), '-', 2), ''), split_part(e.ref, ':', 2))::bigint) AS seq
            FROM entry e WHERE e.kind = 'usage' AND {_REF} split_part(e.ref, ':', 2) LIKE '%-%' END GROUP BY 1)
        SELECT 'journal ' || j.journal_id, format('settled to %s at %s, its last entry to %s at %s', j.settled_seq, j.settled_at, s.seq, s.at)
        FROM journal j JOIN settled s ON s.journal_id = j.journal_id::text
        WHERE j.settled_seq < s.seq OR j.settled_at IS NULL OR j.settled_at < s.at - interval '1 second'
            -- The journal is where its last settlement with a record ended, unless that put a record in quarantine or only progress came after.
            OR (j.settled_at = s.at AND j.settled_seq <> s.seq AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.journal_id = j.journal_id
                AND q.quarantined_at = s.at))
        UNION ALL
        -- An entry that settles one sequence, and no range, is of a record that was released from quarantine.
        SELECT 'entry ' || e.entry_id || ' of account ' || e.account_id, format('%s at %s, and nothing was released from there', e.ref, e.posted_at) FROM entry e
        WHERE e.kind = 'usage' AND {_REF} split_part(e.ref, ':', 2) NOT LIKE '%-%' END AND NOT EXISTS (SELECT 1 FROM quarantine q
            WHERE q.journal_id = split_part(e.ref, ':', 1)::uuid AND q.seq = split_part(e.ref, ':', 2)::bigint AND q.state = 'released')
        UNION ALL
        SELECT 'journal ' || journal_id, format('settled to %s, at no time', settled_seq) FROM journal
        WHERE (settled_seq > 0) <> (settled_at IS NOT NULL) OR settled_seq < 0""",
}


def rerate(connection: Connection, cards: dict[str, RateCard]) -> Iterator[Finding]:
    """Check that each part costs what its rate card says for its tokens, and that parts and losses add up to the record.

    The statement omits records with one whole part at its card's rate; all others are rated here.
    """
    weights: dict[tuple[str, str], Weights | None] = {}
    columns = ", ".join(TOKEN_CLASSES)
    with connection.cursor("rerate") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(
            f"SELECT usage_id, model, parts, loss, prompt, replay_percent, {columns} FROM usage {_RATES} WHERE ({_AT_RATE}) IS NOT TRUE".encode(),
            _rates(connection, cards),
        )
        for usage_id, model, parts, loss, prompt, percent, *classes in cursor:
            counts = Counts(*classes)
            # A replay for nothing is no request that a bucket pays for.
            requests = 0 if percent == 0 else 1
            try:
                problem = _problem(parts, loss, model, counts, cards, weights, requests, prompt=prompt)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
                problem = f"it cannot be read: {type(error).__name__}: {error}"
            if problem:
                yield Finding(INVARIANT, f"usage {usage_id}", problem)


# The most rates that the statement gets, and the largest weight: the sum of eight such products still fits a bigint. Records with other
# rates are rated by `_problem` alone.
RATES_MAX: Final = 20_000
_WEIGHT_MAX: Final = 10**9
_COUNT_MAX: Final = 10**9
_RATES: Final = (
    f"LEFT JOIN unnest(%s::text[], %s::text[], {', '.join(['%s::bigint[]'] * (1 + len(TOKEN_CLASSES)))}) rate (of_version, of_model, "
    f"w_request, {', '.join(f'w_{name}' for name in TOKEN_CLASSES)}) ON of_version = parts->0->>2 AND of_model = model"
)
# True for a record with one part, of a balance, for one request and all tokens of the record, that costs what `catalog.amount` says.
_AT_RATE: Final = f"""loss IS NULL AND CASE WHEN jsonb_typeof(parts) = 'array' AND jsonb_typeof(parts->0) = 'array'
        THEN jsonb_array_length(parts) = 1 AND jsonb_array_length(parts->0) = 8 END
    AND parts->0->>4 = 'balance' AND parts->0->6 = '1' AND parts->0->7 = 'null'
    AND CASE WHEN least({", ".join(TOKEN_CLASSES)}) >= 0 AND greatest({", ".join(TOKEN_CLASSES)}) <= {_COUNT_MAX}
        THEN parts->0->5 = to_jsonb(CASE WHEN parts->0->>3 = 'prompt' AND prompt IS NOT TRUE THEN 0 ELSE w_request END
            + {" + ".join(f"w_{name} * {name}" for name in TOKEN_CLASSES)}) END"""


def _rates(connection: Connection, cards: dict[str, RateCard]) -> list[list[str | int]]:
    """The columns of `_RATES`: each card's weights for each model that has a usage record."""
    rows: list[tuple[str | int, ...]] = []
    models = [row[0] for row in connection.execute("SELECT DISTINCT model FROM usage")]
    for version, card in cards.items():
        for model in models:
            rate = card.rate_for(model)
            weights = None if rate is None else rate.weights()
            if weights is not None and all(0 <= weight <= _WEIGHT_MAX for weight in weights):
                rows.append((version, model, *weights))
        if len(rows) > RATES_MAX:
            break
    columns = [list(column) for column in zip(*rows[:RATES_MAX], strict=True)]
    return columns or [[]] * (3 + len(TOKEN_CLASSES))


def _problem(
    parts: Sequence[PartRow],
    loss: list[object] | None,
    model: str,
    counts: Counts,
    cards: dict[str, RateCard],
    known: dict[tuple[str, str], Weights | None],
    requests_paid: int,
    *,
    prompt: bool,
) -> str | None:
    """What is wrong with a record; None if nothing is. `known` caches weights by (rate version, model). `requests_paid`: how many
    requests its parts and losses pay for, 1 or 0.
    """
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
    if paid != [requests_paid, *counts]:
        return f"parts and losses pay for {paid}, the record is {[requests_paid, *counts]}"
    return None
