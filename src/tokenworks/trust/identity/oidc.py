"""Sign-in by an OpenID provider: discovery, the authorization code with PKCE, and the checks of an ID token.

OpenID Connect Core 1.0 (section 3.1), OpenID Connect Discovery 1.0, RFC 7636 (PKCE), RFC 9207 (the issuer in the answer). JOSE and the
claims are Authlib's; what is fetched is bounded by `fetch`. The provider is configured and still not trusted: each document is bounded,
each field is checked, and no text of the provider reaches a page or a log. Codes and tokens are neither logged nor stored.
"""

import json
import re
import threading
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast
from urllib.parse import quote, urlencode, urlsplit

from tokenworks.kernel import Unavailable, flaw
from tokenworks.trust.errors import OidcRefused

if TYPE_CHECKING:
    from joserfc.jwk import Key

# Signatures with a public key alone: with `none` there is none, and the secret of HS256 would be the provider's public key.
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}
)
KEY_TYPES: Final = frozenset({"RSA", "EC"})
RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 8192
KEYS_MAX: Final = 50
ID_TOKEN_CHARS_MAX: Final = 16_384
CODE_CHARS_MAX: Final = 2048
TEXT_CHARS_MAX: Final = 255
GROUPS_MAX: Final = 1000
URL_CHARS_MAX: Final = 2000
# How far the provider's clock may be off.
SKEW_S: Final = 60
# How long a provider's documents are used. Keys are fetched again before that if a token names an unknown one, at most this often.
DOCUMENTS_S: Final = 3600.0
REFETCH_S: Final = 30.0
# After a failure, the provider is left alone for so long.
PAUSE_S: Final = 2.0
# Exchanges with the provider that run at once; each holds a thread of the console.
EXCHANGES_MAX: Final = 8
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,40}")
SCOPE: Final = "openid email profile"


class Fetch(Protocol):
    """Gets a document: bounded in size and time, by https, without redirects. Raises `Unavailable`, and `OidcRefused` where the provider
    refuses what a form has (400; RFC 6749, section 5.2).
    """

    def __call__(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class OidcFlow:
    """A sign-in that is under way. `cookie`: what the browser keeps; the others are derived from it under a pepper."""

    cookie: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class OidcPerson:
    """Whom the provider has authenticated. `subject`: its id there, which never changes."""

    issuer: str
    subject: str
    email: str | None
    email_verified: bool
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class OidcClientConfig:
    """`roles_claim`: the claim with a person's groups. `secret`: reads the client's secret; None for a public client. `redirect_url`: where
    the provider sends a browser back.
    """

    issuer: str
    client_id: str
    roles_claim: str
    redirect_url: str
    secret: Callable[[], str | None]


class _Provider(NamedTuple):
    """What the discovery document says, as far as it is used."""

    authorization_url: str
    token_url: str
    keys_url: str
    userinfo_url: str | None
    end_session_url: str | None
    takes_basic: bool
    names_itself: bool


class OidcClient:
    """The client of one provider, shared by all requests of a process. Methods may be called by several threads at once."""

    def __init__(
        self, config: OidcClientConfig, fetch: Fetch, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._exchanges = threading.BoundedSemaphore(EXCHANGES_MAX)
        self._provider: _Provider | None = None
        self._provider_s = 0.0
        self._keys: dict[str | None, dict[str, object]] = {}
        self._keys_s = float("-inf")
        self._failed_s = float("-inf")

    def authorization_url(self, flow: OidcFlow) -> str:
        """Where the browser signs in. Raises `Unavailable`."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415 - few processes need it

        with self._exchange():
            provider = self._discovered()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.config.client_id,
                "redirect_uri": self.config.redirect_url,
                "scope": SCOPE,
                "state": flow.state,
                "nonce": flow.nonce,
                "code_challenge": create_s256_code_challenge(flow.verifier),
                "code_challenge_method": "S256",
            }
        )
        mark = "&" if "?" in provider.authorization_url else "?"
        return f"{provider.authorization_url}{mark}{query}"

    def end_session_url(self, back: str) -> str | None:
        """Where a browser ends its session at the provider (OpenID Connect RP-Initiated Logout 1.0); None if the provider has no such
        page, or was not asked yet.
        """
        provider = self._provider
        if provider is None or provider.end_session_url is None:
            return None
        mark = "&" if "?" in provider.end_session_url else "?"
        query = urlencode({"client_id": self.config.client_id, "post_logout_redirect_uri": back})
        return f"{provider.end_session_url}{mark}{query}"

    def person(self, flow: OidcFlow, answer: Mapping[str, str], now_s: float) -> OidcPerson:
        """The person whom the provider's answer (the query with which the browser came back) names. `now_s`: civil time.

        Raises `OidcRefused`, `Unavailable`.
        """
        with self._exchange():
            provider = self._discovered()
            code = self._code(provider, answer)
            tokens = self._tokens(provider, flow, code)
            id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
            if not isinstance(id_token, str) or len(id_token) > ID_TOKEN_CHARS_MAX:
                raise _refused("it has no ID token, or one that is too long")
            access = (
                access_token
                if isinstance(access_token, str) and len(access_token) <= ID_TOKEN_CHARS_MAX
                else None
            )
            claims = self._claims(provider, id_token, flow.nonce, access, now_s)
            return self._person(provider, claims, access)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        if not self._exchanges.acquire(blocking=False):
            raise Unavailable("the sign-in is busy: try again in a moment")
        try:
            yield
        finally:
            self._exchanges.release()

    # Documents.

    def _document(
        self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> dict[str, object]:
        content = self._fetch(method, url, body, {"Accept": "application/json", **headers})
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            raise Unavailable("the identity provider's answer is no JSON") from None
        if not isinstance(found, dict):
            raise Unavailable("the identity provider's answer is no JSON object")
        return cast("dict[str, object]", found)

    def _known(self, url: str) -> dict[str, object]:
        """A document that all sign-ins need: after a failure the provider is left alone for a while."""
        if self._monotonic() - self._failed_s < PAUSE_S:
            raise Unavailable("the identity provider does not answer: try again in a moment")
        try:
            return self._document("GET", url)
        except Unavailable:
            self._failed_s = self._monotonic()
            raise

    def _discovered(self) -> _Provider:
        with self._lock:
            if self._provider is None or self._monotonic() - self._provider_s >= DOCUMENTS_S:
                self._provider = self._read_provider()
                self._provider_s = self._monotonic()
            return self._provider

    def _read_provider(self) -> _Provider:
        issuer = self.config.issuer
        said = self._known(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != issuer:
            raise Unavailable(
                "the identity provider names another issuer than staff_oidc_issuer: they must be equal"
            )
        methods = said.get("code_challenge_methods_supported")
        if isinstance(methods, list) and "S256" not in methods:
            raise Unavailable("the identity provider does not support PKCE with S256")
        ways = said.get("token_endpoint_auth_methods_supported")
        return _Provider(
            self._url(said, "authorization_endpoint"),
            self._url(said, "token_endpoint"),
            self._url(said, "jwks_uri"),
            self._url(said, "userinfo_endpoint") if "userinfo_endpoint" in said else None,
            self._url(said, "end_session_endpoint") if "end_session_endpoint" in said else None,
            not isinstance(ways, list) or "client_secret_basic" in ways,
            said.get("authorization_response_iss_parameter_supported") is True,
        )

    def _url(self, said: Mapping[str, object], name: str) -> str:
        """An endpoint: by https, or by http where the issuer itself is configured so (for tests)."""
        url = said.get(name)
        if (
            isinstance(url, str)
            and len(url) <= URL_CHARS_MAX
            and url.isascii()
            and url.isprintable()
            and " " not in url
        ):
            parts = urlsplit(url)
            plain = parts.scheme == "http" and self.config.issuer.startswith("http://")
            if (
                (parts.scheme == "https" or plain)
                and parts.hostname
                and parts.username is None
                and not parts.fragment
            ):
                return url
        raise Unavailable(f"the identity provider's {name} is no https URL")

    def _key(self, provider: _Provider, kid: str | None) -> dict[str, object]:
        """The key of a token. An unknown one is looked for in the provider's current keys, at most every `REFETCH_S`."""
        with self._lock:
            age_s = self._monotonic() - self._keys_s
            if age_s >= DOCUMENTS_S or (self._chosen(kid) is None and age_s >= REFETCH_S):
                self._keys = _keys_of(self._known(provider.keys_url))
                self._keys_s = self._monotonic()
            found = self._chosen(kid)
        if found is None:
            raise _refused("its ID token names an unknown key")
        return found

    def _chosen(self, kid: str | None) -> dict[str, object] | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    # A sign-in.

    def _code(self, provider: _Provider, answer: Mapping[str, str]) -> str:
        issuer = answer.get("iss")
        if issuer != self.config.issuer and (issuer is not None or provider.names_itself):
            raise _refused("another provider sent it")
        error = answer.get("error")
        if error is not None:
            shown = error if _ERROR_CODE.fullmatch(error) else "an error"
            raise OidcRefused(f"the identity provider did not sign you in ({shown})")
        code = answer.get("code", "")
        if not 0 < len(code) <= CODE_CHARS_MAX or not code.isascii() or not code.isprintable():
            raise _refused("it has no code")
        return code

    def _tokens(self, provider: _Provider, flow: OidcFlow, code: str) -> dict[str, object]:
        client_id, secret = self.config.client_id, self.config.secret()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.config.redirect_url,
            "code_verifier": flow.verifier,
            "client_id": client_id,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if secret is not None and provider.takes_basic:
            # RFC 6749, section 2.3.1: both are form-encoded before they are joined.
            pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        elif secret is not None:
            form["client_secret"] = secret
        return self._document("POST", provider.token_url, urlencode(form).encode(), headers)

    def _claims(
        self, provider: _Provider, id_token: str, nonce: str, access_token: str | None, now_s: float
    ) -> dict[str, object]:
        """The claims of an ID token whose signature and claims are right (OpenID Connect Core 1.0, section 3.1.3.7)."""
        from authlib.oidc.core import CodeIDToken  # noqa: PLC0415 - few processes need it
        from joserfc import jwt  # noqa: PLC0415
        from joserfc.errors import JoseError  # noqa: PLC0415

        header = _header(id_token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _refused("its ID token is not signed by an accepted algorithm")
        if not isinstance(kid, str | None) or "crit" in header or "b64" in header:
            raise _refused("the header of its ID token is not accepted")
        key = _imported(self._key(provider, kid))
        try:
            token = jwt.decode(id_token, key, algorithms=[algorithm])
        except (JoseError, ValueError, TypeError):
            raise _refused("the signature of its ID token is wrong") from None
        claims = cast("dict[str, object]", dict(token.claims))
        if not all(_is_instant(claims.get(name)) for name in ("exp", "iat")) or claims.get("nonce") is None:
            raise _refused("its ID token lacks exp, iat or nonce")
        rules = {
            "iss": {"essential": True, "value": self.config.issuer},
            "aud": {"essential": True, "value": self.config.client_id},
            "sub": {"essential": True},
        }
        parameters = {"client_id": self.config.client_id, "nonce": nonce, "access_token": access_token}
        try:
            CodeIDToken(claims, header, rules, parameters).validate(int(now_s), SKEW_S)
        except (JoseError, ValueError, TypeError, KeyError):
            raise _refused("a claim of its ID token is wrong") from None
        return claims

    def _person(self, provider: _Provider, claims: dict[str, object], access_token: str | None) -> OidcPerson:
        wanted = ("email", "email_verified", self.config.roles_claim)
        said: dict[str, object] = {}
        if provider.userinfo_url and access_token and any(name not in claims for name in wanted):
            said = self._document(
                "GET", provider.userinfo_url, None, {"Authorization": f"Bearer {access_token}"}
            )
            # Section 5.3.2: claims of another subject are not used.
            if said.get("sub") != claims.get("sub"):
                raise _refused("its user info is of another person")
        subject = _text(claims.get("sub"))
        if subject is None:
            raise _refused("it names no subject")
        # What a document says of an email is said of that document's email alone.
        same = "email_verified" not in claims and claims.get("email") == said.get("email")
        by_email = said if "email" not in claims or same else claims
        email = _text(by_email.get("email"))
        groups = {**said, **claims}.get(self.config.roles_claim)
        named = groups if isinstance(groups, list) else groups.split() if isinstance(groups, str) else []
        return OidcPerson(
            self.config.issuer,
            subject,
            email,
            # Some providers write booleans of this claim as texts.
            email is not None and by_email.get("email_verified") in (True, "true"),
            frozenset(text for text in map(_text, named[:GROUPS_MAX]) if text is not None),
        )


def _refused(why: str) -> OidcRefused:
    return OidcRefused(f"the identity provider's answer is not accepted: {why}")


def _text(value: object) -> str | None:
    """A text of the provider that may be stored; None for anything else."""
    good = isinstance(value, str) and 0 < len(value) <= TEXT_CHARS_MAX and flaw(value) is None
    return value if good and isinstance(value, str) else None


def _is_instant(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**53


def _header(id_token: str) -> dict[str, object]:
    """The header of a token, before its signature is checked."""
    part = id_token.partition(".")[0]
    try:
        found = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _refused("its ID token cannot be read")
    return cast("dict[str, object]", found)


def _keys_of(said: Mapping[str, object]) -> dict[str | None, dict[str, object]]:
    """The public signing keys of a key set, by id. A key that is not understood is left out (RFC 7517, section 5)."""
    listed = said.get("keys")
    if not isinstance(listed, list):
        raise Unavailable("the identity provider's keys cannot be read")
    found: dict[str | None, dict[str, object]] = {}
    for key in listed[:KEYS_MAX]:
        if not isinstance(key, dict) or key.get("kty") not in KEY_TYPES or key.get("use", "sig") != "sig":
            continue
        kid = key.get("kid")
        if isinstance(kid, str | None):
            found[kid] = {
                name: value
                for name, value in key.items()
                if name not in {"d", "p", "q", "dp", "dq", "qi", "oth"}
            }
    return found


def _imported(key: dict[str, object]) -> "Key":
    from joserfc.errors import JoseError  # noqa: PLC0415 - few processes need it
    from joserfc.jwk import import_key  # noqa: PLC0415

    modulus = key.get("n")
    if key.get("kty") == "RSA" and isinstance(modulus, str):
        bits = len(modulus) * 6
        if not RSA_BITS_MIN - 8 <= bits <= RSA_BITS_MAX + 8:
            raise _refused("its key is too short or too long")
    try:
        return import_key(cast("dict[str, str | list[str]]", key))
    except (JoseError, ValueError, TypeError, KeyError):
        raise _refused("its key cannot be read") from None
