"""200 is not success: an answer has the parts that its protocol gives it, anything else is a fault."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.upstream import Chat, Completions, Embeddings, Messages, Responses
from tokenworks.factory.facts.profiles import load_profile
from tokenworks.gateway.protocol.outcome import FILTERED, Answer, fault_of_body, fault_of_event, read_body
from tokenworks.gateway.protocol.usage import body_usage
from tokenworks.gateway.protocol.vendor_errors import Fault, by_codes

SAID = {"message": "it broke", "type": "server_error", "param": None, "code": None}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "error"}


# What the numbers mean that MiniMax writes into `base_resp`.
MINIMAX = load_profile("minimax").error_codes


def of_its_vendor(found, raw):
    return by_codes(found, MINIMAX) if found is not None and b"base_resp" in raw else found


def fault(body, protocol="chat", status=200):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return of_its_vendor(fault_of_body(status, raw, protocol), raw)


@pytest.mark.parametrize(("body", "kind", "status"), [
    (b'{ "error": {"message": "engine is full", "code": 503} }', "overloaded", 503),
    (b'\xef\xbb\xbf\n {"error":{"message":"x"}}', "server", 502),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded", 502),
    ({"object": "error", "message": "it broke", "type": "InternalServerError", "param": None, "code": 500}, "server", 500),
    ({"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}, "client", 400),
    ({"code": 500, "msg": "no such route", "success": False}, "server", 500),
    ({"code": "500", "message": "no"}, "server", 500),
    ({"success": False}, "server", 502),
    ({"errors": [{"message": "x", "code": 429}]}, "rate", 429),
    ({"detail": "Not Found"}, "server", 502),
    ({"error": "it broke", "error_type": "overloaded"}, "overloaded", 502),
    ({"code": "resource", "error": "it broke"}, "server", 502),
    ({"id": "c1", "error": SAID}, "server", 502),
    ({"id": "c1", "choices": [CHOICE | {"finish_reason": "stop"}], "error": SAID}, "server", 502),
    ({"id": "c1", "choices": [CHOICE | {"error": {"code": 502, "message": "provider went away"}}]}, "server", 502),
    ({"id": "c1", "choices": [CHOICE]}, "server", 502),
    ({"id": "c1", "choices": [CHOICE | {"finish_reason": "network_error"}]}, "server", 502),
    ({"id": "c1", "choices": [CHOICE | {"finish_reason": "insufficient_system_resource"}]}, "overloaded", 502),
    ({"id": "c1", "choices": [CHOICE | {"finish_reason": "abort"}]}, "server", 502),
    ({"id": "c1", "object": "chat.completion", "choices": None, "usage": None}, "server", 502),
    ({"id": "c1", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3}}, "server", 502),
    ({"choices": {"index": 0}}, "server", 502),
    ({"choices": None, "usage": {"total_tokens": 0}, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "quota", 502),
    ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "slow down"}}, "rate", 502),
    ({"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input"}}, "moderation", 400),
    ({"choices": None, "base_resp": {"status_code": "1039", "status_msg": "x"}}, "client", 400),
    (b"null", "server", 502), (b"[]", "server", 502), (b'"no"', "server", 502), (b"true", "server", 502), (b"{}", "server", 502),
    (b"", "server", 502), (b" \n", "server", 502), (b"<!DOCTYPE html><title>502</title>", "server", 502), (b'{"id":"c1","choices":[{"in', "server", 502),
    (b"\xff\xfe", "server", 502), (b"[" * 200_000, "server", 502),
])  # fmt: skip
def test_of_chat(body, kind, status):
    found = fault(body)
    assert (found.kind, found.status) == (kind, status)


@pytest.mark.parametrize(("body", "protocol"), [
    ({"id": "r", "object": "response", "status": "failed", "error": {"code": "server_error", "message": "it broke"}, "output": [], "usage": None}, "responses"),
    ({"id": "r", "object": "response", "status": "incomplete", "error": {"code": "server_error", "message": "it broke"}, "output": []}, "responses"),
    ({"id": "r", "object": "response", "status": "failed", "output": []}, "responses"),
    ({"id": "r", "object": "response", "status": "cancelled", "output": []}, "responses"),
    ({"id": "r", "object": "response"}, "responses"),
    ({"type": "error", "error": {"type": "api_error", "message": "it broke"}, "request_id": "req_1"}, "messages"),
    ({"id": "msg_1", "error": SAID}, "messages"), ({"id": "msg_1", "type": "message", "content": None}, "messages"),
    ({"object": "list", "data": None}, "embeddings"), ({"data": {"embedding": [1]}}, "embeddings"), ({"error": SAID}, "embeddings"),
    ({"choices": [{"index": 0, "text": "", "finish_reason": "error"}]}, "completions"),
    ({"id": "c1", "object": "chat.completion", "choices": []}, "completions"),
])  # fmt: skip
def test_of_the_other_protocols(body, protocol):
    assert fault(body, protocol).kind == "server"


KINDS = {
    "chat": Chat,
    "completions": Completions,
    "messages": Messages,
    "responses": Responses,
    "embeddings": Embeddings,
}


@pytest.mark.parametrize("protocol", list(KINDS))
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"error": None},
        {"code": 0, "msg": ""},
        {"base_resp": {"status_code": 0, "status_msg": "success"}},
        {"success": True},
    ],
)
def test_an_answer_is_none(protocol, more):
    assert fault(KINDS[protocol]("id-1", 11, {}, 0).whole(5) | more, protocol) is None


@pytest.mark.parametrize(("body", "protocol"), [
    ({"choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}, "chat"),
    ({"choices": [{"message": {"content": "part"}, "finish_reason": "abort"}]}, "chat"),
    ({"choices": [CHOICE, {"index": 1, "message": {"content": "good"}, "finish_reason": "stop"}]}, "chat"),
    ({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}], "id": "x", "code": 200}, "chat"),
    ({"choices": [{"message": {"content": '{"error": 1}'}, "finish_reason": "stop"}]}, "chat"),
    ({"status": "incomplete", "output": [], "incomplete_details": {"reason": "max_output_tokens"}}, "responses"),
    ({"input_tokens": 12}, "messages"),
    ({"embeddings": [[0.1]]}, "embeddings"),
])  # fmt: skip
def test_what_is_odd_and_an_answer(body, protocol):
    assert fault(body, protocol) is None


@pytest.mark.parametrize(("payload", "protocol", "kind", "code"), [
    ({"error": {"message": "engine is full", "code": 503}}, "chat", "overloaded", "503"),
    ({"error": "engine is full"}, "chat", "server", ""),
    ({"object": "error", "message": "x", "code": 400, "type": "BadRequestError"}, "chat", "client", "400"),
    ({"code": 500, "msg": "no"}, "chat", "server", "500"),
    ({"id": "g", "error": {"code": 502, "message": "gone"}, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}, "chat", "server", "502"),
    ({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}, "chat", "server", "error"),
    ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "x"}}, "chat", "quota", "1008"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "messages", "overloaded", "overloaded_error"),
    ({"type": "error", "code": "insufficient_quota", "message": "x"}, "responses", "quota", "insufficient_quota"),
    ({"type": "error", "error": {"code": "rate_limit_exceeded", "message": "x"}}, "responses", "rate", "rate_limit_exceeded"),
    ({"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error", "message": "x"}}}, "responses", "server", "server_error"),
    ({"type": "response.failed", "response": {"status": "failed", "error": None}}, "responses", "server", "failed"),
    ({"type": "response.incomplete", "response": {"status": "incomplete", "error": {"code": "context_length_exceeded"}}}, "responses", "client", "context_length_exceeded"),
])  # fmt: skip
def test_of_an_event(payload, protocol, kind, code):
    raw = json.dumps(payload).encode()
    found = of_its_vendor(fault_of_event(raw, protocol), raw)
    assert (found.kind, found.code) == (kind, code)


@pytest.mark.parametrize(("payload", "protocol"), [
    ({"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": "", "object": ""}, "chat"),
    ({"choices": [{"index": 0, "delta": {"content": "the code is 500, the error is mine"}, "finish_reason": None}]}, "chat"),
    ({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}, "chat"),
    ({"choices": [], "usage": {"prompt_tokens": 1}, "error": None}, "chat"),
    ({"type": "response.created", "response": {"id": "r", "status": "in_progress", "error": None}}, "responses"),
    ({"type": "ping"}, "messages"),
    ({"type": "message_start", "message": {"id": "m"}}, "messages"),
])  # fmt: skip
def test_an_event_that_is_none(payload, protocol):
    assert fault_of_event(json.dumps(payload).encode(), protocol) is None


def test_what_it_says_is_read_wherever_it_is():
    said = fault(
        {
            "error": {
                "message": "slow\u202e down\x00\n now",
                "code": "rate_limit_exceeded",
                "metadata": {"retry_after": "6m0s"},
            }
        }
    )
    assert said == Fault("rate", 502, "rate_limit_exceeded", "slow down now", 360.0)
    nested = fault({"error": {"error": {"message": "deep", "type": "invalid_request_error"}}})
    assert (nested.kind, nested.message) == ("client", "deep")
    listed = fault(
        {"detail": [{"loc": ["body"], "msg": "field required", "type": "value_error.missing"}]}, status=422
    )
    assert (listed.kind, listed.status, listed.message) == ("client", 422, "field required")
    long = fault({"error": {"message": "x" * 10_000, "code": "y" * 10_000}})
    assert len(long.message) <= 500 and len(long.code) <= 100


@pytest.mark.parametrize(("message", "seconds"), [
    ("Please try again in 1.5s.", 1.5), ("Rate limit reached. Please try again in 6m0s. Visit", 360), ("retry after 20ms", 0.02), ("try again in 30 s", 30),
    ("try again in a moment", None), ("try again in 3 steps", None), ("in 5s", None),
])  # fmt: skip
def test_when_to_come_back_may_stand_in_the_message(message, seconds):
    assert (
        fault({"error": {"message": message, "code": "rate_limit_exceeded"}}, status=429).retry_after_s
        == seconds
    )
    assert fault({"error": {"message": message, "code": "invalid_api_key"}}, status=401).retry_after_s is None


def test_a_status_of_an_error_is_one_whatever_its_body():
    assert fault(b"<html>", status=400) == Fault("client", 400, "", "")
    assert fault(Chat("i", 1, {}, 0).whole(2), status=503).kind == "overloaded"


@pytest.mark.parametrize("text", [
    b'{"finish_reason":"content_filter"}', b'{"finish_reason" : "sensitive"}', b'{"stop_reason": "refusal"}', b'{"reason":\n"content_filter"}',
])  # fmt: skip
def test_the_filter_ended_it(text):
    assert FILTERED.search(text)
    assert not FILTERED.search(json.dumps({"content": text.decode()}).encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "code", "type", "message", "choices", "status", "base_resp", "detail", "finish_reason", "object", "output", "data", "content"]),
        inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(values, st.sampled_from([200, 201, 400, 403, 429, 500, 529]), st.sampled_from(list(KINDS)))
def test_whatever_comes_is_an_answer_or_a_fault(body, status, protocol):
    found = fault(body, protocol, status)
    fault_of_event(json.dumps(body).encode(), protocol)
    if found is not None:
        assert found.kind in {"client", "moderation", "rate", "quota", "overloaded", "server"}
        assert 400 <= found.status <= 599
        assert found.message.isprintable() and found.code.isprintable()
        if found.kind == "client":
            assert 400 <= found.status < 500
    else:
        assert status < 400 and isinstance(body, dict)


@given(st.sampled_from(list(KINDS)), st.integers(0, 60))
def test_an_answer_that_was_cut_is_a_fault(protocol, left):
    body = json.dumps(KINDS[protocol]("id-1", 11, {}, 0).whole(5)).encode()
    assert fault(body, protocol) is None
    assert fault(body[: len(body) * left // 61], protocol) is not None


said = st.fixed_dictionaries({}, optional={
    "prompt_tokens": st.integers(0, 9) | st.just("7"), "completion_tokens": st.integers(0, 9), "total_tokens": st.integers(0, 18), "input_tokens": st.integers(0, 9),
})  # fmt: skip


@given(values, said | st.none(), st.sampled_from([200, 500]), st.sampled_from(list(KINDS)))
def test_one_look_sees_what_two_do(body, usage, status, protocol):
    if isinstance(body, dict):
        body = body | {"usage": usage, "id": "x"}
    data = json.dumps(body).encode()
    assert read_body(status, data, protocol) == Answer(
        fault_of_body(status, data, protocol), *body_usage(data, protocol)
    )
