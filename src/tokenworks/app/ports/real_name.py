"""The carrier's real-name check: over HTTP, from a file, or, in a dev environment, always positive."""

import csv
import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.settings import Settings
from tokenworks.kernel import Unavailable
from tokenworks.subscriptions import RealNameAnswer, RealNameCheck

ANSWER_S: Final = 10.0
FILE_ROWS_MAX: Final = 10_000_000
_ANSWERS: Final[dict[str, RealNameAnswer]] = {
    "verified": "verified",
    "pending": "pending",
    "refused": "refused",
}
_AWAY: Final = "the real-name check does not answer: try again in a moment"


def real_name_check(settings: Settings) -> RealNameCheck:
    """The check that the setting `real_name_check` names."""
    url = settings.real_name_check
    if url.startswith("file:"):
        return FileCheck(Path(unquote(urlsplit(url).path)))
    if url:
        return HttpCheck(url)
    return _verified if settings.environment == "dev" else _unavailable


def _verified(phone: str, name: str, id_number: str) -> RealNameAnswer:
    return "verified"


def _unavailable(phone: str, name: str, id_number: str) -> RealNameAnswer:
    raise Unavailable("real names can't be checked here: the operator has to set real_name_check")


class HttpCheck:
    """POSTs JSON {phone, name, id_number}; the answer is JSON {state: verified | pending | refused}. The rules of `outbound` apply: no
    redirect, no proxy of the environment, one time limit. The address is a setting of the operator, and may be private.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, phone: str, name: str, id_number: str) -> RealNameAnswer:
        body = msgspec.json.encode({"phone": phone, "name": name, "id_number": id_number})
        try:
            _, content = post(self._url, body, {}, allow_private=True, timeout_s=ANSWER_S)
            answer = msgspec.json.decode(content, type=dict[str, object])
        except (NotDelivered, msgspec.DecodeError):
            # The error is not shown: its text may quote personal data.
            raise Unavailable(_AWAY) from None
        state = _ANSWERS.get(str(answer.get("state")))
        if state is None:
            raise Unavailable(_AWAY)
        return state


class FileCheck:
    """Looks into a CSV file of the carrier: phone (E.164), name, SHA-256 of the document's number in hex, one row per holder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, phone: str, name: str, id_number: str) -> RealNameAnswer:
        digest = hashlib.sha256(id_number.encode()).hexdigest()
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                for number, row in enumerate(csv.reader(file)):
                    if number >= FILE_ROWS_MAX:
                        break
                    if len(row) >= 3 and row[0].strip() == phone:
                        right = (row[1].strip(), row[2].strip().lower()) == (name, digest)
                        return "verified" if right else "refused"
        except (OSError, UnicodeDecodeError, csv.Error):
            raise Unavailable(_AWAY) from None
        # The file may be a day old: a phone number that is missing in it may be new.
        return "pending"
