"""Reads a journal without its lock: its id, its segments, its damage, how many records it has."""

from pathlib import Path
from typing import TypedDict
from uuid import UUID

from tokenworks.charging.errors import JournalCorrupt
from tokenworks.charging.host.journal import read_segment
from tokenworks.charging.messages import Finish, Start
from tokenworks.charging.payload import ops_of
from tokenworks.kernel import NotFound


class SegmentReport(TypedDict):
    """One segment. `damage` says what is wrong with it, None if nothing is. The counts are of the whole frames before the damage."""

    segment: str
    first: int
    bytes: int
    damage: str | None
    frames: int
    records: int
    starts: int
    last: int


class JournalReport(TypedDict):
    """What `inspect_journal` found."""

    journal_id: str
    segments: list[SegmentReport]


def read_journal_id(folder: Path) -> UUID | None:
    """The id of the journal in a folder, or None if there is none."""
    path = folder / "id"
    return UUID(path.read_text().strip()) if path.exists() else None


def records_after(folder: Path, journal_id: UUID, seq: int) -> int:
    """How many usage records a journal has after a sequence. Raises `JournalCorrupt`."""
    count = 0
    for path in sorted(folder.glob("*.seg")):
        for frame in read_segment(path, journal_id, int(path.stem)):
            if frame.seq > seq:
                count += sum(isinstance(op, Finish) for op in ops_of(frame.seq, frame.payload))
    return count


def inspect_journal(folder: Path) -> JournalReport:
    """Read a journal while a recorder may be writing it. Damage is reported, not raised. Raises `NotFound`."""
    journal_id = read_journal_id(folder)
    if journal_id is None:
        raise NotFound(f"there is no journal in {folder}")
    segments: list[SegmentReport] = []
    for path in sorted(folder.glob("*.seg")):
        report = _inspect_segment(path, journal_id)
        if segments and segments[-1]["last"] + 1 != report["first"] and report["damage"] is None:
            report["damage"] = (
                f"it begins at {report['first']}, but the segment before it ends at {segments[-1]['last']}"
            )
        segments.append(report)
    return {"journal_id": str(journal_id), "segments": segments}


def _inspect_segment(path: Path, journal_id: UUID) -> SegmentReport:
    first = int(path.stem)
    report = SegmentReport(
        segment=path.name,
        first=first,
        bytes=path.stat().st_size,
        damage=None,
        frames=0,
        records=0,
        starts=0,
        last=first - 1,
    )
    try:
        for frame in read_segment(path, journal_id, first):
            report["frames"] += 1
            report["last"] = frame.seq
            ops = ops_of(frame.seq, frame.payload)
            report["records"] += sum(isinstance(op, Finish) for op in ops)
            report["starts"] += sum(isinstance(op, Start) for op in ops)
    except JournalCorrupt as error:
        report["damage"] = str(error)
    return report
