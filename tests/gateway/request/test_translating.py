"""A request for a deployment of another protocol: where it goes, what it is sent, what it is charged, and how it ends."""

import json

import pytest

from tests.gateway.request.support import Worker, deployment, events, piece, used, whole
from tests.support.streamed import assembled, payloads
from tokenworks.gateway.request.ticking import stop_waited
from tokenworks.gateway.request.translating import COMMAS_MAX

EVENTS = b"text/event-stream"
MESSAGES = {"protocol": "messages"}
LONG = "word " * 40


def message(prompt=5, completion=2, text="hello"):
    return json.dumps(
        {"id": "u-1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": text}],
         "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": prompt, "output_tokens": completion}}
    ).encode()  # fmt: skip


def content(client):
    """The stream that a client was written, without HTTP."""
    head, _, rest = client.written.partition(b"\r\n\r\n")
    out = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        out, rest = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return head, out


def test_a_client_of_messages_is_served_by_a_deployment_of_chat():
    worker = Worker()
    exchange = worker.begins(**MESSAGES, system="be brief", made_up=5)
    upstream = worker.upstream()
    assert upstream.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert upstream.body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]  # fmt: skip
    assert upstream.body["max_tokens"] == 100
    upstream.answers(whole())
    upstream.ends()
    worker.recorder.durable()
    ((record, _),) = worker.recorder.records
    assert (record.protocol, record.counted_by, record.state) == ("chat", "provider", "complete")
    assert (record.c.fresh_input, record.c.output, record.upstream_id) == (5, 2, "u-1")
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert b"x-tokenworks-translated: chat\r\n" in head and b"x-tokenworks-dropped: made_up" in head
    answer = json.loads(body)
    assert answer["content"] == [{"type": "text", "text": "hello"}] and answer["stop_reason"] == "end_turn"
    assert answer["usage"]["input_tokens"] == 5 and answer["usage"]["output_tokens"] == 2
    assert exchange.ended and exchange.translated is None
    assert worker.shared.memory.used == 0 and not worker.held


def test_a_deployment_of_messages_gets_the_version_that_it_requires_and_its_largest_maximum():
    worker = Worker(deployment("d1", protocols=("messages",)))
    worker.begins(max_tokens=None, seed=7)
    upstream = worker.upstream()
    assert upstream.head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b"\r\nanthropic-version: 2023-06-01\r\n" in upstream.head
    assert upstream.body["max_tokens"] == 1000
    upstream.answers(message())
    upstream.ends()
    worker.recorder.durable()
    assert b"x-tokenworks-dropped: seed\r\n" in worker.client.written


def test_what_means_something_to_the_clients_protocol_alone_is_not_sent():
    worker = Worker()
    worker.begins(
        **MESSAGES, headers=b"anthropic-version: 2023-06-01\r\nanthropic-beta: a\r\ntraceparent: 00-1\r\n"
    )
    assert b"anthropic" not in worker.upstream().head and b"traceparent: 00-1" in worker.upstream().head


def test_a_deployment_that_speaks_the_clients_protocol_comes_first_whatever_it_costs():
    dear = {"price": {"fresh_input_nano": 10**9, "output_nano": 10**9}}
    worker = Worker("d1", deployment("d2", protocols=("messages",), **dear), deployment("d3", protocols=("messages",), **dear))  # fmt: skip
    exchange = worker.begins(**MESSAGES)
    first = exchange.deployment
    assert first in {"d2", "d3"}
    worker.upstream(first).answers(b"{}", status=500)
    worker.upstream(first).ends()
    second = exchange.deployment
    assert {first, second} == {"d2", "d3"}
    worker.upstream(second).answers(b"{}", status=500)
    worker.upstream(second).ends()
    # Only then is the request translated, and it is charged once.
    assert exchange.deployment == "d1" and "messages" in worker.upstream("d1").body
    worker.upstream("d1").answers(whole())
    worker.upstream("d1").ends()
    worker.recorder.durable()
    ((record, _),) = worker.recorder.records
    assert (record.deployment, record.protocol, record.c.fresh_input) == ("d1", "chat", 5)
    assert [name for name, _ in record.tried] == [first, second]


def test_a_relayed_request_has_no_translation_though_others_are_translated():
    worker = Worker("d1", deployment("d2", protocols=("messages",)))
    exchange = worker.begins(**MESSAGES)
    assert exchange.deployment == "d2" and exchange.translated is None
    worker.upstream("d2").answers(message())
    worker.upstream("d2").ends()
    worker.recorder.durable()
    assert b"x-tokenworks-translated" not in worker.client.written


def test_what_can_not_be_expressed_is_refused_and_costs_nothing():
    worker = Worker(deployment("d1", protocols=("messages",)))
    worker.begins(n=2)
    refusal = worker.client.refused
    assert (refusal.status, refusal.code, refusal.param) == (400, "untranslatable", "n")
    assert not worker.recorder.began and not worker.held and worker.shared.memory.used == 0


def test_a_list_of_more_numbers_than_a_translation_may_read_is_refused():
    worker = Worker(deployment("d1", protocols=("messages",)))
    numbers = b"[" + b"1," * COMMAS_MAX + b"1]"
    tool = b'{"type":"function","function":{"name":"f","parameters":{"type":"object","enum":%b}}}' % numbers
    worker.begins(body=b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[%b]}' % tool)
    refusal = worker.client.refused
    assert (refusal.status, refusal.code) == (400, "untranslatable") and "commas" in refusal.message
    assert worker.shared.memory.used == 0


def test_what_can_not_be_expressed_goes_to_a_deployment_that_takes_it_as_it_is():
    worker = Worker("d1", deployment("d2", protocols=("messages",)))
    exchange = worker.begins(n=2)
    worker.upstream("d1").answers(b"{}", status=500)
    worker.upstream("d1").ends()
    assert exchange.tried == ["d1", "d2"] and "d2" not in worker.pools
    assert worker.client.refused.status == 502  # what the deployment that could have it said


@pytest.mark.parametrize(
    ("protocol", "fields"),
    [
        ("responses", {"input": "hi", "previous_response_id": "resp_1"}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]}),
    ],
)  # fmt: skip
def test_an_object_of_an_upstream_never_goes_to_another_protocol(protocol, fields):
    worker = Worker(deployment("d1", protocols=("chat",)))
    worker.begins(protocol=protocol, body=json.dumps({"model": "m", "max_tokens": 9} | fields).encode())
    assert worker.client.refused.code in {"untranslatable", "unpriced_field"}, worker.client.refused
    assert not worker.recorder.began and not worker.recorder.requests


def test_the_hold_covers_the_larger_of_both_bodies():
    tools = [{"name": f"t{n}", "input_schema": {"type": "object"}} for n in range(50)]
    worker = Worker()
    exchange = worker.begins(**MESSAGES, tools=tools)
    body = worker.upstream().body
    assert len(json.dumps(body)) > len(exchange.body)
    assert exchange.need.input_tokens >= exchange.translated.parsed.text_bytes > exchange.parsed.text_bytes


def test_a_hold_that_a_later_translation_outgrows_is_taken_anew():
    tools = [{"name": f"t{n}", "input_schema": {"type": "object"}} for n in range(50)]
    worker = Worker("d1", deployment("d2", protocols=("messages",)))
    exchange = worker.begins(**MESSAGES, tools=tools)
    before = exchange.need.input_tokens
    worker.upstream("d2").answers(b"{}", status=500)
    worker.upstream("d2").ends()
    assert exchange.deployment == "d1"
    assert exchange.need.input_tokens >= exchange.translated.parsed.text_bytes > before - 2000
    assert exchange.need.input_tokens > before
    held = worker.held
    worker.upstream("d1").answers(whole())
    worker.upstream("d1").ends()
    worker.recorder.durable()
    assert held and not worker.held


def streamed(worker, *chunks, **fields):
    exchange = worker.begins(**MESSAGES, stream=True, **fields)
    worker.upstream().answers(events(*chunks), kind=EVENTS)
    return exchange


def test_a_stream_is_translated_as_it_comes_and_its_end_follows_the_record():
    worker = Worker()
    streamed(worker, piece("one "), piece("two"))
    before = content(worker.client)[1]
    assert b"one " in before and b"two" in before and b"message_delta" not in before
    worker.upstream().user.upstream_data(worker.upstream(), events(piece(None, "stop"), used(7, 3), "[DONE]"))
    worker.upstream().ends()
    assert b"message_stop" not in content(worker.client)[1]
    worker.recorder.durable()
    made = assembled("messages", content(worker.client)[1])
    assert (made["text"], made["stop"]) == ("one two", "end_turn")
    ((record, _),) = worker.recorder.records
    assert (record.c.fresh_input, record.c.output) == (7, 3)


def test_a_client_gets_the_counts_of_the_record_if_the_upstream_reports_none():
    worker = Worker()
    streamed(worker, piece("one two three"), piece(None, "stop"), "[DONE]")
    worker.upstream().ends()
    worker.recorder.durable()
    ((record, _),) = worker.recorder.records
    assert record.counted_by == "estimate"
    usage = next(event["usage"] for event in payloads(content(worker.client)[1]) if event["type"] == "message_delta")  # fmt: skip
    assert usage["output_tokens"] == record.c.output


def test_a_stream_that_breaks_off_says_so_and_is_charged():
    worker = Worker()
    streamed(worker, piece("one "), piece("two"))
    worker.upstream().user.upstream_failed(worker.upstream(), "closed")
    worker.recorder.durable()
    data = content(worker.client)[1]
    assert payloads(data)[-1]["type"] == "error" and assembled("messages", data)["stop"] is None
    ((record, _),) = worker.recorder.records
    assert record.state == "interrupted" and record.c.output


def test_a_stream_that_reaches_its_maximum_is_closed_as_its_protocol_closes_one():
    worker = Worker()
    streamed(worker, piece(LONG), max_tokens=10)
    worker.recorder.durable()
    made = assembled("messages", content(worker.client)[1])
    assert (made["text"], made["stop"]) == (LONG, "max_tokens") or made["stop"] == "max_tokens"
    assert payloads(content(worker.client)[1])[-1]["type"] == "message_stop"


def test_an_error_before_content_is_the_next_deployments_chance():
    worker = Worker("d1", "d2")
    exchange = worker.begins(**MESSAGES, stream=True)
    first = exchange.deployment
    worker.upstream(first).answers(events({"error": {"message": "no", "code": 500}}), kind=EVENTS)
    assert exchange.deployment != first and not exchange.sent
    worker.upstream(exchange.deployment).answers(events(piece("one")), kind=EVENTS)
    assert exchange.sent


def test_an_answer_that_a_codec_can_not_read_is_no_success_and_not_charged(monkeypatch):
    worker = Worker()
    exchange = worker.begins(**MESSAGES)

    def fails(fields):
        raise TypeError("unreadable")

    monkeypatch.setattr(exchange.translated.translation, "_upstream", type("Codec", (), {"read_answer": staticmethod(fails)}))  # fmt: skip
    worker.upstream().answers(whole())
    worker.upstream().ends()
    assert worker.client.refused.status == 502
    ((record, _),) = worker.recorder.records
    assert [loss.cause for loss in record.loss] == ["failed_attempt"] and record.parts == []


def test_a_stream_that_a_codec_can_not_read_ends_with_an_error_and_a_record(monkeypatch):
    worker = Worker()
    exchange = streamed(worker, piece("one "))

    class Fails:
        def read(self, name, payload):
            raise LookupError(name)

    monkeypatch.setattr(exchange.attempt.translator, "_reader", Fails())
    worker.upstream().user.upstream_data(worker.upstream(), events(piece("two")))
    worker.recorder.durable()
    assert worker.upstream().aborted and payloads(content(worker.client)[1])[-1]["type"] == "error"
    assert len(worker.recorder.records) == 1 and exchange.ended


def test_the_memory_of_a_translation_is_counted_and_given_back():
    worker = Worker(memory_bytes_max=60_000)
    exchange = worker.begins(**MESSAGES, content="x" * 20_000)
    assert worker.shared.memory.used == 2 * len(exchange.body)
    worker.begins(**MESSAGES, content="x" * 20_000)
    assert worker.client.refused.status in {429, 503}
    worker.upstream().answers(whole())
    worker.upstream().ends()
    worker.recorder.durable()
    assert worker.shared.memory.used == 0


def test_what_responses_repeat_of_a_request_is_counted_and_given_back():
    tools = [
        {"type": "function", "name": f"t{n}", "parameters": {"type": "object"}, "strict": False}
        for n in range(2000)
    ]
    body = json.dumps(
        {"model": "m", "input": "hi", "stream": True, "max_output_tokens": 9, "tools": tools}
    ).encode()
    for room in (True, False):
        worker = Worker()
        worker.begins(protocol="responses", body=body)
        before = worker.shared.memory.used
        if not room:
            worker.shared.memory.take("192.0.2.1", worker.settings.memory_bytes_max - before - len(body))
        worker.upstream().answers(events(piece("one ")), kind=EVENTS)
        if room:
            # The tools are in the two first events, and stay for the last one.
            assert worker.client.written.count(b'"name":"t1999"') == 2
            assert worker.shared.memory.used - before >= 2 * len(json.dumps(tools, separators=(",", ":")))
            upstream = worker.upstream()
            upstream.user.upstream_data(upstream, events(piece(None, "stop"), used(9, 1), "[DONE]"))
            upstream.ends()
        worker.recorder.durable()
        ((record, _),) = worker.recorder.records
        assert record.reason == ("completed" if room else "no_memory")
        assert worker.shared.memory.used == (
            0 if room else worker.settings.memory_bytes_max - before - len(body)
        )


def test_a_body_whose_translation_would_block_the_loop_is_refused():
    worker = Worker(memory_bytes_max=1 << 27)
    worker.begins(**MESSAGES, body=json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}] * 60_000}).encode())  # fmt: skip
    assert worker.client.refused.code == "untranslatable" and "values" in worker.client.refused.message
    assert worker.shared.memory.used == 0


def test_tokens_are_counted_here_if_no_deployment_speaks_messages():
    worker = Worker()
    exchange = worker.begins(**MESSAGES, free=True, max_tokens=None, content="word " * 100)
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert b"x-tokenworks-counted: estimate" in head
    assert 100 <= json.loads(body)["input_tokens"] <= 200
    assert exchange.ended and not worker.pools and not worker.recorder.records and not worker.held


def test_a_prompt_is_counted_as_the_deployment_reads_it():
    worker = Worker(deployment("d1", tokenizer="t"))
    worker.begins(**MESSAGES)
    worker.upstream().answers(whole(usage=None))
    worker.upstream().ends()
    ((job, done),) = worker.jobs
    assert job.protocol == "chat" and b'"messages":[{' in job.request
    done(None)
    worker.recorder.durable()
    assert worker.recorder.records[0][0].counted_by == "estimate"


def test_reasoning_that_only_the_later_deployment_hides_is_held_whole():
    worker = Worker("d1", deployment("d2", protocols=("messages",)))
    config = {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}}
    parts = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}] * 30
    exchange = worker.begins(**MESSAGES, stream=True, max_tokens=500, output_config=config, content=parts)
    bound = exchange.input_bound
    assert exchange.cuttable and exchange.held_output == 64
    worker.upstream("d2").answers(b"{}", status=500)
    worker.upstream("d2").ends()
    assert exchange.deployment == "d1" and exchange.translated.parsed.hidden_reasoning
    assert exchange.input_bound == bound  # the input alone would not have needed another hold
    assert not exchange.cuttable and exchange.held_output == 500


def test_a_finish_that_a_codec_can_not_read_ends_the_stream_with_an_error_and_a_record(monkeypatch):
    worker = Worker()
    exchange = streamed(worker, piece("one "), piece(None, "stop"))

    class Fails:
        def read(self, name, payload):
            raise LookupError(name)

    monkeypatch.setattr(exchange.attempt.translator, "_reader", Fails())
    stop_waited(exchange, 100)
    stop_waited(exchange, 101)
    worker.recorder.durable()
    assert worker.upstream().aborted and payloads(content(worker.client)[1])[-1]["type"] == "error"
    assert len(worker.recorder.records) == 1 and exchange.ended and not worker.held


def test_the_cost_of_a_translated_stream_is_in_an_event_of_the_same_answer():
    worker = Worker(deployment("d1", protocols=("messages",)))
    worker.begins(stream=True, usage={"include": True})
    start = {"type": "message_start", "message": {"id": "msg_up", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}}  # fmt: skip
    begin = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
    ends = {"type": "content_block_stop", "index": 0}
    worker.upstream().answers(events(start, begin, text, ends, delta, {"type": "message_stop"}), kind=EVENTS)
    worker.upstream().ends()
    worker.recorder.durable()
    chunks = [one for one in payloads(content(worker.client)[1]) if isinstance(one, dict)]
    assert [chunk["usage"]["cost"] for chunk in chunks if "cost" in (chunk.get("usage") or {})] == [8]
    assert len({chunk["id"] for chunk in chunks}) == 1 and b"msg_up" not in worker.client.written


def test_a_deployment_to_which_nothing_is_sent_uses_none_of_the_attempts():
    """Deployments of a protocol that can't express the request are passed over: those that can have it keep all `attempts_max`."""
    messages = [deployment(f"m{n}", protocols=("messages",)) for n in range(3)]
    others = [deployment(f"r{n}", protocols=("responses",)) for n in range(3)]
    worker = Worker(*messages, *others, attempts_max=2)
    sound = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    exchange = worker.begins(content=[{"type": "text", "text": "hi"}, sound])
    tried = []
    while not exchange.ended:
        (name,) = [name for name in worker.pools if name not in tried]
        tried.append(name)
        worker.upstream(name).answers(b"{}", status=500)
        worker.upstream(name).ends()
    assert len(tried) == 2 and set(tried) <= {one.name for one in others}
    assert worker.client.refused.status == 502 and not worker.held and worker.shared.memory.used == 0
