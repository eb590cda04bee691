"""The streams of 33 vendors' shapes, where the facts about vendors lie beside the checkout, each with its expected reading."""

import json
from pathlib import Path

import pytest

from tests.gateway.protocol.streams import sse
from tokenworks.gateway.protocol.meter import UsageOptions
from tokenworks.gateway.protocol.stream import make_meter

FOLDER = Path(__file__).parents[4] / "shared/vendors/streams"
FILES = sorted(FOLDER.glob("*.json"))
# The reading is of a stream that a client sees to its end, but here it is one that an error ends.
FAULTS = {
    "1008": "quota",
    "502": "server",
    "500": "server",
    "500001": "server",
    "insufficient_quota": "quota",
}

pytestmark = pytest.mark.skipif(not FILES, reason=f"no vendors' streams in {FOLDER}")


def bytes_of(told):
    named = told["protocol"] not in {"chat", "chat-cumulative", "completions"}
    out = []
    for event in told["events"]:
        if "comment" in event:
            out.append(event["comment"])
        elif event.get("done"):
            out.append("[DONE]")
        else:
            data = event["data"]
            if named:
                assert event["event"] == data["type"]
            out.append(data)
    return sse(*out)


def whole_text(expect):
    calls = "".join(call["name"] + call["arguments"] for call in expect["tool_calls"])
    return len((expect["text"] + expect["reasoning"] + calls).encode())


@pytest.mark.parametrize("path", FILES or [None], ids=lambda path: path.stem if path else "none")
@pytest.mark.parametrize("step", [1, 7, 10**9])
def test_is_read_as_it_is_meant(path, step):
    told = json.loads(path.read_text())
    expect, data = told["expect"], bytes_of(told)
    meter = make_meter(
        told["protocol"].removesuffix("-cumulative"),
        requested_model="shop/best", usage_options=UsageOptions(), event_bytes_max=10**6, text_max=None, keep_bytes_max=10**6,
    )  # fmt: skip
    passed = b"".join(meter.feed(data[at : at + step]) for at in range(0, len(data), step))
    held = meter.finish()
    assert meter.shown_bytes == whole_text(expect)
    assert len("".join(meter.kept).encode()) == meter.shown_bytes
    if "error" in expect:
        assert not meter.complete
        assert meter.fault is not None
        code = str(expect["error"].get("code", expect["error"].get("type")))
        assert meter.fault.kind == FAULTS.get(code, "overloaded" if "overloaded" in code else "server")
        assert b"synthetic" not in passed + held
        assert meter.begun == bool(expect["text"])
        return
    assert meter.complete and meter.fault is None
    out = passed + held
    if told["protocol"].startswith("chat"):
        assert b'"usage":{' not in out.replace(b'"x_groq":{"id":"req_TWsyn0016","usage":{', b"")
    assert out.count(b'"model":"shop/best"') == out.count(b'"model":"') - out.count(b'"model":""')
    check_usage(meter, expect.get("usage"))


def check_usage(meter, said):
    if said is None:
        assert meter.usage is None
        return
    counts = meter.usage.counts
    assert "inconsistent" not in meter.usage.flags
    if "input_uncached" in said:
        assert counts.fresh_input == said["input_uncached"]
        assert counts.cache_write == said.get("cache_write_5m", 0)
        assert counts.cache_write_1h == said.get("cache_write_1h", 0)
        assert counts.cached_input == said.get("cache_read", 0)
    else:
        assert counts.input_tokens == said["input"]
        assert counts.cached_input == said.get("cached", 0)
    assert counts.output_tokens == said["output"]
    assert counts.reasoning == said.get("reasoning", counts.reasoning)
