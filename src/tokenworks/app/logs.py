"""Structured logs to stderr. What is logged never holds a prompt, a key, a code or a whole phone number."""

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

from tokenworks.kernel import shown

# Belt and braces: whatever a message quotes, keys and phone numbers are cut out of it.
_KEY: Final = re.compile(r"twk_[a-z0-9]{1,12}_[0-9A-Za-z]{8,}")
_PHONE: Final = re.compile(r"(?<![0-9a-fA-F-])(\+[1-9]\d{2})\d{4,8}(\d{4})(?![0-9a-fA-F-])")
_BEARER: Final = re.compile(r"(?i)(bearer\s+|x-api-key:\s*)\S+")


class _Patient:
    """A stream for logs that stops nobody: where the disk is full a line is lost, and not the process that wrote it."""

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
    text = _BEARER.sub(r"\1…", text)
    return _PHONE.sub(r"\1****\2", text)


def _mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            # In a terminal a logged text must not act, or begin a line that looks like another one's.
            event[name] = shown(masked(value), lines=name == "exception")
    return event


def configure_logs(level: str, form: str, process: str) -> None:
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Patient(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(
        level=logging.WARNING,
        stream=cast("TextIO", _Patient(sys.stderr)),
        format=f'{{"process": "{process}", "event": "%(message)s"}}',
    )
