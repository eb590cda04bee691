"""Finish reasons of an answer as its upstream reports them, for spans. The module is not compiled, since a compiled Struct loses its class
keywords.
"""

import re
from typing import Final

import msgspec

FINISHES_MAX: Final = 16
# A reason is a word of the protocol. Anything else could be content.
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
OTHER: Final = "other"


class _Choice(msgspec.Struct, gc=False):
    finish_reason: object = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: object = None


class _Whole(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    stop_reason: object = None
    status: object = None
    incomplete_details: _Incomplete | None = None


_decode: Final = msgspec.json.Decoder(_Whole).decode


def known_finish(reason: object) -> str:
    """The reason if it is a word, `other` if it is anything else, and "" if there is none."""
    if not reason:
        return ""
    return reason if isinstance(reason, str) and _WORD.fullmatch(reason) else OTHER


def response_finish(status: object, details: object) -> str:
    """The finish of an object of the responses API: why it is incomplete, else its status."""
    reason = details.get("reason") if isinstance(details, dict) else None
    return known_finish(reason) or known_finish(status)


def whole_finishes(body: bytes, protocol: str) -> tuple[str, ...]:
    """The finish reasons of an answer that is not streamed, one for each choice that has one; () if the body can't be read."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    if protocol == "messages":
        found = [known_finish(answer.stop_reason)]
    elif protocol == "responses":
        details = answer.incomplete_details
        found = [known_finish(None if details is None else details.reason) or known_finish(answer.status)]
    else:
        found = [known_finish(choice.finish_reason) for choice in (answer.choices or ())[:FINISHES_MAX]]
    return tuple([finish for finish in found if finish])
