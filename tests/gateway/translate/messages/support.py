"""What the tests of the codec of messages share: streams as events, requests, and the recorded streams."""

import json
from pathlib import Path

import msgspec

from tokenworks.gateway.translate.codec import Naming, Target
from tokenworks.gateway.translate.form import Request, Text, Turn
from tokenworks.gateway.translate.messages import codec

FOLDER = Path(__file__).parents[5] / "shared/vendors/streams"
RECORDED = sorted(FOLDER.glob("anthropic-messages-*.json"))
HI = (Turn("user", (Text("hi"),)),)
SIGNED = Target(signed_reasoning=True, structured_output=True, system_turns=True)


def request(**fields):
    return Request(**({"model": "m", "turns": HI} | fields))


def naming(**fields):
    return Naming("a1", "shop/best", 1_790_000_000, request(**fields))


def body(**fields):
    return {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]} | fields


def sent(request_, target=SIGNED):
    """(the body as the deployment gets it, the dropped names)."""
    fields, dropped = codec.write_request(request_, target)
    return msgspec.json.decode(msgspec.json.encode(fields)), dropped


def turned(*turns, target=SIGNED, **fields):
    """The messages of these turns."""
    return sent(request(turns=turns, **fields), target)[0]["messages"]


def read(*events):
    """The events of the form in these events of a stream."""
    reader = codec.event_reader()
    out = [
        event
        for data in events
        for event in reader.read(str(data.get("type", "")), json.dumps(data).encode())
    ]
    return [*out, *reader.finish()]


def parsed(stream):
    """The events of a written stream, with their names checked."""
    out = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        fields = json.loads(data.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        out.append(fields)
    return out


def written(events, **fields):
    """The written stream of these events, each written by itself."""
    writer = codec.event_writer(naming(**fields))
    return parsed(b"".join(writer.write([event]) for event in events))


def rebuilt(events):
    """The message that the SDK's accumulator makes of a stream's events."""
    from anthropic.lib.streaming._messages import accumulate_event
    from anthropic.types import RawMessageStreamEvent
    from pydantic import TypeAdapter

    adapter = TypeAdapter(RawMessageStreamEvent)
    snapshot, buffers = None, {}
    for event in events:
        if event["type"] != "ping":
            snapshot = accumulate_event(
                event=adapter.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
            )
    return snapshot


def check_order(events):
    """Blocks follow each other, their indices have no gaps, and what surrounds them is where it belongs."""
    assert [events[0]["type"], events[1]["type"]] == ["message_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    open_index, next_index = None, 0
    for event in events[2:-2]:
        kind = event["type"]
        if kind == "content_block_start":
            assert open_index is None and event["index"] == next_index
            open_index, next_index = next_index, next_index + 1
        else:
            assert kind in {"content_block_delta", "content_block_stop"} and event["index"] == open_index
            open_index = None if kind == "content_block_stop" else open_index
    assert open_index is None
