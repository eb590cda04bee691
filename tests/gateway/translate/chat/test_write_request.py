"""The writer of a chat request: what it carries is read back as it was."""

import base64
import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.translation import EVERYTHING, requests
from tokenworks.gateway.translate.chat import codec
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    File,
    Image,
    Instruction,
    Reasoning,
    ReasoningOptions,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Untranslatable,
)

DEFAULT = Target()

# What a chat request carries, in the words of tests/support/translation.py.
CARRIED = frozenset({
    "image.url", "image.data", "image.detail", "file.file_id", "file.name", "audio", "reasoning", "reasoning.summary",
    "reasoning.signature", "reasoning.encrypted", "reasoning.item_id", "instruction", "tool.strict", "system", "tools", "tool_choice",
    "parallel_calls", "max_output_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop", "format",
    "verbosity", "user", "safety_identifier", "prompt_cache_key", "service_tier", "stream", "stream_usage",
})  # fmt: skip
SWITCHES = {
    "effort": {"reasoning.effort"},
    "thinking": {"reasoning.enabled"},
    "enable_thinking": {"reasoning.enabled", "reasoning.budget_tokens"},
    "template": {"reasoning.enabled"},
    "reasoning": {"reasoning.enabled", "reasoning.budget_tokens", "reasoning.effort"},
    "none": set(),
}


def through_json(fields):
    return msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, object])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_carried_is_read_back(data):
    switch = data.draw(st.sampled_from(sorted(SWITCHES)))
    request = data.draw(requests(CARRIED | SWITCHES[switch]))
    target = Target(reasoning_switch=switch, signed_reasoning=True, system_turns=True)
    body, dropped = codec.write_request(request, target)
    assert dropped == ()
    assert codec.read_request(through_json(body)) == (request, ())


USER = Turn("user", (Text("Hi"),))


def request_of(*turns, **fields):
    return Request("m", turns or (USER,), **fields)


def messages_of(*turns, target=DEFAULT, **fields):
    return codec.write_request(request_of(*turns, **fields), target)[0]["messages"]


def call(number, name="f", arguments="{}", **fields):
    return ToolCall(f"c{number}", name, arguments, **fields)


def result(number, *content, **fields):
    return ToolResult(f"c{number}", content, **fields)


def test_results_follow_their_calls_and_media_follow_the_results():
    image = Image(data="AAAA", media_type="image/png")
    messages = messages_of(
        USER,
        Turn("assistant", (Text("Looking."), call(1), call(2))),
        Turn("user", (Text("And?"), result(2, Text("two"), image), result(1, Text("one"), is_error=True))),
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert [entry["id"] for entry in messages[1]["tool_calls"]] == ["c1", "c2"]
    assert messages[2] == {"role": "tool", "tool_call_id": "c2", "content": "two"}
    assert messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "Error: one"}
    kinds = [item["type"] for item in messages[4]["content"]]
    assert kinds == ["text", "image_url", "text"]
    assert "c2" in messages[4]["content"][0]["text"]
    assert messages[4]["content"][1]["image_url"] == {"url": "data:image/png;base64,AAAA"}


def test_every_call_has_a_result_and_every_result_a_call():
    messages = messages_of(
        USER,
        Turn("assistant", (call(1), call(2))),
        Turn("user", (result(1, Text("one")), result(9, Text("nine")))),
        Turn("assistant", (call(3),)),
    )
    asked = [entry["id"] for message in messages for entry in message.get("tool_calls", ())]
    given = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert asked == given == ["c1", "c2", "c3"]
    assert [message["content"] for message in messages if message["role"] == "tool"][1] == "No result."
    assert "c9" in messages[4]["content"] and "nine" in messages[4]["content"]


def test_turns_of_one_role_are_joined_and_instructions_wait_for_results():
    messages = messages_of(
        USER,
        Turn("user", (Text("there"),)),
        Turn("assistant", (Reasoning("Hm."),)),
        Turn("assistant", (Text("Yes."),)),
        Turn("assistant", (call(1),)),
        Instruction((Text("Be brief."),)),
        Turn("user", (result(1, Text("one")),)),
        Turn("assistant", (Text("Done."),)),
        target=Target(system_turns=True),
    )
    assert messages == [
        {"role": "user", "content": "Hi\n\nthere"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "tool_calls": messages[1]["tool_calls"]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Done."},
    ]  # fmt: skip


def test_instructions_stand_in_the_users_message_where_no_system_message_may():
    turns = (
        USER,
        Instruction((Text("Be brief."),)),
        Turn("assistant", (call(1),)),
        Instruction((Text("Hurry."),)),
        Turn("user", (result(1, Text("one")),)),
    )
    messages = messages_of(*turns, system=(Text("Help."),))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "user"]
    assert messages[1]["content"] == "Hi\n\n<system>\nBe brief.\n</system>"
    assert messages[4]["content"] == "<system>\nHurry.\n</system>"


def test_a_vendor_that_demands_reasoning_before_a_call_gets_a_blank():
    turns = (USER, Turn("assistant", (call(1),)), Turn("user", (result(1),)))
    kimi = Target(reasoning_switch="thinking")
    assert messages_of(*turns, target=kimi)[1]["reasoning_content"] == " "
    off = ReasoningOptions(enabled=False)
    assert "reasoning_content" not in messages_of(*turns, target=kimi, reasoning=off)[1]
    assert "reasoning_content" not in messages_of(*turns)[1]


def test_empty_texts_are_left_out():
    assert messages_of(Turn("user", (Text(""),)), Turn("assistant", (Text(""),)), USER) == [
        {"role": "user", "content": "Hi"}
    ]
    messages = messages_of(USER, Turn("assistant", (Text(""), call(1))), Turn("user", (result(1),)))
    assert messages[1]["content"] is None
    assert messages[2]["content"] == ""


def test_documents_of_text_are_text_and_others_are_files():
    encoded = base64.b64encode("größe".encode()).decode()
    files = (
        File(text="plain", name="a.txt"),
        File(data=encoded, media_type="text/csv"),
        File(data="AAAA", media_type="application/pdf"),
    )
    content = messages_of(Turn("user", files))[0]["content"]
    assert content[0]["text"] == '<document name="a.txt">\nplain\n</document>'
    assert content[1]["text"] == "<document>\ngröße\n</document>"
    assert content[2]["file"] == {
        "filename": "document.pdf",
        "file_data": "data:application/pdf;base64,AAAA",
    }
    for part in (File(url="https://media.example/a.pdf"), Image(file_id="file-1")):
        with pytest.raises(Untranslatable):
            messages_of(Turn("user", (part,)))


def test_a_turn_of_which_nothing_is_written_divides_no_others():
    turns = (USER, Turn("assistant", (Reasoning("Hm."),)), Turn("user", (Text("there"),)))
    body, dropped = codec.write_request(request_of(*turns), Target(reasoning_field=None))
    assert body["messages"] == [{"role": "user", "content": "Hi\n\nthere"}]
    assert dropped == ("reasoning",)
    nothing = Instruction((Text(""),))
    assert messages_of(USER, nothing, USER, target=Target(system_turns=True)) == [
        {"role": "user", "content": "Hi\n\nHi"}
    ]


def test_arguments_that_are_no_object_do_not_reach_a_template():
    calls = (
        call(1, arguments=""),
        call(2, arguments='{"a": tru'),
        call(3, arguments="[1]"),
        call(4, arguments='{"a":  1}'),
    )
    written = messages_of(USER, Turn("assistant", calls))[1]["tool_calls"]
    arguments = [entry["function"]["arguments"] for entry in written]
    assert arguments[0] == "{}" and arguments[3] == '{"a":  1}'
    assert [json.loads(text)["input"] for text in arguments[1:3]] == ['{"a": tru', "[1]"]


def test_tools_without_parameters_custom_tools_and_namespaces():
    tools = (
        Tool("f"),
        Tool("g", parameters={}),
        Tool("patch", "Apply it.", custom=True, grammar=("lark", "start: x")),
        Tool("run", namespace="shell", parameters={"type": "object"}),
        Tool("a.b"),
    )
    turns = (
        USER,
        Turn(
            "assistant",
            (call(1, "patch", "*** Begin", custom=True), call(2, "run", namespace="shell"), call(3, "a.b")),
        ),
    )
    body, _ = codec.write_request(request_of(*turns, tools=tools, parallel_calls=False), DEFAULT)
    functions = [tool["function"] for tool in body["tools"]]
    assert all(tool["type"] == "function" for tool in body["tools"])
    assert functions[0]["parameters"] == functions[1]["parameters"] == {"type": "object", "properties": {}}
    assert functions[2]["parameters"]["required"] == ["input"]
    assert "start: x" in functions[2]["description"]
    names = [function["name"] for function in functions]
    assert names[:4] == ["f", "g", "patch", "shell__run"]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)
    called = [entry["function"] for entry in body["messages"][1]["tool_calls"]]
    assert [entry["name"] for entry in called] == names[2:]
    assert json.loads(called[0]["arguments"]) == {"input": "*** Begin"}
    assert body["parallel_tool_calls"] is False


def test_only_allowed_tools_are_sent():
    choice = ToolChoice("required", allowed=("g",))
    body, _ = codec.write_request(request_of(tools=(Tool("f"), Tool("g")), tool_choice=choice), DEFAULT)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    assert body["tool_choice"] == "required"
    body, _ = codec.write_request(request_of(tool_choice=ToolChoice("auto"), parallel_calls=True), DEFAULT)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()


@pytest.mark.parametrize(
    ("switch", "options", "fields", "dropped"),
    [
        ("effort", {}, {}, ()),
        ("effort", {"effort": "xhigh"}, {"reasoning_effort": "high"}, ()),
        ("effort", {"effort": "none"}, {"reasoning_effort": "none"}, ()),
        ("effort", {"enabled": False}, {}, ("reasoning.enabled",)),
        ("effort", {"enabled": True, "budget_tokens": 31_999}, {"reasoning_effort": "high"}, ()),
        ("effort", {"enabled": True, "budget_tokens": 1024}, {"reasoning_effort": "low"}, ()),
        ("effort", {"enabled": True, "adaptive": True}, {}, ()),
        ("thinking", {"enabled": False}, {"thinking": {"type": "disabled"}}, ()),
        ("thinking", {"effort": "max"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, ()),
        ("thinking", {"enabled": True, "budget_tokens": 1024}, {"thinking": {"type": "enabled"}}, ()),
        ("enable_thinking", {"effort": "none"}, {"enable_thinking": False}, ()),
        ("enable_thinking", {"enabled": True, "budget_tokens": 9}, {"enable_thinking": True, "thinking_budget": 9}, ()),
        ("template", {"enabled": False}, {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}, ()),
        ("reasoning", {"enabled": True, "budget_tokens": 9}, {"reasoning": {"max_tokens": 9}}, ()),
        ("reasoning", {"effort": "xhigh"}, {"reasoning": {"effort": "xhigh"}}, ()),
        ("none", {"effort": "low"}, {}, ("reasoning",)),
        ("none", {}, {}, ()),
    ],
)  # fmt: skip
def test_thinking_is_switched_as_the_deployment_reads_it(switch, options, fields, dropped):
    request = request_of(reasoning=ReasoningOptions(**options))
    body, named = codec.write_request(request, Target(reasoning_switch=switch))
    assert {name: value for name, value in body.items() if name not in {"model", "messages"}} == fields
    assert named == dropped


def test_reasoning_goes_back_in_the_deployments_field():
    turns = (USER, Turn("assistant", (Reasoning("Hm.", (), "signed"), Text("Yes."))), USER)
    assert messages_of(*turns, target=Target(reasoning_field="reasoning"))[1]["reasoning"] == "Hm."
    message = messages_of(*turns, target=Target(reasoning_field=None, signed_reasoning=True))[1]
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm.", "signature": "signed", "index": 0}
    ]
    body, dropped = codec.write_request(request_of(*turns), Target(reasoning_field=None))
    assert body["messages"][1] == {"role": "assistant", "content": "Yes."}
    assert dropped == ("reasoning",)


def test_what_openai_refuses_is_left_out():
    request = request_of(user="u" * 65, metadata={"a": "b"}, service_tier="priority")
    body, dropped = codec.write_request(request, DEFAULT)
    assert dropped == ("user", "metadata", "service_tier")
    assert set(body) == {"model", "messages"}
    assert (
        codec.write_request(request_of(service_tier="standard_only"), DEFAULT)[0]["service_tier"] == "default"
    )


# What chat has no form for is refused, which another test shows.
WRITABLE = EVERYTHING - {"image.file_id", "file.url"}


@given(requests(WRITABLE), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_request_is_written_as_vendors_take_it(request, system_turns, random):
    """Whatever the other protocols allow: results anywhere, calls without results, turns of one role in a row."""
    turns = list(request.turns)
    if random.random() < 0.5:
        random.shuffle(turns)
    request = msgspec.structs.replace(request, turns=tuple(turns))
    body, _ = codec.write_request(request, Target(system_turns=system_turns))
    msgspec.json.encode(body)
    names = {tool["function"]["name"] for tool in body.get("tools", ())}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)
    assert len(names) == len(body.get("tools", ()))
    due = []
    before = None
    for number, message in enumerate(body["messages"]):
        role = message["role"]
        if role == "tool":
            assert message["tool_call_id"] in due
            due.remove(message["tool_call_id"])
            assert isinstance(message["content"], str)
        else:
            assert not due, "a call has no result"
            assert role != before or role == "system"
            assert role != "system" or number == 0 or system_turns
            content = message["content"]
            assert content is None or isinstance(content, str) or all(i.get("text", "x") for i in content)
            assert content or role == "assistant"
        due += [entry["id"] for entry in message.get("tool_calls", ())]
        assert all(
            isinstance(json.loads(e["function"]["arguments"]), dict) for e in message.get("tool_calls", ())
        )
        before = role
    assert not due
