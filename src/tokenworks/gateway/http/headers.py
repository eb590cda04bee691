"""The headers that pass: an allow-list for requests to an upstream and one for its responses, each with the additions of the
vendor's profile. The control plane gets all headers except hop-by-hop ones and those that the gateway writes.
"""

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.names import PASSING, HeaderNames, header_names


class HeaderRules(Protocol):
    """The headers of a vendor's profile; names in small letters."""

    @property
    def request_headers(self) -> Collection[str]: ...
    @property
    def response_headers(self) -> Collection[str]: ...
    @property
    def betas(self) -> Collection[str]: ...


# Headers of a client that do not identify it: accepted types, protocol version, trace.
_REQUEST: Final = frozenset({b"accept", b"anthropic-version", b"traceparent", b"tracestate"})
# Those of them that mean the same in every protocol, and the version that Anthropic requires ("API versioning", 2026-11).
_OF_ALL_PROTOCOLS: Final = frozenset({b"accept", b"traceparent", b"tracestate"})
_ANTHROPIC_VERSION: Final = b"anthropic-version: 2023-06-01\r\n"
_CONTENT_TYPE: Final = b"content-type: application/json\r\n"
# Never relayed to the control plane: hop-by-hop headers, credentials of the data plane, headers that the gateway writes.
_DROPPED: Final = frozenset(
    b"""host connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding
    upgrade content-length content-encoding expect accept-encoding authorization x-api-key api-key x-goog-api-key cookie set-cookie
    forwarded x-real-ip x-request-id request-id http2-settings x-auth-token x-access-token""".split()
)
_DROPPED_PREFIXES: Final = (b"x-forwarded-", b"x-tokenworks-", b"proxy-", b"cf-", b"x-amz-")


def forwarded(head: Head, profile: HeaderRules | None = None) -> bytes:
    """The header lines for a deployment: the client's that pass, and the content type."""
    lines = [_CONTENT_TYPE]
    more = () if profile is None else profile.request_headers
    for name, value in head.headers.items():
        if name == b"anthropic-beta":
            value = _betas(value, () if profile is None else profile.betas)  # noqa: PLW2901
            if not value:
                continue
        elif name not in _REQUEST and (not more or name.decode("latin-1") not in more):
            continue
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def translated_lines(head: Head, protocol: str) -> bytes:
    """The header lines for a deployment that does not speak the client's protocol."""
    lines = [_CONTENT_TYPE]
    if protocol == "messages":
        lines.append(_ANTHROPIC_VERSION)
    for name, value in head.headers.items():
        if name in _OF_ALL_PROTOCOLS:
            lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def _betas(value: bytes, allowed: Collection[str]) -> bytes:
    named = [part.strip() for part in value.split(b",")]
    return b", ".join(part for part in named if part.decode("latin-1") in allowed)


def response_lines(
    headers: Mapping[bytes, bytes], profile: HeaderRules | None = None, names: HeaderNames | None = None
) -> list[bytes]:
    """Pieces of the upstream's header lines that pass to the client, without the content type. `names`: the result of `header_names`
    if it is known.
    """
    pieces: list[bytes] = []
    for name, line in (names or header_names(headers)).passing:
        pieces += (line, headers[name], b"\r\n")
    if profile is not None and profile.response_headers:
        for name, value in headers.items():
            lower = name.lower()
            if lower not in PASSING and lower.decode("latin-1") in profile.response_headers:
                pieces += (lower, b": ", value, b"\r\n")
    return pieces


def relayed(head: Head) -> bytes:
    """The client's header lines that pass to the control plane. The caller adds credentials and cookies."""
    lines = []
    for name, value in head.headers.items():
        if name in _DROPPED or name.startswith(_DROPPED_PREFIXES):
            continue
        lines.append(name + b": " + value + b"\r\n")
    return b"".join(lines)
