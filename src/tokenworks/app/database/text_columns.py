"""Every text column of every table, with what it may hold about a person. A test demands that each column is listed.

A migration that adds a column has to decide whether the column may name a person, and what an erasure does with it.
"""

from typing import Final, Literal

Holds = Literal["no_person", "staff", "caller", "encrypted", "hash", "erased", "brief", "empty"]

MEANINGS: Final[dict[Holds, str]] = {
    "no_person": "ids, codes and words of ours: it names no customer",
    "staff": "the operator's own records: names of staff, catalogue, models, references of the books",
    "caller": "a key that a caller chose, to be no more than a key; kept, so that a repeat is not done twice",
    "encrypted": "under the key of the person that it is about, which an erasure destroys",
    "hash": "a keyed hash or a MAC: it says nothing without the key, which is outside the database",
    "erased": "free text about a person: an erasure overwrites it, or takes it out",
    "brief": "kept for days or weeks only (the room's README says how long), then deleted",
    "empty": "plain text of before schema 0019 or 0021: a CHECK refuses anything new",
}

TEXT_COLUMNS: Final[dict[str, dict[Holds, str]]] = {
    "account": {"no_person": "state"},
    "adjustment": {
        "no_person": "unit state",
        "erased": "reason",
        "staff": "asked_by decided_by",
        "caller": "idempotency_key",
    },
    "alembic_version": {"no_person": "version_num"},
    "api_key": {"hash": "key_mac", "no_person": "hint models origins fallbacks", "erased": "name"},
    "approval": {"no_person": "action ref state", "caller": "key", "staff": "asked_by asker decided_by"},
    "audit": {
        "no_person": "actor role action ref",
        "staff": "address",
        "encrypted": "details",
        "empty": "before after",
    },
    "bill": {"no_person": "bill_no currency state channel"},
    "bill_line": {"no_person": "offering_version kind description description_zh"},
    "bucket": {"no_person": "kind unit model_classes rate_version closing"},
    "change": {"no_person": "kind ref"},
    "chain_head": {"no_person": "hash"},
    "chain_link": {"no_person": "hash rows"},
    "charge": {"no_person": "offering_version kind description description_zh currency recognise"},
    "charge_file": {"no_person": "layout content", "encrypted": "sha256_sealed", "empty": "sha256"},
    "charge_file_line": {"no_person": "state", "erased": "reason", "encrypted": "phone_sealed"},
    "collection": {"no_person": "method currency state", "staff": "reference"},
    "consent": {"no_person": "purpose text_sha256 said_by"},
    "consent_text": {"staff": "text_sha256 purpose language text"},
    "content_log": {"no_person": "protocol model outcome", "encrypted": "request_sealed answer_sealed"},
    "contract_price": {"no_person": "offering_id", "erased": "contract"},
    "credit_note": {
        "no_person": "credit_note_no credit_charge_ids",
        "erased": "reason",
        "caller": "idempotency_key",
    },
    "deployment": {"staff": "name content"},
    "dispute": {"no_person": "state", "erased": "question answer", "staff": "answered_by"},
    "document_gap": {"staff": "kind reason"},
    "document_number": {"no_person": "kind"},
    "dunning": {"no_person": "step"},
    "entry": {"no_person": "kind ref"},
    "failed_job": {"no_person": "job state reason"},
    "grants": {"no_person": "state doubt"},
    "host_secrets": {"no_person": "peppers wrapping", "hash": "webhook_fingerprint"},
    "hub_delivery": {"no_person": "event_type error", "encrypted": "body_sealed", "empty": "body"},
    "hub_event": {"no_person": "api event_type state"},
    "hub_listener": {"staff": "api callback query made_by"},
    "journal": {"no_person": "release release_schema", "staff": "host"},
    "kept_answer": {
        "no_person": "asker headers",
        "caller": "idempotency_key",
        "hash": "request_hash",
        "encrypted": "body_sealed",
        "brief": "body",
    },
    "member": {
        "no_person": "role cap_period state",
        "encrypted": "name_sealed phone_sealed",
        "hash": "name_hash phone_hash",
        "empty": "name phone",
    },
    "model_alias": {"staff": "alias model"},
    "model_card": {"staff": "name content"},
    "imported_key": {"hash": "foreign_mac"},
    "model_facts": {"staff": "name content"},
    "model_intent": {"staff": "name content"},
    "notification": {"no_person": "kind ref content"},
    "offering": {"staff": "offering_version offering_id rate_version content"},
    "offering_current": {"staff": "offering_id offering_version"},
    "offering_draft": {"staff": "offering_id content drafted_by approved_by"},
    "passkey": {
        "no_person": "rp_id transports",
        "erased": "credential_id public_key",
        "encrypted": "name_sealed",
    },
    "passkey_challenge": {"hash": "challenge_mac"},
    "payment": {"no_person": "method currency", "staff": "reference", "erased": "reason"},
    "payment_reversal": {"erased": "reason"},
    "payout": {"no_person": "method currency", "staff": "reference"},
    "pepper": {"hash": "fingerprint"},
    "person_key": {"encrypted": "wrapped"},
    "phone_history": {"no_person": "reason", "encrypted": "phone_sealed", "empty": "phone"},
    "posting": {"no_person": "ledger_account unit"},
    "product": {"no_person": "offering_version state delivery next_version"},
    "product_order": {
        "no_person": "offering_id offering_version state action currency asked delivery",
        "erased": "reason",
        "caller": "idempotency_key",
    },
    "quarantine": {"no_person": "usage_id record reason state"},
    "rate_card": {"staff": "rate_version rate_card_id content"},
    "rate_limit": {"no_person": "scope ref"},
    "real_name_check": {"no_person": "state"},
    "reconciliation_case": {"no_person": "kind", "erased": "resolution"},
    "refund": {"no_person": "part state", "erased": "reason", "caller": "idempotency_key"},
    "replay_answer": {
        "no_person": "kind media_type",
        "hash": "name_hash body_hash",
        "encrypted": "answer_sealed",
    },
    "schema_backfill": {"no_person": "revision after"},
    "schema_step": {"no_person": "revision compatible_from"},
    "sealing": {"no_person": "place"},
    "session": {"hash": "token_mac", "erased": "address client seen_address"},
    "sign_in_code": {"hash": "identifier_mac code_mac challenge_mac", "brief": "address"},
    "staff": {"staff": "name role skeleton", "hash": "token_mac"},
    "staff_token": {"hash": "token_mac", "staff": "used_address"},
    "subscriber": {
        "no_person": "state language real_name regions suspended_by",
        "encrypted": "phone_sealed name_sealed broadband_sealed",
        "hash": "identity_hash phone_hash phone_tail_hash name_hashes broadband_hash",
        "erased": "audiences home_region",
        "empty": "phone name broadband",
    },
    "suspension": {"no_person": "cause", "erased": "reason end_reason"},
    "top_up": {"caller": "idempotency_key"},
    "transfer": {"no_person": "made_by", "erased": "reason", "caller": "idempotency_key"},
    "usage": {
        "no_person": "request_id protocol model deployment state reason counted_by parts loss flags upstream_id asked",
        "caller": "choice",
    },
    "usage_day": {"no_person": "unit"},
    "verify_head": {"no_person": "hash"},
    "vault_secret": {"no_person": "name", "hash": "fingerprint"},
    "work_order": {
        "no_person": "port offering_id delivery action state",
        "erased": "reason push_error",
        "encrypted": "broadband_sealed",
        "empty": "broadband",
    },
}


def columns_that(holds: Holds) -> list[tuple[str, str]]:
    """(table, column) of all columns of this kind."""
    return [
        (table, column) for table, kinds in TEXT_COLUMNS.items() for column in kinds.get(holds, "").split()
    ]
