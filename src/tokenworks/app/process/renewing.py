"""Files that change while a server runs: the certificate of the public port, and the credentials of deployments."""

import ssl
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from tokenworks.factory import CredentialMissing, read_credential
from tokenworks.gateway import Snapshot
from tokenworks.kernel import Invalid

log = structlog.get_logger()

_FILE: Final = "file:"


class WatchedFiles:
    """Detects changes of some files by their times, size and inode: a file that was renamed into place counts as changed, and a file
    whose mode or owner was changed, too.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)
        self._states = self._read_states()

    def changed(self) -> bool:
        """True where a file has changed since the last call."""
        before, self._states = self._states, self._read_states()
        return self._states != before

    def _read_states(self) -> list[tuple[int, int, int, int] | None]:
        states: list[tuple[int, int, int, int] | None] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                states.append(None)
            else:
                states.append((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))
        return states


class Certificates:
    """The certificate of the public port. A new chain and key are loaded into a fresh context; where they fit each other, the next
    handshake uses them, else the certificate before stays.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises `Invalid` where they can't be loaded."""
        self._chain, self._key = chain, key
        self._watched = WatchedFiles((chain, key))
        self.failed: str | None = None
        """Why the newest certificate was not loaded; None where it was."""
        try:
            self._current, self.expires_at = self._load()
        except (OSError, ValueError) as error:
            raise Invalid(f"tls_certificate {chain} and tls_key {key} can't be used: {_why(error)}") from None
        self.context = _context()
        self.context.load_cert_chain(chain, key)
        self.context.sni_callback = self._choose

    def load_changed(self) -> None:
        """Load the files where they have changed. Called once a second."""
        if not self._watched.changed():
            return
        try:
            self._current, self.expires_at = self._load()
        except (OSError, ValueError) as error:
            self.failed = _why(error)
            log.error("certificate.not_loaded", error=self.failed)
        else:
            self.failed = None
            log.info("certificate.loaded", expires_at=self.expires_at.isoformat())

    def _choose(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._current

    def _load(self) -> tuple[ssl.SSLContext, datetime]:
        # The first certificate of a chain is the server's own.
        first = x509.load_pem_x509_certificates(self._chain.read_bytes())[0]
        self._key.read_bytes()  # this error names the file; the error of load_cert_chain does not
        context = _context()
        context.load_cert_chain(self._chain, self._key)
        return context, first.not_valid_after_utc

    def words(self, now: datetime) -> str | None:
        """A sentence for `/readyz` about a certificate that expired or was not loaded; None where all is well."""
        return certificate_words(now, self.expires_at, self.failed)


def certificate_words(now: datetime, expires_at: datetime, failed: str | None) -> str | None:
    """`failed`: why a newer certificate was not loaded; None where it was."""
    if now >= expires_at:
        return f"the certificate expired at {expires_at:%Y-%m-%d %H:%M} UTC"
    if failed is not None:
        return f"a new certificate was not loaded ({failed}), the one before expires at {expires_at:%Y-%m-%d %H:%M} UTC"
    return None


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _why(error: Exception) -> str:
    """The reason, without content of the files."""
    if isinstance(error, ssl.SSLError):
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        return "the key is of another certificate" if mismatch else "the key is no PEM key without a password"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return "the certificate is no PEM chain"


class Credentials:
    """The credentials of a snapshot's deployments, read again within a second where their files change."""

    def __init__(self, secrets_dir: Path) -> None:
        self._secrets_dir = secrets_dir
        self._watched = WatchedFiles(())

    def read(self, snapshot: Snapshot) -> frozenset[str]:
        """Put the credentials into the snapshot. Returns the names of deployments whose credential is missing."""
        references = {
            place.name: place.deployment.credential
            for place in snapshot.views
            if place.deployment.credential is not None
        }
        self._watched = WatchedFiles(
            self._secrets_dir / reference.removeprefix(_FILE)
            for reference in sorted(set(references.values()))
            if reference.startswith(_FILE)
        )
        broken = set()
        for name, reference in references.items():
            try:
                snapshot.credentials[reference] = read_credential(reference, self._secrets_dir)
            except CredentialMissing as error:
                broken.add(name)
                log.error("worker.credential_missing", deployment=name, error=str(error))
        return frozenset(broken)

    def changed(self) -> bool:
        return self._watched.changed()


__all__ = ["Certificates", "Credentials", "WatchedFiles", "certificate_words"]
