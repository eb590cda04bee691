"""The tables that `tokenworks ledger verify` covers, and the columns that it does not, with the reason: the source of docs/VERIFY.md.

A test corrupts every column of every covered table and compares the auditor's findings with these lists (tests/charging/mutations).
To write the page: `python -m tokenworks.app.coverage > docs/VERIFY.md`.
"""

import sys
from typing import Final

from tokenworks.app.verifier import CHECKS, PASSES, TIMED
from tokenworks.charging.ledger.verify import checks

# Names of a whole row's corruption, in place of a column's name.
ROW_GONE: Final = "row deleted"
ROW_TWICE: Final = "row doubled"

LOG: Final = "only the host that served the request knew it: the signed log has it"
SAID: Final = "an input that a person gave: the audit trail has who and when, no rule makes it"
TEXT: Final = "free text, or a key that a caller chose: no rule makes it"
SEALED: Final = "encrypted or hashed under keys outside the database: the database alone cannot check it"
RUN: Final = "what a running job keeps for itself: no money and no permission follows from it"
TIME: Final = "an instant that nothing else repeats"
ID: Final = "an id that no other row names"
EMPTY: Final = "nothing has come of it yet: no entry, no usage and no document names it"
PARTLY: Final = "covered where another row says the same, not where this row alone says it"

COVERED: Final[dict[str, dict[str, str]]] = {
    "account": {},
    "adjustment": {
        ROW_GONE: "of one that waits or was refused: it moved nothing", ROW_TWICE: "of one that waits or was refused: it moved nothing",
        "adjustment_id": EMPTY, "amount": "of one that waits or was refused: it moved nothing", "asked_by": SAID, "decided_by": SAID,
        "decided_at": TIME, "reason": TEXT, "idempotency_key": TEXT, "state": "of one that waits or was refused: it moved nothing",
    },
    "api_key": {
        ROW_GONE: EMPTY, ROW_TWICE: EMPTY, "key_id": EMPTY, "member_id": "moved to another member of its account before it was used",
        "key_mac": SEALED, "pepper_version": SEALED, "hint": TEXT, "name": TEXT, "models": SAID, "origins": SAID, "fallbacks": SAID, "content_log": SAID, "response_cache": SAID, "expires_at": SAID,
        "revoked_at": "a stopped key that goes on again: the audit trail has its stop", "used_at": RUN,
    },
    "approval": {
        ROW_GONE: SAID, ROW_TWICE: SAID, "approval_id": ID, "action": SAID, "ref": SAID, "key": TEXT, "amount_nano": SAID, "asked_by": SAID,
        "asker": SAID, "decided_by": SAID, "decided_at": TIME, "used_at": TIME, "state": SAID,
    },
    "bill": {
        "channel": SAID, "file_failures": "staff sets it back to zero: it is at most the lines that failed",
        "reopened_at": PARTLY,
    },
    "bill_line": {},
    "bucket": {
        ROW_GONE: "a member's cap in a period in which nothing was spent: it is made anew when it is asked for", "bucket_id": EMPTY,
        "cap_of": EMPTY, "closing": PARTLY, "paused": "of a bucket that has ended: it does nothing", "rollover_left": PARTLY,
        "rollover_until": PARTLY, "valid_from": "of what cost nothing in an earlier cycle, and of windows: no row repeats it",
        "valid_until": "of what cost nothing in an earlier cycle, and of windows: no row repeats it",
        "priority": PARTLY, "created_at": PARTLY,
    },
    "chain_head": {},
    "chain_link": {},
    "charge": {
        "closed_at": "when a charge was closed, and that it was: the next recognition of revenue closes it again", "description": TEXT,
        "description_zh": TEXT, "period_end": "of what is earned with time and was ended early: the instant of its end",
    },
    "charge_file": {"acknowledged_at": TIME, "sha256_sealed": SEALED},
    "charge_file_line": {"reason": TEXT, "phone_sealed": SEALED, "state": PARTLY},
    "collection": {
        ROW_GONE: "what came of it is a payment, or nothing", "collection_id": ID, "asked_nano": SAID, "asked_at": TIME, "answered_at": TIME,
        "state": PARTLY,
    },
    "consent": {
        ROW_GONE: SAID, ROW_TWICE: SAID, "consent_id": ID, "given": SAID, "said_by": SAID, "text_sha256": "consents before schema 0019 have no text",
    },
    "consent_text": {"purpose": PARTLY, "language": SAID, "first_shown_at": TIME},
    "contract_price": {
        ROW_GONE: PARTLY, ROW_TWICE: "a later price of the same, of which nothing was charged yet", "valid_from": SAID, "valid_until": SAID,
        "contract": TEXT, "price_nano": PARTLY,
    },
    "credit_note": {"credit_note_id": ID, "idempotency_key": TEXT, "reason": TEXT},
    "dispute": {
        ROW_GONE: TEXT, "dispute_id": ID, "question": TEXT, "answer": TEXT, "answered_by": SAID, "answered_at": TIME,
    },
    "document_gap": {"reason": TEXT},
    "document_number": {},
    "dunning": {
        ROW_GONE: "a step that has ended leaves nothing else", ROW_TWICE: PARTLY, "taken_at": TIME, "lifted_at": TIME, "step": PARTLY,
    },
    "entry": {"posted_at": "of entries with random ids (revenue, rounding): the database's own instant, which only the chain repeats"},
    "grants": {
        ROW_GONE: "of one of which nothing was used and that is closed", ROW_TWICE: "of one of which nothing was used and that is closed",
        "grant_id": "of one of which nothing was used and that is closed", "bucket_id": "of one of which nothing was used and that is closed",
        "account_id": PARTLY, "journal_id": "of one of which nothing was used and that is closed",
        "amount": "of one that is closed: what was not used of it is back", "spend_until": RUN, "closed_at": TIME, "doubt": RUN,
        "state": "closed or written off: either is an end, and gave back the same",
    },
    "journal": {
        ROW_TWICE: EMPTY, ROW_GONE: EMPTY, "journal_id": EMPTY, "host": TEXT, "settled_seq": "of a journal whose last settlement had no record",
        "settled_at": TIME, "created_at": RUN, "seen_at": RUN, "release": RUN, "release_schema": RUN, "release_since": RUN, "release_seen_at": RUN,
    },
    "member": {
        ROW_GONE: EMPTY, ROW_TWICE: EMPTY, "member_id": EMPTY, "role": SAID, "state": SAID, "parent_id": SAID,
        "cap_tokens": "of a member whose cap no bucket has yet", "cap_period": "of a member whose cap no bucket has yet", "cap_set_at": TIME,
        "name_sealed": SEALED, "name_hash": SEALED, "phone_sealed": SEALED, "phone_hash": SEALED,
    },
    "offering": {"loaded_at": TIME},
    "offering_current": {ROW_TWICE: SAID, "from_at": SAID},
    "payment": {
        "bill_id": "releases before schema 0013 took payments for no bill", "reference": TEXT, "reason": TEXT,
        "asked_nano": "emptied: whoever paid may have said no amount",
    },
    "payment_reversal": {"reversal_id": ID, "reason": TEXT, "reversed_at": PARTLY},
    "payout": {"reference": TEXT},
    "phone_history": {
        ROW_GONE: SAID, ROW_TWICE: SAID, "phone_history_id": ID, "subscriber_id": SAID, "reason": SAID, "phone_sealed": SEALED,
    },
    "posting": {"line_no": "of usage and revenue entries: the order of lines says nothing"},
    "product": {
        "cycle_no": PARTLY, "cycle_start": PARTLY, "started_at": "of what another system delivered: when that said so", "ended_at": TIME,
        "suspended_at": TIME, "ends_after_cycle": "of a product that has ended", "next_version": PARTLY, "uncharged": "with its cycles: see cycle_no",
        "delivery": PARTLY, "price_nano": PARTLY,
    },
    "product_order": {
        "order_id": "of changes and cancellations: " + ID, "action": PARTLY, "completed_at": TIME, "reason": TEXT, "idempotency_key": TEXT,
        "asked": "what a change asked to be given back, before it is", "state": PARTLY,
    },
    "quarantine": {
        ROW_GONE: "the journal has the record", "quarantine_id": ID, "account_id": PARTLY, "usage_id": PARTLY, "seq": PARTLY, "record": "as the host wrote it: the journal has it",
        "reason": TEXT, "decided_at": TIME, "state": PARTLY,
    },
    "rate_card": {"loaded_at": TIME},
    "rate_limit": {
        ROW_GONE: SAID, "limit_id": ID, "requests_per_min": SAID, "tokens_per_min": SAID, "streams_max": SAID,
    },
    "real_name_check": {ROW_GONE: SAID, ROW_TWICE: SAID, "check_id": ID, "subscriber_id": SAID, "state": "the carrier's answer"},
    "reconciliation_case": {
        ROW_GONE: PARTLY, "case_id": ID, "amount_nano": "what was open at that instant is not kept: at most its payment", "closed_at": TIME, "resolution": TEXT,
        "kind": PARTLY,
    },
    "refund": {"batch_id": "refunds before schema 0013 have none", "reason": TEXT, "idempotency_key": TEXT, "asked_nano": PARTLY, "done_at": PARTLY},
    "staff": {
        ROW_GONE: PARTLY, ROW_TWICE: SAID, "staff_id": PARTLY, "name": SAID, "role": SAID, "token_mac": SEALED, "skeleton": SAID, "revoked_at": SAID,
    },
    "staff_token": {
        ROW_GONE: SAID, ROW_TWICE: SEALED, "token_id": ID, "staff_id": SAID, "token_mac": SEALED, "pepper_version": SEALED, "expires_at": SAID,
        "used_at": RUN, "used_address": RUN,
    },
    "subscriber": {
        "audiences": SAID, "language": SAID, "real_name": SAID, "bill_day": SAID, "credit_limit_nano": SAID, "cap_nano": SAID, "spend_locked": SAID,
        "cap_raises": SAID, "regions": SAID, "home_region": SAID, "restricted": "of one who is closed: nothing is bought any more", "closed_at": TIME,
        "identity_hash": SEALED, "phone_sealed": SEALED, "phone_hash": SEALED, "phone_tail_hash": SEALED, "name_sealed": SEALED, "name_hashes": SEALED,
        "broadband_sealed": SEALED, "broadband_hash": SEALED, "erasure_asked_at": TIME, "erasure_gives_up": SAID, "identity_kept_until": TIME, "erased_at": TIME,
    },
    "suspension": {
        ROW_GONE: "one that has ended leaves nothing else", "suspension_id": ID, "subscriber_id": "one that has ended leaves nothing else",
        "cause": "one that has ended leaves nothing else", "reason": TEXT, "end_reason": TEXT, "ended_at": TIME,
    },
    "top_up": {ROW_GONE: "its steps are charged, as those that a request bought", "top_up_id": ID, "idempotency_key": TEXT},
    "transfer": {
        "transfer_id": ID, "reason": TEXT, "made_by": SAID, "idempotency_key": TEXT, ROW_GONE: PARTLY, ROW_TWICE: PARTLY, "amount": PARTLY,
    },
    "usage": {
        "usage_id": "of attempts after the first: " + ID, "request_id": "of attempts after the first: " + LOG,
        "attempt_no": "of attempts after the first: " + LOG, "protocol": LOG, "model": "between models of one rate: " + LOG, "deployment": LOG,
        "state": LOG, "reason": LOG, "counted_by": LOG, "ended_at": PARTLY, "first_byte_ms": LOG, "latency_ms": LOG, "provider_total": LOG, "flags": LOG,
        "upstream_id": LOG, "seq": "within the records that one transaction settled: " + LOG, "prompt": "where nothing is counted in prompts: " + LOG,
        "asked": LOG, "choice": LOG,
    },
    "usage_day": {"journal_id": "which host settled it: a day is the sum over all hosts"},
    "window_use": {},
    "work_order": {
        ROW_GONE: PARTLY, "work_order_id": ID, "state": PARTLY, "attempts": RUN, "reason": TEXT, "answered_at": TIME, "asked_at": RUN, "push_due": RUN,
        "push_tries": RUN, "pushed_at": RUN, "push_error": RUN, "broadband_sealed": SEALED,
    },
}  # fmt: skip
"""Table -> what no check covers: a column, `ROW_GONE` or `ROW_TWICE` -> the reason. All other columns of the table are covered."""

UNCOVERED: Final[dict[str, str]] = {
    "account_loss": "yesterday's and today's sums of a protective budget, deleted after days: no money",
    "alembic_version": "which schema this is: a server refuses another one",
    "audit": "history of its own, encrypted in part: it is evidence for the rest, not money",
    "change": "what hosts are told to look at again: a signal, without content",
    "change_gone": "up to where news to hosts were deleted: a host that has missed some starts anew",
    "deployment": "where requests are sent: configuration, which the audit trail follows",
    "failed_job": "what is tried again: a job that succeeds deletes its row",
    "host_secrets": "which secrets hosts have loaded, as they report it while they serve",
    "hub_delivery": "messages to other systems: they repeat what other rows say",
    "hub_event": "messages to other systems: they repeat what other rows say",
    "hub_listener": "where messages go: configuration, which the audit trail follows",
    "kept_answer": "answers that a repeated request gets again, deleted after days",
    "limit_lease": "a minute's leases of protective limits",
    "limit_streams": "a minute's leases of protective limits",
    "model_alias": "names of models: configuration, which the audit trail follows",
    "model_card": "what models can do: configuration, which the audit trail follows",
    "content_log": "requests and answers that holders of keys have logged, deleted after days: no charge follows from it",
    "imported_key": "which keys were imported, so that a second import makes none twice: what a key may spend stands in api_key and its bucket",
    "model_facts": "what is published of models: figures to look at, which pay nothing; the audit trail follows its imports",
    "model_intent": "names of models: configuration, which the audit trail follows",
    "balance_mark": "plans whose notice of what is left is still to be made: it repeats what their bucket says, and is deleted with it",
    "notice_address": "where people get notices: no charge and no right follows from it",
    "notice_choice": "which notices people get: no charge and no right follows from it",
    "notice_delivery": "messages to subscribers: they repeat what other rows say",
    "notice_request": "requests to confirm an e-mail address, for their limits, deleted after two days",
    "notification": "messages to subscribers: they repeat what other rows say",
    "offering_draft": "a catalogue that is being written: what is sold has a hash",
    "pepper": "fingerprints of keys outside the database: a server that has others does not start",
    "person_key": "keys wrapped under others outside the database: a wrong one opens nothing",
    "recall": "what hosts ask each other, deleted after minutes",
    "recall_answer": "what hosts ask each other, deleted after minutes",
    "replay_answer": "answers that an equal or repeated request gets again, and stored responses, deleted after hours or days: what a replay is charged follows from usage records, and a stored response is read without a charge",
    "passkey": "what else signs a person in, beside codes: no balance follows from it",
    "passkey_challenge": "challenges of minutes that were answered, hashed under keys outside the database",
    "schema_backfill": "how far a migration is",
    "schema_step": "which releases run on this schema: the release says so too, and a server refuses another schema",
    "sealing": "how far a migration is",
    "session": "who is signed in: it ends by itself, and no balance follows from it",
    "sign_in_code": "codes of minutes, hashed under keys outside the database",
    "staff_attempt": "refused sign-ins of staff, counted for limits and deleted after days",
    "staff_identity": "which account at the OpenID provider is which staff member's: the audit trail has who linked it and when",
    "staff_oidc_state": "which sign-ins at the OpenID provider have come back, deleted after a day",
    "staff_recovery_code": "codes hashed under keys outside the database: the audit trail has each sign-in with one",
    "staff_session": "which staff is signed in: it ends by itself, and the audit trail has each sign-in",
    "staff_totp": "secrets of authenticators, encrypted under keys outside the database: the database alone cannot check them",
    "verify_head": "where the auditor saw chains end: what it remembers for itself",
    "verify_run": "which accounts the auditor reads next",
    "vault_secret": "fingerprints of keys outside the database: a server that has others does not start",
}
"""Tables without a check, each with the reason."""

_HEAD = """# What `tokenworks ledger verify` covers

Written by `python -m tokenworks.app.coverage`; a test compares it with the code, the code with the schema's tables, and both with what the
auditor names when every column of every covered table is corrupted (`tests/charging/mutations`).

`ledger verify` recomputes what the tables say from each other, in one snapshot, streaming, and changes nothing. It names the rows that break an
invariant and exits with 1. What two tables say alike in the same lie it does not see: that needs evidence from outside the database (the
signed log).

It reads what was chained since the last run that found nothing, and the next thirtieth of the accounts whole (all of them where they are
at most 10,000); `--full` reads everything, and what compares accounts with each other. Where it saw a chain end, the chain has to go on.
Where there is much, several processes read ranges of accounts (`--processes`), all in one snapshot; a process that does not come to its end
is an error, and nothing is remembered. A statement leaves out what it can show to be right (the bytes that were hashed, the price of a part at
its card's rate); all other rows are looked at again by the code that settles and rates.

Entries, postings and usage records are in chains of hashes: as they are, none of them is changed, removed or added unseen once it is in a
chain, whatever stands beside their tables below. What stands there is what no other row says, so that whoever recomputes the chain after a
change is not named: it needs the signed log.
"""


def page() -> str:
    """docs/VERIFY.md."""
    lines = [_HEAD, "## Invariants", ""]
    lines += [f"- {invariant}" for invariant, _ in checks({}, CHECKS | TIMED, PASSES)]
    lines += [
        "",
        "## Covered tables",
        "",
        "Every column of these is covered but for what stands beside them.",
        "",
    ]
    lines += ["| table | not covered | why |", "|---|---|---|"]
    for table, holes in COVERED.items():
        if not holes:
            lines.append(f"| `{table}` | nothing | |")
        reasons: dict[str, list[str]] = {}
        for column, reason in holes.items():
            reasons.setdefault(reason, []).append(
                column if column in {ROW_GONE, ROW_TWICE} else f"`{column}`"
            )
        lines += [f"| `{table}` | {', '.join(columns)} | {reason} |" for reason, columns in reasons.items()]
    lines += ["", "## Tables that are not covered", "", "| table | why |", "|---|---|"]
    lines += [f"| `{table}` | {reason} |" for table, reason in UNCOVERED.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
