"""Structured logs on stderr. A log line never has a prompt, a key, a code or a whole phone number."""

import contextlib
import logging
import re
import sys
import time
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from tokenworks.kernel import LineLimit, shown

# A second protection: keys and phone numbers are masked in every text, whatever it quotes.
_KEY: Final = re.compile(r"twk_[a-z0-9]{1,12}_[0-9A-Za-z]{8,}")
_PHONE: Final = re.compile(r"(?<![0-9a-fA-F-])(\+[1-9]\d{2})\d{4,8}(\d{4})(?![0-9a-fA-F-])")
# Sessions, staff tokens, links and challenges.
_SECRET: Final = re.compile(r"\b(tw[cflos]_)[0-9A-Za-z_-]{16,}")
_BEARER: Final = re.compile(r"(?i)(bearer\s+|x-api-key:\s*)\S+")

# For the lines of one event (and one deployment, model, child, job …): a burst of 20, then one every five seconds.
LINES_BURST: Final = 20
LINES_PER_S: Final = 0.2
# The number of suppressed lines is logged this long after the first of them, at the latest.
SUMMARY_S: Final = 30.0
# The fields that tell lines of one event apart.
_ABOUT: Final = ("deployment", "model", "child", "job", "tokenizer", "why")
_ABOUT_CHARS_MAX: Final = 100
# Lines about requests have limits of their own (`gateway.request_log`).
_LIMITED_ELSEWHERE: Final = frozenset({"request"})
# Placement decisions are sampled by a setting (`decision_log_every`); decisions without a deployment are logged in full.
_SAMPLED: Final = "placement.decision"
SUPPRESSED: Final = "log.suppressed"


class _LossyStream:
    """A stream for logs: where the disk is full a line is lost, and the process that wrote it goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def masked(text: str) -> str:
    text = _KEY.sub("twk_…", text)
    text = _SECRET.sub(r"\1…", text)
    text = _BEARER.sub(r"\1…", text)
    return _PHONE.sub(r"\1****\2", text)


def _mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str):
            # A logged text must not act in a terminal, or begin a line that looks like another log line.
            event[name] = shown(masked(value), lines=name == "exception")
    return event


class LineLimiter:
    """A processor that suppresses lines that come too often, and counts them: a failing upstream does not fill the disk."""

    def __init__(self) -> None:
        self._limit = LineLimit(LINES_BURST, LINES_PER_S, SUMMARY_S)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        name = str(event.get("event", ""))
        if name in _LIMITED_ELSEWHERE or name == SUPPRESSED:
            return event
        if name == _SAMPLED and event.get("chosen") is not None:
            return event
        about = next((str(event[key])[:_ABOUT_CHARS_MAX] for key in _ABOUT if event.get(key)), "")
        if not self._limit.admits((name[:_ABOUT_CHARS_MAX], about), time.monotonic()):
            raise structlog.DropEvent
        return event

    def say(self) -> None:
        """Log the number of suppressed lines of each kind, once `SUMMARY_S` is over."""
        for kind, count in self._limit.left_out(time.monotonic()):
            name, about = kind if isinstance(kind, tuple) else (str(kind), "")
            structlog.get_logger().warning(SUPPRESSED, of=name, about=about or None, lines=count)


class _RecordLimiter(logging.Filter):
    """The same limit for the log lines of libraries."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = LineLimit(LINES_BURST, LINES_PER_S, SUMMARY_S)

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        for kind, count in self._limit.left_out(now_s):
            structlog.get_logger().warning(SUPPRESSED, of=str(kind), lines=count)
        return self._limit.admits(
            (record.name, record.msg[:_ABOUT_CHARS_MAX] if isinstance(record.msg, str) else ""), now_s
        )


def log_suppressed() -> None:
    """Log how many lines this process has suppressed. Called by each process once in a while."""
    first = structlog.get_config()["processors"][0]
    if isinstance(first, LineLimiter):
        first.say()


def configure_logs(level: str, form: str, process: str) -> None:
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Processor = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            LineLimiter(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _LossyStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(
        level=logging.WARNING,
        stream=cast("TextIO", _LossyStream(sys.stderr)),
        format=f'{{"process": "{process}", "event": "%(message)s"}}',
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_RecordLimiter())
