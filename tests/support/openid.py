"""An OpenID provider of our own that can be told to lie, and staff that signs in there."""

import base64
import hashlib
import hmac
import json
import time
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from tokenworks.kernel import Unavailable
from tokenworks.trust import OidcClient, OidcClientConfig

ISSUER = "https://id.carrier.example"
CLIENT_ID = "tokenworks"
BACK = "https://ops.carrier.example/ops/sign-in/oidc/back"
_RSA = RSAKey.generate_key(2048, {"kid": "one"})
_OTHER = RSAKey.generate_key(2048, {"kid": "two"})


def encoded(value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Provider:
    """Answers as `Fetch`, without sockets. What it says can be changed: `said` (discovery), `claims`, `header`, `keys`."""

    def __init__(self, issuer=ISSUER, now_s=time.time):
        self.issuer, self.now_s = issuer, now_s
        self.said = {
            "issuer": issuer, "authorization_endpoint": f"{issuer}/authorize", "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/keys", "userinfo_endpoint": f"{issuer}/me", "end_session_endpoint": f"{issuer}/end",
            "code_challenge_methods_supported": ["S256"],
        }  # fmt: skip
        self.claims, self.userinfo, self.fetched, self.away = {}, None, [], False
        self.signing, self.keys = _RSA, [_RSA]
        self.issued = {}
        self.token = None

    def client(self, monotonic=time.monotonic, secret="s3cret/+"):
        config = OidcClientConfig(self.issuer, CLIENT_ID, "groups", BACK, lambda: secret)
        return OidcClient(config, self, monotonic)

    def rotate(self):
        self.signing = _OTHER
        self.keys = [_OTHER]

    def authorize(self, url, **claims):
        """What the provider's page does once a person has signed in there: the query with which the browser comes back."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert (query["client_id"], query["redirect_uri"], query["response_type"]) == (
            CLIENT_ID,
            BACK,
            "code",
        )
        assert query["code_challenge_method"] == "S256" and "openid" in query["scope"].split()
        code = f"code-{len(self.issued)}"
        self.issued[code] = (query, claims)
        return {"code": code, "state": query["state"]}

    def __call__(self, method, url, body, headers):
        self.fetched.append(url)
        if self.away:
            raise Unavailable("the identity provider can't be used: it took too long")
        path = url.removeprefix(self.issuer)
        if path == "/.well-known/openid-configuration":
            return json.dumps(self.said).encode()
        if path == "/keys":
            keys = [key if isinstance(key, dict | int) else key.as_dict(private=False) for key in self.keys]
            return json.dumps({"keys": keys}).encode()
        if path == "/me":
            assert headers["Authorization"] == "Bearer access"
            return json.dumps(self.userinfo).encode()
        assert (method, path) == ("POST", "/token")
        return self._tokens(body, headers)

    def _tokens(self, body, headers):
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        query, claims = self.issued.pop(form["code"])  # a code is used once
        user, _, secret = base64.b64decode(headers["Authorization"].split()[1]).decode().partition(":")
        assert (user, secret) == (CLIENT_ID, "s3cret%2F%2B")
        challenge = encoded(hashlib.sha256(form["code_verifier"].encode()).digest())
        assert challenge == query["code_challenge"] and form["redirect_uri"] == BACK
        now_s = int(self.now_s())
        said = {
            "iss": self.issuer, "aud": CLIENT_ID, "sub": "person-1", "exp": now_s + 300, "iat": now_s, "nonce": query["nonce"],
            "email": "ann@carrier.example", "email_verified": True, "groups": ["tw-finance"], **self.claims, **claims,
        }  # fmt: skip
        said = {name: value for name, value in said.items() if value is not None}
        token = self.token(said) if self.token else signed(self.signing, said)
        return json.dumps({"id_token": token, "access_token": "access", "token_type": "Bearer"}).encode()


def signed(key, claims, header=None):
    algorithm = "ES256" if isinstance(key, ECKey) else "RS256"
    return jwt.encode(
        {"alg": algorithm, "kid": key.kid, **(header or {})}, claims, key, algorithms=[algorithm]
    )


def unsigned(claims, algorithm="none"):
    return f"{encoded({'alg': algorithm, 'kid': 'one'})}.{encoded(claims)}."


def with_public_key_as_secret(claims):
    """HS256 with the provider's public key, which everyone knows, as the secret."""
    text = f"{encoded({'alg': 'HS256', 'kid': 'one'})}.{encoded(claims)}"
    signature = hmac.new(_RSA.as_pem(private=False), text.encode(), hashlib.sha256).digest()
    return f"{text}.{encoded(signature)}"


__all__ = [
    "BACK",
    "CLIENT_ID",
    "ISSUER",
    "OctKey",
    "Provider",
    "signed",
    "unsigned",
    "with_public_key_as_secret",
]
