"""A hash chain over ledger entries. A copy of a chain's head reveals any later change, removal, duplication or reordering of entries.

An account has one chain for each journal that settles for it, and its own chain (`OWN`) for all other entries. A link covers one
entry with its postings and the usage records that it settles:

    hash = SHA-256(previous hash, place, SHA-256(entry), id and SHA-256 of each usage record)

A usage record is hashed as the line of text that COPY writes into its table: columns in order, ids as 32 hex digits, times in UTC in
ISO 8601, lists as JSON without spaces. An entry is hashed as a JSON list. Both can be rebuilt from the tables' rows. This module is
pure.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

OWN: Final = UUID(int=0)
"""The chain id of an account's own chain: entries that are no settlement of a journal."""
_ID_BYTES: Final = 16
_ROW_BYTES: Final = _ID_BYTES + 32
_encode: Final = msgspec.json.Encoder().encode

PostingLine = tuple[int, str, str, str | None, int]
"""(line, ledger account, unit, bucket as hex, amount)"""


class Head(NamedTuple):
    """The end of a chain: the last journal sequence that it covers (in an account's own chain: milliseconds since 1970), the
    number of its last link, and the hash of that link.
    """

    seq: int
    link_no: int
    hash: bytes


class Link(NamedTuple):
    """One link as it is stored. `rows`: the id and digest of each usage record, in the order of the ids."""

    link_no: int
    entry_id: UUID
    seq: int
    rows: bytes
    hash: bytes


def genesis(account_id: str, chain_id: str) -> Head:
    """The head before the first link of a chain. Ids are 32 hex digits."""
    return Head(0, 0, sha256(b"tokenworks chain 1 %b %b" % (account_id.encode(), chain_id.encode())).digest())


def usage_digest(line: str) -> bytes:
    """The digest of a usage record from its COPY line (`settle_rows.usage_line`). The line has every column but the time of
    settlement, which the entry has.
    """
    return sha256(line.encode()).digest()


def entry_digest(
    entry_id: str, kind: str, ref: str, posted_us: int, postings: Sequence[PostingLine]
) -> bytes:
    """The digest of an entry with its postings in line order. `posted_us`: microseconds since 1970."""
    return sha256(_encode([entry_id, kind, ref, posted_us, *postings])).digest()


def rows_of(digests: Sequence[tuple[str, bytes]]) -> bytes:
    """`Link.rows` for pairs of (usage id as hex, digest). Raises `ValueError` if an id is not 32 hex digits."""
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
    """The link that follows a head. `entry` comes from `entry_digest`, `rows` from `rows_of`."""
    link_no = before.link_no + 1
    hashed = sha256(before.hash + b"%d %d " % (link_no, seq) + entry_id.bytes + entry + rows).digest()
    return Link(link_no, entry_id, seq, rows, hashed)
