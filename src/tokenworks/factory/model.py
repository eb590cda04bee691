"""Deployments: what an operator declares of them. Frozen and pure."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

Protocol = Literal["chat", "completions", "embeddings", "responses", "messages"]
PROTOCOLS: Final[tuple[Protocol, ...]] = get_args(Protocol)
PROTOCOL_PATHS: Final[dict[Protocol, str]] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
COUNT_PATHS: Final[dict[Protocol, str]] = {
    "messages": "/v1/messages/count_tokens",
    "responses": "/v1/responses/input_tokens",
}
"""Paths that count a request's tokens without an answer."""
Kind = Literal["edge", "hub", "vendor"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
CONTEXT_TOKENS_DEFAULT: Final = 131_072
OUTPUT_TOKENS_DEFAULT: Final = 4_096
CREDENTIALS_MAX: Final = 16
ENV_PREFIX: Final = "TOKENWORKS_UPSTREAM_"
MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$"

# No /v1 is added to a base URL that names a version: /v1, /api/paas/v4, /api/v3, /compatible-mode/v1, Google's /v1beta/openai,
# DeepSeek's /beta.
_VERSIONED: Final = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?(?:/openai)?$|^/beta$")
# Some vendors print the whole endpoint, which is cut off.
_ENDPOINT: Final = re.compile(r"/(?:chat/completions|completions|embeddings|responses|messages)$")
# Link-local addresses, metadata services outside that range (Alibaba Cloud), and addresses that belong to no host.
_NEVER: Final = tuple(
    ip_network(net)
    for net in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8")
)  # fmt: skip
# IPv6 networks whose addresses contain an IPv4 address; the one of RFC 8215 is for translators inside a network.
_NAT64: Final = ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ip_network("::/96")
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")


class Price(BaseModel):
    """What the operator pays, in nano yuan per token of each class. None: not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fresh_input_nano: int | None = Field(default=None, ge=0, strict=True)
    cached_input_nano: int | None = Field(default=None, ge=0, strict=True)
    cache_write_nano: int | None = Field(default=None, ge=0, strict=True)
    audio_input_nano: int | None = Field(default=None, ge=0, strict=True)
    output_nano: int | None = Field(default=None, ge=0, strict=True)
    reasoning_nano: int | None = Field(default=None, ge=0, strict=True)
    audio_output_nano: int | None = Field(default=None, ge=0, strict=True)
    # None: the same as `cache_write_nano`.
    cache_write_1h_nano: int | None = Field(default=None, ge=0, strict=True)


class Deployment(BaseModel):
    """A service that serves a model over HTTP. Its credential is a reference, never the secret itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    model: Annotated[str, Field(pattern=MODEL_PATTERN)]
    upstream_model: Annotated[str, Field(min_length=1, max_length=500)]
    base_url: Annotated[str, Field(max_length=500)]
    protocols: tuple[Protocol, ...] = Field(min_length=1)
    credential: str | None = None
    # Further credentials, which share the load with the first.
    more_credentials: tuple[str, ...] = Field(default=(), max_length=CREDENTIALS_MAX - 1)
    allow_private: bool = False
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    price: Price = Price()
    context_tokens: int = Field(default=CONTEXT_TOKENS_DEFAULT, gt=0, le=100_000_000)
    max_output_tokens: int = Field(default=OUTPUT_TOKENS_DEFAULT, gt=0, le=10_000_000)
    # The deployment makes output tokens that its stream does not show. A stream can't be cut in time then, so a request holds its whole
    # maximum.
    hides_reasoning: bool = False
    # The company that runs the deployment, for subscribers whose requests only some vendors may read.
    vendor: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] | None = None
    # Committed capacity is paid for whether it is used or not: one more request costs nothing.
    committed: bool = False
    # Assumed until measured: the round trip, the speed of reading a prompt, the number of blocks in the prefix cache.
    round_trip_ms: int | None = Field(default=None, ge=0, le=60_000)
    prefill_tokens_per_s: int | None = Field(default=None, gt=0, le=10_000_000)
    cache_blocks: int | None = Field(default=None, gt=0, le=1_000_000)
    # The site where the deployment runs (several deployments may share one), and its kind: an edge box near subscribers, a hub, or a
    # vendor's.
    site: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] | None = None
    kind: Kind = "hub"
    # The deployment gets no new requests; requests in flight finish.
    draining: bool = False
    # The folder in `tokenizers_dir` of the tokenizer that counts when the deployment reports no usage.
    tokenizer: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    # The profile in `vendors/` of the vendor or engine: which fields, maxima and headers the deployment accepts.
    profile: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = "generic"
    # Fields that no list names pass to the deployment (but never those of `never.yaml`, nor a listed name in other letter case).
    pass_unknown: bool = False
    # Whether streams are asked for usage; False: the deployment takes no `stream_options`. None: as the profile says.
    stream_options: bool | None = None
    # The field of a chat request that sets its output maximum, if it is not the profile's.
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    # The head of a stream's response is sent to the client before the upstream answers, so that pings can follow it.
    early_head: bool = False
    # How long a stream may be silent. None: the time of the setting.
    idle_timeout_s: int | None = Field(default=None, gt=0, le=86_400)

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("a base URL is http://host[:port][/path] or https://…")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "no credential in the URL: name a TOKENWORKS_UPSTREAM_* variable or a file in secrets_dir"
            )
        if parts.query or parts.fragment or any(c.isspace() or ord(c) < 33 or ord(c) > 126 for c in value):
            raise ValueError("a base URL has no query, no fragment and no spaces")
        if (
            any(part in {".", ".."} for part in parts.path.split("/"))
            or "//" in parts.path
            or "%" in parts.path
        ):
            raise ValueError("a base URL's path is plain: no //, no .., no %")
        _ = parts.port
        return _ENDPOINT.sub("", value.rstrip("/"))

    @field_validator("more_credentials")
    @classmethod
    def _more_credentials(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._reference(value) for value in values)

    @field_validator("credential")
    @classmethod
    def _credential(cls, value: str | None) -> str | None:
        return None if value is None else cls._reference(value)

    @classmethod
    def _reference(cls, value: str) -> str:
        kind, _, name = value.partition(":")
        if kind == "env" and re.fullmatch(ENV_PREFIX + r"[A-Z0-9_]{1,60}", name):
            return value
        if (
            kind == "file"
            and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name)
            and not name.startswith(_OUR_SECRETS)
        ):
            return value
        raise ValueError(f"a credential is a variable {ENV_PREFIX}* or the name of a file in secrets_dir")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if self.more_credentials and self.credential is None:
            raise ValueError("further credentials need a first one")
        if len(set(self.references)) != len(self.references):
            raise ValueError("a credential is named twice")
        return self

    @model_validator(mode="after")
    def _literal_address(self) -> Self:
        try:
            address = ip_address(self.host.strip("[]"))
        except ValueError:
            return self
        reason = address_refusal(address, allow_private=self.allow_private)
        if reason:
            raise ValueError(reason)
        return self

    @model_serializer(mode="wrap")
    def _without_news(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Fields that older releases do not read are written only if they are used."""
        written: dict[str, object] = handler(self)
        if not self.more_credentials:
            written.pop("more_credentials", None)
        return written

    @property
    def references(self) -> tuple[str, ...]:
        """All its credentials, as references."""
        return () if self.credential is None else (self.credential, *self.more_credentials)

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.base_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def tls(self) -> bool:
        return self.base_url.startswith("https://")

    def path(self, endpoint: str) -> str:
        """The upstream path of an endpoint `/v1/…`. A base URL may end in a version, as vendors print it and SDKs take it, or not."""
        return endpoint_path(urlsplit(self.base_url).path, endpoint)


def endpoint_path(base_path: str, endpoint: str) -> str:
    """The path of an endpoint `/v1/…` below a base URL's path, which may end in a version or not."""
    return base_path + (endpoint.removeprefix("/v1") if _VERSIONED.search(base_path) else endpoint)


# Beginnings of the names of our own files in `secrets_dir`, which are never sent to an upstream.
_OUR_SECRETS: Final = ("pepper", "person-wrap", "person-lookup", "webhook-secret")


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), by NAT64 (RFC 6052), by 6to4 (RFC 3056), or compatible."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def address_refusal(address: IPv4Address | IPv6Address, *, allow_private: bool) -> str | None:
    """Return why a deployment may not have this address; None if it may. The resolved address is checked again at connect."""
    address = _embedded(address) or address
    if any(address.version == net.version and address in net for net in _NEVER):
        return f"{address} is link-local or nobody's address: a deployment is never there"
    is_private = address.is_loopback or address.is_private or not address.is_global
    if (is_private or (address.version == 6 and address in _LOCAL_NAT64)) and not allow_private:
        return f"{address} is loopback or private: add --allow-private if the deployment is really there"
    return None


def parse_address(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text.partition("%")[0])
