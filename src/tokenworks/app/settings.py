"""One TOML file and `TOKENWORKS_*` variables make one frozen, validated object. Unknown names are errors."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tokenworks.kernel import Invalid, flaw, is_digits

PREFIX: Final = "TOKENWORKS_"
# Variables of the same prefix that are not settings.
_NOT_SETTINGS: Final = ("TOKENWORKS_UPSTREAM_",)
FILE_NAME: Final = "tokenworks.toml"
SECRET: Final = frozenset({"database_url", "database_owner_url"})


class Settings(BaseModel):
    """Every setting, its default and its bounds. Sizes in bytes, times in seconds, as the names say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(
        default=Path("data"), description="where the database, the journal and the secrets live"
    )
    environment: str = Field(
        default="dev",
        pattern=r"^[a-z0-9]{1,12}$",
        description="part of every key's text: twk_<environment>_…; in dev alone samples are on sale, and all to whoever has not said whom they are",
    )
    database_url: str | None = Field(
        default=None,
        description="PostgreSQL's URL, as a role that may not change history, which `init` makes; left out: the embedded one in data_dir",
    )
    database_owner_url: str | None = Field(
        default=None,
        description="beside database_url, for `init` alone: the same database as the role that owns, or will own, its tables",
    )
    single_role: bool = Field(
        default=False,
        description="database_url may be of a role that could change history, such as the owner's; metrics and `ledger verify` say so",
    )
    embedded_fsync: bool = Field(
        default=True,
        description="false only for throw-away data: the embedded database may lose what it committed",
    )
    allow_no_standby: bool = Field(
        default=False,
        description="outside dev: serve on a database without a synchronous standby; a fail-over may lose commits",
    )
    secrets_dir: Path | None = Field(
        default=None, description="pepper and upstream credentials; left out: data_dir/secrets"
    )
    tokenizers_dir: Path | None = Field(
        default=None, description="the models' own tokenizers, a folder each; left out: data_dir/tokenizers"
    )
    listen: str = Field(default="127.0.0.1:8080", description="the public port")
    admin_listen: str = Field(default="127.0.0.1:8081", description="/metrics, /healthz, /readyz")
    workers: int = Field(default=1, ge=1, le=256, description="data-plane processes")
    allow_plain_http: bool = Field(
        default=False, description="serve plain HTTP on another address than loopback"
    )
    trusted_proxies: str = Field(
        default="",
        max_length=4000,
        description="networks (10.0.0.0/8, …) of proxies in front, which may use plain HTTP and name the client; others are not served",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM chain for the public port")
    tls_key: Path | None = Field(default=None, description="PEM key for the public port")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, JSON elsewhere"
    )

    log_requests_ppm: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="of a million requests that were served so many have a line in the log of requests; of those that failed or "
        "were refused each has, up to some a second",
    )
    log_requests_bytes: int = Field(
        default=134_217_728,
        ge=0,
        le=2**40,
        description="what a worker keeps of these lines in data_dir/log, the oldest go first; 0: they go to the server's log instead",
    )

    header_bytes_max: int = Field(
        default=32_768, ge=1024, le=1_048_576, description="a request's line and headers"
    )
    header_count_max: int = Field(default=100, ge=10, le=1000, description="a request's headers")
    body_bytes_max: int = Field(default=16_777_216, ge=1024, le=1_073_741_824, description="a request's body")
    control_body_bytes_max: int = Field(
        default=262_144,
        ge=1024,
        le=1_073_741_824,
        description="a request's body on a route of the control plane, but for files of the operator's, which body_bytes_max bounds",
    )
    memory_bytes_max: int = Field(
        default=201_326_592,
        ge=1_048_576,
        le=2**40,
        description="of requests and answers in flight that a worker keeps at once: bodies, heads, what upstreams and slow readers "
        "leave; more are refused",
    )
    memory_address_percent: int = Field(
        default=50, ge=1, le=100, description="of memory_bytes_max that one client address may have in flight"
    )
    cors_origins: str = Field(
        default="*",
        max_length=4000,
        pattern=r"^[!-~ ]*$",
        description="origins (https://app.example, …) whose pages may use the data plane with a key; *: all; empty: none",
    )
    response_bytes_max: int = Field(
        default=67_108_864, ge=65_536, le=1_073_741_824, description="a response that is not streamed"
    )
    event_bytes_max: int = Field(
        default=16_777_216, ge=4096, le=268_435_456, description="one event of a stream"
    )
    write_buffer_bytes: int = Field(
        default=65_536, ge=4096, le=67_108_864, description="a slow reader pauses its upstream above this"
    )
    connections_max: int = Field(
        default=20_000, ge=10, le=1_000_000, description="client connections of a worker"
    )
    control_connections_max: int = Field(
        default=100, ge=1, le=10_000, description="requests to the control plane at once, per worker"
    )
    requests_max: int = Field(
        default=8_000, ge=1, le=1_000_000, description="requests in flight of a worker; more get 429"
    )
    key_requests_max: int = Field(
        default=2_000,
        ge=1,
        le=1_000_000,
        description="requests in flight of one key in a worker; more get 429",
    )
    key_abandons_per_min: int = Field(
        default=300,
        ge=0,
        le=1_000_000,
        description="streams that one key may leave long before their end, in a minute and worker; more get 429. 0: any number",
    )
    upstream_idle_max: int = Field(
        default=512, ge=0, le=100_000, description="idle connections kept to one deployment by a worker"
    )
    header_timeout_s: int = Field(
        default=15, ge=1, le=600, description="from the first byte of a request to the end of its headers"
    )
    body_timeout_s: int = Field(default=60, ge=1, le=3600, description="for a request's body")
    idle_timeout_s: int = Field(
        default=75, ge=1, le=3600, description="a kept-alive client connection without a request"
    )
    write_timeout_s: int = Field(
        default=60, ge=1, le=3600, description="a client that takes nothing of what is ready"
    )
    upstream_connect_timeout_s: int = Field(
        default=5, ge=1, le=120, description="to connect to a deployment, TLS included"
    )
    upstream_first_byte_timeout_s: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="to the first byte of a deployment's stream; of an answer that is not streamed where another place could be tried",
    )
    upstream_idle_timeout_s: int = Field(
        default=300, ge=1, le=3600, description="between two bytes of a deployment, unless it says otherwise"
    )
    request_timeout_s: int = Field(default=1800, ge=1, le=86_400, description="for a request as a whole")
    decision_log_every: int = Field(
        default=1000,
        ge=0,
        le=1_000_000_000,
        description="one of so many decisions of placement is logged with all its candidates, beside those that found no "
        "place; 0: those alone",
    )
    attempts_max: int = Field(default=3, ge=1, le=10, description="deployments tried before the first byte")
    retries_per_s: int = Field(
        default=10,
        ge=0,
        le=100_000,
        description="a worker tries so many requests a second at another deployment in any case, and a fifth of its requests beside them",
    )
    failover_patience_s: int = Field(
        default=5,
        ge=1,
        le=3600,
        description="a stream's first byte may come so late, and four times as late as was foreseen, before another deployment "
        "is tried, where there is one",
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
        default=32, ge=1, le=10_000, description="a stream's progress is recorded every so many tokens"
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

    clock_check_s: int = Field(
        default=2, ge=1, le=3600, description="civil time is compared with the database's this often"
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
        description="in a dev environment alone, for tests: the host's clock is taken for so many seconds ahead",
    )
    grant_spend_s: int = Field(
        default=900, ge=10, le=86_400, description="how long a grant may be spent without renewal"
    )
    operator_loss_budget_tokens: int = Field(
        default=200_000,
        ge=0,
        le=10**12,
        description="what may be produced for one account on a day (UTC) and not charged; past it that account's requests hold the "
        "worst case; 0: no budget",
    )
    in_doubt_limit_s: int = Field(
        default=0,
        ge=0,
        le=31_536_000,
        description="a grant in doubt for so long is written off without being asked; 0: never, an operator decides",
    )
    webhook_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,500})?$",
        description="alerts and dunning are POSTed here, signed with secrets_dir/webhook-secret, tried again for a day",
    )
    staff_token_days: int = Field(
        default=90,
        ge=1,
        le=3650,
        description="a staff token ends after so long: `staff rotate` makes a new one",
    )
    two_persons_above_yuan: int = Field(
        default=1000,
        ge=0,
        le=1_000_000_000,
        description="what staff gives back, writes off, lends or sells cheaper above this needs a second person's approval",
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="webhooks, work orders and messages may go to loopback and private addresses; to link-local ones never",
    )
    webhook_secret_overlap_h: int = Field(
        default=168,
        ge=0,
        le=720,
        description="after `webhook rotate` the secret of before signs beside the new one for so long",
    )
    fulfilment_urls: str = Field(
        default="",
        max_length=4000,
        description="where work orders are POSTed, as TMF641 service orders: port=https://…, one for each port, with spaces between; "
        "the others are polled",
    )
    delivery_timeout_h: int = Field(
        default=168,
        ge=0,
        le=24 * 365,
        description="a delivery that nobody answers for so long fails, is credited and withdrawn; 0: never",
    )
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,200})?$",
        description="where people reach the public port, for links; empty: what their request says",
    )
    sms_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,500})?$",
        description="one-time codes and notices are POSTed here as JSON {phone, kind, code or text}; empty: codes go into a file, in a dev environment alone",
    )
    operator_name: str = Field(
        default="Tokenworks", min_length=1, max_length=100, description="who sells: the name on a bill"
    )
    consent_texts_dir: Path | None = Field(
        default=None,
        description="a folder with the operator's own consent texts, <purpose>.<language>.txt; left out: those that are shipped",
    )
    residency_region: str = Field(
        default="cn",
        pattern=r"^[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,3}$",
        description="where data stays without consent to leave, as a prefix of deployments' regions",
    )
    cross_border_consent: Literal["opt_out", "opt_in"] = Field(
        default="opt_out",
        description="opt_in: nothing leaves residency_region before a subscriber agrees; opt_out: until the consent is withdrawn",
    )
    terms_required: bool = Field(
        default=False,
        description="nothing is ordered or served without consent to the terms; false: only a withdrawn consent stops it",
    )
    real_name_required: bool = Field(
        default=False,
        description="nothing is ordered before the real name is verified; false: only what the catalogue marks real_name_only",
    )
    real_name_check: str = Field(
        default="",
        max_length=500,
        pattern=r"^((https?://|file:/)[!-~]{1,480})?$",
        description="the carrier's real-name check: an http(s) URL that is POSTed to, or file:/path of a CSV of phone, name, "
        "SHA-256 of the document's number; empty: nothing is verified, but in a dev environment everything",
    )
    identity_hash_days: int = Field(
        default=1095,
        ge=0,
        le=36_500,
        description="so long a keyed hash of an erased person's identity number is kept, for limits per person; 0: not at all",
    )
    backup_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="how long the operator keeps backups of the database: they forget an erased person when they are deleted",
    )
    archive_to: str = Field(
        default="",
        max_length=500,
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9._/-]{0,400})?|/.{1,499})?$",
        description="a folder (its whole path) or s3://bucket/prefix, where the embedded database's write-ahead log and the journal "
        "are kept as they grow, and where `backup` goes; empty: nothing is kept by itself",
    )
    archive_timeout_s: int = Field(
        default=60,
        ge=1,
        le=86_400,
        description="what is committed is in archive_to after so long, also where little is written",
    )
    s3_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[A-Za-z0-9.:_-]{1,200})?$",
        description="where S3 is; empty: Amazon's of s3_region. Credentials: secrets_dir/s3-credentials, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY",
    )
    s3_region: str = Field(
        default="us-east-1",
        pattern=r"^[a-z0-9-]{1,40}$",
        description="the region that S3 requests are signed for",
    )
    s3_path_style: bool = Field(
        default=False,
        description="the bucket is in the path, not in the host's name, as most servers of one's own want it",
    )
    fonts_dir: Path | None = Field(
        default=None, description="a folder with a Chinese font for bills, such as Noto Sans CJK SC"
    )
    bill_due_days: int = Field(
        default=15, ge=0, le=365, description="a bill is due so long after it is issued"
    )
    bill_run_batch: int = Field(
        default=2000, ge=1, le=100_000, description="subscribers of one transaction of a bill run"
    )
    bill_run_every_h: int = Field(
        default=24,
        ge=0,
        le=24 * 31,
        description="a server bills whose period has ended so often; 0: only `bill run` does",
    )
    dunning_remind_days: int = Field(
        default=3,
        ge=0,
        le=3650,
        description="so long after a bill was due its subscriber is reminded; 0: never",
    )
    dunning_restrict_days: int = Field(
        default=10, ge=0, le=3650, description="then nothing more can be ordered or bought; 0: never"
    )
    dunning_suspend_days: int = Field(
        default=20, ge=0, le=3650, description="then nothing more is served; 0: never"
    )
    dunning_close_days: int = Field(
        default=0, ge=0, le=3650, description="then the subscriber is closed; 0: never"
    )
    change_retain_h: int = Field(
        default=168,
        ge=1,
        le=8760,
        description="news to hosts (of accounts, keys, the catalogue) are kept this long; a host that was away longer begins anew",
    )
    grant_idle_s: int = Field(default=60, ge=1, le=86_400, description="an idle grant is closed after this")
    journal_dir: Path | None = Field(
        default=None,
        description="the journal; left out: data_dir/journal. In production on a disk of its own",
    )
    journal_segment_bytes: int = Field(
        default=16_777_216, ge=65_536, le=1_073_741_824, description="a journal segment's size"
    )
    journal_retain_s: int = Field(
        default=86_400, ge=0, le=31_536_000, description="settled segments are kept this long"
    )
    command_wait_s: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="how long a command waits for a lock that another session keeps, and for a database that answers nobody, before it gives up and says so. A statement that is only long is not cut",
    )
    drain_grace_s: int = Field(
        default=5,
        ge=0,
        le=600,
        description="on SIGTERM /readyz is 503 at once, and new requests are still taken for this long: as long as a load balancer takes to notice. SIGINT, or a second signal, ends it",
    )
    drain_s: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="when nothing new is taken any more running requests get this long; and so does an answer whose client has gone, to come to its end",
    )
    drain_tokens: int = Field(
        default=512,
        ge=0,
        le=10_000_000,
        description="a stream whose client has gone is read to its end where at most this much of its maximum is left",
    )
    worker_silence_s: int = Field(
        default=5, ge=1, le=600, description="a worker silent for this long is killed"
    )
    recorder_silence_s: int = Field(
        default=5,
        ge=1,
        le=600,
        description="a recorder silent for this long is killed and replaced, but not while it waits for the disk or reads its journal",
    )

    @field_validator("*")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """A setting is shown, logged, and on bills: no text of it may have what acts there."""
        found = flaw(str(value)) if isinstance(value, str | Path) else None
        if found is not None:
            raise ValueError(f"it has {found}: leave it out")
        return value

    @field_validator("listen", "admin_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for network in value.replace(",", " ").split():
            ip_network(network)
        return value

    @field_validator("fulfilment_urls")
    @classmethod
    def _fulfilment_urls(cls, value: str) -> str:
        for part in value.split():
            port, _, url = part.partition("=")
            if not re.fullmatch(r"[a-z0-9-]{1,64}", port) or not re.fullmatch(r"https?://[!-~]{1,500}", url):
                raise ValueError("it is port=https://… for each port, with spaces between")
        return value

    @property
    def fulfilment(self) -> dict[str, str]:
        """Where the work orders of each port are sent."""
        parts = (part.partition("=") for part in self.fulfilment_urls.split())
        return {port: url for port, _, url in parts}

    @property
    def proxy_networks(self) -> "tuple[IPv4Network | IPv6Network, ...]":
        return tuple(ip_network(network) for network in self.trusted_proxies.replace(",", " ").split())

    @property
    def blocked_keys(self) -> Path:
        """Ids of keys that this host refuses, a line each."""
        return self.data_dir / "blocked-keys"

    @property
    def codes_file(self) -> Path:
        """Where one-time codes go in a dev environment."""
        return self.data_dir / "one-time-codes"

    @property
    def secrets(self) -> Path:
        return self.secrets_dir or self.data_dir / "secrets"

    @property
    def tokenizers(self) -> Path:
        return self.tokenizers_dir or self.data_dir / "tokenizers"

    @property
    def journal(self) -> Path:
        return self.journal_dir or self.data_dir / "journal"

    @property
    def log(self) -> Path:
        """The lines of requests, of each worker in files of its own."""
        return self.data_dir / "log"

    @property
    def leaving(self) -> Path:
        """There while this host drains: from then on it is not ready."""
        return self.run_dir / "leaving"

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings and where each came from: `default`, `file`, `variable` or `option`."""

    settings: Settings
    origins: dict[str, str]


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT`. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not is_digits(port, 5) or int(port) > 65535 or not host:
        raise ValueError(f"an address is HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)


def load_settings(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Effective:
    """Defaults, then the file in the data directory, then variables, then options. Raises `Invalid` with the reason.

    The file is `tokenworks.toml` in the data directory, or what `TOKENWORKS_CONFIG` names.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    variables = {
        name.removeprefix(PREFIX).lower(): text
        for name, text in environ.items()
        if name.startswith(PREFIX)
        # What begins as a credential's name is one, but for the settings that begin so.
        and (not name.startswith(_NOT_SETTINGS) or name.removeprefix(PREFIX).lower() in Settings.model_fields)
    }
    named_file = variables.pop("config", None)
    data_dir = Path(options.get("data_dir") or variables.get("data_dir") or "data")
    path = Path(named_file) if named_file else data_dir / FILE_NAME
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if path.exists():
        layers.append((f"file {path}", _read_file(path)))
    elif named_file:
        raise Invalid(f"TOKENWORKS_CONFIG names {path}, which is not there")
    layers += [
        ("variable", variables),
        ("option", {name: value for name, value in options.items() if value is not None}),
    ]
    for origin, layer in layers:
        for name, value in layer.items():
            if name not in Settings.model_fields:
                shown = f"{PREFIX}{name.upper()}" if origin == "variable" else name
                raise Invalid(f"{shown} ({origin}) is not a setting; `tokenworks config show` lists them")
            values[name] = value
            origins[name] = origin
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise Invalid(
            f"{name} ({origins.get(name, 'option')}): {first['msg'].removeprefix('Value error, ')}"
        ) from None
    if settings.clock_shift_s and settings.environment != "dev":
        raise Invalid('clock_shift_s makes a host\'s time wrong: it is for tests, where environment = "dev"')
    if settings.database_owner_url and not settings.database_url:
        raise Invalid("database_owner_url goes with database_url: the same database, as the role that serves")
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise Invalid("tls_certificate and tls_key go together")
    return Effective(settings.model_copy(update={"data_dir": settings.data_dir.absolute()}), origins)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path}: {error}") from None


_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^\s,]+)")
# Of a path, what looks like a key, and not like a word.
_KEY_CHARS_MIN: Final = 12
_HIDDEN: Final = "****"


def without_secrets(text: str) -> str:
    """With the secrets inside of URLs masked: who asks there, the values of the query, what looks like a key in the path."""

    def masked(match: re.Match[str]) -> str:
        rest, hash_, _ = match["rest"].partition("#")
        rest, mark, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        user, at, host = authority.rpartition("@")
        user = _HIDDEN if user else ""
        parts = [
            _HIDDEN if len(part) >= _KEY_CHARS_MIN and any(char.isdigit() for char in part) else part
            for part in path.split("/")
        ]
        values = [
            f"{pair.partition('=')[0]}={_HIDDEN}" if "=" in pair else _HIDDEN for pair in query.split("&")
        ]
        return (
            f"{match['scheme']}://{user}{at}{host}{slash}{'/'.join(parts)}"
            f"{mark}{'&'.join(values) if mark else ''}{hash_}{_HIDDEN if hash_ else ''}"
        )

    return _URL.sub(masked, text)


def shown(name: str, value: Any) -> Any:
    """A value for people: secrets masked, those inside of URLs, too."""
    if name in SECRET and value:
        return "********"
    if isinstance(value, str) and "://" in value:
        return without_secrets(value)
    return str(value) if isinstance(value, Path) else value
