"""A hash chain over what is entered: who changes, removes, doubles or reorders history silently is found by whoever has a head.

An account has a chain for each journal that settles for it, and one of its own (`OWN`) for all that is no settlement. A link is
an entry with its postings and the usage records that it settles:

    hash = SHA-256(previous hash, place, SHA-256(entry), id and SHA-256 of each usage record)

A usage record is hashed as the line of text that COPY puts into its table: columns in order, ids as 32 hex digits, times in UTC as
ISO 8601 has them, lists as JSON without spaces. An entry is a JSON list. So both can be made again from the tables' rows. Pure.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

OWN: Final = UUID(int=0)
"""The chain of an account's entries that no journal settled."""
_ID_BYTES: Final = 16
_ROW_BYTES: Final = _ID_BYTES + 32
_encode: Final = msgspec.json.Encoder().encode

PostingLine = tuple[int, str, str, str | None, int]
"""(line, ledger account, unit, bucket as hex, amount)"""


class Head(NamedTuple):
    """Where a chain ends: the sequence of its journal up to which it goes (of an account's own: milliseconds since 1970), the
    number of its last link, that link's hash.
    """

    seq: int
    link_no: int
    hash: bytes


class Link(NamedTuple):
    """One link as it is kept. `rows`: id and digest of each usage record, by id."""

    link_no: int
    entry_id: UUID
    seq: int
    rows: bytes
    hash: bytes


def genesis(account_id: str, chain_id: str) -> Head:
    """What the first link of a chain goes on from. Ids are 32 hex digits."""
    return Head(0, 0, sha256(b"tokenworks chain 1 %b %b" % (account_id.encode(), chain_id.encode())).digest())


def usage_digest(line: str) -> bytes:
    """Of a usage record, as a line of COPY (`settle_rows.usage_line`): it has all of what the row keeps but for the time of
    settling, which its entry has.
    """
    return sha256(line.encode()).digest()


def entry_digest(
    entry_id: str, kind: str, ref: str, posted_us: int, postings: Sequence[PostingLine]
) -> bytes:
    """Of an entry and its postings, in the order of their lines. `posted_us`: microseconds since 1970."""
    return sha256(_encode([entry_id, kind, ref, posted_us, *postings])).digest()


def rows_of(digests: Sequence[tuple[str, bytes]]) -> bytes:
    """`Link.rows` of (usage id as hex, digest). Raises `ValueError` where an id is none."""
    rows = b"".join([bytes.fromhex(usage_id) + digest for usage_id, digest in sorted(digests)])
    if len(rows) != _ROW_BYTES * len(digests):
        raise ValueError("an id has 32 hex digits")
    return rows


def digests_of(rows: bytes) -> dict[str, bytes]:
    """The digests of `Link.rows` by usage id."""
    return {
        rows[at : at + _ID_BYTES].hex(): rows[at + _ID_BYTES : at + _ROW_BYTES]
        for at in range(0, len(rows), _ROW_BYTES)
    }


def link(before: Head, seq: int, entry_id: UUID, entry: bytes, rows: bytes) -> Link:
    """The link after a head. `entry` is `entry_digest`, `rows` is `rows_of`."""
    link_no = before.link_no + 1
    hashed = sha256(before.hash + b"%d %d " % (link_no, seq) + entry_id.bytes + entry + rows).digest()
    return Link(link_no, entry_id, seq, rows, hashed)
