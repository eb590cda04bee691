"""What clients send and upstreams answer, in each protocol: the smallest that is whole."""

TOKEN = "zyx "  # four bytes, so that bytes and tokens tell the same; in no name of a field
WORD = "word "


def asked(protocol, text="hi", maximum=None, stream=False, **more):
    """A request's body."""
    field = {"responses": "max_output_tokens"}.get(protocol, "max_tokens")
    body = (
        {"model": "m"}
        | ({field: maximum} if maximum is not None else {})
        | ({"stream": True} if stream else {})
    )
    if protocol in {"chat", "messages"}:
        body["messages"] = [{"role": "user", "content": text}]
        if protocol == "messages":
            body.setdefault("max_tokens", 512)
    else:
        body["prompt" if protocol == "completions" else "input"] = text
    return body | more


def usage(protocol, prompt, output):
    if protocol in {"messages", "responses"}:
        total = {"total_tokens": prompt + output} if protocol == "responses" else {}
        return {"input_tokens": prompt, "output_tokens": output} | total
    if protocol == "embeddings":
        return {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def whole(protocol, text, used, **more):
    """An answer that is not streamed, as an upstream of the form."""
    if protocol == "chat":
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        made = {"id": "c1", "object": "chat.completion", "created": 1, "model": "v", "choices": [choice]}
    elif protocol == "completions":
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        made = {"id": "c1", "object": "text_completion", "created": 1, "model": "v", "choices": [choice]}
    elif protocol == "messages":
        made = {"id": "msg_1", "type": "message", "role": "assistant", "model": "v", "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn", "stop_sequence": None}  # fmt: skip
    elif protocol == "responses":
        item = {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text}],
        }
        made = {"id": "resp_1", "object": "response", "status": "completed", "model": "v", "output": [item]}
    else:
        made = {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
            "model": "v",
        }
    return {"json": made | {"usage": used} | more}


def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "data": {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "v",
            "choices": [choice],
        }
        | more
    }


def pieces(protocol, count, text=TOKEN):
    """The events that carry `count` pieces of text."""
    if protocol == "chat":
        event = chunk({"content": text})
    elif protocol == "completions":
        choice = {"index": 0, "text": text, "finish_reason": None}
        event = {
            "data": {"id": "c1", "object": "text_completion", "created": 1, "model": "v", "choices": [choice]}
        }
    elif protocol == "messages":
        event = {
            "data": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        }
    else:
        event = {"data": {"type": "response.output_text.delta", "item_id": "m1", "delta": text}}
    return [event | {"times": count}]


def begun(protocol, used=None):
    if protocol == "messages":
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "v",
            "usage": used or {"input_tokens": 0, "output_tokens": 0},
        }
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return [{"data": {"type": "message_start", "message": message}}, {"data": block}]
    if protocol == "responses":
        return [
            {
                "data": {
                    "type": "response.created",
                    "response": {"id": "resp_1", "model": "v", "status": "in_progress"},
                }
            }
        ]
    return []


def ended(protocol, used, finish_gap_ms=0):
    """The events from the reason on: the reason, the usage, the terminal event."""
    if protocol == "chat":
        last = {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "v",
            "choices": [],
            "usage": used,
        }
        return [chunk({}, "stop"), {"gap": finish_gap_ms, "data": last}, "[DONE]"]
    if protocol == "completions":
        choice = {"index": 0, "text": "", "finish_reason": "stop"}
        last = {
            "id": "c1",
            "object": "text_completion",
            "created": 1,
            "model": "v",
            "choices": [choice],
            "usage": used,
        }
        return [{"gap": finish_gap_ms, "data": last}, "[DONE]"]
    if protocol == "messages":
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": used,
        }
        return [
            {"data": {"type": "content_block_stop", "index": 0}},
            {"gap": finish_gap_ms, "data": delta},
            {"data": {"type": "message_stop"}},
        ]
    response = {"id": "resp_1", "model": "v", "status": "completed", "output": [], "usage": used}
    return [{"gap": finish_gap_ms, "data": {"type": "response.completed", "response": response}}]


def streamed(protocol, count, prompt, output, text=TOKEN, **more):
    """A whole stream, as an upstream of the form."""
    first = {"input_tokens": prompt, "output_tokens": 1} if protocol == "messages" else None
    events = [
        *begun(protocol, first),
        *pieces(protocol, count, text),
        *ended(protocol, usage(protocol, prompt, output)),
    ]
    return {"events": events} | more


def spec(kind, protocol, body, upstream, expect, **more):
    """A case without an id; `body` is a request's body, or a whole request."""
    request = {"body": body} if isinstance(body, dict) and "model" in body else body
    return {
        "kind": kind,
        "source": "own",
        "protocol": protocol,
        "request": request,
        "upstream": upstream,
        "expect": expect,
    } | more
