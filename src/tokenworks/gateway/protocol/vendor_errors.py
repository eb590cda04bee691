"""Reads vendors' errors: the kind of a fault, the time of a retry, and the message that the client may see.

The tables are from the vendors' own documents; docs/METERING.md describes their use. The module knows no vendor by name: the names to
remove from messages and the meaning of codes that are numbers come from the deployment's profile.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from tokenworks.gateway.protocol.errors import Refusal

# The longest time for which a deployment is not tried, whatever it reports: a wrong clock or unit would close it for days.
RETRY_AFTER_S_MAX: Final = 3600.0
MESSAGE_CHARS_MAX: Final = 500
CODE_CHARS_MAX: Final = 100
CONTEXT_CODE: Final = "context_length_exceeded"
# A larger number is a time since 1970 in seconds; a number larger than a thousand times this is one in milliseconds.
_EPOCH_S: Final = 1_000_000_000
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|us|µs|ns|d|h|m|s)(?![a-z])")
_UNIT_S: Final = {
    "d": 86400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_PLAIN: Final = re.compile(r"-?\d{1,15}(?:\.\d{1,9})?")
_WAIT_IN_TEXT: Final = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d{1,9}(?:\.\d{1,9})?\s?(?:ms|[hms])\s?){1,4})(?![a-z])",
    re.IGNORECASE,
)
_STRUCTURED: Final = re.compile(r"(?:^|[;,\s])(?:reset|t)\s*=\s*(\d{1,12})")


class Fault(NamedTuple):
    """An upstream's error, whatever its HTTP status. `kind` is one of:

    `client` (the request is wrong, and the client can correct it), `moderation` (a content policy refuses the request), `rate` (too
    many requests), `quota` (the operator's account at the vendor is empty), `overloaded`, `server` (any other error).
    `message` has no control characters, but may contain the vendor's names.
    """

    kind: str
    status: int
    code: str
    message: str
    retry_after_s: float | None = None


def retry_after_s(headers: Mapping[bytes, bytes], now_s: float) -> float | None:
    """Seconds until the deployment accepts another request, by its response headers, at most `RETRY_AFTER_S_MAX`; None if they do
    not say.

    `retry-after-ms` and `Retry-After` (RFC 9110, 10.2.3: seconds or a date; vendors also send fractions and durations) take precedence
    over the reset times of limits. A date is compared with the answer's own `Date`, if there is one, so that a wrong clock on either
    side has no effect. `now_s`: civil time, seconds since 1970.
    """
    texts = {
        name.lower(): value.decode("latin-1").strip()
        for name, value in headers.items()
        if b"retry" in name.lower() or b"ratelimit" in name.lower() or name.lower() == b"date"
    }
    date_s = _date_s(texts.get(b"date", ""))
    now_s = now_s if date_s is None else date_s
    after_ms = _number(texts.get(b"retry-after-ms", "")) if b"retry-after-ms" in texts else None
    if after_ms is not None:
        return _bounded(after_ms / 1000)
    if b"retry-after" in texts:
        after_s = wait_s(texts[b"retry-after"], now_s)
        if after_s is not None:
            return after_s
    return _reset_s(texts, now_s)


def _reset_s(headers: Mapping[bytes, str], now_s: float) -> float | None:
    """Seconds until limits are reset: the latest reset of the limits with nothing remaining; if there are none, the earliest reset
    of all limits.
    """
    used_up: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        if b"ratelimit" not in name or (b"reset" not in name and name != b"ratelimit"):
            continue
        if name == b"ratelimit":  # the IETF draft's header: one field with several parts
            match = _STRUCTURED.search(value)
            at_s = None if match is None else _bounded(float(match[1]))
        else:
            at_s = wait_s(value, now_s)
        if at_s is not None:
            remaining = headers.get(name.replace(b"reset", b"remaining"), "")
            (used_up if _number(remaining) == 0 else others).append(at_s)
    if used_up:
        return max(used_up)
    return min(others, default=None)


def wait_s(text: str, now_s: float) -> float | None:
    """The wait in seconds that a text gives: as seconds, a duration (6m0s, 20ms), a time since 1970 in seconds or milliseconds, an
    HTTP date, or an RFC 3339 date.
    """
    text = text.strip().strip('"')[:100]
    number = _number(text)
    if number is not None:
        if number >= _EPOCH_S * 1000:
            number = number / 1000 - now_s
        elif number >= _EPOCH_S:
            number -= now_s
        return _bounded(number)
    parts = list(_DURATION.finditer(text.lower()))
    if parts and not _DURATION.sub("", text.lower()).strip():
        return _bounded(sum(float(part[1]) * _UNIT_S[part[2]] for part in parts))
    at_s = _date_s(text)
    return None if at_s is None else _bounded(at_s - now_s)


def wait_in_message(message: str) -> float | None:
    """The wait in seconds from a message like "please try again in 1m2s", for vendors that give it in no field."""
    match = _WAIT_IN_TEXT.search(message)
    return None if match is None else wait_s(match[1], 0.0)


def _date_s(text: str) -> float | None:
    if not text or not any(letter.isdigit() for letter in text):
        return None
    try:
        at = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _number(text: str) -> float | None:
    return float(text) if _PLAIN.fullmatch(text) else None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX)


# Words in error codes (lower case, without separators) by kind, in order of precedence: the first kind with a match wins.
_CODES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("quota", (
        "insufficientquota", "insufficientuserquota", "quotaexceeded", "exceededcurrentquota", "billing", "paymentrequired",
        "insufficientbalance", "insufficientcredits", "insufficientfunds", "arrearage", "accountoverdue", "spendlimit",
        "balancenotenough", "creditexhausted",
    )),
    ("overloaded", (
        "overloaded", "capacityexceeded", "unavailableerror", "serviceunavailable", "serverbusy", "enginebusy", "modelloading",
        "insufficientsystemresource", "resourceunavailable",
    )),
    ("rate", ("ratelimit", "throttling", "toomanyrequests", "rpmlimit", "tpmlimit", "concurrencylimit", "resourceexhausted")),
    ("moderation", (
        "contentfilter", "contentpolicy", "policyviolation", "moderation", "responsibleai", "datainspection", "sensitivecontent",
        "riskdetection", "unsaferequest", "contentblocked", "promptblocked", "safety",
    )),
    ("context", (
        "contextlength", "contextwindow", "exceedcontextsize", "tokenstoolong", "characterstoolong", "stringabovemax",
        "prompttoolong", "inputtoolong",
    )),
    # Before the word `forbidden`: a field is, and not the caller (FastAPI, Mistral).
    ("client", ("extraforbidden",)),
    ("server", (
        "apikey", "authentic", "unauthorized", "permission", "accessdenied", "mismatchedorganization", "modelnotfound",
        "invalidmodel", "modelnotopen", "invalidendpoint", "notfounderror", "forbidden", "deploymentnotfound",
        "internal", "servererror", "apierror", "timeout",
    )),
    ("client", (
        "invalidrequest", "invalidparameter", "invalidargument", "missingparameter", "malformed", "unsupported", "invalidmessages",
        "requesttoolarge", "badrequest", "validation", "unprocessable", "invalidvalue", "invalidtype",
    )),
)  # fmt: skip
_QUOTA_TEXT: Final = re.compile(
    r"insufficient (?:balance|quota|credits?|funds)|credit balance|exceeded your current quota|quota[^.]{0,40}used up"
    r"|余额不足|欠费|额度已用",
    re.IGNORECASE,
)
_CONTEXT_TEXT: Final = re.compile(
    r"context (?:length|window|size)|maximum context|(?:prompt|input|request)[^.]{0,30} too long"
    r"|token length too long|exceed(?:s|ed)?[^.]{0,30}token limit|range of input length",
    re.IGNORECASE,
)
_MODERATION_TEXT: Final = re.compile(
    r"content (?:policy|filter|management policy)|content safety|inappropriate content|flagged|moderation|敏感|违规|不安全",
    re.IGNORECASE,
)
_BY_STATUS: Final = {
    400: "client", 402: "quota", 411: "client", 413: "client", 415: "client", 422: "client", 429: "rate", 451: "moderation",
    498: "overloaded", 503: "overloaded", 529: "overloaded",
}  # fmt: skip
# Statuses with which words of moderation, or codes of a client error, are about the request. With another status they are about the
# operator's account or the server. 0: no status.
_MODERATED: Final = frozenset({0, 400, 403, 422, 451})
_CLIENTS: Final = frozenset({0, 400, 411, 413, 415, 422, 451})


def kind_of(status: int, code: str, message: str) -> str:
    """The kind of a fault (see `Fault`), or `context` (a client's fault: the request exceeds the context). `status` is 0 if the
    answer's status was no error; `code` may be several words.
    """
    squeezed = re.sub(r"[^a-z0-9 ]", "", code.lower())
    by_code = next((kind for kind, words in _CODES if any(word in squeezed for word in words)), "")
    if by_code in {"quota", "overloaded", "rate", "moderation", "context"}:
        return by_code
    if _QUOTA_TEXT.search(message):
        return "quota"
    if by_code in {"", "client"} and status < 500:
        if status != 429 and _CONTEXT_TEXT.search(message):
            return "context"
        if status in _MODERATED and _MODERATION_TEXT.search(message):
            return "moderation"
    if by_code == "client" and status not in _CLIENTS:
        by_code = ""
    return by_code or _BY_STATUS.get(status, "server")


def by_codes(fault: Fault, codes: Mapping[str, str]) -> Fault:
    """The fault by a vendor's own table of codes (`errors.codes` of its profile), for codes that say nothing by their words. A number
    means one thing at one vendor and another at the next, so the table is the profile's.
    """
    kind = codes.get(fault.code)
    if kind is None:
        return fault
    status, code, after_s = fault.status, fault.code, fault.retry_after_s
    if kind == "context":
        kind, code = "client", CONTEXT_CODE
    if kind in {"client", "moderation"} and not 400 <= status < 500:
        status = 400
    if kind == "credential":
        kind, status = "server", status if status in {401, 403} else 401
    if after_s is None and kind in {"rate", "overloaded"}:
        after_s = wait_in_message(fault.message)
    return Fault(kind, status, code, fault.message, after_s)


# Parts of messages that name the vendor, its hosts, or the operator's account at the vendor.
_LINK: Final = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s<>\"')\]]+", re.IGNORECASE)
_MAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w.-]{1,255}")
_HOST: Final = re.compile(
    r"\b(?:[a-z0-9_-]{1,63}\.){1,10}(?:com|cn|net|org|ai|io|dev|app|cloud|co|tech|info|me|sh|xyz|internal|local|lan|svc|cluster|example)"
    r"\b(?::\d{1,5})?(?:/[^\s<>\"')\]]*)?",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(
    r"\[?\b(?:\d{1,3}\.){3}\d{1,3}\b\]?(?::\d{1,5})?|\[[0-9a-f:.]{3,45}\](?::\d{1,5})?", re.IGNORECASE
)
_REQUEST_ID: Final = re.compile(
    r"[(\[]?\b(?:request|req|trace|log)[ _-]?id\b(?:\s+is)?\s*[:=]?\s*[\w-]{6,100}[)\]]?", re.IGNORECASE
)
_ID: Final = re.compile(
    r"\b(?:org|organization|proj|project|req|request|user|acct|account|key|sk|ak|ep|cus|sub|team|ws)[-_][A-Za-z0-9*_-]{6,100}"
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{24,64}\b"
)  # fmt: skip
_SPACES: Final = re.compile(r"\s+")
THE_PROVIDER: Final = "the provider"


def clean_text(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """A vendor's text without control characters, direction marks and line ends, at most `chars_max` characters long."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[: chars_max * 4])
    text = _SPACES.sub(" ", text).strip()
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def without_vendor(message: str, names: Sequence[str], model: str = "", upstream_model: str = "") -> str:
    """A message without links, hosts, addresses, ids and the vendor's names; the upstream's model name is replaced by `model`."""
    if upstream_model and model:
        message = re.sub(re.escape(upstream_model), lambda _: model, message, flags=re.IGNORECASE)
    for pattern in (_LINK, _MAIL, _REQUEST_ID, _HOST, _ADDRESS, _ID):
        message = pattern.sub("", message)
    for name in sorted(names, key=len, reverse=True):
        message = _name_pattern(name).sub(THE_PROVIDER, message)
    return clean_text(re.sub(r"\s+([,.;:)])", r"\1", message)).strip(" ,;:")


def _name_pattern(name: str) -> re.Pattern[str]:
    """Matches a vendor's name in any case, with or without a space or hyphen between its letters."""
    letters = [re.escape(letter) for letter in name if letter.isalnum()]
    between = r"[ _.-]?" if len(letters) >= 5 else ""
    return re.compile(
        rf"(?<![A-Za-z0-9])(?:{between.join(letters)})(?![A-Za-z0-9])" if letters else r"(?!)", re.IGNORECASE
    )


def refusal_of(fault: Fault, *, names: Sequence[str], model: str, upstream_model: str = "") -> Refusal | None:
    """The refusal that the client gets for its own fault, without the vendor's names. None for a fault of the upstream, after which
    another deployment is tried, or the client gets 502 or 503.
    """
    if fault.kind not in {"client", "moderation"}:
        return None
    message = without_vendor(fault.message, names, model, upstream_model)
    if fault.kind == "moderation":
        text = f"content policy: {message}" if message else "the content was refused by a content policy"
        refusal = Refusal(400, "content_policy_violation", text)
        return refusal._replace(status=403) if fault.status == 403 else refusal
    if fault.code == CONTEXT_CODE:
        text = message or f"the request is longer than the context of {model}"
        return Refusal(400, "context_length_exceeded", text)
    refusal = Refusal(400, "refused_by_model", message or f"{model} does not take this request")
    return refusal._replace(status=fault.status) if fault.status in {413, 422} else refusal
