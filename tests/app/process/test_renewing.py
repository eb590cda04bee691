"""Certificates and credentials that are renewed beside a server: what is half there is not used, what is whole is used at once."""

import contextlib
import http.client
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.server import Server, StubUpstream, until
from tokenworks.app.process.renewing import GRACE_S, Certificates, Credentials, WatchedFiles
from tokenworks.factory import Deployment
from tokenworks.gateway import Snapshot
from tokenworks.kernel import Invalid

NOW = datetime.now(UTC).replace(microsecond=0)


def pair(name, days=30):
    """A certificate of 127.0.0.1 that signs itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=60))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def files(tmp_path):
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    for path, content in zip((chain, key), pair("first"), strict=True):
        path.write_bytes(content)
    return chain, key


def test_a_new_pair_is_used_when_both_halves_are_there(files):
    chain, key = files
    certificates = Certificates(chain, key)
    assert certificates.expires_at == NOW + timedelta(days=30) and certificates.words(NOW) is None
    new_chain, new_key = pair("second", days=90)
    chain.write_bytes(new_chain)
    certificates.load_changed()
    assert certificates.failed == "the key is of another certificate"
    assert certificates.expires_at == NOW + timedelta(days=30)
    assert "was not loaded (the key is of another certificate)" in certificates.words(NOW)
    key.write_bytes(new_key[:-40])
    certificates.load_changed()
    assert certificates.failed is not None
    key.write_bytes(new_key)
    certificates.load_changed()
    assert certificates.failed is None and certificates.expires_at == NOW + timedelta(days=90)
    chain.unlink()
    certificates.load_changed()
    assert str(chain) in certificates.failed and certificates.expires_at == NOW + timedelta(days=90)
    assert "expired" in certificates.words(NOW + timedelta(days=91))


def test_what_can_not_be_used_at_the_start_is_said_without_what_the_files_hold(files):
    chain, key = files
    secret = key.read_bytes()
    key.write_bytes(pair("other")[1])
    with pytest.raises(Invalid, match="the key is of another certificate"):
        Certificates(chain, key)
    key.write_bytes(b"no PEM")
    with pytest.raises(Invalid, match="can't be used") as refused:
        Certificates(chain, key)
    chain.write_bytes(b"no PEM")
    with pytest.raises(Invalid, match="the certificate is no PEM chain"):
        Certificates(chain, key)
    assert "no PEM key" in str(refused.value) and secret.decode()[30:50] not in str(refused.value)


def test_a_file_that_is_replaced_within_the_same_size_counts_as_changed(tmp_path):
    path, half = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    watched = WatchedFiles([path, tmp_path / "not there"])
    assert not watched.changed()
    half.write_text("two")
    half.rename(path)
    assert watched.changed() and not watched.changed()
    path.chmod(0o600)
    watched.changed()
    path.chmod(0o644)
    assert watched.changed() and not watched.changed()
    path.unlink()
    assert watched.changed()


class Handshakes(threading.Thread):
    """Connects again and again: whose certificate it got, and what failed."""

    def __init__(self, server):
        super().__init__()
        self._server, self._enough = server, threading.Event()
        self.seen, self.failed = [], []

    def run(self):
        while not self._enough.is_set():
            try:
                self.seen.append(presented(self._server))
            except OSError as error:
                self.failed.append(error)

    def stop(self):
        self._enough.set()
        self.join()


def presented(server):
    """The common name of the certificate that the public port shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((server.host, server.port), timeout=10) as sock,
        context.wrap_socket(sock) as secure,
    ):
        found = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True))
        return found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def readyz(server):
    connection = http.client.HTTPConnection(*server.admin.rsplit(":", 1), timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        return connection.getresponse().read().decode()


def test_no_handshake_fails_while_a_certificate_is_renewed(tmp_path, files):
    chain, key = files
    with Server(tmp_path / "host", workers=2, tls_certificate=chain, tls_key=key) as server:
        assert presented(server) == "first"
        expires_s = (NOW + timedelta(days=30)).timestamp()
        until(
            lambda: server.metrics("certificate_expires_s") == [expires_s] * 2, what="its end in the metrics"
        )
        connecting = Handshakes(server)
        connecting.start()
        new_chain, new_key = pair("second", days=90)
        # First one, then the other, as most tools do.
        chain.write_bytes(new_chain)
        until(lambda: server.metrics("certificate_not_loaded") == [1.0, 1.0], what="both workers to look")
        assert "a new certificate was not loaded" in readyz(server) and server.ready()
        assert presented(server) == "first"
        key.write_bytes(new_key)
        until(lambda: server.metrics("certificate_not_loaded") == [0.0, 0.0], what="both workers to load it")
        assert {presented(server) for _ in range(10)} == {"second"}
        connecting.stop()
        assert connecting.failed == [] and set(connecting.seen) == {"first", "second"}


def test_a_server_does_not_start_with_a_key_of_another_certificate(tmp_path, files):
    chain, key = files
    with Server(tmp_path / "host") as server:
        server.stop()
        key.write_bytes(pair("other")[1])
        server.env |= {"TOKENWORKS_TLS_CERTIFICATE": str(chain), "TOKENWORKS_TLS_KEY": str(key)}
        done = server.cli("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", check=False)
        assert done.returncode != 0 and "the key is of another certificate" in done.stderr
        assert "Traceback" not in done.stderr


class Secrets:
    """A folder of credentials, a snapshot of deployments that name them, and a clock."""

    def __init__(self, folder, **credentials):
        self.folder, self.now_s = folder, 100.0
        self.snapshot = Snapshot(1, [place(name, *files) for name, files in credentials.items()], {}, {}, {})
        self.credentials = Credentials(folder, lambda: self.now_s)

    def write(self, name, secret):
        half = self.folder / f"{name}.new"
        half.write_text(secret)
        half.chmod(0o600)
        half.rename(self.folder / name)

    def read(self):
        return self.credentials.read(self.snapshot)

    @property
    def found(self):
        return dict(self.snapshot.credentials)


def place(name, first, *more):
    return Deployment(
        name=name, model="m", upstream_model="m", base_url="http://192.0.2.1", protocols=("chat",), allow_private=True,
        credential=f"file:{first}", more_credentials=tuple(f"file:{file}" for file in more),
    )  # fmt: skip


def test_a_deployment_is_broken_where_none_of_its_credentials_is_there(tmp_path):
    secrets = Secrets(tmp_path, one=("a",), two=("a", "b"))
    assert secrets.read() == (frozenset(), {"one", "two"}) and secrets.found == {}
    secrets.write("b", "sk-b")
    assert secrets.read() == ({"file:b"}, {"one"}) and secrets.found == {"file:b": "sk-b"}
    secrets.write("a", "sk-a")
    assert secrets.read() == ({"file:a"}, frozenset())
    assert secrets.read() == (frozenset(), frozenset())
    assert secrets.found == {"file:a": "sk-a", "file:b": "sk-b"}


def test_a_file_that_can_not_be_read_for_a_moment_keeps_its_credential(tmp_path):
    secrets = Secrets(tmp_path, one=("a",))
    secrets.write("a", "sk-a")
    secrets.read()
    assert not secrets.credentials.changed()
    (tmp_path / "a").write_text("")
    assert secrets.credentials.changed()
    assert secrets.read() == (frozenset(), frozenset()) and secrets.found == {"file:a": "sk-a"}
    secrets.now_s += GRACE_S / 2
    assert secrets.credentials.changed(), "it is looked at again although it did not change"
    assert not secrets.read().broken
    secrets.write("a", "sk-b")
    assert secrets.read() == ({"file:a"}, frozenset()) and secrets.found == {"file:a": "sk-b"}
    (tmp_path / "a").unlink()
    assert not secrets.read().broken
    secrets.now_s += GRACE_S
    assert secrets.read() == ({"file:a"}, {"one"}) and secrets.found == {}
    secrets.credentials.changed()
    assert not secrets.credentials.changed()


def test_a_credential_that_is_refused_is_read_again_where_its_file_has_changed(tmp_path):
    secrets = Secrets(tmp_path, one=("a",))
    secrets.write("a", "sk-a")
    secrets.read()
    assert not secrets.credentials.renew(secrets.snapshot, "file:a"), "it has not changed"
    secrets.write("a", "sk-b")
    assert secrets.credentials.renew(secrets.snapshot, "file:a") and secrets.found == {"file:a": "sk-b"}
    assert not secrets.credentials.renew(secrets.snapshot, "file:a")
    assert secrets.read() == (frozenset(), frozenset()), "what was renewed is known"
    (tmp_path / "a").write_text("")
    assert not secrets.credentials.renew(secrets.snapshot, "file:a") and secrets.found == {"file:a": "sk-b"}
    (tmp_path / "a").unlink()
    assert not secrets.credentials.renew(secrets.snapshot, "file:a")
    assert not secrets.credentials.renew(secrets.snapshot, "env:TOKENWORKS_UPSTREAM_A")


def test_a_credential_of_a_deployment_that_is_gone_is_forgotten(tmp_path):
    secrets = Secrets(tmp_path, one=("a",), two=("b",))
    secrets.write("a", "sk-a")
    secrets.write("b", "sk-b")
    secrets.read()
    secrets.snapshot = Snapshot(2, [place("one", "a")], {}, {}, {})
    assert secrets.read() == (frozenset(), frozenset()) and secrets.found == {"file:a": "sk-a"}


def test_a_credential_that_is_written_anew_is_used_within_a_second(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path) as server:
        file = server.settings.secrets / "vendor"

        def renew(secret):
            half = file.with_name("vendor.new")
            half.write_text(f"{secret}\n")
            half.chmod(0o600)
            half.rename(file)

        renew("sk-first")
        server.cli(
            "deployment", "add", "--name", "stub", "--model", "stub", "--base-url", upstream.url, "--protocol", "chat",
            "--allow-private", "--api-key-file", "vendor",
        )  # fmt: skip
        _, key = server.subscriber()
        until(lambda: server.metrics("deployments") == [1.0], what="the deployment")
        assert sent(upstream, server, key) == "Bearer sk-first"
        renew("sk-second")
        until(lambda: sent(upstream, server, key) == "Bearer sk-second", what="the new one")
        file.unlink()
        until(lambda: server.chat(key)[0] == 503, what="its absence to be noticed")
        renew("sk-third")
        until(lambda: server.chat(key)[0] == 200, what="service")
        assert sent(upstream, server, key) == "Bearer sk-third"


def sent(upstream, server, key):
    """What the upstream was told with the next request."""
    assert server.chat(key, {"tokens": 1})[0] == 200
    heads = upstream.get("/last")["heads"]
    return {name.lower(): value for name, value in heads[-1].items()}["authorization"]
