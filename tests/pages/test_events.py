"""Streams of events: how one is written, how many there are, and that each ends."""

import asyncio
import json
import types

import pytest

from tokenworks.kernel import Unavailable
from tokenworks.pages import events
from tokenworks.pages.events import (
    EVENT_CHARS_MAX,
    STREAMS_MAX,
    STREAMS_OF_ONE_MAX,
    Event,
    EventStreams,
    event_stream,
    toast_headers,
    written,
)


def test_no_line_of_a_text_is_an_event_of_its_own():
    assert written(Event("<p>a</p>")) == "data: <p>a</p>\n\n"
    assert (
        written(Event("a\nevent: x\r\ndata: y\rz", "tick"))
        == "event: tick\ndata: a\ndata: event: x\ndata: data: y\ndata: z\n\n"
    )
    for bad in (Event("x" * (EVENT_CHARS_MAX + 1)), Event("x", "a\nb"), Event("x", "a b")):
        with pytest.raises(ValueError):
            written(bad)


def test_a_toast_is_ascii_in_its_header():
    (value,) = toast_headers("已保存。\r\nSet-Cookie: a", "warn").values()
    assert value.isascii() and "\n" not in value
    assert json.loads(value)["toast"] == {"text": "已保存。\r\nSet-Cookie: a", "tone": "warn"}


def test_streams_are_bounded_of_one_and_in_all():
    streams = EventStreams()
    for _ in range(STREAMS_OF_ONE_MAX):
        streams.take("li")
    with pytest.raises(Unavailable):
        streams.take("li")
    for n in range(STREAMS_MAX - STREAMS_OF_ONE_MAX):
        streams.take(f"other {n}")
    with pytest.raises(Unavailable):
        streams.take("mei")
    streams.give_back("li")
    streams.take("mei")
    assert streams.open == STREAMS_MAX


class Client:
    """Takes what a stream sends, and goes away after some messages."""

    def __init__(self, messages):
        self.messages, self.sent, self.gone = messages, [], asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        if len(self.sent) >= self.messages:
            self.gone.set()

    def text(self):
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def served(read, messages=1000, streams=None):
    """What a client gets of a stream, and the places that are taken after it."""
    streams = streams or EventStreams()
    request = types.SimpleNamespace(
        app=types.SimpleNamespace(state=types.SimpleNamespace(event_streams=streams))
    )

    async def run():
        client = Client(messages)
        scope = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}}
        await asyncio.wait_for(event_stream(request, "li", read, 0)(scope, client.receive, client.send), 20)
        return client

    return asyncio.run(run()), streams


def test_a_change_is_sent_once_and_a_reader_that_goes_gives_its_place_back():
    states = iter([Event("1"), Event("1"), None, Event("1"), Event("2"), *[Event("3")] * 10_000])
    client, streams = served(lambda: next(states), messages=5)
    head, *_ = client.sent
    headers = dict(head["headers"])
    assert (
        headers[b"content-type"].startswith(b"text/event-stream") and headers[b"cache-control"] == b"no-store"
    )
    assert client.text().startswith("retry: 3000\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n")
    assert streams.open == 0


def test_a_stream_ends_when_its_reader_may_not_read_any_more_or_its_time_is_over(monkeypatch):
    calls = iter([Event("1")])

    def read():
        try:
            return next(calls)
        except StopIteration:
            raise Unavailable("signed out") from None

    client, streams = served(read)
    assert client.text() == "retry: 3000\n\ndata: 1\n\n" and streams.open == 0
    monkeypatch.setattr(events, "STREAM_S_MAX", 0.0)
    client, streams = served(lambda: Event("x"))
    assert client.text() == "retry: 3000\n\n" and streams.open == 0


def test_a_reader_that_takes_nothing_keeps_no_place(monkeypatch):
    async def stuck(_client, _message):
        await asyncio.Event().wait()

    monkeypatch.setattr(events, "STREAM_S_MAX", 0.05)
    monkeypatch.setattr(events, "UNREAD_S_MAX", 0.05)
    monkeypatch.setattr(Client, "send", stuck)
    _, streams = served(lambda: Event("x"))
    assert streams.open == 0


def test_silence_is_broken_by_comments(monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.0)
    client, _ = served(lambda: None, messages=4)
    assert client.text().startswith("retry: 3000\n\n: here\n\n: here\n\n")


def test_a_place_that_was_taken_since_it_was_looked_at_is_no_stream():
    streams = EventStreams()
    request = types.SimpleNamespace(
        app=types.SimpleNamespace(state=types.SimpleNamespace(event_streams=streams))
    )
    answer = event_stream(request, "li", lambda: None, 0)
    for _ in range(STREAMS_OF_ONE_MAX):
        streams.take("li")

    async def run():
        client = Client(1000)
        await answer({"type": "http", "method": "GET"}, client.receive, client.send)
        return client.sent[0]["status"]

    assert asyncio.run(run()) == 503 and streams.open == STREAMS_OF_ONE_MAX
    with pytest.raises(Unavailable):
        event_stream(request, "li", lambda: None, 0)
