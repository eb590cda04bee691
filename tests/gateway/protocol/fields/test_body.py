"""What is read from a body, and what is refused in it."""

import json

import pytest

from tests.gateway.protocol.fields.support import HI, compact, sent
from tokenworks.gateway.protocol.fields import BodyError, allowed_query, parse_body
from tokenworks.gateway.protocol.fields.layout import TRANSLATED
from tokenworks.gateway.protocol.fields.scan import ELEMENTS_MAX


def refused(body, protocol="chat"):
    with pytest.raises(BodyError) as caught:
        parse_body(compact(body), protocol)
    return caught.value.refusal


@pytest.mark.parametrize(("protocol", "more"), [
    ("chat", {"web_search_options": {}}), ("chat", {"audio": {"voice": "x"}}), ("messages", {"service_tier": "flex"}), ("chat", {"service_tier": "priority"}),
    ("messages", {"mcp_servers": [{"url": "x"}]}), ("messages", {"speed": "fast"}), ("messages", {"container": "c"}), ("messages", {"inference_geo": "us"}),
    ("responses", {"background": True}), ("responses", {"conversation": "c"}), ("responses", {"prompt": {"id": "p"}}), ("chat", {"modalities": ["text", "audio"]}),
    ("chat", {"prediction": {"type": "content", "content": "x"}}), ("messages", {"thread": {"type": "continue", "previous_message_id": "m"}}),
])  # fmt: skip
def test_nothing_that_moves_the_price_passes_unpriced(protocol, more):
    body = {"model": "m", "max_tokens": 5, "messages": [], "input": "x"} | more
    body.pop("input" if protocol in {"chat", "messages"} else "messages")
    body.pop("max_tokens" if protocol == "responses" else "") if protocol == "responses" else None
    assert refused(body, protocol).code == "unpriced_field"


def test_null_and_the_usual_values_of_priced_fields_pass():
    body = {
        "model": "m",
        "messages": HI,
        "store": False,
        "service_tier": "auto",
        "audio": None,
        "modalities": ["text"],
        "n": None,
        "max_tokens": None,
    }
    assert sent(body) == (body, ())


def test_harmless_fields_pass():
    body = {
        "model": "m",
        "messages": [],
        "temperature": 0,
        "store": False,
        "tools": [{"type": "function", "function": {}}],
        "x_new": {"a": 1},
    }
    assert parse_body(json.dumps(body).encode(), "chat").model == "m"
    claude = {
        "model": "m", "messages": [], "max_tokens": 32000, "thinking": {"type": "adaptive"}, "context_management": {}, "tools": [{"name": "Bash", "input_schema": {}}],
    }  # fmt: skip
    assert parse_body(json.dumps(claude).encode(), "messages").output_tokens == 32000


@pytest.mark.parametrize(("more", "tokens", "dropped", "there"), [
    ({"max_tokens": 100.0}, 100, (), {"max_tokens": 100}), ({"max_tokens": None}, None, (), {"max_tokens": None}), ({"max_tokens": 0}, None, ("max_tokens",), {}),
    ({"max_tokens": -1}, None, ("max_tokens",), {}), ({"max_tokens": 50, "max_completion_tokens": 50}, 50, (), {"max_tokens": 50}),
    ({"max_tokens": 50.0, "max_completion_tokens": 50}, 50, (), {"max_tokens": 50}), ({"max_tokens": 50, "max_completion_tokens": 40}, 40, ("max_tokens",), {"max_completion_tokens": 40}),
    ({"max_tokens": 30, "max_completion_tokens": 40}, 30, ("max_completion_tokens",), {"max_tokens": 30}),
])  # fmt: skip
def test_a_maximum_as_clients_write_it(more, tokens, dropped, there):
    body = {"model": "m", "messages": HI} | more
    assert parse_body(compact(body), "chat").output_tokens == tokens
    out, names = sent(body)
    assert names == dropped
    assert {name: value for name, value in out.items() if name.startswith("max_")} == there
    assert not any(isinstance(value, float) for value in out.values())


@pytest.mark.parametrize("value", ["100", 100.5, -2, True, [1], 1e30])
def test_what_is_no_maximum(value):
    assert refused({"model": "m", "messages": HI, "max_tokens": value}).param == "max_tokens"


def test_nothing_to_make_is_a_maximum_where_a_cache_is_filled():
    assert parse_body(compact({"model": "m", "messages": HI, "max_tokens": 0}), "messages").output_tokens == 0


def test_a_byte_order_mark_is_no_part_of_the_body():
    body = compact({"model": "m", "messages": HI})
    assert parse_body(b"\xef\xbb\xbf" + body, "chat").body == body
    assert sent(b"\xef\xbb\xbf" + body)[0] == json.loads(body)


@pytest.mark.parametrize(("protocol", "body", "inputs", "choices"), [
    ("embeddings", {"input": "x"}, 1, 1), ("embeddings", {"input": ["a", "b", "c"]}, 3, 1), ("embeddings", {"input": [1, 2, 3]}, 1, 1), ("embeddings", {"input": [[1, 2], [3]]}, 2, 1),
    ("embeddings", {"input": []}, 1, 1), ("completions", {"prompt": ["a", "b"], "n": 2, "best_of": 3}, 2, 6), ("completions", {"prompt": "a"}, 1, 1),
    ("chat", {"messages": HI, "n": 3}, 1, 3), ("chat", {"messages": HI, "n": 2.0}, 1, 2),
])  # fmt: skip
def test_how_many_texts_and_answers(protocol, body, inputs, choices):
    parsed = parse_body(compact({"model": "m"} | body), protocol)
    assert (parsed.inputs, parsed.choices) == (inputs, choices)


@pytest.mark.parametrize(("protocol", "more", "thinks"), [
    ("chat", {}, False), ("chat", {"reasoning_effort": "high"}, True), ("chat", {"reasoning_effort": "none"}, False), ("chat", {"enable_thinking": True}, True),
    ("chat", {"enable_thinking": False}, False), ("chat", {"chat_template_kwargs": {"enable_thinking": True}}, True), ("chat", {"chat_template_kwargs": {"enable_thinking": False}}, False),
    ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, True), ("messages", {"thinking": {"type": "disabled"}}, False), ("messages", {"thinking": {"type": "adaptive"}}, True),
    ("responses", {"reasoning": {"effort": "low"}}, True), ("responses", {"reasoning": {"effort": None, "summary": "auto"}}, False), ("responses", {"reasoning": None}, False),
    ("chat", {"reasoning": {"enabled": True}}, True), ("chat", {"reasoning": {"enabled": False}}, False), ("chat", {"reasoning": {"max_tokens": 2000}}, True),
])  # fmt: skip
def test_whether_hidden_reasoning_is_asked_for(protocol, more, thinks):
    body = {"model": "m", "input" if protocol == "responses" else "messages": HI} | more
    assert parse_body(compact(body), protocol).hidden_reasoning is thinks


@pytest.mark.parametrize(("protocol", "body", "where"), [
    ("chat", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages[0].content[0].file.file_id"),
    ("chat", {"messages": [{"role": "assistant", "audio": {"id": "f"}}]}, "messages[0].audio.id"),
    ("responses", {"input": [{"type": "item_reference", "id": "f"}]}, "input[0].id"), ("responses", {"input": [{"id": "f"}]}, "input[0].id"),
    ("responses", {"input": "x", "previous_response_id": "f"}, "previous_response_id"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].file_id"),
    ("responses", {"input": [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "file_id": "f"}}]}, "input[0].output.file_id"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, "messages[0].content[0].source.file_id"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]}]},
     "messages[0].content[0].content[0].source.file_id"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]}, "messages[0].content[0].file_id"),
])  # fmt: skip
@pytest.mark.parametrize("spaced", [False, True])
def test_ids_of_things_at_the_upstream_are_found_wherever_they_come(protocol, body, where, spaced):
    body = {"model": "m"} | body
    data = json.dumps(body).encode() if spaced else compact(body)
    assert parse_body(data, protocol).objects == ((where, "f"),)


def test_a_second_meaning_does_not_hide_an_id():
    """A content that is there twice, the file first: we read the text, and the upstream is sent the text alone."""
    for content in (
        b'"content":[{"type":"file","file":{"file_id":"f"}}],"content":"hi"',
        b'"content":"hi" ,"content":"hi"',
    ):
        out, _ = sent(b'{"model":"m","messages":[{"role":"user",%b}]}' % content)
        assert out == {"model": "m", "messages": HI}
        from tests.gateway.protocol.fields.support import rendered

        assert b"file_id" not in rendered(b'{"model":"m","messages":[{"role":"user",%b}]}' % content)[0]


def test_media_are_no_text():
    picture = "data:image/png;base64," + "A" * 5000
    body = compact(
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what?"},
                        {"type": "image_url", "image_url": {"url": picture}},
                    ],
                }
            ],
        }
    )
    parsed = parse_body(body, "chat")
    assert parsed.has_media and parsed.text_bytes == len(body) - len(picture)
    assert parsed.content[0]["content"][1]["image_url"]["url"] == picture
    plain = parse_body(compact({"model": "m", "messages": HI}), "chat")
    assert not plain.has_media and plain.content is None


def test_a_text_document_is_text():
    source = {"type": "text", "media_type": "text/plain", "data": "x" * 900}
    body = compact(
        {
            "model": "m",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}],
        }
    )
    parsed = parse_body(body, "messages")
    assert parsed.has_media and parsed.text_bytes == len(body)


def test_links_are_collected_and_looked_at():
    url = "https://img.example.com/a.png"
    for protocol, part in (
        ("chat", {"type": "image_url", "image_url": {"url": url}}), ("chat", {"type": "image_url", "image_url": url}), ("messages", {"type": "image", "source": {"type": "url", "url": url}}),
        ("responses", {"type": "input_image", "image_url": url}), ("responses", {"type": "input_file", "file_url": url}), ("chat", {"type": "video_url", "video_url": {"url": url}}),
    ):  # fmt: skip
        if part.get("image_url") == url and protocol == "chat":
            continue  # chat types an object there; a text is nobody's URL
        body = {
            "model": "m",
            "input" if protocol == "responses" else "messages": [{"role": "user", "content": [part]}],
        }
        assert parse_body(compact(body), protocol).links == (url,)
        for bad in (
            "http://169.254.169.254/x",
            "file:///etc/passwd",
            "http://localhost/",
            "http://2130706433/",
        ):
            text = json.dumps(body).replace(url, bad).encode()
            with pytest.raises(BodyError) as caught:
                parse_body(text, protocol)
            assert caught.value.refusal.code == "forbidden_link"


def test_too_much_of_anything_is_refused():
    deep = HI[0]["content"]
    for _ in range(40):
        deep = [{"type": "tool_result", "tool_use_id": "t", "content": deep}]
    assert (
        refused(
            {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": deep}]}, "messages"
        ).code
        == "invalid_body"
    )
    assert refused({"model": "m", "messages": HI} | {f"x{i}": 1 for i in range(2000)}).code == "invalid_body"
    assert refused(b'{"model":"m","messages":[' + b"{}," * 500_000 + b"{}]}").code == "invalid_body"


def test_what_no_decoder_takes_is_refused():
    for body in (
        b"",
        b"[]",
        b'{"model":"m"',
        b"\xff\xfe{\x00}\x00",
        b'{"model":"m","messages":[{"role":}]}',
        b'{"model":1,"messages":[]}',
        b'{"messages":[]}',
        b'{"model":"m"}',
    ):
        assert refused(body).status == 400


def test_the_cheapest_tier_is_ours_and_not_sent_on():
    parsed = parse_body(compact({"model": "m", "messages": HI, "service_tier": "flex"}), "chat")
    assert parsed.flex
    assert sent({"model": "m", "messages": HI, "service_tier": "flex"}) == (
        {"model": "m", "messages": HI},
        (),
    )


@pytest.mark.parametrize("spaced", [False, True])
def test_a_thought_that_only_its_id_names_does_not_pass(spaced):
    """It would be looked up among what the vendor kept, of whoever it was."""
    user, call = (
        {"role": "user", "content": "hi"},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
    )
    whole = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    body = {"model": "m", "input": [user, whole, call]}
    assert sent(json.dumps(body).encode() if spaced else body, "responses") == (body, ())
    for bare in (
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": None},
    ):
        body = {"model": "m", "input": [user, bare, call]}
        out, names = sent(json.dumps(body).encode() if spaced else body, "responses")
        assert out["input"] == [user, {name: value for name, value in call.items() if name != "id"}]
        assert set(names) == {"input[1]", "input[2].id"}


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("pass_unknown", [False, True])
def test_reasoning_of_a_translated_answer_is_not_sent_to_a_provider(spaced, pass_unknown):
    """The provider refuses a request with encrypted content that it did not make, so a conversation could not go on at it."""
    user, whole = (
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
    )
    ours = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "T"}],
        "encrypted_content": TRANSLATED + "c2ln",
    }
    body = {"model": "m", "input": [user, ours, whole, ours]}
    out, names = sent(json.dumps(body).encode() if spaced else body, "responses", pass_unknown=pass_unknown)
    assert out["input"] == [user, whole]
    assert set(names) == {"input[1]", "input[3]"}


def test_only_what_is_named_of_a_query_string_passes():
    assert allowed_query("messages", b"beta=true") == b"beta=true"
    assert allowed_query("messages", b"beta=true&service_tier=priority&beta=true&beta=false") == b"beta=true"
    assert allowed_query("chat", b"service_tier=priority&n=4") == b""
    assert allowed_query("chat", b"") == b""


@pytest.mark.parametrize("spaced", [False, True])
def test_thinking_of_a_translated_answer_does_not_pass(spaced):
    """Anthropic refuses a signature that it did not make; a translation takes the marks off."""
    user = {"role": "user", "content": "hi"}
    native = [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    ours = [
        {"type": "thinking", "thinking": "t", "signature": "tokenworks.text:"},
        {"type": "redacted_thinking", "data": "tokenworks.data:x"},
    ]
    said = {"type": "text", "text": "tokenworks.text:"}
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [user, {"role": "assistant", "content": [*native, said]}, user],
    }
    assert sent(json.dumps(body).encode() if spaced else body, "messages") == (body, ())
    marked = {**body, "messages": [user, {"role": "assistant", "content": [*ours, said, *native]}, user]}
    out, names = sent(json.dumps(marked).encode() if spaced else marked, "messages")
    assert out["messages"][1]["content"] == [said, *native]
    assert set(names) == {"messages[1].content[0]", "messages[1].content[1]"}


def test_a_list_of_very_many_values_is_refused_before_they_are_looked_at():
    """Numbers in the place of messages are cheap to send: 16 MB of them would hold up a worker's loop for seconds."""
    for protocol, name in (("chat", "messages"), ("messages", "messages"), ("responses", "input")):
        limit = [{"role": "user", "content": "x"}, *[0] * (ELEMENTS_MAX - 1)]
        parse_body(compact({"model": "m", "max_tokens": 5, name: limit}), protocol)
        refusal = refused({"model": "m", "max_tokens": 5, name: [*limit, 0]}, protocol)
        assert (refusal.status, refusal.param) == (400, name)
