"""Keys that a host refuses by itself, also while the database is away: a file of ids, which the recorder reads every second."""

from pathlib import Path
from uuid import UUID

from tokenworks.kernel import NotFound


def block_key(path: Path, key_id: UUID, *, undo: bool) -> None:
    """Put a key into the file, or take it out. Raises `NotFound` where the data directory has no server's folder."""
    if not path.parent.exists():
        raise NotFound(f"there is nothing in {path.parent}: name the server's data directory with --data-dir")
    found = set(path.read_text(encoding="ascii").split()) if path.exists() else set()
    found = found - {key_id.hex} if undo else found | {key_id.hex}
    half = path.with_suffix(".new")
    half.touch(mode=0o600)
    half.write_text("".join(f"{one}\n" for one in sorted(found)), encoding="ascii")
    half.replace(path)
