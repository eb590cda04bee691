"""Any client, any model: deployments that speak one protocol each, and clients of the two others with their own SDKs.

What is charged is what a client of the deployment's own protocol is charged for the same answer, class by class.
"""

import base64
import json
import socket

import pytest

from tests.support.server import Server, StubUpstream, until
from tests.support.streamed import OTHERS, PATHS, assembled

TOLD = {"tokens": 6, "prompt": 21, "cached": 8, "think": "hm", "call": ["look", '{"a":1}']}
CLASSES = {"chat": {"reasoning": 2}, "messages": {"written": 3}, "responses": {"reasoning": 2}}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
ROUTES = [(client, upstream) for upstream in PATHS for client in OTHERS[upstream]]
# What a record has of its own, whoever asked.
OF_EACH = {
    "usage_id", "request_id", "key_id", "member_id", "started_ms", "ended_ms", "first_byte_ms", "latency_ms", "upstream_id", "parts", "started_at", "ended_at",
    "account_id", "seq", "settled_at", "routing",
}  # fmt: skip


def body(client, upstream, stream=False, **more):
    told = {"model": f"only-{upstream}", "stream": stream}
    words = [{"role": "user", "content": "hi"}]
    tool = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}  # fmt: skip
    if client == "chat":
        tools = [{"type": "function", "function": tool}]
        return told | {"messages": words, "max_tokens": 500, "tools": tools, "stream_options": {"include_usage": True}} | more  # fmt: skip
    if client == "messages":
        schema = {
            "name": tool["name"],
            "description": tool["description"],
            "input_schema": tool["parameters"],
        }
        return told | {"messages": words, "max_tokens": 500, "tools": [schema]} | more
    return told | {"input": "hi", "max_output_tokens": 500, "tools": [{"type": "function", **tool}], "store": False} | more  # fmt: skip


@pytest.fixture(scope="module")
def stub():
    with StubUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def works(tmp_path_factory, stub):
    with Server(tmp_path_factory.mktemp("translated"), workers=1, drain_tokens=0, stream_hold_tokens=64) as server:  # fmt: skip
        for protocol in PATHS:
            server.add_deployment(f"only-{protocol}", f"only-{protocol}", stub.url, "--protocol", protocol)
        server.cli("alias", "add", "--alias", "claude-*", "--model", "only-chat")
        _, key = server.subscriber(None)
        until(lambda: server.get("/v1/models/claude-opus-9", key)[0] == 200, what="the alias to be known")
        yield server
        assert server.findings() == []


@pytest.fixture(autouse=True)
def told(stub):
    stub.behave()
    yield
    stub.behave()


def ask(server, key, client, upstream, stream=False, **more):
    return server.request("POST", PATHS[client], key, body(client, upstream, stream, **more))


def charged(record):
    """What is the same for the same answer. The parts name a bucket of the subscriber, and what it paid."""
    kept = {name: value for name, value in record.items() if name not in OF_EACH}
    return kept | {"paid": [part[5] for part in record["parts"]]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("upstream", list(PATHS))
def test_usage_and_charge_are_those_of_the_native_route(works, stub, upstream, stream):
    stub.behave(**TOLD, **CLASSES[upstream])
    records, answers = {}, {}
    for client in (upstream, *OTHERS[upstream]):
        subscriber, key = works.subscriber()
        status, content, headers = ask(works, key, client, upstream, stream)
        assert status == 200, content
        assert headers.get("x-tokenworks-translated") == (None if client == upstream else upstream)
        (records[client],) = works.usage(subscriber, 1)
        answers[client] = content
    native = charged(records[upstream])
    assert native["protocol"] == upstream and native["counted_by"] == "provider" and native["loss"] == []
    for client in OTHERS[upstream]:
        assert charged(records[client]) == native
        if stream:
            made = assembled(client, answers[client])
            assert made["text"] == "tok " * 6 and made["reasoning"] == "hm", made
            assert [(name, json.loads(text)) for name, text in made["calls"]] == [("look", {"a": 1})]


def leave(server, key, client, upstream):
    """A client that reads the beginning of a stream, and is gone."""
    text = json.dumps(body(client, upstream, True)).encode()
    head = f"POST {PATHS[client]} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(text)}\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=30) as sock:
        sock.sendall(head.encode() + text)
        got = b""
        while b"tok" not in got:
            got += sock.recv(65536)


ENDS = {
    # What the upstream is told, and the records: (state, counted_by) of a stream, of a whole answer; None: there is none.
    "whole": ({"tokens": 4}, ("complete", "provider"), ("complete", "provider")),
    "without usage": ({"tokens": 4, "no_usage": 1}, ("complete", None), ("complete", None)),
    "without its end": ({"tokens": 4, "no_done": 1}, ("complete", "provider"), ("complete", "provider")),
    "broken off": ({"tokens": 9, "cut_after": 4}, ("interrupted", None), ("complete", "provider")),
    "refused": ({"status": 400}, None, None),
    "failed": ({"status": 500}, None, None),
    "left": ({"tokens": 200, "hold_after": 30}, ("interrupted", None), None),
}


@pytest.mark.parametrize("end", list(ENDS))
def test_no_route_forgets_to_charge(works, stub, end):
    behaviour, streamed, whole = ENDS[end]
    stub.behave(**behaviour)
    subscriber, key = works.subscriber()
    expected = []
    for client, upstream in ROUTES:
        if end == "left":
            leave(works, key, client, upstream)
            expected.append(streamed)
            continue
        for stream, record in ((True, streamed), (False, whole)):
            status, content, _ = ask(works, key, client, upstream, stream)
            assert status == (behaviour.get("status", 200) if behaviour.get("status") != 500 else 502), (
                content
            )
            if record is not None:
                expected.append(record)
    records = works.usage(subscriber, len(expected) or None)
    assert len(records) == len(expected)
    found = sorted((record["state"], record["counted_by"]) for record in records)
    assert [state for state, _ in found] == sorted(state for state, _ in expected)
    for record in records:
        assert record["output"] and sum(part[5] for part in record["parts"]) > 0
    if end in {"whole", "without its end"}:
        assert {counted for _, counted in found} == {"provider"}
    stub.release()


@pytest.mark.parametrize(("client", "upstream"), ROUTES)
def test_nothing_left_ends_the_stream_in_the_clients_protocol(works, stub, client, upstream):
    stub.behave(tokens=400, prompt=9, pad=3, hold_after=300)
    offering = works.sell(f"few-{client}-{upstream}", 1600)
    subscriber, key = works.subscriber(offering)
    more = {"max_output_tokens" if client == "responses" else "max_tokens": 4000}
    status, content, _ = ask(works, key, client, upstream, True, **more)
    assert status == 200, content
    (record,) = works.usage(subscriber, 1)
    assert record["reason"] == "nothing_left" and record["state"] == "interrupted"
    made = assembled(client, content)
    assert made["stop"] in {"length", "max_tokens", "incomplete"} and b"nothing_left" in content
    stub.release()


def test_an_anthropic_client_works_with_a_deployment_of_chat(works, stub):
    import anthropic

    stub.behave(**TOLD)
    _, key = works.subscriber()
    client = anthropic.Anthropic(base_url=f"http://{works.public}", api_key=key)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    asked = body("messages", "chat")
    del asked["stream"]
    asked["model"] = "claude-opus-9"
    asked["messages"] = [
        {"role": "user", "content": [image, {"type": "text", "text": "look"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a cat"}]},
    ]  # fmt: skip
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.model == "claude-opus-9" and message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
        assert message.content[2].input == {"a": 1} and message.usage.cache_read_input_tokens == 8
        assert (message.usage.input_tokens, message.usage.output_tokens) == (13, 6)
    sent = stub.get("/last")["bodies"][-1]["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool"]
    assert sent[0]["content"][0] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
    }
    assert client.messages.count_tokens(model="claude-opus-9", messages=asked["messages"]).input_tokens > 0


@pytest.mark.parametrize("upstream", ["messages", "responses"])
def test_an_openai_client_of_chat_works_with_any_deployment(works, stub, upstream):
    import openai

    stub.behave(**TOLD)
    _, key = works.subscriber()
    client = openai.OpenAI(base_url=f"http://{works.public}/v1", api_key=key)
    asked = body("chat", upstream)
    del asked["stream"], asked["stream_options"]
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    for completion in (whole, streamed):
        choice = completion.choices[0]
        assert choice.message.content == "tok " * 6 and choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls[0].function.name == "look"
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"a": 1}
    assert whole.usage.completion_tokens == 6


@pytest.mark.parametrize("upstream", ["chat", "messages"])
def test_an_openai_client_of_responses_works_with_any_deployment(works, stub, upstream):
    import openai

    stub.behave(**TOLD)
    _, key = works.subscriber()
    client = openai.OpenAI(base_url=f"http://{works.public}/v1", api_key=key)
    asked = body("responses", upstream)
    del asked["stream"]
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        streamed = stream.get_final_response()
    for response in (whole, streamed):
        assert response.output_text == "tok " * 6 and response.status == "completed"
        (call,) = [item for item in response.output if item.type == "function_call"]
        assert call.name == "look" and json.loads(call.arguments) == {"a": 1}
        assert response.usage.output_tokens == 6
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked, previous_response_id=whole.id)
    assert caught.value.code == "untranslatable" and caught.value.param == "previous_response_id"


def test_a_model_is_listed_with_the_protocols_over_which_it_is_served(works):
    _, key = works.subscriber()
    entry = json.loads(works.get("/v1/models/only-chat", key)[1])
    assert entry["protocols"] == ["chat", "messages", "responses"]
    status, content, _ = works.request("POST", "/v1/completions", key, {"model": "only-chat", "prompt": "hi"})
    assert status == 404 and b"is not served over completions" in content


def test_a_deployment_that_speaks_the_clients_protocol_is_preferred(works, stub):
    works.add_deployment("mixed-chat", "mixed", stub.url, "--protocol", "chat")
    works.add_deployment("mixed-messages", "mixed", stub.url, "--protocol", "messages", wait=False)
    subscriber, key = works.subscriber()

    def relayed():
        status, content, headers = ask(works, key, "messages", "chat", model="mixed")
        assert status == 200, content
        return "x-tokenworks-translated" not in headers

    until(relayed, what="the deployment of messages")
    told = works.cli("route", "explain", "--model", "mixed", "--subscriber", subscriber.phone).stdout
    assert "mixed-chat" in told
    for _ in range(3):
        assert relayed()
