"""Settings of serving: placement, recording, spending."""

from pydantic import Field

from tokenworks.app.settings.topic import Topic


class Placement(Topic):
    """Attempts at deployments, queues and health checks."""

    decision_log_every: int = Field(
        default=1000,
        ge=0,
        le=1_000_000_000,
        description="one of this many placement decisions is logged with all its candidates, beside the decisions that found no "
        "deployment; 0: only those",
    )
    attempts_max: int = Field(default=3, ge=1, le=10, description="deployments tried before the first byte")
    retries_per_s: int = Field(
        default=10,
        ge=0,
        le=100_000,
        description="how many requests a second a worker may retry at another deployment, and a fifth of its requests in addition",
    )
    failover_patience_s: int = Field(
        default=5,
        ge=1,
        le=3600,
        description="how late a stream's first byte may come, and four times the predicted time, before another deployment is tried, "
        "where there is one",
    )
    queue_wait_s: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="how long a request waits where all deployments of its model are at their limits; 0: it is refused",
    )
    queue_max: int = Field(
        default=1_000,
        ge=0,
        le=100_000,
        description="requests of a model that wait on this host; more are shed",
    )
    flex_deadline_s: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="how long a request of service_tier flex waits for the cheapest deployment, at most",
    )
    filing_required: bool = Field(
        default=False, description="serve only models that are declared as filed, or exempt from it"
    )
    health_check_s: int = Field(
        default=10, ge=1, le=3600, description="between checks of a deployment that failed or idles"
    )


class Recording(Topic):
    """Counting, holds and records of running requests."""

    tokenize_queue_max: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="counts that wait for the host's tokenizer process; more are bounded by their bytes",
    )
    tokenize_timeout_s: int = Field(
        default=3, ge=1, le=60, description="how long a count may take; then it is bounded by its bytes"
    )
    journal_reserve_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        le=2**50,
        description="with less than this free on the journal's disk nothing new is begun; what runs finishes from it",
    )
    unsettled_records_max: int = Field(
        default=1_000_000,
        ge=1000,
        le=100_000_000,
        description="with more records than this waiting for the database nothing new is begun; each takes about 1 kB",
    )
    stream_hold_tokens: int = Field(
        default=512,
        ge=16,
        le=1_000_000,
        description="output tokens that a stream holds at first, and by which its hold grows as it goes",
    )
    progress_tokens: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="a stream's progress is recorded whenever it has made this many tokens",
    )
    key_cache_max: int = Field(
        default=500_000, ge=100, le=10_000_000, description="keys that a worker remembers"
    )
    recorder_wait_s: int = Field(
        default=10,
        ge=1,
        le=600,
        description="a request for which the recorder answers nothing for this long is refused with 503",
    )
    key_max_stale_s: int = Field(
        default=300, ge=1, le=86_400, description="without the database no request is admitted after this"
    )
    key_lookups_per_s: int = Field(
        default=500, ge=1, le=100_000, description="unknown keys that a worker asks for a second"
    )


class Spending(Topic):
    """The clock, grants, and the loss budget."""

    clock_check_s: int = Field(
        default=2, ge=1, le=3600, description="how often civil time is compared with the database's"
    )
    clock_skew_max_s: float = Field(
        default=2.0,
        ge=0.05,
        le=3600,
        description="a host whose clock is off by more (beyond half the round trip of the comparison) takes no new requests",
    )
    clock_shift_s: float = Field(
        default=0.0,
        ge=-1e9,
        le=1e9,
        description="for tests, in a dev environment alone: the host's clock counts as this many seconds ahead",
    )
    grant_spend_s: int = Field(
        default=900, ge=10, le=86_400, description="how long a grant may be spent without renewal"
    )
    operator_loss_budget_tokens: int = Field(
        default=200_000,
        ge=0,
        le=10**12,
        description="tokens that may be produced for one account on a day (UTC) without a charge; past it the account's requests hold the "
        "worst case; 0: no budget",
    )
    in_doubt_limit_s: int = Field(
        default=0,
        ge=0,
        le=31_536_000,
        description="a grant in doubt for this long is written off automatically; 0: never, an operator decides",
    )


class Tracing(Topic):
    """OpenTelemetry spans of requests, without content."""

    otlp_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,500})?$",
        description="the address of an OpenTelemetry collector (OTLP over HTTP, such as http://127.0.0.1:4318): spans of requests, without "
        "content, are POSTed to its /v1/traces, with the headers in secrets_dir/otlp-headers; empty: no request is traced",
    )
    otlp_sample_ppm: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="how many of a million traces have spans, by their trace ids",
    )


class ContentLog(Topic):
    """The log of requests and answers of keys whose holders turn it on."""

    content_log_days: int = Field(
        default=7,
        ge=0,
        le=30,
        description="how long a logged request is kept; 0: nothing is logged, whatever a key says",
    )
    content_log_entry_bytes_max: int = Field(
        default=65_536,
        ge=1024,
        le=1_048_576,
        description="bytes of a logged request and its answer together; the request has at most half, and what is longer is cut",
    )
    content_log_account_bytes_max: int = Field(
        default=67_108_864,
        ge=1024,
        le=2**40,
        description="bytes of one account's logged requests; the oldest make room",
    )
    content_log_account_entries_max: int = Field(
        default=10_000,
        ge=10,
        le=1_000_000,
        description="logged requests of one account; the oldest make room. Each new one reads the sizes of all",
    )


class Replays(Topic):
    """Answers that are given again: idempotency keys, the response cache, and stored responses."""

    idempotency_hours: int = Field(
        default=24,
        ge=0,
        le=720,
        description="for how long an Idempotency-Key stands for its first request; 0: the header is ignored",
    )
    cache_age_max_s: int = Field(
        default=86_400,
        ge=0,
        le=2_592_000,
        description="how old an answer of the response cache may be, where the plan has a cache; 0: no request is answered from it",
    )
    stored_response_days: int = Field(
        default=30,
        ge=0,
        le=90,
        description="for how long a stored response can be read and continued, where the plan stores responses; 0: none is stored",
    )
    replay_answer_bytes_max: int = Field(
        default=1_048_576,
        ge=1024,
        le=16_777_216,
        description="a larger answer is not stored: the cache stays without it, and an idempotency key is spent; of a stored response: with its input",
    )
    replay_account_bytes_max: int = Field(
        default=67_108_864,
        ge=1024,
        le=2**40,
        description="bytes of stored answers of one account; the oldest of the cache make room",
    )
    replay_account_answers_max: int = Field(
        default=10_000,
        ge=10,
        le=1_000_000,
        description="stored answers of one account; the oldest of the cache make room, and a new idempotency key without room gets 429",
    )
