"""Keys that are blocked on one host, also while the database is away: a file of key ids, which the recorder reads every second."""

from pathlib import Path
from uuid import UUID

from tokenworks.kernel import NotFound


def block_key(path: Path, key_id: UUID, *, undo: bool) -> None:
    """Add a key to the file, or remove it (`undo`). Raises `NotFound` where the data directory does not exist."""
    if not path.parent.exists():
        raise NotFound(f"there is nothing in {path.parent}: name the server's data directory with --data-dir")
    ids = set(path.read_text(encoding="ascii").split()) if path.exists() else set()
    ids = ids - {key_id.hex} if undo else ids | {key_id.hex}
    half = path.with_suffix(".new")
    half.touch(mode=0o600)
    half.write_text("".join(f"{id_}\n" for id_ in sorted(ids)), encoding="ascii")
    half.replace(path)
