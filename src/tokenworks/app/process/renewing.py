"""Files that change while a server runs: the certificate of the public port, and the credentials of deployments."""

import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from cryptography import x509

from tokenworks.factory import CredentialMissing, read_credential
from tokenworks.gateway import Snapshot
from tokenworks.kernel import Invalid

log = structlog.get_logger()

_FILE: Final = "file:"
# How long a credential stays in use whose file can't be read any more.
GRACE_S: Final = 2.0
# Of a file: times of its content and its inode, size, inode.
_FileState = tuple[int, int, int, int]


def _state_of(path: Path) -> _FileState | None:
    """The state by which a change is seen; None if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


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

    def _read_states(self) -> list[_FileState | None]:
        return [_state_of(path) for path in self._paths]


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


class Reading(NamedTuple):
    """What a reading of credentials found. `changed`: references of those that are not what they were; `broken`: deployments of which
    no credential can be used.
    """

    changed: frozenset[str]
    broken: frozenset[str]


class Credentials:
    """The credentials of a snapshot's deployments, read again within a second where their files change, and at once where an upstream
    refuses one. A credential that could be used stays in use for `GRACE_S` after its file can't be read: tools write a file in two
    steps.
    """

    def __init__(self, secrets_dir: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._secrets_dir = secrets_dir
        self._now_s = now_s
        self._watched = WatchedFiles(())
        self._known: dict[str, str] = {}
        # References whose files can't be read any more, with the time of the first reading that failed.
        self._unreadable_s: dict[str, float] = {}
        # Of each file when it was last read for `renew`.
        self._states: dict[str, _FileState | None] = {}

    def read(self, snapshot: Snapshot) -> Reading:
        """Put the credentials into the snapshot; those that can't be used are not in it."""
        references = {view.name: view.deployment.references for view in snapshot.views}
        named = sorted({reference for of_one in references.values() for reference in of_one})
        self._watched = WatchedFiles(
            self._secrets_dir / reference.removeprefix(_FILE)
            for reference in named
            if reference.startswith(_FILE)
        )
        before = dict(self._known)
        missing: dict[str, str] = {}
        for reference in named:
            try:
                self._known[reference] = read_credential(reference, self._secrets_dir) or ""
                self._unreadable_s.pop(reference, None)
            except CredentialMissing as error:
                if not self._stays(reference):
                    missing[reference] = str(error)
        for reference in (self._known.keys() | self._unreadable_s.keys()) - set(named) | missing.keys():
            self._known.pop(reference, None)
            self._unreadable_s.pop(reference, None)
        self._states = {name: state for name, state in self._states.items() if name in named}
        snapshot.credentials.clear()
        snapshot.credentials.update(self._known)
        self._log(references, missing)
        changed = {reference for reference in named if before.get(reference) != self._known.get(reference)}
        broken = {name for name, of_one in references.items() if of_one and missing.keys() >= set(of_one)}
        return Reading(frozenset(changed), frozenset(broken))

    def renew(self, snapshot: Snapshot, reference: str) -> bool:
        """Read one credential again if its file has changed since the last call. True if the credential has changed."""
        if not reference.startswith(_FILE):
            return False
        state = _state_of(self._secrets_dir / reference.removeprefix(_FILE))
        if state is None or state == self._states.get(reference):
            return False
        self._states[reference] = state
        try:
            secret = read_credential(reference, self._secrets_dir)
        except CredentialMissing:
            return False
        if secret is None or secret == snapshot.credentials.get(reference):
            return False
        self._known[reference] = secret
        snapshot.credentials[reference] = secret
        log.info("worker.credential_renewed", credential=reference)
        return True

    def changed(self) -> bool:
        """True where a file has changed since the last call, or one that can't be read may become readable, or broken."""
        return self._watched.changed() or bool(self._unreadable_s)

    def _stays(self, reference: str) -> bool:
        """True while a credential that can't be read any more stays in use."""
        if reference not in self._known:
            return False
        since_s = self._unreadable_s.setdefault(reference, self._now_s())
        return self._now_s() - since_s < GRACE_S

    @staticmethod
    def _log(references: Mapping[str, Sequence[str]], missing: Mapping[str, str]) -> None:
        for name, of_one in references.items():
            for reference in of_one:
                if reference in missing:
                    log.error("worker.credential_missing", deployment=name, error=missing[reference])


__all__ = ["Certificates", "Credentials", "Reading", "WatchedFiles", "certificate_words"]
