"""Divides what a meter lets pass into the events of a stream (WHATWG HTML, 9.2.6): whole events, in order."""

import re
from typing import Final

BOM: Final = b"\xef\xbb\xbf"
_END: Final = b"\n\n"
_DATA: Final = b"data: "
_DATA_CHARS: Final = len(_DATA)
_LINE_ENDS: Final = re.compile(rb"\r\n|\r")


def split_events(data: bytes) -> list[tuple[str, bytes]]:
    """(the name of its `event:` line or "", the data) of each event in `data`. Comments and events without data are left out."""
    if (
        data.startswith(_DATA)
        and data.find(b"\n") == len(data) - 2
        and data.endswith(_END)
        and b"\r" not in data
    ):
        # The usual case: one event, in one line.
        return [("", data[_DATA_CHARS:-2])]
    if b"\r" in data:
        data = _LINE_ENDS.sub(b"\n", data)
    found: list[tuple[str, bytes]] = []
    for block in data.removeprefix(BOM).split(_END):
        name, lines = "", list[bytes]()
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"event:"):
                name = line[6:].strip().decode("utf-8", "replace")
        if lines:
            found.append((name, lines[0] if len(lines) == 1 else b"\n".join(lines)))
    return found
