"""Settings of an installation: its folders and addresses, its journal, the time limits of its processes."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from tokenworks.app.settings.topic import Topic, parse_address


class Installation(Topic):
    """Folders, the database, addresses, logs."""

    data_dir: Path = Field(
        default=Path("data"), description="where the database, the journal and the secrets live"
    )
    environment: str = Field(
        default="dev",
        pattern=r"^[a-z0-9]{1,12}$",
        description="part of every key's text: twk_<environment>_…; in dev alone samples are on sale, and a subscriber without audiences may order every offering",
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
    staff_listen: str = Field(
        default="",
        description="the staff port, HOST:PORT, for /ops: elsewhere than on loopback with a second factor and TLS alone; empty: /ops is on the "
        "public port, if that is on loopback",
    )
    workers: int = Field(default=1, ge=1, le=256, description="data-plane processes")
    allow_plain_http: bool = Field(
        default=False, description="serve plain HTTP on another address than loopback"
    )
    trusted_proxies: str = Field(
        default="",
        max_length=4000,
        description="networks (10.0.0.0/8, …) of proxies in front, which may use plain HTTP and name the client; clients outside of them are not served",
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
        description="how many of a million served requests get a line in the log of requests; each failed or refused request gets one, "
        "up to a limit per second",
    )
    log_requests_bytes: int = Field(
        default=134_217_728,
        ge=0,
        le=2**40,
        description="how many bytes of these lines a worker keeps in data_dir/log, deleting the oldest; 0: the lines go to the server's log",
    )

    @field_validator("listen", "admin_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("staff_listen")
    @classmethod
    def _staff_address(cls, value: str) -> str:
        if value:
            parse_address(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for network in value.replace(",", " ").split():
            ip_network(network)
        return value

    @property
    def proxy_networks(self) -> "tuple[IPv4Network | IPv6Network, ...]":
        return tuple(ip_network(network) for network in self.trusted_proxies.replace(",", " ").split())

    @property
    def blocked_keys(self) -> Path:
        """The file with ids of keys that this host refuses, one per line."""
        return self.data_dir / "blocked-keys"

    @property
    def codes_file(self) -> Path:
        """The file that gets one-time codes in a dev environment."""
        return self.data_dir / "one-time-codes"

    @property
    def secrets(self) -> Path:
        return self.secrets_dir or self.data_dir / "secrets"

    @property
    def tokenizers(self) -> Path:
        return self.tokenizers_dir or self.data_dir / "tokenizers"

    @property
    def log(self) -> Path:
        """The folder of the request logs; each worker has its own files."""
        return self.data_dir / "log"

    @property
    def leaving(self) -> Path:
        """A file that exists while this host drains: the host is not ready then."""
        return self.run_dir / "leaving"

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"


class Hosts(Topic):
    """Changes that are kept for hosts, idle grants and the journal."""

    change_retain_h: int = Field(
        default=168,
        ge=1,
        le=8760,
        description="changes (of accounts, keys, the catalogue) are kept for hosts this long; a host that was away longer starts afresh",
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


class Timeouts(Topic):
    """Time limits: commands, draining, silent processes."""

    command_wait_s: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="how long a command waits for a lock that another session keeps, and for a database that answers no connection, before it gives up with an error. A statement that only runs long is not cut",
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
        description="time for running requests to finish after the server stops taking new ones; also for an answer whose client has left",
    )
    drain_tokens: int = Field(
        default=512,
        ge=0,
        le=10_000_000,
        description="a stream whose client has left is read to its end where at most this many tokens of its maximum are left",
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
