"""Requests with thousands of equal or unrelated things take a time that grows with their size, and not with its square: a worker
translates them between other clients' events.
"""

import gc
import json
from time import process_time

import pytest

from tokenworks.gateway.protocol.fields import count_values
from tokenworks.gateway.request.translating import VALUES_MAX
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.translation import Translation

CPU_S_MAX = 0.4


def function(name):
    return {"type": "function", "name": name}


def call(call_id):
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(*messages, **fields):
    return {"model": "m", "messages": list(messages), **fields}


def calls_of_one_id():
    return chat({"role": "assistant", "tool_calls": [call("x") for _ in range(4000)]})


def results_of_other_calls():
    calls = {"role": "assistant", "tool_calls": [call(f"c{n:05}") for n in range(5000)]}
    return chat(calls, *[{"role": "tool", "tool_call_id": f"d{n:05}", "content": ""} for n in range(5000)])


def reasoning_in_pieces():
    details = [{"type": "reasoning.text", "text": "x" * 15_000, "index": 0} for _ in range(1000)]
    return chat({"role": "assistant", "content": "a", "reasoning_details": details})


def instructions_in_a_row():
    return chat(
        {"role": "user", "content": "hi"}, *[{"role": "system", "content": "a"} for _ in range(15_000)]
    )


def a_namespace_that_is_allowed_often():
    tools = [{"type": "namespace", "name": "n", "tools": [function(f"f{n:05}") for n in range(6000)]}]
    allowed = [{"type": "namespace", "name": "n"} for _ in range(6000)]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
    return {"model": "m", "input": "hi", "tools": tools, "tool_choice": choice}


@pytest.mark.parametrize(
    ("client", "upstream", "request_of"),
    [
        ("chat", "messages", calls_of_one_id),
        ("chat", "messages", results_of_other_calls),
        ("chat", "messages", reasoning_in_pieces),
        ("messages", "chat", instructions_in_a_row),
        ("responses", "chat", a_namespace_that_is_allowed_often),
    ],
)
def test_the_time_of_a_translation_grows_with_its_request(client, upstream, request_of):
    body = json.dumps(request_of(), separators=(",", ":")).encode()
    assert count_values(body) <= VALUES_MAX
    target = Target(default_max_tokens=1000, system_turns=True)
    spent_s = []
    # CPU time of the best of three, without the collector: it goes through all that earlier tests left in this process.
    gc.disable()
    try:
        for _ in range(3):
            began_s = process_time()
            assert Translation(client, upstream, body, target).body
            spent_s.append(process_time() - began_s)
    finally:
        gc.enable()
    assert min(spent_s) < CPU_S_MAX
