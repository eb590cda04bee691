"""What the auditor finds."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One broken invariant: which, where, and by how much."""

    invariant: str
    where: str
    detail: str
