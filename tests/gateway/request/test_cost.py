"""The cost that an answer names is what its usage record draws, in every class, unit and protocol, whole and streamed."""

import json
import random
from types import SimpleNamespace

import pytest

from tests.gateway.request.support import Worker, deployment, events, piece, used, whole
from tokenworks.charging import Part
from tokenworks.gateway.request.cost import cost_line, cost_members, decimal, drawn

WANTS = b"x-tokenworks-cost: 1\r\n"


def part(unit, kind, amount):
    return Part("b", "g", "card", unit, kind, amount, 1, None)


def record(*parts):
    return SimpleNamespace(parts=list(parts))


def test_balances_count_and_caps_and_windows_beside_them_do_not():
    assert drawn(
        record(part("token", "cap", 9), part("token", "balance", 7000), part("token", "window", 7000))
    ) == {"token": 7000}
    assert drawn(record(part("prompt", "window", 1000), part("prompt", "window", 1000))) == {"prompt": 1000}
    assert drawn(
        record(part("credit", "balance", 5), part("token", "balance", 1), part("credit", "balance", 6))
    ) == {"credit": 11, "token": 1}
    assert drawn(record()) == drawn(None) == {}


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (1, "0.001"), (1000, "1"), (12500, "12.5"), (10**18 + 10, "1000000000000000.01")],
)
def test_amounts_are_exact_decimals(amount, text):
    assert decimal(amount) == text


def test_the_unit_of_cost_is_the_token_where_tokens_were_drawn():
    members = {
        name: json.loads(bytes(raw)) for name, raw in cost_members({"credit": 11, "token": 2500}).items()
    }
    assert members == {
        "cost": 2.5,
        "cost_details": {
            "unit": "token",
            "drawn": [{"unit": "credit", "thousandths": 11}, {"unit": "token", "thousandths": 2500}],
        },
    }
    assert bytes(cost_members({"prompt": 1000})["cost"]) == b"1"
    assert (cost_line({"credit": 11, "token": 2500}), cost_line({})) == (
        b"0.011 credit, 2.5 token",
        b"0 token",
    )


def detailed(seed):
    """An upstream's usage with tokens in every class that chat reports."""
    rng = random.Random(seed)
    cached, audio, reasoning, audio_out = (rng.randrange(50) for _ in range(4))
    prompt, completion = cached + audio + rng.randrange(1, 60), reasoning + audio_out + rng.randrange(1, 40)
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": audio},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": audio_out},
    }  # fmt: skip


def same(usage, record):
    amounts = drawn(record)
    assert usage["cost_details"]["drawn"] == [
        {"unit": unit, "thousandths": amount} for unit, amount in amounts.items()
    ]
    assert (
        usage["cost"] * 1000
        == amounts["token"]
        == sum(one.amount for one in record.parts if one.kind == "balance")
    )
    assert amounts["token"] == 1000 * sum(record.c)  # every class costs a token a token here


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", [{"headers": WANTS}, {"usage": {"include": True}}], ids=["header", "body"])
def test_a_whole_answer_names_the_records_charge(seed, how):
    worker = Worker()
    worker.begins(**how)
    worker.upstream().answers(whole(usage=detailed(seed)))
    worker.upstream().ends()
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    record, _ = worker.recorder.records[0]
    same(json.loads(body)["usage"], record)
    assert b"\r\nx-tokenworks-cost: %d token\r\n" % sum(record.c) in head
    assert b"content-length: %d" % len(body) in head


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "reported", ["apart", "with the finish", "in an empty choice", "not at all", "before the finish"]
)
def test_a_stream_names_it_in_its_last_usage_after_the_record(seed, reported):
    worker = Worker()
    worker.begins(stream=True, usage={"include": True})
    upstream, usage = worker.upstream(), detailed(seed)
    assert upstream.body["stream_options"] == {"include_usage": True}
    upstream.answers(events(piece("one")), kind=b"text/event-stream")
    last = used(1, 1) | {"usage": usage}
    chunks = {
        "apart": [piece(None, "stop"), last], "with the finish": [piece(None, "stop", usage=usage)],
        "in an empty choice": [piece(None, "stop"), piece(None, usage=usage)],  # BerriAI/litellm#36168
        "not at all": [piece(None, "stop")], "before the finish": [last, piece(None, "stop")],
    }[reported]  # fmt: skip
    upstream.user.upstream_data(upstream, events(*chunks, "[DONE]"))
    upstream.ends()
    assert b'"cost"' not in worker.client.written
    worker.recorder.durable()
    written = worker.client.written
    chunks = [json.loads(line[6:]) for line in written.split(b"\n") if line.startswith(b"data: {")]
    found = [chunk["usage"] for chunk in chunks if "cost" in (chunk.get("usage") or {})]
    assert len(found) == 1
    same(found[0], worker.recorder.records[0][0])
    assert written.index(b'"cost"') < written.index(b"[DONE]") and chunks[-1]["usage"] == found[0]


def test_messages_and_responses_name_it_where_their_clients_read_usage():
    worker = Worker(deployment("d1", protocols=("messages", "responses")))
    worker.begins(protocol="messages", stream=True, headers=WANTS)
    upstream = worker.upstream()
    start = {
        "type": "message_start",
        "message": {"id": "u", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}},
    }
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
    upstream.answers(events(start, text), kind=b"text/event-stream")
    upstream.user.upstream_data(upstream, events(delta, {"type": "message_stop"}))
    upstream.ends()
    assert b"message_delta" not in worker.client.written  # its usage waits for the record
    worker.recorder.durable()
    chunks = [
        json.loads(line[6:]) for line in worker.client.written.split(b"\n") if line.startswith(b"data: {")
    ]
    same(chunks[-2]["usage"], worker.recorder.records[0][0])
    assert chunks[-1] == {"type": "message_stop"}
    worker.begins(
        protocol="responses", headers=WANTS, body=b'{"model":"m","input":"hi","max_output_tokens":50}'
    )
    body = {
        "id": "r",
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [],
        "usage": {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6},
    }
    worker.upstream().answers(json.dumps(body).encode())
    worker.upstream().ends()
    worker.recorder.durable()
    usage = json.loads(worker.client.written.partition(b"\r\n\r\n")[2])["usage"]
    same(usage, worker.recorder.records[1][0])


def test_nobody_who_does_not_ask_gets_it():
    worker = Worker()
    worker.begins(headers=b"x-tokenworks-cost: 0\r\n")
    worker.upstream().answers(whole())
    worker.upstream().ends()
    worker.recorder.durable()
    assert b"cost" not in worker.client.written


def test_tags_are_in_the_record_and_names_left_out_are_named():
    worker = Worker()
    worker.begins(
        headers=b"x-tokenworks-tag-team: a\r\nX-Tokenworks-Tag-Bad Name: x\r\n".replace(b"Bad Name", b"!"),
        metadata={"job": "j"},
        user="u",
    )
    worker.upstream().answers(whole())
    worker.upstream().ends()
    worker.recorder.durable()
    assert worker.recorder.records[0][0].tags == {"team": "a", "user": "u", "job": "j"}
    assert b"\r\nx-tokenworks-dropped: tag:?\r\n" in worker.client.written
    worker.begins()
    worker.upstream().answers(whole())
    worker.upstream().ends()
    assert worker.recorder.records[1][0].tags is None
