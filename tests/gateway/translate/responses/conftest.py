"""Bodies and streams of responses with everything in them. The texts are ours; the shapes are those of the types of openai 3.54.0."""

import pytest

FULL_REQUEST = {
    "model": "m",
    "instructions": "Answer briefly.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Use the tools."}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}},
                {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
                {"type": "input_image", "image_url": "https://media.example/a.png", "detail": "auto"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjc="},
                {"type": "input_file", "file_url": "https://media.example/a.pdf"},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ],
        },
        {
            "type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "It thinks."}],
            "content": [{"type": "reasoning_text", "text": "Thought."}], "encrypted_content": "gAAA",
        },
        {
            "type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "phase": "commentary",
            "content": [
                {"type": "output_text", "text": "A moment.", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "No."},
            ],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "namespace": "eye", "arguments": '{"a": 1}', "status": "completed"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "patch", "input": "*** Begin"},
        {"type": "local_shell_call", "id": "ls_1", "call_id": "c3", "status": "completed", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "shell_call", "call_id": "c4", "action": {"commands": ["ls"]}},
        {"type": "apply_patch_call", "call_id": "c5", "status": "completed", "operation": {"type": "delete_file", "path": "a"}},
        {"type": "tool_search_call", "call_id": "c6", "execution": "client", "arguments": {"query": "mail"}},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_image", "image_url": "https://media.example/b.png"}]},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
        {"type": "local_shell_call_output", "id": "c3", "output": "a.txt"},
        {"type": "shell_call_output", "call_id": "c4", "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
        {"type": "apply_patch_call_output", "call_id": "c5", "status": "failed", "output": "no such file"},
        {"type": "tool_search_output", "call_id": "c6", "tools": [{"type": "function", "name": "mail", "parameters": {}}]},
        {"type": "compaction", "encrypted_content": "gAAA"},
        {"type": "configuration_update", "reasoning": {"effort": "high"}, "text": {"format": {"type": "json_object"}}},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "more"}]},
        {"type": "message", "role": "user", "content": "Go on."},
    ],
    "tools": [
        {"type": "function", "name": "f", "description": "F", "parameters": {"type": "object", "properties": {}}, "strict": False},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
        {"type": "namespace", "name": "eye", "description": "Sees.", "tools": [{"type": "function", "name": "look", "parameters": {}}]},
        {"type": "local_shell"}, {"type": "apply_patch"}, {"type": "tool_search", "execution": "client"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}, {"type": "local_shell"}]},
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "store": False, "stream": True, "stream_options": {"include_obfuscation": False},
    "temperature": 0.5, "top_p": 1, "max_output_tokens": 100, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto",
}  # fmt: skip

USAGE = {
    "input_tokens": 100, "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
    "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 130,
}  # fmt: skip
REASONING = {
    "id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "It thinks."}, {"type": "summary_text", "text": "And more."}],
    "encrypted_content": "gAAA", "status": "completed",
}  # fmt: skip
SEARCH = {
    "id": "ws_1",
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "q"},
}
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "No more"}],
}  # fmt: skip
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "c1",
    "name": "look",
    "arguments": '{"a": 1}',
    "status": "completed",
}
CUSTOM = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"}
FULL_RESPONSE = {
    "id": "resp_9", "object": "response", "created_at": 1790000000, "model": "m", "status": "completed", "error": None,
    "incomplete_details": None, "output": [REASONING, SEARCH, MESSAGE, CALL, CUSTOM], "usage": USAGE, "service_tier": "default",
}  # fmt: skip


def event(kind, **fields):
    return {"type": f"response.{kind}", **fields}


def begun(at, item):
    """An item as it begins: without its texts."""
    empty = {
        name: [] if isinstance(value, list) else ""
        for name, value in item.items()
        if name in {"content", "summary", "arguments", "input"}
    }
    empty |= {"status": "in_progress"}
    return event("output_item.added", output_index=at, item={**item, **empty, "encrypted_content": None})


def events_of(response):
    """A stream as the provider sends it."""
    early = {**response, "status": "in_progress", "output": [], "usage": None}
    out = [event("created", response=early), event("in_progress", response=early)]
    for at, item in enumerate(response["output"]):
        where = {"item_id": item["id"], "output_index": at}
        out.append(begun(at, item))
        for number, summary in enumerate(item.get("summary", ())):
            place = {**where, "summary_index": number}
            out.append(
                event("reasoning_summary_part.added", part={"type": "summary_text", "text": ""}, **place)
            )
            out += [
                event("reasoning_summary_text.delta", delta=piece, **place) for piece in cut(summary["text"])
            ]
            out.append(event("reasoning_summary_text.done", text=summary["text"], **place))
            out.append(event("reasoning_summary_part.done", part=summary, **place))
        for number, part in enumerate(item.get("content", ())):
            place = {**where, "content_index": number}
            name = "text" if part["type"] == "output_text" else "refusal"
            kind = "output_text" if name == "text" else "refusal"
            out.append(event("content_part.added", part={**part, name: ""}, **place))
            out += [event(f"{kind}.delta", delta=piece, **place) for piece in cut(part[name])]
            out.append(event(f"{kind}.done", **{name: part[name]}, **place))
            out.append(event("content_part.done", part=part, **place))
        for name, kind in (("arguments", "function_call_arguments"), ("input", "custom_tool_call_input")):
            if name in item:
                out += [event(f"{kind}.delta", delta=piece, **where) for piece in cut(item[name])]
                out.append(event(f"{kind}.done", **{name: item[name]}, **where))
        if item["type"] == "web_search_call":
            out.append(event("web_search_call.searching", **where))
        out.append(event("output_item.done", output_index=at, item=item))
    out.append(event(response["status"], response=response))
    return [{**one, "sequence_number": at} for at, one in enumerate(out)]


def cut(text):
    return [text[:3], text[3:]]


FULL_EVENTS = events_of(FULL_RESPONSE)


@pytest.fixture
def full_request():
    return FULL_REQUEST


@pytest.fixture
def full_response():
    return FULL_RESPONSE


@pytest.fixture
def full_events():
    return FULL_EVENTS
