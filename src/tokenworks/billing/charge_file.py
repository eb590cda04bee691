"""Charge files for the phone bill: the text that a carrier's billing system reads, and its answer. Pure.

Layout `tokenworks-phone-1`, UTF-8, lines end with LF, fields are separated by `|`:

    H|tokenworks-phone-1|<sequence>|<made, ISO 8601 UTC>|<lines>|<total, fen>
    D|<line>|<bill number>|<phone, E.164>|<first day, YYYYMMDD>|<last day, YYYYMMDD>|<amount, fen>|<of it VAT, fen>
    T|<lines>|<total, fen>|<SHA-256 of everything before this line, hex>

The answer:

    A|tokenworks-phone-1|<sequence>
    R|<line>|accepted|
    R|<line>|rejected|<reason>

Every line of the file is answered once. An answer is UTF-8 or GB 18030 (which includes GBK and GB 2312), with or without a byte order
mark; its lines end with LF or CR LF, and blank lines may follow the last one.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tokenworks.billing.errors import AcknowledgementFaulty
from tokenworks.kernel import REASON_CHARS_MAX, flaw, is_digits

LAYOUT: Final = "tokenworks-phone-1"
LINES_MAX: Final = 100_000
_BYTE_ORDER_MARK: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class FileLine:
    bill_no: str
    phone: str
    # YYYY-MM-DD: the first and the last day of the bill's period.
    first_day: str
    last_day: str
    amount_fen: int
    tax_fen: int


@dataclass(frozen=True, slots=True)
class LineAnswer:
    line_no: int
    accepted: bool
    reason: str | None


def write_file(sequence_no: int, made_at: datetime, lines: Sequence[FileLine]) -> tuple[str, str]:
    """(text, SHA-256 of the whole text in hex)."""
    total = sum(line.amount_fen for line in lines)
    rows = [f"H|{LAYOUT}|{sequence_no}|{made_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}|{len(lines)}|{total}"]
    rows += [
        f"D|{no}|{line.bill_no}|{line.phone}|{_digits(line.first_day)}|{_digits(line.last_day)}|{line.amount_fen}|{line.tax_fen}"
        for no, line in enumerate(lines, 1)
    ]
    body = "".join(f"{row}\n" for row in rows)
    digest = hashlib.sha256(body.encode()).hexdigest()
    text = f"{body}T|{len(lines)}|{total}|{digest}\n"
    return text, hashlib.sha256(text.encode()).hexdigest()


def _digits(day: str) -> str:
    return day.replace("-", "")


_REFERENCE: Final = re.compile(rf"{LAYOUT}:([0-9]{{1,9}}):([0-9]{{1,9}})(#[0-9]{{1,9}})?")


def line_reference(sequence_no: int, line_no: int) -> str:
    """The reference of the payment of a file's line. Payments after a corrected answer have `#2` … appended."""
    return f"{LAYOUT}:{sequence_no}:{line_no}"


def line_of(reference: str) -> tuple[int, int] | None:
    """(sequence, line) of a reference made by `line_reference`; None for any other reference."""
    found = _REFERENCE.fullmatch(reference)
    return None if found is None else (int(found[1]), int(found[2]))


# Stands in a stored file for a phone number, which is encrypted beside it, and for the digest, from which numbers could be guessed.
REDACTED: Final = "@"


def phone_field(line_no: int) -> str:
    """The name of a line's phone number in the associated data of its ciphertext."""
    return f"charge_file_line.phone:{line_no}"


def phones_in(text: str) -> dict[int, str]:
    """The phone number of each line of a file."""
    rows = [row.split("|") for row in text.split("\n") if row.startswith("D|")]
    return {int(row[1]): row[3] for row in rows}


def without_phones(text: str) -> str:
    """A file's text as it is stored: without phone numbers, and without the digest, from which they could be guessed."""
    return _replaced(text, {})


def with_phones(text: str, phones: Mapping[int, str]) -> str:
    """The text of a file from its stored form; byte for byte the original if every line's phone number is given."""
    body, _, tail = _replaced(text, phones).rpartition("T|")
    fields = tail.rstrip("\n").split("|")
    fields[-1] = hashlib.sha256(body.encode()).hexdigest()
    return f"{body}T|{'|'.join(fields)}\n"


def _replaced(text: str, phones: Mapping[int, str]) -> str:
    rows = []
    for row in text.split("\n"):
        fields = row.split("|")
        if fields[0] == "D":
            fields[3] = phones.get(int(fields[1]), REDACTED)
        elif fields[0] == "T":
            fields[-1] = REDACTED
        rows.append("|".join(fields))
    return "\n".join(rows)


def decode_answer(data: bytes) -> str:
    """An acknowledgement as text: UTF-8 if it decodes, else GB 18030. Raises `AcknowledgementFaulty`, which names the line."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1
    try:
        return data.decode("gb18030")
    except UnicodeDecodeError:
        raise AcknowledgementFaulty(f"line {at}: it is neither UTF-8 nor GB 18030") from None


def _rows(text: str) -> list[str]:
    """The lines, without the byte order mark and blank lines at the end. Raises `AcknowledgementFaulty`."""
    # Lines end with LF (or CR LF) only; `splitlines` would also split at a dozen other characters.
    rows = [row.removesuffix("\r") for row in text.removeprefix(_BYTE_ORDER_MARK).split("\n")]
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise AcknowledgementFaulty("the acknowledgement is empty")
    for at, row in enumerate(rows, 1):
        found = flaw(row)
        if found is not None and (at == 1 or row.count("|") != 3):
            # A flaw in an answer's reason is reported by `_answers`.
            raise AcknowledgementFaulty(f"line {at}: it has {found}; lines end with LF or CR LF")
    return rows


def read_answer(text: str, lines: int) -> tuple[int, list[LineAnswer]]:
    """(sequence of the file, an answer for each of its lines). Raises `AcknowledgementFaulty`, which names the line."""
    rows = _rows(text)
    return _sequence(rows[0]), _answers(rows[1:], lines)


def sequence_of(text: str) -> int:
    """The sequence of the file that an acknowledgement answers. Raises `AcknowledgementFaulty`."""
    return _sequence(_rows(text)[0])


def _sequence(row: str) -> int:
    fields = row.split("|")
    if len(fields) != 3 or fields[:2] != ["A", LAYOUT] or not _is_number(fields[2]):
        raise AcknowledgementFaulty(f"line 1: an acknowledgement begins with A|{LAYOUT}|<sequence>")
    return int(fields[2])


def _answers(rows: Sequence[str], lines: int) -> list[LineAnswer]:
    found: dict[int, LineAnswer] = {}
    for at, row in enumerate(rows, 2):
        fields = row.split("|")
        if len(fields) != 4 or fields[0] != "R" or fields[2] not in {"accepted", "rejected"}:
            raise AcknowledgementFaulty(f"line {at}: it is R|<line>|accepted| or R|<line>|rejected|<reason>")
        number = int(fields[1]) if _is_number(fields[1]) else 0
        if not 1 <= number <= lines:
            raise AcknowledgementFaulty(f"line {at}: the file has no line {fields[1][:20]}, it has {lines}")
        if number in found:
            raise AcknowledgementFaulty(f"line {at}: line {number} is answered twice")
        found_flaw = flaw(fields[3])
        if found_flaw is not None:
            raise AcknowledgementFaulty(f"line {at}: the reason has {found_flaw}")
        if (fields[2] == "rejected") != bool(fields[3]) or len(fields[3]) > REASON_CHARS_MAX:
            raise AcknowledgementFaulty(
                f"line {at}: a rejected line has a reason of at most {REASON_CHARS_MAX} characters, an accepted one has none"
            )
        found[number] = LineAnswer(number, fields[2] == "accepted", fields[3] or None)
    if len(found) != lines:
        missing = next(number for number in range(1, lines + 1) if number not in found)
        raise AcknowledgementFaulty(f"line {missing} of the file is not answered")
    return [found[number] for number in range(1, lines + 1)]


def _is_number(text: str) -> bool:
    return is_digits(text, 9)
