"""Decides if a journal is lost: damaged, or not the one that the database has settled."""

from pathlib import Path
from uuid import UUID

from tokenworks.charging.errors import JournalCorrupt
from tokenworks.charging.host.journal_inspection import JournalReport, inspect_journal, read_journal_id
from tokenworks.kernel import Conflict, NotFound


class NotConfirmed(Conflict):
    """Nothing was done: the command showed what it would do, and has to be confirmed."""


def check_undamaged(inspected: JournalReport) -> None:
    """Raises `JournalCorrupt` if `inspect_journal` found damage."""
    if any(segment["damage"] for segment in inspected["segments"]):
        raise JournalCorrupt("the journal is damaged: see docs/RUNBOOK.md")


def journal_to_reset(folder: Path, named: UUID | None) -> tuple[UUID, bool]:
    """Return the named journal, or else the folder's, and True if it is the folder's. Raises `NotFound` if there is neither."""
    folder_id = read_journal_id(folder)
    wanted = named or folder_id
    if wanted is None:
        raise NotFound(
            f"there is no journal in {folder}: name the lost one with --journal (tokenworks journal list)"
        )
    return wanted, wanted == folder_id


def check_confirmed(journal_id: UUID, confirmed: UUID | None) -> None:
    """Raises `NotConfirmed` if the journal's id was not given as confirmation."""
    if confirmed != journal_id:
        raise NotConfirmed(f"nothing was done: run it again with --confirm {journal_id}")


def why_lost(folder: Path, settled: int) -> str:
    """Say what is wrong with this host's journal. Raises `Conflict` if nothing is."""
    segments = inspect_journal(folder)["segments"]
    damage = next((segment["damage"] for segment in segments if segment["damage"]), None)
    if damage is not None:
        return f"it is damaged ({damage})"
    first, last = (segments[0]["first"], segments[-1]["last"]) if segments else (1, 0)
    if last < settled:
        return f"it ends at {last}, before what the database has settled: its newest segments are missing"
    if first > settled + 1:
        return f"it begins at {first}, after what the database has settled: its oldest segments are missing"
    raise Conflict("this journal goes with the database: start the server, it settles what there is")
