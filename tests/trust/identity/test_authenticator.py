"""New passkeys and answers of them, verified without a database: kinds of keys, and what is no answer at all."""

import pytest

from tests.support.authenticator import ORIGIN, Authenticator, content, text
from tokenworks.trust import PasskeyWrong
from tokenworks.trust.identity.authenticator import read_client_data, verify_new, verify_use

CHALLENGE = b"c" * 56
NEW = {"rp": {"id": "shop.example"}, "user": {"id": text(b"u" * 16)}, "challenge": text(CHALLENGE)}
USE = {"rpId": "shop.example", "challenge": text(CHALLENGE)}
# (algorithm, what is written over its key): another algorithm, a kind that does not fit it, a point that is not on the curve, a key that
# fills the table, an RSA key that is small, huge, or has an unusual exponent, another curve.
WRONG_KEYS = [
    *((-7, change) for change in (
        {3: -36}, {3: -37}, {3: -65535}, {3: -8}, {1: 1}, {-1: 3}, {-3: b"\0" * 32}, {-2: b""}, {1: 4}, {1: "2"}, {-2: b"x" * 5000},
    )),
    *((-257, change) for change in (
        {-1: b"\x01" + b"\0" * 127 + b"\x01"}, {-1: b"\xff" * 640}, {-2: b"\x03"}, {-2: b"\xff" * 32},
    )),
    (-36, {}),
]  # fmt: skip


def new(key):
    response = key.make(NEW)["response"]
    told, attestation = content(response["clientDataJSON"]), content(response["attestationObject"])
    return verify_new(told, attestation, CHALLENGE, "shop.example", [ORIGIN])


def use(key, public_key, **change):
    response = key.answer(USE)["response"]
    parts = {
        "client_data": content(response["clientDataJSON"]), "authenticator_data": content(response["authenticatorData"]),
        "signature": content(response["signature"]), "challenge": CHALLENGE, "rp_id": "shop.example", "origins": [ORIGIN],
        "public_key": public_key,
    }  # fmt: skip
    return verify_use(**parts | change)


@pytest.mark.parametrize("algorithm", [-7, -8, -257])
def test_a_key_that_was_added_verifies_what_it_signs_and_nothing_else(algorithm):
    key = Authenticator(algorithm)
    made = new(key)
    assert (made.credential_id, made.sign_count, made.is_synced) == (key.credential_id, 1, False)
    assert use(key, made.public_key).sign_count == 2
    for change in (
        {"signature": b""}, {"signature": b"x" * 64}, {"authenticator_data": b""}, {"challenge": b"other"}, {"client_data": b"{}"},
        {"origins": []}, {"rp_id": "other.example"}, {"public_key": new(Authenticator(-7)).public_key}, {"public_key": b"\x04"},
    ):  # fmt: skip
        with pytest.raises(PasskeyWrong):
            use(key, **{"public_key": made.public_key} | change)


def test_a_key_of_a_kind_that_was_not_asked_for_is_refused():
    keys = {algorithm: Authenticator(algorithm) for algorithm in (-7, -257, -36)}
    for algorithm, change in WRONG_KEYS:
        key, cose = keys[algorithm], keys[algorithm].cose
        key.cose = cose | change
        with pytest.raises(PasskeyWrong):
            new(key)
        key.cose = cose


@pytest.mark.parametrize(
    "told", [b"", b"[]", b"{}", b"\xff", b'{"challenge": 1}', b'{"challenge": "x", "crossOrigin": true}', b"[" * 4000]
)  # fmt: skip
def test_client_data_that_no_browser_sends_are_refused(told):
    with pytest.raises(PasskeyWrong):
        read_client_data(told)


def test_what_a_newer_browser_adds_is_ignored():
    assert read_client_data(b'{"challenge": "x", "topOrigin": 1, "new": {}}').challenge == "x"
