"""The reader of a chat stream: the streams of all vendors, each as it is expected to be read."""

import json
from pathlib import Path

import pytest

from tests.support.translation import Assembly, read_stream
from tokenworks.gateway.translate.chat import codec
from tokenworks.gateway.translate.form import Reasoning, Stop, Text, ToolCall

STREAMS = sorted((Path(__file__).parent / "streams").glob("*.json"))
STOPS = {"stop": Stop.END, "tool_calls": Stop.TOOL, "abort": Stop.LENGTH, "error": Stop.LENGTH}


def bytes_of(told):
    """The stream as the meter hands it over: an event that reports an error does not pass."""
    out = []
    for event in told["events"]:
        if "comment" in event:
            out.append(event["comment"])
        elif event.get("done"):
            out.append("data: [DONE]")
        elif not {"error", "base_resp"} & event["data"].keys():
            out.append("data: " + json.dumps(event["data"], ensure_ascii=False))
    return "".join(f"{event}\n\n" for event in out).encode()


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_vendors_stream_is_read_as_it_is_meant(path):
    told = json.loads(path.read_text())
    expect = told["expect"]
    assembly = Assembly().take(read_stream(codec.event_reader(), bytes_of(told)))
    if assembly.begin is None:
        assert "error" in expect and not expect["text"]
        return
    answer = assembly.answer()
    assert "".join(part.text for part in answer.parts if isinstance(part, Text)) == expect["text"]
    assert "".join(part.text for part in answer.parts if isinstance(part, Reasoning)) == expect["reasoning"]
    calls = [
        {"id": part.call_id, "name": part.name, "arguments": part.arguments}
        for part in answer.parts
        if isinstance(part, ToolCall)
    ]
    assert calls == expect["tool_calls"]
    if "error" in expect:
        return
    assert assembly.ended
    assert answer.stop is STOPS[expect["finish_reason"]]
    if "usage" in expect:
        usage = expect["usage"]
        assert answer.usage.input_tokens == usage["input"]
        assert answer.usage.output_tokens == usage["output"]
        assert answer.usage.cached_input == usage.get("cached", 0)
        assert answer.usage.cache_write == usage.get("cache_write", 0)
        assert answer.usage.reasoning == usage.get("reasoning", 0)
    else:
        assert answer.usage is None
