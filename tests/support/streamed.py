"""Streams for the tests of translation: the recorded ones, their bytes, and what a client makes of a stream."""

import json
from pathlib import Path

from tokenworks.gateway.protocol.meter import UsageOptions
from tokenworks.gateway.protocol.stream import make_meter

FOLDER = Path(__file__).parents[1] / "gateway/translate"
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
OTHERS = {client: [other for other in PATHS if other != client] for client in PATHS}
REQUESTS = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 500,
             "stream_options": {"include_usage": True}},
    "messages": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 500},
    "responses": {"model": "m", "input": "hi", "stream": True, "max_output_tokens": 500},
}  # fmt: skip


def recorded():
    """name -> (protocol, bytes, what a reader is expected to make of it)."""
    found = {}
    for path in sorted(FOLDER.glob("**/streams/*.json"), key=lambda path: path.stem):
        told = json.loads(path.read_text())
        found[path.stem] = told["protocol"].removesuffix("-cumulative"), bytes_of(told), told["expect"]
    return found


def bytes_of(told):
    out = []
    for event in told["events"]:
        if "comment" in event:
            out.append(event["comment"])
        elif event.get("done"):
            out.append("data: [DONE]")
        else:
            name = f"event: {event['event']}\n" if "event" in event else ""
            out.append(name + "data: " + json.dumps(event["data"], ensure_ascii=False, separators=(",", ":")))
    return "".join(text + "\n\n" for text in out).encode()


def metered(protocol, data=b"", usage=True):
    """A meter as the gateway makes it for a translated stream, fed with `data`."""
    meter = make_meter(
        protocol, requested_model="m", usage_options=UsageOptions(final=usage), event_bytes_max=10**6, text_max=None, keep_bytes_max=10**6
    )  # fmt: skip
    if data:
        meter.feed(data)
        meter.finish()
    return meter


def payloads(data):
    """The decoded events of a stream."""
    blocks = [block for block in data.decode().split("\n\n") if block and not block.startswith(":")]
    lines = [[line[5:].strip() for line in block.split("\n") if line.startswith("data:")] for block in blocks]
    return [json.loads(line[0]) for line in lines if line and line[0] != "[DONE]"]


def assembled(protocol, data):
    """{text, reasoning, calls, stop} of a stream, as a client that knows only the protocol's own fields builds it, which fails where
    the stream is not well-formed.
    """
    return {"chat": _chat, "messages": _messages, "responses": _responses}[protocol](data)


def _chat(data):
    made = {"text": "", "reasoning": "", "calls": [], "stop": None}
    for event in payloads(data):
        if "error" in event:
            continue
        assert event["object"] == "chat.completion.chunk" and event["id"]
        for choice in event["choices"]:
            delta = choice["delta"]
            assert made["stop"] is None or not delta.get("content")
            made["text"] += delta.get("content") or ""
            made["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                if call["index"] == len(made["calls"]):
                    assert call["id"] and call["function"]["name"]
                    made["calls"].append([call["function"]["name"], ""])
                made["calls"][call["index"]][1] += call["function"].get("arguments") or ""
            made["stop"] = choice["finish_reason"] or made["stop"]
    return made


def _messages(data):
    made = {"text": "", "reasoning": "", "calls": [], "stop": None}
    open_block, blocks, ended = None, 0, False
    for at, event in enumerate(payloads(data)):
        kind = event["type"]
        assert not ended, kind
        assert (at == 0) == (kind == "message_start"), kind
        if kind == "content_block_start":
            assert open_block is None and event["index"] == blocks
            open_block, blocks = event["content_block"], blocks + 1
            if open_block["type"] == "tool_use":
                made["calls"].append([open_block["name"], ""])
        elif kind == "content_block_delta":
            delta = event["delta"]
            assert event["index"] == blocks - 1 and open_block is not None
            made["text"] += delta.get("text", "")
            made["reasoning"] += delta.get("thinking", "")
            if "partial_json" in delta:
                made["calls"][-1][1] += delta["partial_json"]
        elif kind == "content_block_stop":
            assert open_block is not None and event["index"] == blocks - 1
            open_block = None
        elif kind == "message_delta":
            assert open_block is None
            made["stop"] = event["delta"]["stop_reason"]
        elif kind == "message_stop":
            assert open_block is None
            ended = True
        else:
            assert kind in {"message_start", "ping", "error"}, kind
    return made


def _responses(data):
    made = {"text": "", "reasoning": "", "calls": [], "stop": None}
    for at, event in enumerate(payloads(data)):
        kind = event["type"]
        assert (at == 0) == (kind == "response.created"), kind
        if kind in {"response.completed", "response.incomplete"}:
            made["stop"] = event["response"]["status"]
            for item in event["response"]["output"]:
                _item(made, item)
    return made


def _item(made, item):
    kind = item["type"]
    if kind == "message":
        made["text"] += "".join(part.get("text", "") for part in item["content"])
    elif kind == "reasoning":
        parts = item.get("content") or item["summary"]
        made["reasoning"] += "".join(part["text"] for part in parts)
    elif kind in {"function_call", "custom_tool_call"}:
        made["calls"].append([item["name"], item.get("arguments", item.get("input"))])
