"""The files of `secrets_dir`: finding, reading and making secrets, and reporting files that are no secrets.

A file is a secret only if its whole name is that of a secret. A file that merely looks like one (an editor's copy, a folder, a version
that is no number) is never read, and never prevents a start; `strays` reports it with what to do.
"""

import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from tokenworks.kernel import Unavailable

PEPPER: Final = "pepper-"
WRAP: Final = "person-wrap-"
LOOKUP: Final = "person-lookup"
WEBHOOK: Final = "webhook-secret"
WEBHOOK_OLD: Final = "webhook-secret-old"
SMTP: Final = "smtp-password"
_PRIVATE: Final = 0o077
_NUMBER = re.compile(r"[1-9][0-9]{0,2}")
# Names of secrets, and names that an operator could mistake for one.
_OURS = re.compile(r"(pepper|person|webhook-secret)", re.IGNORECASE)
_LEFTOVER = re.compile(r"^\.|^#|~$|\.(?:bak|old|orig|new|swp|tmp|rpmsave|dpkg-\w+)$", re.IGNORECASE)
STRAYS_MAX: Final = 50
# Line ends that an editor, or a copy by hand, may have added to a secret.
_LINE_ENDS: Final = (b"\r\n", b"\n")


def versions_of(secrets_dir: Path, kind: str) -> dict[int, Path]:
    """The files `<kind><version>` by version. Raises `Unavailable` if the folder cannot be read."""
    found = {}
    for name in _names(secrets_dir):
        number = name.removeprefix(kind)
        if name.startswith(kind) and _NUMBER.fullmatch(number):
            found[int(number)] = secrets_dir / name
    return dict(sorted(found.items()))


def _names(secrets_dir: Path) -> list[str]:
    try:
        return sorted(path.name for path in secrets_dir.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable(f"{secrets_dir} can't be read: {error.strerror}; {_owner()}") from None


def _owner() -> str:
    return "give it to the user that runs tokenworks (chown), mode 700 for the folder and 600 for its files"


def read_secret(path: Path, length_bytes: int, what: str) -> bytes:
    """Read a secret of `length_bytes` random bytes, without a line end behind them. `what`: its name in error texts.

    Raises `Unavailable`, whose text says what to do.
    """
    content = read_private(path)
    for end in _LINE_ENDS:
        if len(content) == length_bytes + len(end) and content.endswith(end):
            return content[:length_bytes]
    if len(content) != length_bytes:
        size = "is empty" if not content else f"has {len(content)} bytes"
        raise Unavailable(
            f"{path} {size}, and {what} is {length_bytes} bytes: restore it from the backup, or copy it from a host that serves"
        )
    return content


def read_versions(
    secrets_dir: Path, kind: str, length_bytes: int, what: str
) -> tuple[dict[int, bytes], dict[int, str]]:
    """(version -> secret, version -> why its file cannot be used). The caller reports a flaw only if it needs that version."""
    found, flaws = {}, {}
    for version, path in versions_of(secrets_dir, kind).items():
        try:
            found[version] = read_secret(path, length_bytes, what)
        except Unavailable as error:
            flaws[version] = str(error)
    return found, flaws


def read_private(path: Path) -> bytes:
    """The content of a file that only its owner may read. Raises `Unavailable`, whose text says what to do."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise Unavailable(f"{path} is a folder, and a secret is a file: move the folder elsewhere")
        if not stat.S_ISREG(mode):
            raise Unavailable(f"{path} is no plain file: put the secret there as a file of mode 600")
        if mode & _PRIVATE:
            raise Unavailable(f"{path} can be read by others: chmod 600 it, and think about a new one")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unavailable(
            f"{path} is missing: run `tokenworks init`, or restore it from the backup of the secrets"
        ) from None
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror}; {_owner()}") from None


def make_secret(path: Path, length_bytes: int, *, text: bool = False) -> None:
    """Make a file of random bytes (`text`: in hexadecimal) that only its owner may read, unless the file exists.

    The file appears under its name complete or not at all.
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as out:
        content = secrets.token_bytes(length_bytes)
        out.write(content.hex().encode() if text else content)
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:  # another process made the file at the same moment
        pass
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def strays(secrets_dir: Path, used: Collection[str] = ()) -> Iterator[tuple[Path, str]]:
    """(path, what to do) of each file that is neither a secret of this module nor in `used` (the names of deployments' credentials)."""
    count = 0
    for name in _names(secrets_dir):
        advice = _stray(secrets_dir / name, name, used)
        if advice is None:
            continue
        count += 1
        if count > STRAYS_MAX:
            return
        yield secrets_dir / name, advice


def _stray(path: Path, name: str, used: Collection[str]) -> str | None:
    """Why a file is not read and what to do, as words that follow its path; None for a secret or a used file."""
    known = name in {LOOKUP, WEBHOOK, WEBHOOK_OLD, SMTP} or any(
        name.startswith(kind) and _NUMBER.fullmatch(name.removeprefix(kind)) for kind in (PEPPER, WRAP)
    )
    if path.is_dir():
        return "is a folder, and is not read: move it elsewhere"
    if known or name in used:
        return None
    if _LEFTOVER.search(name):
        return "is a leftover of a program, and is not read: look whether it holds a secret, then delete it"
    if _OURS.match(name):
        return (
            "is not read: secrets are named pepper-1, person-wrap-1 (a number from 1 to 999), person-lookup, webhook-secret and "
            "webhook-secret-old; rename it, or move it elsewhere"
        )
    return "is named by no deployment, and is not read: name it (`deployment set`), or move it elsewhere"


__all__ = [
    "LOOKUP",
    "PEPPER",
    "SMTP",
    "WEBHOOK",
    "WEBHOOK_OLD",
    "WRAP",
    "make_secret",
    "read_private",
    "read_secret",
    "read_versions",
    "strays",
    "versions_of",
]
