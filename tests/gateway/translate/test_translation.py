"""A translation: the request there, the answer back, and every recorded stream at every division of its bytes."""

import json
import random

import pytest

from tests.support.streamed import OTHERS, PATHS, REQUESTS, assembled, metered, payloads, recorded
from tokenworks.catalog import Counts
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.translation import Translation, TranslationFailed, Untranslatable

STREAMS = recorded()
WHOLE = {
    name: (protocol, data, expect)
    for name, (protocol, data, expect) in STREAMS.items()
    if "error" not in expect
}
PAIRS = [(name, client) for name, (protocol, _, _) in STREAMS.items() for client in OTHERS[protocol]]


def translation(client, upstream, **fields):
    body = json.dumps(REQUESTS[client] | fields).encode()
    return Translation(client, upstream, body, Target())


def translated(client, upstream, data, step):
    """What a client gets of a stream that arrives in pieces, and the meter."""
    made = translation(client, upstream)
    translator = made.translator(made.naming("id-1", "m", 7))
    meter, out = metered(upstream), []
    for at in range(0, len(data), step):
        passed = meter.feed(data[at : at + step])
        if passed:
            out.append(translator.feed(passed))
    meter.finish()
    if meter.complete:
        out.append(translator.finish(meter.withheld))
    return b"".join(out), meter


def expected_stop(client, expect):
    calls = bool(expect["tool_calls"])
    return {
        "chat": {"tool_calls"} if calls else {"stop", "length"},
        "messages": {"tool_use"} if calls else {"end_turn", "max_tokens"},
        "responses": {"completed", "incomplete"},
    }[client]


@pytest.mark.parametrize(("name", "client"), PAIRS)
def test_a_recorded_stream_arrives_whole_in_the_other_protocol(name, client):
    upstream, data, expect = STREAMS[name]
    out, meter = translated(client, upstream, data, len(data))
    made = assembled(client, out)
    if not meter.complete:
        assert made["stop"] is None
        return
    calls = [[call["name"], call["arguments"]] for call in expect["tool_calls"]]
    assert (made["text"], made["reasoning"]) == (expect["text"], expect["reasoning"])
    assert [[name, json.loads(text or "{}")] for name, text in made["calls"]] == [
        [name, json.loads(text or "{}")] for name, text in calls
    ]
    assert made["stop"] in expected_stop(client, expect)
    # The client is told the provider's own counts, class by class; its own meter reads them back.
    seen = metered(client, out)
    assert seen.complete and seen.fault is None
    if meter.usage is None:
        assert seen.usage is None or not any(seen.usage.counts)
    else:
        assert seen.usage is not None and seen.usage.counts == meter.usage.counts


@pytest.mark.parametrize(("name", "client"), PAIRS)
def test_the_division_of_the_bytes_changes_nothing(name, client):
    upstream, data, _ = STREAMS[name]
    out = translated(client, upstream, data, len(data))[0]
    for step in {1, random.Random(name + client).randrange(2, 90)}:
        assert translated(client, upstream, data, step)[0] == out


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "client"), PAIRS)
def test_no_division_of_the_bytes_changes_anything(name, client):
    upstream, data, _ = STREAMS[name]
    out = translated(client, upstream, data, len(data))[0]
    for cut in range(1, len(data)):
        made = translation(client, upstream)
        translator, meter = made.translator(made.naming("id-1", "m", 7)), metered(upstream)
        pieces = [translator.feed(meter.feed(data[:cut])), translator.feed(meter.feed(data[cut:]))]
        meter.finish()
        if meter.complete:
            pieces.append(translator.finish(meter.withheld))
        assert b"".join(pieces) == out


@pytest.mark.parametrize(("name", "client"), PAIRS)
@pytest.mark.parametrize("error", [b"", b'event: error\ndata: {"type":"error","error":{}}\n\n'])
def test_a_stream_that_is_cut_anywhere_is_closed_as_its_protocol_closes_one(name, client, error):
    upstream, data, _ = STREAMS[name]
    ends = [at + 2 for at in range(len(data)) if data[at : at + 2] == b"\n\n"]
    for end in random.Random(name).sample(ends, min(3, len(ends))):
        made = translation(client, upstream)
        translator, meter = made.translator(made.naming("id-1", "m", 7)), metered(upstream)
        out = translator.feed(meter.feed(data[:end]))
        if not meter.begun or meter.terminal or meter.fault is not None or meter.stopped:
            continue
        out += translator.cut(error, Counts(fresh_input=3, output=2))
        assert assembled(client, out)["stop"] in {"length", "max_tokens", "incomplete"}
        last = payloads(out)[-1].get("type")
        if client == "messages":
            assert last == ("error" if error else "message_stop")


@pytest.mark.parametrize("client", list(PATHS))
def test_a_request_that_can_not_be_read_is_refused(client):
    for upstream in OTHERS[client]:
        with pytest.raises(Untranslatable):
            Translation(client, upstream, b"[]", Target())
        made = translation(client, upstream)
        with pytest.raises(TranslationFailed):
            made.read_answer(b'"no object"')
