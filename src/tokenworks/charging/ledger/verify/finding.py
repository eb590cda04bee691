"""The type of the auditor's findings."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One broken invariant: its name, the row that breaks it, and the values that differ."""

    invariant: str
    where: str
    detail: str
