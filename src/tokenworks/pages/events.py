"""Server-sent events: a bounded number of streams, each with heartbeats and an end (HTML Living Standard, 9.2)."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tokenworks.kernel import TokenworksError, Unavailable
from tokenworks.pages.page import HEADERS

STREAMS_MAX: Final = 64
STREAMS_OF_ONE_MAX: Final = 4
# Proxies end a connection without a byte after 30 to 60 s.
HEARTBEAT_S: Final = 15.0
# A stream ends after this time and the browser opens another one, which is authorised anew.
STREAM_S_MAX: Final = 600.0
# A reader that takes no bytes holds its stream at the byte that it does not take: the stream is broken off so much later.
UNREAD_S_MAX: Final = 30.0
RETRY_MS: Final = 3000
EVENT_CHARS_MAX: Final = 262_144


class Event(NamedTuple):
    """`data`: a fragment of HTML, or JSON. `name`: empty for one that htmx swaps into the page, else a DOM event's name."""

    data: str
    name: str = ""


def written(event: Event) -> str:
    """An event as it is sent. Raises `ValueError` for one that is too long, or whose name would break its line."""
    if len(event.data) > EVENT_CHARS_MAX:
        raise ValueError(f"an event has at most {EVENT_CHARS_MAX} characters")
    if event.name and not event.name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        raise ValueError("the name of an event has letters, digits, dots, dashes and underscores")
    head = f"event: {event.name}\n" if event.name else ""
    # Each of the three line ends of the standard begins a further line of data.
    lines = event.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return head + "".join(f"data: {line}\n" for line in lines) + "\n"


def toast_headers(text: str, tone: str = "ok") -> dict[str, str]:
    """Headers of the answer to a part of a page, by which its script shows a toast."""
    return {"HX-Trigger": json.dumps({"toast": {"text": text, "tone": tone}})}


class EventStreams:
    """Counts the open streams of this process. One belongs to the application's state."""

    __slots__ = ("_of_one", "open")

    def __init__(self) -> None:
        self.open = 0
        self._of_one: Counter[str] = Counter()

    def check(self, who: str) -> None:
        """Raises `Unavailable` if there are too many streams, of all principals or of this one."""
        if self.open >= STREAMS_MAX or self._of_one[who] >= STREAMS_OF_ONE_MAX:
            raise Unavailable("too many pages follow events: close one, or try again in a moment")

    def take(self, who: str) -> None:
        """Begin a stream. Raises as `check`."""
        self.check(who)
        self.open += 1
        self._of_one[who] += 1

    def give_back(self, who: str) -> None:
        assert self.open > 0 and self._of_one[who] > 0
        self.open -= 1
        self._of_one[who] -= 1
        if not self._of_one[who]:
            del self._of_one[who]


def event_stream(
    request: Request, who: str, read: Callable[[], Event | None], every_s: float
) -> StreamingResponse:
    """Answer with a stream that sends what `read` returns every `every_s` seconds; None, and what was sent last, is not sent. `who`: whose
    streams are counted together, a session or a staff member.

    `read` runs on a thread and opens services of its own, for as long as it reads. It raises what ends the stream: a principal whose
    session has ended, for example. Raises `Unavailable` if there are too many streams.
    """
    streams: EventStreams = request.app.state.event_streams
    streams.check(who)
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    return _Held(_sent(read, every_s), streams, who, headers)


class _Held(StreamingResponse):
    """A response that holds a place among the streams until it has ended, however it ends."""

    def __init__(
        self, content: AsyncIterator[str], streams: EventStreams, who: str, headers: dict[str, str]
    ) -> None:
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._streams = streams
        self._who = who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._streams.take(self._who)
        except Unavailable:
            # Others took the last places since the check.
            await Response(status_code=503)(scope, receive, send)
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STREAM_S_MAX + UNREAD_S_MAX):
                    await super().__call__(scope, receive, send)
        finally:
            self._streams.give_back(self._who)


async def _sent(read: Callable[[], Event | None], every_s: float) -> AsyncIterator[str]:
    ends_s = time.monotonic() + STREAM_S_MAX
    spoke_s = time.monotonic()
    last: Event | None = None
    yield f"retry: {RETRY_MS}\n\n"
    while time.monotonic() < ends_s:
        try:
            event = await run_in_threadpool(read)
        except TokenworksError:
            return
        if event is not None and event != last:
            last, spoke_s = event, time.monotonic()
            yield written(event)
        elif time.monotonic() - spoke_s >= HEARTBEAT_S:
            spoke_s = time.monotonic()
            yield ": here\n\n"
        await asyncio.sleep(every_s)
