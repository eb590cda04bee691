"""The answers of an OpenID provider: right ones are read, and each lie is refused."""

import json
import threading

import pytest
from joserfc.jwk import ECKey, RSAKey

from tests.support.openid import ISSUER, Provider, signed, unsigned, with_public_key_as_secret
from tokenworks.kernel import Unavailable
from tokenworks.trust import OidcFlow, OidcPerson, OidcRefused
from tokenworks.trust.identity.oidc import DOCUMENTS_S, EXCHANGES_MAX, KEYS_MAX, PAUSE_S, REFETCH_S

NOW_S = 1_800_000_000
FLOW = OidcFlow("cookie", "s" * 43, "n" * 43, "v" * 43)


class Ticks:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def ticks():
    return Ticks()


@pytest.fixture
def provider():
    return Provider(now_s=lambda: NOW_S)


@pytest.fixture
def client(provider, ticks):
    return provider.client(ticks)


def come_back(provider, client, **claims):
    answer = provider.authorize(client.authorization_url(FLOW), **claims)
    return client.person(FLOW, answer, NOW_S)


def test_a_person_is_read(provider, client):
    assert come_back(provider, client) == OidcPerson(
        ISSUER, "person-1", "ann@carrier.example", True, frozenset({"tw-finance"})
    )
    assert client.end_session_url("https://ops.carrier.example/ops").startswith(
        f"{ISSUER}/end?client_id=tokenworks&post"
    )


def test_claims_that_are_not_in_the_token_are_read_from_the_user_info(provider, client):
    provider.userinfo = {
        "sub": "person-1",
        "email": "ann@carrier.example",
        "email_verified": "true",
        "groups": "a tw-finance",
    }
    missing = {"email": None, "email_verified": None, "groups": None}
    person = come_back(provider, client, **missing)
    assert person.email_verified and person.groups == {"a", "tw-finance"}
    provider.userinfo["sub"] = "person-2"
    with pytest.raises(OidcRefused, match="another person"):
        come_back(provider, client, **missing)


def test_what_is_said_of_an_email_counts_for_the_email_beside_it_alone(provider, client):
    """Else the token's email, which nobody verified, would be verified by the user info's."""
    provider.userinfo = {
        "sub": "person-1",
        "email": "eve@carrier.example",
        "email_verified": True,
        "groups": ["a"],
    }
    person = come_back(provider, client, email_verified=None, groups=None)
    assert (person.email, person.email_verified) == ("ann@carrier.example", False)
    assert person.groups == {"a"}
    provider.userinfo |= {"email": "ann@carrier.example"}
    assert come_back(provider, client, email_verified=None).email_verified
    provider.userinfo |= {"email": "eve@carrier.example", "email_verified": False}
    person = come_back(provider, client, email=None)
    assert (person.email, person.email_verified) == ("eve@carrier.example", False)


LIES = {
    "another nonce": {"nonce": "x" * 43},
    "no nonce": {"nonce": None},
    "another audience": {"aud": "another"},
    "an audience among others, without the party it was issued to": {"aud": ["tokenworks", "another"]},
    "issued to another party": {"azp": "another"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://id.carrier.example.evil.example"},
    "no issuer": {"iss": None},
    "expired": {"exp": NOW_S - 61},
    "no end": {"exp": None},
    "an end that is a text": {"exp": "never"},
    "an end that is true": {"exp": True},
    "issued in the future": {"iat": NOW_S + 3600},
    "not valid yet": {"nbf": NOW_S + 3600},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is a number": {"sub": 5},
    "a subject that acts in a terminal": {"sub": "\x1b[2J"},
    "a long subject": {"sub": "x" * 256},
    "a wrong hash of the access token": {"at_hash": "AAAA"},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_wrong_claim_is_refused(provider, client, lie):
    with pytest.raises(OidcRefused):
        come_back(provider, client, **lie)


def test_a_clock_that_is_off_by_a_little_is_no_lie(provider, client):
    assert come_back(provider, client, exp=NOW_S - 30, iat=NOW_S + 30).subject == "person-1"


FORGED = {
    "alg none": unsigned,
    "alg None": lambda claims: unsigned(claims, "None"),
    "HS256 with the public key": with_public_key_as_secret,
    "another's key under the same id": lambda claims: signed(
        RSAKey.generate_key(2048, {"kid": "one"}), claims
    ),
    "an unknown key": lambda claims: signed(RSAKey.generate_key(2048, {"kid": "three"}), claims),
    "a key of another kind under the same id": lambda claims: signed(
        ECKey.generate_key("P-256", {"kid": "one"}), claims
    ),
    "a key that the token brings": lambda claims: signed(
        (key := RSAKey.generate_key(2048, {"kid": "three"})), claims, {"jwk": key.as_dict(private=False)}
    ),
    "no token": lambda claims: "",
    "two parts": lambda claims: "e30.e30",
    "a header that is a list": lambda claims: "W10.e30.AA",
    "a long one": lambda claims: "x" * 20_000,
    "a number": lambda claims: 5,
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused(provider, client, forge):
    provider.token = forge
    with pytest.raises(OidcRefused) as refused:
        come_back(provider, client)
    assert "eyJ" not in str(refused.value)


def test_a_weak_key_is_not_used(provider, client):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = RSAKey.generate_key(1024, {"kid": "one"}, auto_kid=False)
    provider.signing, provider.keys = weak, [weak]
    with pytest.raises(OidcRefused, match="too short"):
        come_back(provider, client)


def test_keys_are_rotated_and_an_unknown_one_is_looked_for_seldom(provider, client, ticks):
    come_back(provider, client)
    provider.rotate()
    ticks.now_s += REFETCH_S
    assert come_back(provider, client).subject == "person-1"
    fetched = provider.fetched.count(f"{ISSUER}/keys")
    provider.token = FORGED["an unknown key"]
    for _ in range(5):
        with pytest.raises(OidcRefused, match="unknown key"):
            come_back(provider, client)
    assert provider.fetched.count(f"{ISSUER}/keys") == fetched, (
        "a token cannot make us ask the provider again and again"
    )
    provider.token = None
    ticks.now_s += DOCUMENTS_S
    come_back(provider, client)
    assert provider.fetched.count(f"{ISSUER}/keys") == fetched + 1


def test_many_keys_and_keys_that_are_not_understood_are_left_out(provider, client):
    junk = [
        {"kty": "oct", "kid": "one", "k": "AAAA"},
        5,
        {"kty": "RSA", "kid": [], "n": "x"},
        {"kty": "RSA", "kid": "one", "use": "enc"},
    ]
    provider.keys = [*junk, *provider.keys]
    assert come_back(provider, client).subject == "person-1"
    provider.keys = [
        {"kty": "RSA", "kid": f"{n}", "n": "AQ", "e": "AQAB"} for n in range(KEYS_MAX)
    ] + provider.keys[-1:]
    client = provider.client()
    with pytest.raises(OidcRefused, match="unknown key"):
        come_back(provider, client)


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"authorization_endpoint": "http://id.carrier.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": "https://user:pass@id.carrier.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        {"token_endpoint": "https://id.carrier.example/to ken"},
        {"code_challenge_methods_supported": ["plain"]},
    ],
)
def test_a_discovery_that_leads_elsewhere_is_not_followed(provider, client, said):
    provider.said |= said
    with pytest.raises(Unavailable):
        client.authorization_url(FLOW)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b"5", b'"x"'])
def test_a_document_that_is_no_object_is_refused(client, content):
    client._fetch = lambda *_: content
    with pytest.raises(Unavailable):
        client.authorization_url(FLOW)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"error": "access_denied"}, "access_denied"),
        ({"error": "<script>alert(1)</script>"}, "an error"),
        ({}, "no code"),
        ({"code": "x" * 3000}, "no code"),
        ({"code": "a\r\nb"}, "no code"),
        ({"code": "x", "iss": "https://evil.example"}, "another provider"),
    ],
)
def test_an_answer_without_a_code_is_refused(client, answer, why):
    with pytest.raises(OidcRefused, match=why) as refused:
        client.person(FLOW, answer, NOW_S)
    assert "<" not in str(refused.value)


def test_a_provider_that_names_itself_has_to(provider, client):
    """RFC 9207: a mix-up of two providers is seen."""
    provider.said["authorization_response_iss_parameter_supported"] = True
    answer = provider.authorize(client.authorization_url(FLOW))
    with pytest.raises(OidcRefused, match="another provider"):
        client.person(FLOW, answer, NOW_S)
    assert client.person(FLOW, answer | {"iss": ISSUER}, NOW_S).subject == "person-1"


def test_a_provider_that_is_away_is_left_alone_for_a_moment(provider, client, ticks):
    provider.away = True
    for _ in range(5):
        with pytest.raises(Unavailable):
            client.authorization_url(FLOW)
    assert len(provider.fetched) == 1
    provider.away = False
    ticks.now_s += PAUSE_S
    assert client.authorization_url(FLOW).startswith(f"{ISSUER}/authorize?")


def test_a_slow_provider_holds_few_threads(client):
    inside, go_on = threading.Barrier(2, timeout=10), threading.Event()

    def slow(*_):
        inside.wait()
        go_on.wait(10)
        raise Unavailable("late")

    client._fetch = slow

    def ask():
        with pytest.raises(Unavailable):
            client.authorization_url(FLOW)

    first = threading.Thread(target=ask)
    first.start()
    inside.wait()
    for _ in range(EXCHANGES_MAX - 1):
        assert client._exchanges.acquire(blocking=False)
    with pytest.raises(Unavailable, match="busy"):
        client.authorization_url(FLOW)
    go_on.set()
    first.join(10)


def test_groups_of_any_form_are_bounded(provider, client):
    assert come_back(provider, client, groups={"a": 1}).groups == frozenset()
    assert come_back(provider, client, groups=[5, None, "x" * 300, "ok", "\x00"]).groups == {"ok"}
    assert len(come_back(provider, client, groups=[f"g{n}" for n in range(1200)]).groups) <= 1000
    assert not come_back(provider, client, email_verified="yes").email_verified
    assert not come_back(provider, client, email=["a@b.c"], email_verified=True).email_verified


def test_no_token_is_in_a_representation(provider, client):
    person = come_back(provider, client)
    assert "eyJ" not in json.dumps([repr(person), repr(client), repr(vars(client))], default=repr)
