"""The carrier's real-name check: over HTTP, from a file, or, in a dev environment, by nobody."""

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
    """What `real_name_check` names."""
    place = settings.real_name_check
    if place.startswith("file:"):
        return FileCheck(Path(unquote(urlsplit(place).path)))
    if place:
        return HttpCheck(place)
    return _verified if settings.environment == "dev" else _nobody


def _verified(phone: str, name: str, id_number: str) -> RealNameAnswer:
    return "verified"


def _nobody(phone: str, name: str, id_number: str) -> RealNameAnswer:
    raise Unavailable("real names can't be checked here: the operator has to set real_name_check")


class HttpCheck:
    """POSTs JSON {phone, name, id_number}; the answer is JSON {state: verified | pending | refused}. By the rules of all that we
    send: no redirect, no proxy of the environment, one time for all of it. The address is the operator's own setting, and may be
    a private one.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, phone: str, name: str, id_number: str) -> RealNameAnswer:
        body = msgspec.json.encode({"phone": phone, "name": name, "id_number": id_number})
        try:
            _, said = post(self._url, body, {}, allow_private=True, timeout_s=ANSWER_S)
            answer = msgspec.json.decode(said, type=dict[str, object])
        except (NotDelivered, msgspec.DecodeError):
            # What went wrong may quote what was sent.
            raise Unavailable(_AWAY) from None
        state = _ANSWERS.get(str(answer.get("state")))
        if state is None:
            raise Unavailable(_AWAY)
        return state


class FileCheck:
    """A CSV that the carrier leaves: phone (E.164), name, SHA-256 of the document's number in hex, a row for each holder."""

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
        # The file is as of yesterday: a number that it does not have may be new.
        return "pending"
