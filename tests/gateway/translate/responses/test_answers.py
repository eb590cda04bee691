"""Whole answers: OpenAI's types accept them, and usage comes back class by class."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from openai.types.responses import Response

from tests.gateway.translate.responses.conftest import FULL_RESPONSE
from tests.gateway.translate.responses.test_writer import USAGE, naming
from tests.support.translation import counts
from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import body_usage, read_openai
from tokenworks.gateway.translate.form import Answer, Reasoning, Refused, Request, Stop, Text, Tool, ToolCall
from tokenworks.gateway.translate.responses import codec
from tokenworks.gateway.translate.responses.answers import usage_object


def write(*parts, stop=Stop.END, usage=USAGE, **changes):
    body = codec.write_answer(Answer("x", "m", parts, stop, usage=usage), naming(**changes))
    return json.loads(msgspec.json.encode(body))


@given(counts())
@settings(max_examples=60, deadline=None)
def test_usage_comes_back_class_by_class(usage):
    read = read_openai(json.loads(msgspec.json.encode(usage_object(usage))))
    assert (read.counts, read.total, read.flags) == (usage, usage.total, ())


def test_the_meter_reads_the_same_of_a_written_answer():
    for usage in (Counts(), USAGE, Counts(1, 2, 3, 4, 5, 6, 7, 8)):
        body = msgspec.json.encode(write(Text("a"), usage=usage))
        read, answer_id = body_usage(body, "responses")
        assert (read and read.counts, answer_id) == (usage if any(usage) else None, "resp_r1")


def test_an_answer_is_what_the_types_of_the_sdk_demand():
    parts = (
        Reasoning("Hm.", signature="c2ln"), Text("a"), Refused("No."), ToolCall("c1", "look", '{"a": 1}'),
        ToolCall("c2", "apply_patch", '{"input": "*** Begin"}'), ToolCall("c3", "mail__send", "{}"),
        ToolCall("c4", "local_shell", '{"command": ["ls"], "timeout_ms": 5}'),
    )  # fmt: skip
    body = write(*parts, stop=Stop.TOOL)
    response = Response.model_validate(body)
    assert response.output_text == "a"
    assert [item["type"] for item in body["output"]] == [
        "reasoning", "message", "message", "function_call", "custom_tool_call", "function_call", "local_shell_call",
    ]  # fmt: skip
    assert body["output"][4]["input"] == "*** Begin"
    assert (body["output"][5]["name"], body["output"][5]["namespace"]) == ("send", "mail")
    assert body["output"][6]["action"] == {"type": "exec", "env": {}, "command": ["ls"], "timeout_ms": 5}


def test_the_least_request_is_repeated_with_defaults():
    body = write(request=Request("m", ()))
    Response.model_validate(body)
    assert (body["temperature"], body["top_p"], body["tool_choice"], body["tools"], body["store"]) == (
        1.0,
        1.0,
        "auto",
        [],
        False,
    )


def test_empty_texts_are_no_items():
    assert write(Text(""), Refused(""), Text("a"))["output"] == write(Text("a"))["output"]


def test_an_answer_without_usage_says_so():
    assert write(Text("a"), usage=None)["usage"] is None


@pytest.mark.parametrize("arguments", ["no JSON", "[1]", "{}"])
def test_arguments_that_no_item_can_have(arguments):
    (item,) = write(ToolCall("c", "local_shell", arguments))["output"]
    assert (item["type"], item["arguments"]) == ("function_call", arguments)


def test_a_clients_function_with_the_name_of_a_builtin_is_a_function():
    (item,) = write(
        ToolCall("c", "shell", '{"commands": ["ls"]}'), request=Request("m", (), tools=(Tool("shell"),))
    )["output"]
    assert item["type"] == "function_call"


def test_what_is_read_of_an_answer_that_failed():
    answer = codec.read_answer({**FULL_RESPONSE, "status": "failed", "usage": None, "created_at": "x"})
    assert (answer.stop, answer.usage, answer.created_s) == (None, None, 0)
