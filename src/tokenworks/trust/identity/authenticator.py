"""Answers of authenticators, read and verified with the library `webauthn` (W3C Web Authentication Level 3, sections 7.1 and 7.2).

The library takes most of a second to import, so this module is imported with the first answer.
"""

from typing import Final, NamedTuple

import msgspec
import webauthn
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from webauthn.helpers import (
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    encode_cbor,
    parse_cbor,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.structs import (
    AuthenticationCredential,
    AuthenticatorAssertionResponse,
    AuthenticatorAttestationResponse,
    CredentialDeviceType,
    RegistrationCredential,
)

from tokenworks.trust.errors import PasskeyWrong
from tokenworks.trust.model import CREDENTIAL_ID_BYTES_MAX

# Named in the options in this order: ES256 is what every platform makes, RS256 what Windows Hello makes with an old TPM.
ALGORITHMS: Final = (
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
)
PUBLIC_KEY_BYTES_MAX: Final = 1024
_RSA_BITS: Final = (2048, 4096)
_RSA_EXPONENT: Final = 65_537


class Made(NamedTuple):
    """A verified new credential. `is_synced`: a copy of it may be on other devices of the person."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    is_synced: bool


class Used(NamedTuple):
    """A verified answer. `sign_count`: what the authenticator counts; 0 if it counts nothing."""

    sign_count: int
    is_synced: bool


class ClientData(msgspec.Struct):
    """What a browser says of a ceremony, as far as this module reads it (section 5.8.1)."""

    challenge: str
    crossOrigin: bool = False  # noqa: N815 - a name of the standard


def read_client_data(content: bytes) -> ClientData:
    """Raises `PasskeyWrong`, also for a ceremony in another site's frame."""
    try:
        found = msgspec.json.decode(content, type=ClientData)
    except msgspec.DecodeError as error:
        raise PasskeyWrong("the client data can't be read") from error
    if found.crossOrigin:
        raise PasskeyWrong("the passkey was used in another site's frame")
    return found


def verify_new(
    client_data: bytes, attestation: bytes, challenge: bytes, rp_id: str, origins: list[str]
) -> Made:
    """Verify a new credential. The statement of an attestation is not read, since none is asked for: whatever it says, it is replaced
    by "none". Raises `PasskeyWrong`.
    """
    try:
        whole = parse_cbor(attestation)
        bare = encode_cbor({"fmt": "none", "attStmt": {}, "authData": whole["authData"]})
        found = webauthn.verify_registration_response(
            credential=_new_credential(client_data, bare),
            expected_challenge=challenge,
            expected_rp_id=rp_id,
            expected_origin=origins,
            require_user_verification=True,
            supported_pub_key_algs=list(ALGORITHMS),
        )
        _check_public_key(found.credential_public_key)
    except PasskeyWrong:
        raise
    except Exception as error:  # the library raises errors of many kinds for what a client sends
        raise PasskeyWrong("the new passkey can't be verified") from error
    if len(found.credential_id) > CREDENTIAL_ID_BYTES_MAX:
        raise PasskeyWrong("the id of the new passkey is too long")
    is_synced = found.credential_device_type == CredentialDeviceType.MULTI_DEVICE
    return Made(found.credential_id, found.credential_public_key, found.sign_count, is_synced)


def _new_credential(client_data: bytes, attestation: bytes) -> RegistrationCredential:
    """The library compares two spellings of an id that it does not use: the credential's id is inside of the attestation."""
    response = AuthenticatorAttestationResponse(client_data_json=client_data, attestation_object=attestation)
    return RegistrationCredential(id="", raw_id=b"", response=response)


def _check_public_key(content: bytes) -> None:
    """A key that can be verified with later: its kind is that of its algorithm, and its size is bounded. Raises `PasskeyWrong`."""
    if len(content) > PUBLIC_KEY_BYTES_MAX:
        raise PasskeyWrong("the public key is too long")
    decoded = decode_credential_public_key(content)
    key, algorithm = decoded_public_key_to_cryptography(decoded), decoded.alg
    is_known = (
        (
            isinstance(key, EllipticCurvePublicKey)
            and isinstance(key.curve, SECP256R1)
            and algorithm == COSEAlgorithmIdentifier.ECDSA_SHA_256
        )
        or (isinstance(key, Ed25519PublicKey) and algorithm == COSEAlgorithmIdentifier.EDDSA)
        or (
            isinstance(key, RSAPublicKey)
            and algorithm == COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256
            and _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]
            and key.public_numbers().e == _RSA_EXPONENT
        )
    )
    if not is_known:
        raise PasskeyWrong("a key of this kind is not accepted")


def verify_use(
    client_data: bytes,
    authenticator_data: bytes,
    signature: bytes,
    challenge: bytes,
    rp_id: str,
    origins: list[str],
    public_key: bytes,
) -> Used:
    """Verify an answer to a challenge. The caller compares the counter. Raises `PasskeyWrong`."""
    response = AuthenticatorAssertionResponse(
        client_data_json=client_data, authenticator_data=authenticator_data, signature=signature
    )
    try:
        found = webauthn.verify_authentication_response(
            credential=AuthenticationCredential(id="", raw_id=b"", response=response),
            expected_challenge=challenge,
            expected_rp_id=rp_id,
            expected_origin=origins,
            credential_public_key=public_key,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except Exception as error:  # as above
        raise PasskeyWrong("the answer of the passkey can't be verified") from error
    return Used(found.new_sign_count, found.credential_device_type == CredentialDeviceType.MULTI_DEVICE)
