"""An authenticator in software: it makes passkeys and signs with them, and does wrong what a test asks for.

Written from the standard (W3C Web Authentication Level 3, sections 6 and 7), with no code of the library that verifies it.
"""

import hashlib
import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tokenworks.kernel import uuid7

ORIGIN = "https://shop.example"
PRESENT, VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40


def text(content):
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def content(encoded):
    return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def client_data(kind, options, origin, **more):
    said = {
        "type": f"webauthn.{kind}",
        "challenge": options["challenge"],
        "origin": origin,
        "crossOrigin": False,
    }
    return json.dumps(said | more).encode()


class Authenticator:
    """One passkey. `counts`: it counts its signatures; else it says 0 always, as synced passkeys do."""

    def __init__(self, algorithm=-7, *, counts=True, synced=False, id_bytes=32):
        self.algorithm, self.counts, self.count = algorithm, counts, 0
        self.flags = PRESENT | VERIFIED | (BACKUP_ELIGIBLE | BACKED_UP if synced else 0)
        self.credential_id, self.user_handle = os.urandom(id_bytes), b""
        if algorithm in {-7, -36}:
            self.key = ec.generate_private_key(ec.SECP256R1() if algorithm == -7 else ec.SECP521R1())
            at, size = self.key.public_key().public_numbers(), 32 if algorithm == -7 else 66
            x, y = at.x.to_bytes(size, "big"), at.y.to_bytes(size, "big")
            self.cose = {1: 2, 3: algorithm, -1: 1 if algorithm == -7 else 3, -2: x, -3: y}
        elif algorithm == -8:
            self.key = ed25519.Ed25519PrivateKey.generate()
            self.cose = {1: 1, 3: -8, -1: 6, -2: self.key.public_key().public_bytes_raw()}
        else:
            self.key = rsa.generate_private_key(65537, 2048)
            n = self.key.public_key().public_numbers().n
            self.cose = {1: 3, 3: -257, -1: n.to_bytes((n.bit_length() + 7) // 8, "big"), -2: b"\x01\x00\x01"}

    def data(self, rp_id, flags, attested=b""):
        self.count += self.counts
        count = self.count if self.counts else 0
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + count.to_bytes(4, "big") + attested

    def make(
        self, options, origin=ORIGIN, *, rp_id=None, flags=0, statement=None, said=None, attestation=None
    ):
        """The answer to `navigator.credentials.create`. `flags`: bits that are turned over; `statement`: (format, statement)."""
        self.user_handle = content(options["user"]["id"])
        length = len(self.credential_id).to_bytes(2, "big")
        attested = bytes(16) + length + self.credential_id + cbor2.dumps(self.cose)
        data = self.data(rp_id or options["rp"]["id"], (self.flags | ATTESTED) ^ flags, attested)
        kind, stated = statement or ("none", {})
        whole = attestation or cbor2.dumps({"fmt": kind, "attStmt": stated, "authData": data})
        response = {
            "clientDataJSON": text(client_data("create", options, origin, **(said or {}))),
            "attestationObject": text(whole), "transports": ["internal", "a-new-one"],
        }  # fmt: skip
        return {"id": text(self.credential_id), "type": "public-key", "response": response}

    def planted(self, services, subscriber):
        """Put the passkey into the database, as one of the owner that was made on http://localhost:8000. Returns its id."""
        passkey_id, owner = uuid7(), services.subscriptions.owner_of(subscriber)
        self.user_handle = owner.bytes
        services.connection.execute(
            """INSERT INTO passkey (passkey_id, subscriber_id, member_id, credential_id, public_key, rp_id, sign_count, transports,
                                    is_synced, created_at)
               VALUES (%s, %s, %s, %s, %s, 'localhost', 0, '{}', false, %s)""",
            (passkey_id, subscriber.subscriber_id, owner, self.credential_id, cbor2.dumps(self.cose), services.clock.now()),
        )  # fmt: skip
        return passkey_id

    def sign(self, signed):
        if self.algorithm == -8:
            return self.key.sign(signed)
        if self.algorithm == -257:
            return self.key.sign(signed, padding.PKCS1v15(), SHA256())
        return self.key.sign(signed, ec.ECDSA(SHA256()))

    def answer(self, options, origin=ORIGIN, *, rp_id=None, flags=0, said=None, user_handle=None):
        """The answer to `navigator.credentials.get`."""
        data = self.data(rp_id or options["rpId"], self.flags ^ flags)
        told = client_data("get", options, origin, **(said or {}))
        response = {
            "clientDataJSON": text(told), "authenticatorData": text(data),
            "signature": text(self.sign(data + hashlib.sha256(told).digest())),
            "userHandle": text(self.user_handle if user_handle is None else user_handle),
        }  # fmt: skip
        return {"id": text(self.credential_id), "type": "public-key", "authenticatorAttachment": "platform", "response": response}  # fmt: skip
