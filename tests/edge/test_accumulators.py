"""The accumulators of the SDKs make of a translated stream the message that they make of a native one."""

import json

import anthropic
import httpx2
import openai
import pytest

from tests.edge import answers
from tests.edge.answers import Said, Used
from tests.support.streamed import OTHERS, PATHS, REQUESTS, metered
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.translation import Translation

MAKE = {"chat": answers.chat, "messages": answers.messages, "responses": answers.responses}
ROUTES = [(client, upstream) for client in PATHS for upstream in OTHERS[client]]
CALL = ("look", {"place": "Zürich 🦊", "times": [1, 2]})
SAID = {
    "text": Said("Grüezi 🦊, data: x"),
    "call": Said("", call=CALL),
    "text and call": Said("Let me see.", call=CALL),
    "reasoning": Said("It rains.", "First one,\n\nthen another."),
    "reasoning and call": Said("Let me see.", "I have to look.", call=CALL),
    "cached": Said("Short.", used=Used(fresh=5, cached=1000, written=70, text=2)),
}
TOOL = {"type": "object", "properties": {"place": {"type": "string"}, "times": {"type": "array"}}}
TOOLS = {
    "chat": [{"type": "function", "function": {"name": "look", "parameters": TOOL}}],
    "messages": [{"name": "look", "input_schema": TOOL}],
    "responses": [{"type": "function", "name": "look", "parameters": TOOL, "strict": False}],
}


def native(protocol, said):
    """The bytes of a stream as a vendor of this protocol sends it."""
    lines = []
    for event in MAKE[protocol]("m", said)[1]:
        name = f"event: {event['type']}\n" if protocol != "chat" else ""
        lines.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
    return "".join(lines).encode()


def translated(client, upstream, said, step=17):
    """The bytes that a client gets, when the stream of a vendor arrives in pieces of so many bytes."""
    body = json.dumps(REQUESTS[client] | {"tools": TOOLS[client]}).encode()
    made = Translation(client, upstream, body, Target())
    translator, meter = made.translator(made.naming("id-1", "m", answers.CREATED_S)), metered(upstream)
    data, out = native(upstream, said), []
    for at in range(0, len(data), step):
        out.append(translator.feed(meter.feed(data[at : at + step])))
    meter.finish()
    assert meter.complete
    return b"".join(out) + translator.finish(meter.withheld)


def client_of(protocol, data):
    """The SDK's client, for which a server answers `data`."""
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)
    http_client = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
    if protocol == "messages":
        return anthropic.Anthropic(api_key="k", base_url="http://stub", http_client=http_client)
    return openai.OpenAI(api_key="k", base_url="http://stub/v1", http_client=http_client)


def rebuilt(protocol, data):
    """What the SDK's accumulator makes of a stream: its message without ids, and the usage."""
    with client_of(protocol, data) as client:
        return {"chat": of_chat, "messages": of_messages, "responses": of_responses}[protocol](client)


def of_chat(client):
    with client.chat.completions.stream(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        tools=TOOLS["chat"],
        stream_options={"include_usage": True},
    ) as stream:
        whole = stream.get_final_completion()
    (choice,) = whole.choices
    message, used = choice.message, whole.usage
    return {
        "content": message.content or None,
        "refusal": message.refusal,
        "reasoning": message.model_extra.get("reasoning_content"),
        "calls": [
            (call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()
        ],
        "finish": choice.finish_reason,
        "usage": (
            used.prompt_tokens,
            used.prompt_tokens_details.cached_tokens,
            used.completion_tokens,
            used.total_tokens,
        ),
    }


def of_messages(client):
    with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], tools=TOOLS["messages"]
    ) as stream:
        message = stream.get_final_message()
    used = message.usage
    kept = {"text": "text", "thinking": "thinking", "tool_use": "input"}
    return {
        "content": [
            (block.type, getattr(block, kept[block.type]), getattr(block, "name", None))
            for block in message.content
            if block.type != "redacted_thinking"  # the provider's encrypted reasoning, which it gets back
        ],
        "stop": (message.stop_reason, message.stop_sequence),
        "usage": (
            used.input_tokens,
            used.cache_read_input_tokens,
            used.cache_creation_input_tokens,
            used.output_tokens,
        ),
    }


def of_responses(client):
    with client.responses.stream(model="m", input="hi", tools=TOOLS["responses"]) as stream:
        response = stream.get_final_response()
    used = response.usage
    items = []
    for item in response.output:
        if item.type == "message":
            items.append([(part.type, getattr(part, "text", None) or part.refusal) for part in item.content])
        elif item.type == "reasoning":
            items.append(("reasoning", [part.text for part in item.summary]))
        else:
            items.append((item.type, item.name, json.loads(item.arguments)))
    return {
        "output": items,
        "text": response.output_text,
        "status": response.status,
        "usage": (
            used.input_tokens,
            used.input_tokens_details.cached_tokens,
            used.output_tokens,
            used.total_tokens,
        ),
    }


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize(("client", "upstream"), ROUTES)
def test_the_message_is_that_of_a_native_stream(client, upstream, name):
    said = SAID[name]
    assert rebuilt(client, translated(client, upstream, said)) == rebuilt(client, native(client, said))


@pytest.mark.parametrize(("client", "upstream"), [("chat", "responses"), ("responses", "chat")])
def test_a_refusal_is_that_of_a_native_stream(client, upstream):
    said = Said("", refusal="I can't help with that.")
    made, wanted = rebuilt(client, translated(client, upstream, said)), rebuilt(client, native(client, said))
    assert made == wanted


@pytest.mark.parametrize("upstream", ["chat", "responses"])
def test_the_words_of_a_refusal_are_a_whole_answer_for_anthropics_sdk(upstream):
    said = Said("", refusal="I can't help with that.")
    made = rebuilt("messages", translated("messages", upstream, said))
    assert made["content"] == [("text", said.refusal, None)] and made["stop"] == ("end_turn", None)


def test_a_refusal_of_messages_is_a_content_filter_with_its_words_for_openais_sdk():
    said = Said("", refusal="I can't help with that.")
    with client_of("chat", translated("chat", "messages", said)) as client:
        chunks = list(client.chat.completions.create(**REQUESTS["chat"]))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == said.refusal
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["content_filter"]
    with client_of("responses", translated("responses", "messages", said)) as client:
        events = list(client.responses.create(model="m", input="hi", stream=True))
    assert events[-1].type == "response.incomplete" and events[-1].response.output_text == said.refusal
    assert events[-1].response.incomplete_details.reason == "content_filter"
