"""Which headers pass: allow-lists from the client to an upstream and from an upstream to the client, each with what a
vendor's profile adds. The control plane, which is ours, gets all but what is hop by hop or written here.
"""

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.names import PASSING, Names, names_of


class HeaderRules(Protocol):
    """What a vendor's profile says of headers; names in small letters."""

    @property
    def request_headers(self) -> Collection[str]: ...
    @property
    def response_headers(self) -> Collection[str]: ...
    @property
    def betas(self) -> Collection[str]: ...


# A client's own headers that say nothing of who it is: what it takes, which version it speaks, and its trace.
_REQUEST: Final = frozenset({b"accept", b"anthropic-version", b"traceparent", b"tracestate"})
_CONTENT_TYPE: Final = b"content-type: application/json\r\n"
# To the control plane: never what is hop by hop, a credential of the data plane, or what is written here.
_DROPPED: Final = frozenset(
    b"""host connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding
    upgrade content-length content-encoding expect accept-encoding authorization x-api-key api-key x-goog-api-key cookie set-cookie
    forwarded x-real-ip x-request-id request-id http2-settings x-auth-token x-access-token""".split()
)
_DROPPED_PREFIXES: Final = (b"x-forwarded-", b"x-tokenworks-", b"proxy-", b"cf-", b"x-amz-")


def forwarded(head: Head, profile: HeaderRules | None = None) -> bytes:
    """The lines of a client's headers that pass to a deployment, and the content type of what is sent."""
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


def _betas(value: bytes, allowed: Collection[str]) -> bytes:
    named = [part.strip() for part in value.split(b",")]
    return b", ".join(part for part in named if part.decode("latin-1") in allowed)


def response_lines(
    headers: Mapping[bytes, bytes], profile: HeaderRules | None = None, names: Names | None = None
) -> list[bytes]:
    """The pieces of an upstream's header lines that pass to the client; the content type is not among them. `names`: what
    `names_of` found of them, where that is known.
    """
    pieces: list[bytes] = []
    for name, line in (names or names_of(headers)).passing:
        pieces += (line, headers[name], b"\r\n")
    if profile is not None and profile.response_headers:
        for name, value in headers.items():
            lower = name.lower()
            if lower not in PASSING and lower.decode("latin-1") in profile.response_headers:
                pieces += (lower, b": ", value, b"\r\n")
    return pieces


def relayed(head: Head) -> bytes:
    """The lines of a client's headers that pass to the control plane, credentials and cookies apart."""
    lines = []
    for name, value in head.headers.items():
        if name in _DROPPED or name.startswith(_DROPPED_PREFIXES):
            continue
        lines.append(name + b": " + value + b"\r\n")
    return b"".join(lines)
