"""The path of each endpoint at a deployment, and the headers that carry its credential: by the base URLs of the deployment's profile.

A base URL that the profile does not have is taken as it is: its paths are those of `Deployment.path`.
"""

import re
from collections.abc import Mapping
from typing import Final, get_args
from urllib.parse import urlsplit

from tokenworks.factory.facts.profiles import BaseUrl, Endpoint, Profile
from tokenworks.factory.model import COUNT_PATHS, PROTOCOL_PATHS, Deployment, endpoint_path

ENDPOINTS: Final[tuple[Endpoint, ...]] = get_args(Endpoint)
# The protocols' paths, and those of the endpoints beside them.
_BESIDE: Final[dict[str, str]] = {
    "count_tokens": COUNT_PATHS["messages"],
    "input_tokens": COUNT_PATHS["responses"],
    "models": "/v1/models",
}
# An endpoint that only those base URLs have that name its path.
COMPACT: Final[Endpoint] = "compact"
_PROTOCOL_OF: Final[dict[str, str]] = {
    "count_tokens": "messages",
    "input_tokens": "responses",
    COMPACT: "responses",
}
_PATHS: Final[dict[str, str]] = {str(name): path for name, path in PROTOCOL_PATHS.items()} | _BESIDE
# How a credential is sent if the profile does not say it. For messages, vendors read one or the other.
_BEARER: Final[dict[str, str]] = {"authorization": "Bearer {key}"}
_BOTH: Final[dict[str, str]] = {"x-api-key": "{key}", **_BEARER}
_PLACE: Final = re.compile(r"\{[a-z]+\}")
_PART: Final = re.compile(r"\{(key|[1-9])\}")


def base_url_of(deployment: Deployment, profile: Profile) -> BaseUrl | None:
    """The base URL of the profile that the deployment has; None if the profile does not have it."""
    return _base(profile, deployment.base_url)


def is_address_of(profile: Profile, base_url: str) -> bool:
    """True if a base URL is one of the profile's."""
    return _base(profile, base_url.rstrip("/")) is not None


def _base(profile: Profile, base_url: str) -> BaseUrl | None:
    for base in profile.base_urls:
        if base.url.rstrip("/") == base_url or (base.is_template and _pattern(base.url).fullmatch(base_url)):
            return base
    return None


def _pattern(url: str) -> re.Pattern[str]:
    """Matches the URLs that a template stands for."""
    return re.compile("[^/]+".join(re.escape(part) for part in _PLACE.split(url.rstrip("/"))))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def serving_base(deployment: Deployment, profile: Profile, endpoint: Endpoint) -> BaseUrl | None:
    """The base URL of the profile at which the deployment serves an endpoint: its own or, if its own does not speak the protocol,
    another one of the same host, region and plan. None: the deployment's base URL is taken as it is.
    """
    own = base_url_of(deployment, profile)
    if own is None or endpoint == "models":
        return own
    protocol = _PROTOCOL_OF.get(endpoint, endpoint)
    if protocol in own.protocols:
        return own
    for base in profile.base_urls:
        if (
            protocol in base.protocols
            and _origin(base.url) == _origin(deployment.base_url)
            and (base.region, base.plan) == (own.region, own.plan)
        ):
            return base
    return own


def paths_of(deployment: Deployment, profile: Profile) -> dict[str, str]:
    """The upstream path of each endpoint: a protocol, `count_tokens`, `input_tokens`, `models`, and `compact` where the profile has it."""
    paths: dict[str, str] = {}
    own_path = urlsplit(deployment.base_url).path
    own = base_url_of(deployment, profile)
    for endpoint in ENDPOINTS:
        base = serving_base(deployment, profile, endpoint)
        # The path of a template is the deployment's own.
        base_path = own_path if base is None or base is own else urlsplit(base.url).path.rstrip("/")
        named = None if base is None else base.paths.get(endpoint)
        if named is not None:
            paths[endpoint] = base_path + named
        elif endpoint != COMPACT:
            paths[endpoint] = endpoint_path(base_path, _PATHS[endpoint])
    return paths


def auth_of(deployment: Deployment, profile: Profile, endpoint: Endpoint) -> Mapping[str, str]:
    """The headers that carry the credential for an endpoint: names in small letters, and templates (see `Profile.auth`)."""
    base = serving_base(deployment, profile, endpoint)
    if base is not None and base.auth is not None:
        return base.auth
    if profile.auth is not None:
        return profile.auth
    return _BOTH if endpoint in {"messages", "count_tokens"} else _BEARER


def auth_headers(auth: Mapping[str, str], secret: str) -> dict[str, str]:
    """The headers with the credential in them. A part that the credential does not have is empty."""
    parts = secret.split()
    filled = {}
    for name, template in auth.items():
        filled[name] = _PART.sub(lambda found: _part(found[1], secret, parts), template)
    return filled


def _part(name: str, secret: str, parts: list[str]) -> str:
    if name == "key":
        return secret
    number = int(name)
    return parts[number - 1] if number <= len(parts) else ""
