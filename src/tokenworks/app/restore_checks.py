"""Checks before a restore, and the restore of secrets."""

import json
import shutil
from pathlib import Path

from tokenworks.app.database.places import Damaged, Folder, sha256
from tokenworks.app.settings import Settings
from tokenworks.kernel import Invalid, NotFound


def check_restorable(settings: Settings, *, erased_named: bool, nobody_erased: bool) -> None:
    """Raises `Invalid` where the database is not the embedded one, and where the list of erased persons is neither given nor declared
    empty.
    """
    if settings.database_url:
        raise Invalid(
            "the database is a PostgreSQL of your own (database_url): restore it with its own tools; `restore` is for the embedded one"
        )
    if erased_named == nobody_erased:
        raise Invalid(
            "a restore brings back whom a younger list has erased: give the newest list of `tokenworks vault erased` with --erased FILE, "
            "or say --nobody-erased"
        )


def put_secrets(copies: Path, to: Path) -> None:
    """Put the newest copy of a folder of `--secrets-to`, or the one copy that `copies` is, into `to`. Raises `NotFound`, `Invalid`,
    `Damaged`.
    """
    found = sorted(path.parent for path in copies.glob("*/manifest.json"))
    folder = copies if (copies / "manifest.json").exists() else found[-1] if found else None
    if folder is None:
        raise NotFound(f"{copies} has no copy of secrets (a manifest.json)")
    if to.exists() and any(to.iterdir()):
        raise Invalid(f"there are secrets in {to}: leave --secrets-from out to use them, or move them aside")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    contents = {name: (folder / name).read_bytes() for name in files}
    for name, content in contents.items():
        if sha256(content) != files[name] or "/" in name:
            raise Damaged(f"{folder / name} is damaged: its SHA-256 is not the manifest's")
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half = Folder(to.with_name(f"{to.name}.restoring"))
    shutil.rmtree(half.root, ignore_errors=True)
    half.make()
    for name, content in contents.items():
        half.put(name, content)
    if to.exists():
        to.rmdir()
    half.root.chmod(0o700)
    half.root.rename(to)
