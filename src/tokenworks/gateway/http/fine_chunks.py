"""Responses in chunks of a few bytes each: they take long to parse, so a connection parses them in pieces and takes a limited number.

A read that is larger than `LARGE_READ_BYTES` and has more than `LINES_IN_SAMPLE_MAX` line ends in its first bytes is one of them.
"""

from typing import Final

LARGE_READ_BYTES: Final = 16_384
SAMPLE_BYTES: Final = 4096
LINES_IN_SAMPLE_MAX: Final = 512
# The size of a piece, and the limit of such reads in one answer.
PIECE_BYTES: Final = 8192
FINE_BYTES_MAX: Final = 4_194_304


def has_fine_chunks(data: bytes) -> bool:
    return data.count(b"\n", 0, SAMPLE_BYTES) > LINES_IN_SAMPLE_MAX
